//! What a guest is told of its machine, by a device tree or by ACPI: plain data that the plan fills in and [`crate`] writes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Gpa, Interrupt, Irq, PciAddress, PciBuses, PciWindow, Ports, SourceId, Span};
use serde::{Deserialize, Serialize};

/// A guest's machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What hardware calls each vCPU: MPIDR's affinity fields, or a local APIC's id.
    pub cpus: Vec<u64>,
    /// RAM.
    pub memory: Vec<Span<Gpa>>,
    /// `/chosen/bootargs`.
    pub cmdline: String,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<Span<Gpa>>,
    /// The GIC.
    pub gic: Option<GicDescription>,
    /// What only a machine with ACPI has.
    pub acpi: Option<AcpiDescription>,
    /// The timer's PPIs in the binding's order (secure, non-secure, virtual, hypervisor), as INTIDs.
    pub timer: [u32; 4],
    /// The emulated console; in a device tree it is a PL011, and `/chosen/stdout-path`.
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

/// Where an emulated device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In memory.
    Memory(Span<Gpa>),
    /// At ports.
    Ports(Ports),
}

impl Place {
    /// Where in memory, if it is there.
    pub const fn registers(self) -> Option<Span<Gpa>> {
        match self {
            Self::Memory(span) => Some(span),
            Self::Ports(_) => None,
        }
    }

    /// At which ports, if it is there.
    pub const fn ports(self) -> Option<Ports> {
        match self {
            Self::Ports(ports) => Some(ports),
            Self::Memory(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(span) => write!(f, "{span}"),
            Self::Ports(ports) => write!(f, "ports {ports}"),
        }
    }
}

/// The emulated console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleDescription {
    /// Where it answers.
    pub at: Place,
    /// Its line. One in memory signals by its level, one at ports as on ISA: on edges.
    pub irq: Irq,
}

/// What only a machine with ACPI has: APICs, and registers of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiDescription {
    /// Where each processor has its local APIC.
    pub local_apic: Gpa,
    /// The I/O APIC.
    pub io_apic: IoApicDescription,
    /// What switches the machine's power.
    pub power: PowerDescription,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicDescription {
    /// Its id.
    pub id: u8,
    /// Its registers: a page.
    pub registers: Gpa,
    /// The line at its first pin.
    pub first: Irq,
}

/// ACPI's fixed registers, and the reset register (ACPI 6.5, 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerDescription {
    /// PM1a_STS and PM1a_EN, 16 bits each.
    pub event: Ports,
    /// PM1a_CNT, 16 bits.
    pub control: Ports,
    /// PM_TMR, 32 bits.
    pub timer: Ports,
    /// The line of their events, which signals by its level.
    pub sci: Irq,
    /// What PM1a_CNT's SLP_TYP is for S5, the power switched off.
    pub s5: u8,
    /// The port that resets the machine.
    pub reset: u16,
    /// What is written to it.
    pub reset_value: u8,
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
    /// Its ports, in a machine that has such.
    pub ports: Option<Ports>,
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
    /// Its ports.
    pub ports: Vec<Ports>,
    /// What ACPI knows it by: its `_HID`, then its `_CID`.
    pub ids: Vec<String>,
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
