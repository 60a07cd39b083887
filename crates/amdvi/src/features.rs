//! What an IOMMU can do.

use axvm_iommu::Registers;

use crate::spec::registers::{ExtendedFeatures, offset};

/// What the Extended Feature Register says (3.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The most levels of page tables.
    pub levels: u8,
    /// INVALIDATE_IOMMU_ALL is there.
    pub invalidate_all: bool,
    /// Interrupt table entries can have 128 bits.
    pub wide_interrupts: bool,
    /// Destinations of interrupts can have 32 bits.
    pub x2apic: bool,
}

impl Features {
    /// Reads them.
    pub(crate) fn read(registers: &impl Registers) -> Self {
        let features = ExtendedFeatures::from(registers.read64(offset::FEATURES));
        Self {
            // A reserved encoding is taken for the least.
            levels: if features.levels() < 3 { 4 + features.levels() } else { 4 },
            invalidate_all: features.invalidate_all(),
            wide_interrupts: features.wide_interrupts(),
            x2apic: features.x2apic() && features.wide_interrupts(),
        }
    }
}
