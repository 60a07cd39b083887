//! What a guest's device tree says: plain data that the plan fills in and [`crate`] writes.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Gpa, Intid, PciAddress, PciWindow, Span};
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
    /// The emulated PL011: registers and line; it is `/chosen/stdout-path`.
    pub console: Option<(Span<Gpa>, Intid)>,
    /// The virtual PCI host bridges.
    pub pci: Vec<PciDescription>,
    /// Platform devices.
    pub devices: Vec<DeviceDescription>,
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
    /// The first and last bus.
    pub buses: (u8, u8),
    /// Its windows.
    pub windows: Vec<PciWindow<Gpa>>,
    /// `dma-coherent`, as the host's.
    pub coherent: bool,
    /// `msi-map` entries: requester id, ITS device id. The ITS is the guest's one.
    pub msi: Vec<(u16, u32)>,
    /// `interrupt-map` entries: function, pin 1 to 4, line, whether it is edge-triggered.
    pub lines: Vec<(PciAddress, u8, Intid, bool)>,
}

/// A platform device's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// The node's name with its unit address, as `pl031@9010000`.
    pub name: String,
    /// `reg`.
    pub registers: Vec<Span<Gpa>>,
    /// `interrupts`: line, whether it is edge-triggered.
    pub interrupts: Vec<(Intid, bool)>,
    /// Fixed clocks for `clocks`, in order: Hz and output name.
    pub clocks: Vec<(u32, String)>,
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
