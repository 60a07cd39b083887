//! What a guest's device tree says: plain data that the plan fills in and [`crate`] writes.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Gpa, Interrupt, Irq, PciAddress, PciBuses, PciWindow, SourceId, Span};
use serde::{Deserialize, Serialize};

/// A guest's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Each vCPU's MPIDR affinity fields.
    pub cpus: Vec<u64>,
    /// RAM.
    pub memory: Vec<Span<Gpa>>,
    /// `/chosen/bootargs`.
    pub cmdline: String,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<Span<Gpa>>,
    /// The GIC.
    pub gic: Option<GicDescription>,
    /// The timer's PPIs in the binding's order (secure, non-secure, virtual, hypervisor), as INTIDs.
    pub timer: [u32; 4],
    /// The emulated PL011; it is `/chosen/stdout-path`.
    pub console: Option<ConsoleDescription>,
    /// Where there is no emulated console: the name of the one of `devices` that is `/chosen/stdout-path`.
    pub stdout: Option<String>,
    /// The emulated watchdog.
    pub watchdog: Option<WatchdogDescription>,
    /// The virtual PCI host bridges.
    pub pci: Vec<PciDescription>,
    /// Platform devices.
    pub devices: Vec<DeviceDescription>,
}

/// The emulated console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleDescription {
    /// Its registers.
    pub registers: Span<Gpa>,
    /// Its line, which signals by its level.
    pub irq: Irq,
}

/// The emulated watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogDescription {
    /// The page with its settings.
    pub control: Span<Gpa>,
    /// The page by which it is refreshed.
    pub refresh: Span<Gpa>,
    /// Its line, if it has one, which signals by its level.
    pub irq: Option<Irq>,
}

/// The GIC of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicDescription {
    /// The distributor.
    pub distributor: Span<Gpa>,
    /// The redistributors: 128 KiB for each vCPU.
    pub redistributors: Span<Gpa>,
    /// The ITS, if the guest has MSIs.
    pub its: Option<Span<Gpa>>,
}

/// A virtual PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDescription {
    /// Its segment.
    pub segment: u16,
    /// The config space.
    pub ecam: Span<Gpa>,
    /// Its bus numbers.
    pub buses: PciBuses,
    /// Its windows.
    pub windows: Vec<PciWindow<Gpa>>,
    /// `dma-coherent`, as the host's.
    pub coherent: bool,
    /// `msi-map` entries.
    pub msi: Vec<MsiSender>,
    /// `interrupt-map` entries.
    pub lines: Vec<PinDescription>,
}

/// Whose MSIs arrive with which id at the guest's one controller of message interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MsiSender {
    /// The function's requester id.
    pub requester: u16,
    /// What the controller knows it by.
    pub id: SourceId,
}

/// Where a function's pin leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinDescription {
    /// The function.
    pub function: PciAddress,
    /// Its pin: 1 (INTA#) to 4 (INTD#).
    pub pin: u8,
    /// The line.
    pub line: Interrupt,
}

/// A fixed clock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClockDescription {
    /// Hz.
    pub frequency: u32,
    /// What it calls its output, or empty.
    pub output_name: String,
}

/// A platform device's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// The node's name with its unit address, as `pl031@9010000`.
    pub name: String,
    /// `reg`.
    pub registers: Vec<Span<Gpa>>,
    /// `interrupts`.
    pub interrupts: Vec<Interrupt>,
    /// Fixed clocks for `clocks`, in order.
    pub clocks: Vec<ClockDescription>,
    /// `dma-coherent`.
    pub coherent: bool,
    /// All other properties, `compatible` among them. A `phandle` stays what it was, for properties and nodes below that
    /// refer to it.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below.
    pub children: Vec<NodeDescription>,
}

/// A node below a platform device's: its parts, written as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// The node's name with its unit address.
    pub name: String,
    /// Its properties.
    pub properties: Vec<(String, Vec<u8>)>,
    /// The nodes below.
    pub children: Vec<NodeDescription>,
}
