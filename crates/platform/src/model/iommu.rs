//! IOMMUs, and which devices each serves.

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Hpa, Interrupt, IommuId, PciAddress, Span};
use serde::{Deserialize, Serialize};

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// Its device-tree path. With ACPI: what its table calls it, and its number there (`ivhd0`, `drhd0`).
    pub path: String,
    /// Its registers.
    pub registers: Span<Hpa>,
    /// Whether its table walks are coherent (`dma-coherent`). With ACPI: not known, and taken for false.
    pub coherent: bool,
    /// What it is, and what only such a one has.
    pub kind: IommuKind,
}

impl Iommu {
    /// Its lines, which are for whoever drives it.
    pub fn lines(&self) -> impl Iterator<Item = Interrupt> {
        let (first, second) = match self.kind {
            IommuKind::SmmuV3 { event_queue, global_error } => (event_queue, global_error),
            // They send messages.
            IommuKind::AmdVi { .. } | IommuKind::VtD { .. } => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Whether the messages of those that it serves arrive with the sender's name, because it remaps them.
    pub fn remaps_messages(&self) -> bool {
        match self.kind {
            IommuKind::SmmuV3 { .. } => false,
            IommuKind::AmdVi { remaps_interrupts, .. } | IommuKind::VtD { remaps_interrupts, .. } => {
                remaps_interrupts
            }
        }
    }

    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            IommuKind::SmmuV3 { .. } => "SMMU",
            IommuKind::AmdVi { .. } => "AMD-Vi IOMMU",
            IommuKind::VtD { .. } => "VT-d IOMMU",
        }
    }
}

/// The kinds of IOMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IommuKind {
    /// An SMMUv3.
    SmmuV3 {
        /// The event queue's line (`eventq`).
        event_queue: Option<Interrupt>,
        /// The global error line (`gerror`).
        global_error: Option<Interrupt>,
    },
    /// One of AMD's.
    AmdVi {
        /// The PCI function that it is.
        function: PciAddress,
        /// Where its capability is in that function's config space.
        capability: u16,
        /// What firmware wants its control register to have: HtTunEn, PassPW, ResPassPW, Isoc, from bit 0 on (AMD 48882, 5.2.2.1).
        control: u8,
        /// What the Extended Feature Register says, where the IVRS tells that.
        features: Option<u64>,
        /// It remaps interrupts: the IVRS names every I/O APIC, as otherwise theirs are nobody's that the IOMMU knows.
        remaps_interrupts: bool,
    },
    /// One of Intel's.
    VtD {
        /// Firmware says that it remaps interrupts (VT-d 4.1, 8.1: INTR_REMAP).
        remaps_interrupts: bool,
        /// Bits of the addresses that DMA can have (Host Address Width).
        address_bits: u8,
    },
}

/// One entry of `iommu-map` or `msi-map`: requester ids from `first`, `count` of them, become ids from
/// `base` at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first requester id (after the map's mask).
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The position in [`Platform::iommus`](super::Platform::iommus) or [`Gic::its`](super::Gic::its); `None`: it is none that the platform lists.
    pub target: Option<u16>,
    /// What `first` becomes.
    pub base: u32,
}

/// PCI functions that an ACPI table names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciScope {
    /// Those with these requester ids, both ends included.
    Ids {
        /// The segment.
        segment: u16,
        /// The first.
        first: u16,
        /// The last.
        last: u16,
    },
    /// The one at the end of a path through bridges, whose bus numbers enumeration finds.
    Path {
        /// The segment.
        segment: u16,
        /// The bus where it begins.
        bus: u8,
        /// All but the last are bridges.
        steps: Vec<PciStep>,
        /// All that is behind the last one too, which is a bridge.
        below: bool,
    },
}

/// A step of such a path: a device and function on the bus that it has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciStep {
    /// The device.
    pub device: u8,
    /// The function.
    pub function: u8,
}

/// Functions that an IOMMU serves and of which enumeration must say which they are
/// ([`Platform::add_functions`](super::Platform::add_functions) does).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IommuScope {
    /// The IOMMU.
    pub iommu: IommuId,
    /// The functions.
    pub functions: PciScope,
}

/// Memory that firmware has devices reach by DMA, whoever drives them (IVRS: IVMD, DMAR: RMRR). No guest gets it, and a device that needs it
/// can't be confined to a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareDma {
    /// Where.
    pub span: Span<Hpa>,
    /// Which.
    pub functions: PciScope,
}
