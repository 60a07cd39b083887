//! What a unit can do.

use axvm_iommu::Registers;

use crate::error::Error;
use crate::spec::faults;
use crate::spec::registers::{Capability, Extended, offset};

/// What the capability registers say (11.4.2, 11.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The bits of a domain id.
    pub domain_bits: u32,
    /// The bits of the largest address that a device can have translated (MGAW).
    pub input_bits: u32,
    /// Tables of three levels are walked.
    pub three_levels: bool,
    /// Tables of four levels are.
    pub four_levels: bool,
    /// Blocks of 2 MiB.
    pub blocks_2m: bool,
    /// Blocks of 1 GiB.
    pub blocks_1g: bool,
    /// Tables can have a device's accesses snooped, whatever it says itself.
    pub snoop_control: bool,
    /// The processors' caches are snooped when tables are read.
    pub coherent: bool,
    /// Single pages can be invalidated.
    pub pages: bool,
    /// The write buffer has to be flushed.
    pub write_buffer: bool,
    /// Interrupts can be remapped.
    pub interrupts: bool,
    /// Destinations of interrupts have 32 bits.
    pub x2apic: bool,
    /// Where the fault records are, and how many.
    pub(crate) faults_at: usize,
    pub(crate) faults: usize,
}

impl Features {
    /// Reads them.
    pub(crate) fn read(registers: &impl Registers) -> Result<Self, Error> {
        let capability = Capability::from(registers.read64(offset::CAPABILITY));
        let extended = Extended::from(registers.read64(offset::EXTENDED));
        let level = |bit: u8| capability.widths() >> bit & 1 != 0;
        let features = Self {
            domain_bits: (4 + 2 * u32::from(capability.domains())).min(16),
            input_bits: u32::from(capability.most_bits()) + 1,
            three_levels: level(1),
            four_levels: level(2),
            blocks_2m: capability.blocks() & 1 != 0,
            blocks_1g: capability.blocks() & 2 != 0,
            snoop_control: extended.snoop_control(),
            coherent: extended.coherent(),
            pages: capability.pages(),
            write_buffer: capability.write_buffer(),
            interrupts: extended.interrupts(),
            x2apic: extended.x2apic() && extended.interrupts(),
            faults_at: usize::from(capability.faults_at()) * 16,
            faults: usize::from(capability.faults()) + 1,
        };
        if !extended.queue() {
            return Err(Error::NoQueue);
        }
        if capability.caching_mode() {
            return Err(Error::CachingMode);
        }
        if !features.three_levels && !features.four_levels {
            return Err(Error::NoWidth);
        }
        let needs = (features.faults_at + features.faults * faults::BYTES) as u64;
        if registers.size() < needs {
            return Err(Error::RegistersTooSmall { bytes: registers.size(), needs });
        }
        Ok(features)
    }
}
