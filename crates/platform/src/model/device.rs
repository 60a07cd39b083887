//! Devices of the platform: all that have registers or ports and aren't on PCI.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{DmaSource, Hpa, Interrupt, Ports, Span};
use serde::{Deserialize, Serialize};

/// Addresses on a bus that need not be the CPU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusSpan {
    /// The first.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
}

/// A wired interrupt that isn't one of the interrupt controller's, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForeignInterrupt {
    /// It goes to another controller: its path.
    Elsewhere(String),
    /// It goes to the interrupt controller, but is none that its binding has.
    NoSuchLine,
    /// Where it goes can't be read: the property, or why.
    Unclear(String),
}

/// What a platform device needs from another one (`clocks`, `resets`, `*-supply`, `pinctrl-*`,
/// `power-domains`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The property that asks for it.
    pub property: String,
    /// The provider's device-tree path.
    pub path: String,
    /// Whether it is a fixed clock, which a guest's device tree can simply repeat.
    pub fixed_clock: Option<FixedClock>,
}

/// A `fixed-clock` node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedClock {
    /// Hz.
    pub frequency: u32,
    /// `clock-output-names`, the first, or empty.
    pub output_name: String,
}

/// A device of the platform, by its device-tree node or by its object in ACPI's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformDevice {
    /// Its device-tree path. With ACPI: what a PC calls it (`com1`, `rtc`, `hpet`), else its path in the namespace (`\\_SB.PCI0.ISA.EC`).
    pub path: String,
    /// `compatible`. With ACPI: its hardware ids (`_HID`, `_CID`).
    pub compatible: Vec<String>,
    /// Whether `status` is okay or absent. With ACPI: whether `_STA` says that it is there.
    pub enabled: bool,
    /// `reg`, translated to CPU addresses. With ACPI: the memory of its `_CRS`.
    pub registers: Vec<Span<Hpa>>,
    /// Its I/O ports, on a machine that has such.
    pub ports: Vec<Ports>,
    /// Entries of `reg`, on its own bus, that no CPU address leads to, or not to all in one piece. What of them the CPU
    /// reaches is among `registers`. Such a device can't be assigned: its guest would take one entry for another.
    pub lost: Vec<BusSpan>,
    /// Its lines.
    pub interrupts: Vec<Interrupt>,
    /// Lines that aren't the interrupt controller's. Such a device can't be assigned.
    pub foreign_interrupts: Vec<ForeignInterrupt>,
    /// `iommus`: where its DMA arrives.
    pub sources: Vec<DmaSource>,
    /// Whether it masters the bus: its node or one below says so, or it is of a kind of which that is known (virtio-mmio,
    /// fw_cfg); `None`: not known.
    pub bus_master: Option<bool>,
    /// `dma-coherent`.
    pub coherent: bool,
    /// What it depends on: it itself, the nodes below it, and the buses above.
    pub providers: Vec<Provider>,
    /// Whether nodes of other devices refer to it or to a node below it.
    pub referenced: bool,
    /// Whether it has `ranges`: its registers' addresses lead on to other devices.
    pub ranges: bool,
    /// Its other properties, as they are, for the guest's own node: without `reg`, `interrupts*`, `status`, `iommus` and
    /// references to providers. Phandles in them are those of nodes that are here too.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below it that are in use and aren't devices with registers of their own.
    pub children: Vec<ChildNode>,
}

/// A node below a device's: a part of that device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildNode {
    /// Its name, with the unit address.
    pub name: String,
    /// Its properties, as they are.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below it.
    pub children: Vec<ChildNode>,
}
