//! The I/O page tables of AMD's IOMMU (48882, 2.2.3), with three or four levels.
//!
//! Levels are numbered here as everywhere in this crate; the manual counts from the pages up: its level 1 is level 3 here.

use axvm_addr::Hpa;

use crate::format::{Attributes, Entry, Format, LAST_LEVEL, Level, MemoryType, level_shift};

/// PR.
const PRESENT: u64 = 1;
/// Next Level: 0 in a block or page of its level's size, else the manual's level of the table.
const NEXT_SHIFT: u32 = 9;
const NEXT_MASK: u64 = 7 << NEXT_SHIFT;
/// FC: the device's accesses are snooped, whatever it says itself.
const FORCE_COHERENT: u64 = 1 << 60;
/// IR and IW.
const READ: u64 = 1 << 61;
const WRITE: u64 = 1 << 62;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// I/O page tables for addresses of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdIoFormat {
    levels: u8,
}

impl AmdIoFormat {
    /// Tables for addresses of `input_bits`, at most 48: of three levels up to 39 bits, else of four.
    pub const fn new(input_bits: u32) -> Option<Self> {
        match input_bits {
            0..=39 => Some(Self { levels: 3 }),
            40..=48 => Some(Self { levels: 4 }),
            _ => None,
        }
    }

    /// How many levels there are: Mode in a device table entry.
    pub const fn levels(&self) -> u8 {
        self.levels
    }
}

impl Format for AmdIoFormat {
    fn input_bits(&self) -> u32 {
        12 + 9 * u32::from(self.levels)
    }

    fn output_bits(&self) -> u32 {
        52
    }

    fn start_level(&self) -> Level {
        4u8.saturating_sub(self.levels)
    }

    fn root_pages(&self) -> usize {
        1
    }

    fn allows_leaf(&self, level: Level) -> bool {
        // Not all hardware has blocks of 512 GiB right.
        level >= 1
    }

    fn serves(&self, attributes: Attributes) -> bool {
        // Nothing is fetched, and there are two kinds of memory: snooped and not. An entry that allows nothing is of no use.
        !attributes.execute
            && attributes.memory != MemoryType::NormalNonCacheable
            && (attributes.read || attributes.write)
    }

    fn decode(&self, entry: u64, level: Level) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        match (entry & NEXT_MASK) >> NEXT_SHIFT {
            0 if self.allows_leaf(level) => {
                let memory =
                    if entry & FORCE_COHERENT != 0 { MemoryType::Normal } else { MemoryType::Device };
                let (read, write) = (entry & READ != 0, entry & WRITE != 0);
                let start = Hpa(address & !((1 << level_shift(level)) - 1));
                Entry::Leaf(start, Attributes { memory, read, write, execute: false })
            }
            // No level is skipped.
            next if level < LAST_LEVEL && next == u64::from(LAST_LEVEL - level) => Entry::Table(Hpa(address)),
            _ => Entry::Empty,
        }
    }

    fn encode_table(&self, table: Hpa, level: Level) -> u64 {
        let next = u64::from(LAST_LEVEL.saturating_sub(level));
        table.0 & ADDRESS | next << NEXT_SHIFT | READ | WRITE | PRESENT
    }

    fn encode_leaf(&self, start: Hpa, attributes: Attributes, _: Level) -> u64 {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        start.0 & ADDRESS
            | PRESENT
            | flag(attributes.memory == MemoryType::Normal, FORCE_COHERENT)
            | flag(attributes.read, READ)
            | flag(attributes.write, WRITE)
    }

    fn disabled(&self, entry: u64) -> u64 {
        // With PR clear the rest is ignored.
        entry & !PRESENT
    }

    fn enabled(&self, entry: u64) -> u64 {
        if entry == 0 { 0 } else { entry | PRESENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_each_bit_in_its_place() {
        let format = AmdIoFormat::new(48).unwrap();
        // IW, IR, address, Next Level 3, 2, 1, PR.
        assert_eq!(format.encode_table(Hpa(0x4_0000_1000), 0), 0x6000_0004_0000_1601);
        assert_eq!(format.encode_table(Hpa(0x4_0000_1000), 1), 0x6000_0004_0000_1401);
        assert_eq!(format.encode_table(Hpa(0x4_0000_1000), 2), 0x6000_0004_0000_1201);
        // Pages and blocks: FC, and Next Level 0.
        assert_eq!(format.encode_leaf(Hpa(0x4000_1000), Attributes::DMA, 3), 0x7000_0000_4000_1001);
        assert_eq!(format.encode_leaf(Hpa(0x4020_0000), Attributes::DMA, 2), 0x7000_0000_4020_0001);
        assert_eq!(format.encode_leaf(Hpa(0xfeb0_0000), Attributes::DOORBELL, 3), 0x4000_0000_feb0_0001);
    }

    #[test]
    fn there_are_three_levels_or_four() {
        let shape = |bits| {
            let format = AmdIoFormat::new(bits)?;
            Some((format.levels(), format.start_level(), format.input_bits()))
        };
        assert_eq!(shape(32), Some((3, 1, 39)));
        assert_eq!(shape(39), Some((3, 1, 39)));
        assert_eq!(shape(40), Some((4, 0, 48)));
        assert_eq!(shape(48), Some((4, 0, 48)));
        assert_eq!(shape(49), None);
    }

    #[test]
    fn what_is_odd_says_nothing() {
        let format = AmdIoFormat::new(48).unwrap();
        // A skipped level, a size of its own (Next Level 7), a block of 512 GiB, a table below the pages.
        for (entry, level) in [(0x6000_0000_0000_1201, 0), (0x1e01, 2), (0x1001, 0), (0x1201, 3)] {
            assert_eq!(format.decode(entry, level), Entry::Empty, "{entry:#x}");
        }
        assert!(!format.serves(Attributes::RAM), "nothing is fetched");
        let nothing = Attributes { read: false, write: false, ..Attributes::DMA };
        assert!(!format.serves(nothing) && format.serves(Attributes::DOORBELL));
    }
}
