//! What enumeration learns of one PCI function.

use alloc::vec::Vec;

use axvm_addr::PciAddress;
use serde::{Deserialize, Serialize};

use crate::spec::express::PortType;

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// The bridge above it; `None` directly on a root bus.
    pub parent: Option<PciAddress>,
    /// Vendor id (config offset 0x00).
    pub vendor: u16,
    /// Device id (0x02).
    pub device: u16,
    /// Class, subclass, programming interface: 24 bits (0x09).
    pub class: u32,
    /// Revision (0x08).
    pub revision: u8,
    /// Whether its header is a bridge's (type 1).
    pub bridge: bool,
    /// What kind of Express function it is; `None`: it has no Express capability.
    pub port: Option<PortType>,
    /// Whether bit 7 of the header type is set in the slot's function 0.
    pub multifunction: bool,
    /// Its BARs that are there, sized and assigned.
    pub bars: Vec<Bar>,
    /// Capabilities in the standard list: id and config offset.
    pub capabilities: Vec<(u8, u16)>,
    /// Capabilities in the extended list: id and config offset.
    pub extended_capabilities: Vec<(u16, u16)>,
    /// MSI-X, if there.
    pub msix: Option<MsiX>,
    /// MSI: the number of vectors it can send, or `None`.
    pub msi_vectors: Option<u8>,
    /// The interrupt pin, 1 to 4, or 0.
    pub interrupt_pin: u8,
    /// What it says of its DMA, if it is a virtio device.
    pub virtio: Option<Virtio>,
    /// Whether the pin's line can be turned off (Interrupt Disable, since PCI 2.3).
    pub intx_disable: bool,
    /// A control register, by its config offset, that doesn't keep what the hypervisor sets it to: errors, say, go on being
    /// told to firmware.
    pub stuck: Option<u16>,
    /// How it can be reset, best first. Empty: not at all.
    pub resets: Vec<ResetMethod>,
}

impl Function {
    /// The config offset of the first capability with this id in the standard list.
    pub fn capability(&self, id: u8) -> Option<u16> {
        self.capabilities.iter().find(|found| found.0 == id).map(|found| found.1)
    }

    /// The config offset of the first capability with this id in the extended list.
    pub fn extended_capability(&self, id: u16) -> Option<u16> {
        self.extended_capabilities.iter().find(|found| found.0 == id).map(|found| found.1)
    }
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// Its number, 0 to 5 (a 64-bit one takes two).
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Its size in bytes: a power of two.
    pub size: u64,
    /// The PCI bus address that it was assigned; `None` where no window has room.
    pub address: Option<u64>,
}

/// What a BAR decodes (PCI Local Bus 3.0, 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere.
    Memory64 {
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Whether it takes two registers.
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }

    /// Whether reads have no side effects, so that a bridge or a processor may read ahead.
    pub const fn is_prefetchable(self) -> bool {
        matches!(self, Self::Memory32 { prefetchable: true } | Self::Memory64 { prefetchable: true })
    }

    /// The flag bits that its (lower) register reads.
    pub const fn flags(self) -> u32 {
        match self {
            Self::Io => 0b1,
            Self::Memory32 { prefetchable } => (prefetchable as u32) << 3,
            Self::Memory64 { prefetchable } => 0b100 | (prefetchable as u32) << 3,
        }
    }
}

/// A function's MSI-X capability (PCI Local Bus 3.0, 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsiX {
    /// Config offset of the capability.
    pub offset: u16,
    /// Entries in the table, 1 to 2048.
    pub vectors: u16,
    /// The BAR and the offset in it of the table.
    pub table: (u8, u32),
    /// The BAR and the offset in it of the pending bits.
    pub pending: (u8, u32),
}

/// What a virtio device says of its DMA (Virtio 1.2, 6: VIRTIO_F_ACCESS_PLATFORM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Virtio {
    /// It accesses memory as the platform says: by way of the IOMMU.
    Platform,
    /// It doesn't offer that: its DMA may pass the IOMMU by.
    Past,
    /// It has the legacy interface, which knows nothing of it.
    Legacy,
    /// It doesn't answer as a virtio device should.
    Unknown,
}

/// How a function is brought back to its state after power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetMethod {
    /// Function-level reset, by the Express or the Advanced Features capability.
    FunctionLevel,
    /// D3hot and back to D0, where No_Soft_Reset is clear.
    PowerState,
    /// The hot reset of the bus behind the bridge above it, which takes all functions there.
    SecondaryBus,
}
