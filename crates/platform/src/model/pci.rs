//! PCI host bridges, and what the platform adds to functions.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{DmaSource, Hpa, Interrupt, MsiSource, PciAddress, PciBuses, PciWindow, Ports, Span};
use axvm_pci::{Function, Reach};
use serde::{Deserialize, Serialize};

use super::{IdMapping, PciStep};

/// A PCI host bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciHost {
    /// Its device-tree path, or its path in ACPI's namespace (`\\_SB.PCI0`).
    pub path: String,
    /// Its segment (`linux,pci-domain`, else its position).
    pub segment: u16,
    /// The config space.
    pub ecam: Span<Hpa>,
    /// Its bus numbers.
    pub buses: PciBuses,
    /// Its windows in the CPU's address space: ports among them, where the CPU reaches those as memory.
    pub windows: Vec<PciWindow<Hpa>>,
    /// Its ports, on a machine whose CPUs have such: they have the same numbers on the bus.
    pub ports: Vec<Ports>,
    /// `dma-coherent`. With ACPI: always, unless it says otherwise.
    pub coherent: bool,
    /// `iommu-map-mask`: what of a requester id `iommu_map` looks at.
    pub iommu_map_mask: u32,
    /// `iommu-map`. With ACPI: what IVRS or DMAR say.
    pub iommu_map: Vec<IdMapping>,
    /// `msi-map-mask`: what of a requester id `msi_map` looks at.
    pub msi_map_mask: u32,
    /// `msi-map`. With ACPI: those whose messages an IOMMU remaps, with its position as the controller's.
    pub msi_map: Vec<IdMapping>,
    /// `interrupt-map` or `_PRT`, resolved.
    pub lines: Vec<PinRoute>,
    /// Bridges below it whose lines are routed otherwise than by turning pins.
    pub bridge_lines: Vec<BridgeLines>,
}

/// Where the pins of devices right below a bridge lead, which the platform says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeLines {
    /// The bridge: the way to it from the root bus.
    pub bridge: Vec<PciStep>,
    /// Where they lead.
    pub lines: Vec<PinRoute>,
}

/// Where the pin of a device on a bus leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRoute {
    /// The device (slot) number.
    pub device: u8,
    /// The pin: 1 (INTA#) to 4 (INTD#).
    pub pin: u8,
    /// The line.
    pub line: Interrupt,
}

/// A PCI function with what the platform adds to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// The function itself.
    pub function: Function,
    /// The isolation group: functions with the same number can reach each other without passing the IOMMU.
    pub group: u32,
    /// Ways from it to others that made them its group.
    pub reaches: Vec<Reach>,
    /// The bridges above it, the nearest first.
    pub bridges: Vec<PciAddress>,
    /// Where its DMA arrives: one for each requester id that its requests may have, its own first. Empty: at least one of them
    /// passes no IOMMU.
    pub sources: Vec<DmaSource>,
    /// Where its MSIs arrive.
    pub msi: Option<MsiSource>,
    /// The line of its interrupt pin.
    pub line: Option<Interrupt>,
    /// Memory that firmware has it reach ([`FirmwareDma`](super::FirmwareDma)).
    pub firmware_memory: Vec<Span<Hpa>>,
}
