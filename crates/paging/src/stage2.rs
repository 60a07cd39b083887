//! Arm's stage 2 of translation, VMSAv8-64, 4 KiB granule, addresses up to 48 bits (ARM DDI 0487, D8).
//!
//! The memory attributes are those of `HCR_EL2.FWB` = 0 and of a stream table entry with `S2FWB` = 0.

use axvm_addr::Hpa;

use crate::format::{Attributes, Entry, Format, LAST_LEVEL, Level, MemoryType, level_shift};

/// Bits 1:0 of a descriptor (D8.3.1): bit 0 is "valid".
const VALID: u64 = 1;
/// Bit 1: a table at levels 0 to 2, a page at level 3; clear: a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// MemAttr[3:0], bits 5:2 (D8.6.5, without FWB).
const MEMATTR_SHIFT: u32 = 2;
const MEMATTR_MASK: u64 = 0xf << MEMATTR_SHIFT;
/// Device-nGnRE: a guest's own nGnRnE stays so, since the stricter of both stages counts.
const MEMATTR_DEVICE_NGNRE: u64 = 0b0001 << MEMATTR_SHIFT;
/// Normal, inner and outer non-cacheable.
const MEMATTR_NORMAL_NC: u64 = 0b0101 << MEMATTR_SHIFT;
/// Normal, inner and outer write-back cacheable.
const MEMATTR_NORMAL_WB: u64 = 0b1111 << MEMATTR_SHIFT;
/// S2AP, bits 7:6 (D8.4.2.2).
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
/// SH[1:0], bits 9:8 (D8.6.7). Device and non-cacheable memory is outer shareable whatever this says.
const SH_OUTER: u64 = 0b10 << 8;
const SH_INNER: u64 = 0b11 << 8;
/// The access flag, bit 10 (D8.5.1): clear, it would fault.
const AF: u64 = 1 << 10;
/// XN[1], bit 54 (D8.4.5): with or without FEAT_XNX, this bit alone forbids execution at EL1 and EL0.
const XN: u64 = 1 << 54;
/// The address in a descriptor, bits 47:12.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The largest input size whose walk can start at level 1: sixteen concatenated tables (D8.2.3).
const LEVEL_1_MOST_BITS: u32 = 43;
/// The input size that one table at level 1 resolves.
const LEVEL_1_ONE_TABLE_BITS: u32 = 39;

/// An input size that this format doesn't serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stage 2 addresses of {bits} bits: this format has 32 to 48")]
pub struct UnsupportedInputSize {
    /// What was asked for.
    pub bits: u32,
}

/// The stage-2 format for one size of intermediate physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Format {
    ipa_bits: u32,
}

impl Stage2Format {
    /// The format for addresses of this many bits. The walk starts at level 1 up to 43 bits, with concatenated
    /// tables above 39, and at level 0 above 43.
    ///
    /// Whoever walks the tables must implement physical addresses of at least this size: a processor by
    /// `ID_AA64MMFR0_EL1.PARange`, an SMMU by `IDR5.OAS`.
    ///
    /// # Errors
    ///
    /// [`UnsupportedInputSize`] outside 32 to 48.
    pub const fn new(ipa_bits: u32) -> Result<Self, UnsupportedInputSize> {
        if ipa_bits < 32 || ipa_bits > 48 {
            return Err(UnsupportedInputSize { bits: ipa_bits });
        }
        Ok(Self { ipa_bits })
    }

    /// The size of the addresses, in bits.
    pub const fn ipa_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// The value of `VTCR_EL2.T0SZ` and of a stream table entry's `S2T0SZ`.
    pub const fn t0sz(&self) -> u64 {
        64 - self.ipa_bits as u64
    }

    /// The value of `VTCR_EL2.SL0` and of a stream table entry's `S2SL0`, for the 4 KiB granule: 1 starts at
    /// level 1, 2 at level 0.
    pub const fn sl0(&self) -> u64 {
        if self.ipa_bits <= LEVEL_1_MOST_BITS { 1 } else { 2 }
    }

    /// `VTCR_EL2` for these tables: write-back, inner shareable walks, 4 KiB granule, physical addresses of
    /// `output_bits` (rounded down to a size that can be said), VMIDs of 16 bits if `vmid16`. `None` if
    /// `output_bits` is below 32.
    pub const fn vtcr_el2(&self, output_bits: u32, vmid16: bool) -> Option<u64> {
        const RES1: u64 = 1 << 31;
        const IRGN0_WB: u64 = 1 << 8;
        const ORGN0_WB: u64 = 1 << 10;
        const SH0_INNER: u64 = 3 << 12;
        let Some(ps) = physical_size_field(output_bits) else { return None };
        let fixed = RES1 | IRGN0_WB | ORGN0_WB | SH0_INNER;
        Some(fixed | self.t0sz() | self.sl0() << 6 | ps << 16 | (vmid16 as u64) << 19)
    }
}

/// The encoding of the largest physical address size that isn't above `bits`, as in `VTCR_EL2.PS`,
/// `ID_AA64MMFR0_EL1.PARange`, an SMMU's `IDR5.OAS` and a stream table entry's `S2PS`. Never above 48 bits, which
/// is all that these descriptors hold. `None` below 32.
pub const fn physical_size_field(bits: u32) -> Option<u64> {
    match bits {
        0..32 => None,
        32..36 => Some(0),
        36..40 => Some(1),
        40..42 => Some(2),
        42..44 => Some(3),
        44..48 => Some(4),
        _ => Some(5),
    }
}

impl Format for Stage2Format {
    fn input_bits(&self) -> u32 {
        self.ipa_bits
    }

    fn output_bits(&self) -> u32 {
        48
    }

    fn start_level(&self) -> Level {
        if self.ipa_bits <= LEVEL_1_MOST_BITS { 1 } else { 0 }
    }

    fn root_pages(&self) -> usize {
        if self.ipa_bits <= LEVEL_1_MOST_BITS {
            1 << self.ipa_bits.saturating_sub(LEVEL_1_ONE_TABLE_BITS)
        } else {
            1
        }
    }

    fn allows_leaf(&self, level: Level) -> bool {
        // Blocks of 512 GiB exist only with 52-bit addresses (FEAT_LPA2).
        level >= 1
    }

    fn decode(&self, entry: u64, level: Level) -> Entry {
        let address = Hpa(entry & ADDRESS);
        match (entry & VALID != 0, entry & TABLE_OR_PAGE != 0, level) {
            (true, true, 0..LAST_LEVEL) => Entry::Table(address),
            (true, true, LAST_LEVEL) | (true, false, 1..LAST_LEVEL) => {
                let memory = match entry & MEMATTR_MASK {
                    MEMATTR_NORMAL_WB => MemoryType::Normal,
                    MEMATTR_NORMAL_NC => MemoryType::NormalNonCacheable,
                    _ => MemoryType::Device,
                };
                let attributes = Attributes {
                    memory,
                    read: entry & S2AP_READ != 0,
                    write: entry & S2AP_WRITE != 0,
                    execute: entry & XN == 0,
                };
                Entry::Leaf(Hpa(address.0 & !((1 << level_shift(level)) - 1)), attributes)
            }
            _ => Entry::Empty,
        }
    }

    fn encode_table(&self, table: Hpa, _: Level) -> u64 {
        table.0 & ADDRESS | TABLE_OR_PAGE | VALID
    }

    fn encode_leaf(&self, start: Hpa, attributes: Attributes, level: Level) -> u64 {
        let memory = match attributes.memory {
            MemoryType::Normal => MEMATTR_NORMAL_WB | SH_INNER,
            MemoryType::NormalNonCacheable => MEMATTR_NORMAL_NC | SH_OUTER,
            MemoryType::Device => MEMATTR_DEVICE_NGNRE | SH_OUTER,
        };
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        start.0 & ADDRESS
            | VALID
            | flag(level == LAST_LEVEL, TABLE_OR_PAGE)
            | memory
            | AF
            | flag(attributes.read, S2AP_READ)
            | flag(attributes.write, S2AP_WRITE)
            | flag(!attributes.execute, XN)
    }

    fn disabled(&self, entry: u64) -> u64 {
        // With bit 0 clear the rest is ignored by hardware and left to software (D8.3.1).
        entry & !VALID
    }

    fn enabled(&self, entry: u64) -> u64 {
        if entry == 0 { 0 } else { entry | VALID }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits: u32) -> Stage2Format {
        Stage2Format::new(bits).unwrap()
    }

    #[test]
    fn the_walk_starts_where_the_manual_says_for_each_input_size() {
        // (bits, T0SZ, SL0, start level, concatenated tables)
        for (bits, t0sz, sl0, level, pages) in [
            (32, 32, 1, 1, 1),
            (36, 28, 1, 1, 1),
            (39, 25, 1, 1, 1),
            (40, 24, 1, 1, 2),
            (42, 22, 1, 1, 8),
            (43, 21, 1, 1, 16),
            (44, 20, 2, 0, 1),
            (48, 16, 2, 0, 1),
        ] {
            let format = format(bits);
            assert_eq!(
                (format.t0sz(), format.sl0(), format.start_level(), format.root_pages()),
                (t0sz, sl0, level, pages),
                "{bits} bits"
            );
        }
        assert_eq!(Stage2Format::new(31), Err(UnsupportedInputSize { bits: 31 }));
        assert_eq!(Stage2Format::new(49), Err(UnsupportedInputSize { bits: 49 }));
    }

    #[test]
    fn vtcr_has_each_field_in_its_place() {
        // RES1 | VS | PS=4 (44 bits) | SH0 inner | ORGN0, IRGN0 write-back | SL0=1 | T0SZ=24
        assert_eq!(format(40).vtcr_el2(44, true), Some(0x800c_3558));
        assert_eq!(format(48).vtcr_el2(48, false), Some(0x8005_3590));
        assert_eq!(format(40).vtcr_el2(31, false), None);
    }

    #[test]
    fn the_physical_size_is_rounded_down_to_one_that_can_be_said() {
        for (bits, field) in [(32, 0), (35, 0), (36, 1), (40, 2), (42, 3), (44, 4), (47, 4), (48, 5), (52, 5)]
        {
            assert_eq!(physical_size_field(bits), Some(field), "{bits}");
        }
    }

    #[test]
    fn descriptors_have_each_bit_in_its_place() {
        let format = format(40);
        assert_eq!(format.encode_table(Hpa(0x4_0000_1000), 1), 0x4_0000_1003);
        // Page, write-back, inner shareable, read and write, accessed, executable.
        assert_eq!(format.encode_leaf(Hpa(0x4000_1000), Attributes::RAM, 3), 0x4000_17ff);
        // The same as a 2 MiB block.
        assert_eq!(format.encode_leaf(Hpa(0x4020_0000), Attributes::RAM, 2), 0x4020_07fd);
        // Device-nGnRE, outer shareable, read and write, never executable.
        assert_eq!(format.encode_leaf(Hpa(0x901_0000), Attributes::REGISTERS, 3), 0x0040_0000_0901_06c7);
        // The same, written only.
        assert_eq!(format.encode_leaf(Hpa(0x809_0000), Attributes::DOORBELL, 3), 0x0040_0000_0809_0687);
        let nc = Attributes { memory: MemoryType::NormalNonCacheable, ..Attributes::DMA };
        assert_eq!(format.encode_leaf(Hpa(0x80_0000_0000), nc, 1), 0x0040_0080_0000_06d5);
    }

    #[test]
    fn what_is_encoded_is_decoded_the_same() {
        let format = format(48);
        for memory in [MemoryType::Normal, MemoryType::NormalNonCacheable, MemoryType::Device] {
            for bits in 0..8 {
                let attributes =
                    Attributes { memory, read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 };
                for level in 1..=3 {
                    let entry = format.encode_leaf(Hpa(0x40_0000_0000), attributes, level);
                    assert_eq!(format.decode(entry, level), Entry::Leaf(Hpa(0x40_0000_0000), attributes));
                    let disabled = format.disabled(entry);
                    assert_eq!(format.decode(disabled, level), Entry::Empty);
                    assert_eq!(format.enabled(disabled), entry);
                }
            }
        }
    }

    #[test]
    fn reserved_descriptors_and_chained_tables_say_nothing() {
        let format = format(48);
        // A block at level 0 and the reserved 0b01 at level 3.
        assert_eq!(format.decode(0x4000_0001, 0), Entry::Empty);
        assert_eq!(format.decode(0x4000_0001, 3), Entry::Empty);
        for level in 0..=3 {
            assert_eq!(format.decode(0xffff_ffff_f000, level), Entry::Empty);
        }
    }
}
