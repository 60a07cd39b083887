//! The second-stage tables of Intel's VT-d (D51397, 9.8), with three or four levels.
//!
//! Levels are numbered here as everywhere in this crate; the manual counts from the pages up: its level 1 is level 3 here.

use axvm_addr::Hpa;

use crate::format::{Attributes, Entry, Format, LAST_LEVEL, Level, MemoryType, level_shift};

/// R and W. An entry with neither isn't present, and the unit looks at nothing else of it.
const READ: u64 = 1;
const WRITE: u64 = 1 << 1;
/// PS: a block.
const BLOCK: u64 = 1 << 7;
/// SNP: the device's accesses are snooped, whatever it says itself.
const SNOOP: u64 = 1 << 11;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The unit ignores bits 61:52. Here they say what kind of memory a block or page is.
const NORMAL: u64 = 1 << 52;
const DEVICE: u64 = 1 << 53;
/// And what R and W were of an entry that is disabled.
const KEPT_SHIFT: u32 = 54;
const KEPT: u64 = (READ | WRITE) << KEPT_SHIFT;

/// What a unit can, by its capability registers (11.4.2, 11.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntelIoFeatures {
    /// Blocks of 2 MiB (SSLPS).
    pub blocks_2m: bool,
    /// Blocks of 1 GiB (SSLPS).
    pub blocks_1g: bool,
    /// Accesses can be snooped whatever the device says (SC). Where not, that is the device's.
    pub snoop_control: bool,
}

/// Second-stage tables for addresses of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntelIoFormat {
    levels: u8,
    features: IntelIoFeatures,
}

impl IntelIoFormat {
    /// Tables of three levels, for addresses of 39 bits, or of four, for 48.
    pub const fn new(levels: u8, features: IntelIoFeatures) -> Option<Self> {
        match levels {
            3 | 4 => Some(Self { levels, features }),
            _ => None,
        }
    }

    /// How many levels there are.
    pub const fn levels(&self) -> u8 {
        self.levels
    }
}

impl Format for IntelIoFormat {
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
        match level {
            1 => self.features.blocks_1g,
            2 => self.features.blocks_2m,
            _ => level == LAST_LEVEL,
        }
    }

    fn serves(&self, attributes: Attributes) -> bool {
        // Nothing is fetched, and there are two kinds of memory: snooped and not. An entry that allows nothing isn't there.
        !attributes.execute
            && attributes.memory != MemoryType::NormalNonCacheable
            && (attributes.read || attributes.write)
    }

    fn decode(&self, entry: u64, level: Level) -> Entry {
        if entry & (READ | WRITE) == 0 {
            return Entry::Empty;
        }
        let address = entry & ADDRESS;
        if level < LAST_LEVEL && entry & BLOCK == 0 {
            return Entry::Table(Hpa(address));
        }
        if !self.allows_leaf(level) || level == LAST_LEVEL && entry & BLOCK != 0 {
            return Entry::Empty;
        }
        let memory = if entry & DEVICE == 0 { MemoryType::Normal } else { MemoryType::Device };
        let start = Hpa(address & !((1 << level_shift(level)) - 1));
        let (read, write) = (entry & READ != 0, entry & WRITE != 0);
        Entry::Leaf(start, Attributes { memory, read, write, execute: false })
    }

    fn encode_table(&self, table: Hpa, _: Level) -> u64 {
        table.0 & ADDRESS | READ | WRITE
    }

    fn encode_leaf(&self, start: Hpa, attributes: Attributes, level: Level) -> u64 {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let normal = attributes.memory == MemoryType::Normal;
        start.0 & ADDRESS
            | flag(attributes.read, READ)
            | flag(attributes.write, WRITE)
            | flag(level < LAST_LEVEL, BLOCK)
            | flag(normal && self.features.snoop_control, SNOOP)
            | if normal { NORMAL } else { DEVICE }
    }

    fn disabled(&self, entry: u64) -> u64 {
        let given = entry & (READ | WRITE);
        if given == 0 { entry } else { entry & !given | given << KEPT_SHIFT }
    }

    fn enabled(&self, entry: u64) -> u64 {
        entry & !KEPT | (entry & KEPT) >> KEPT_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: IntelIoFeatures = IntelIoFeatures { blocks_2m: true, blocks_1g: true, snoop_control: false };

    #[test]
    fn entries_have_each_bit_in_its_place() {
        let format = IntelIoFormat::new(4, ALL).unwrap();
        assert_eq!(format.encode_table(Hpa(0x4_0000_1000), 0), 0x4_0000_1003);
        // R, W, PS in blocks, and for this crate alone the kind of memory.
        let hardware = |entry: u64| entry & !(NORMAL | DEVICE);
        assert_eq!(hardware(format.encode_leaf(Hpa(0x4000_1000), Attributes::DMA, 3)), 0x4000_1003);
        assert_eq!(hardware(format.encode_leaf(Hpa(0x4020_0000), Attributes::DMA, 2)), 0x4020_0083);
        assert_eq!(hardware(format.encode_leaf(Hpa(0xfeb0_0000), Attributes::DOORBELL, 3)), 0xfeb0_0002);
        // SNP is reserved where the unit can't.
        let snooped = IntelIoFormat::new(4, IntelIoFeatures { snoop_control: true, ..ALL }).unwrap();
        assert_eq!(hardware(snooped.encode_leaf(Hpa(0x4000_1000), Attributes::DMA, 3)), 0x4000_1803);
        assert_eq!(hardware(snooped.encode_leaf(Hpa(0xfeb0_0000), Attributes::DOORBELL, 3)), 0xfeb0_0002);
        assert_eq!((NORMAL | DEVICE | KEPT) & !0x3ff0_0000_0000_0000, 0, "the unit ignores bits 61:52 only");
    }

    #[test]
    fn levels_and_blocks_are_the_units() {
        let shape = |levels, features| {
            let format = IntelIoFormat::new(levels, features)?;
            let leaves = [0, 1, 2, 3].map(|level| format.allows_leaf(level));
            Some((format.start_level(), format.input_bits(), leaves))
        };
        assert_eq!(shape(3, IntelIoFeatures::default()), Some((1, 39, [false, false, false, true])));
        assert_eq!(shape(4, ALL), Some((0, 48, [false, true, true, true])));
        assert_eq!(shape(2, ALL), None);
        assert_eq!(shape(5, ALL), None);
    }

    #[test]
    fn what_is_odd_says_nothing() {
        let format = IntelIoFormat::new(4, IntelIoFeatures { blocks_1g: false, ..ALL }).unwrap();
        // Nothing is allowed; a block of 512 GiB, and of 1 GiB; PS in a page.
        for (entry, level) in [(0x4000_1000, 3), (0x4000_0083, 0), (0x4000_0083, 1), (0x4000_1083, 3)] {
            assert_eq!(format.decode(entry, level), Entry::Empty, "{entry:#x}");
        }
        assert!(!format.serves(Attributes::RAM), "nothing is fetched");
        let nothing = Attributes { read: false, write: false, ..Attributes::DMA };
        assert!(!format.serves(nothing) && format.serves(Attributes::DOORBELL));
    }

    #[test]
    fn what_is_disabled_comes_back_and_is_not_present_meanwhile() {
        let format = IntelIoFormat::new(4, ALL).unwrap();
        let leaf = |attributes| format.encode_leaf(Hpa(0x4000_1000), attributes, 3);
        for entry in [leaf(Attributes::DMA), leaf(Attributes::DOORBELL), 0x4_0000_1003, 0, 0x1000] {
            assert_eq!(format.disabled(entry) & 3, 0);
            assert_eq!(format.enabled(format.disabled(entry)), entry);
        }
    }
}
