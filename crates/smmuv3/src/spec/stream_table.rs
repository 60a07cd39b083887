//! The stream table (5.1, 5.2): what the SMMU knows of each stream.

use super::Field;

/// Bytes of a stream table entry.
pub const ENTRY_BYTES: u64 = 64;
/// log2 of [`ENTRY_BYTES`].
pub const ENTRY_SHIFT: u32 = 6;
const _: () = assert!(size_of::<Entry>() as u64 == ENTRY_BYTES && 1 << ENTRY_SHIFT == ENTRY_BYTES);

/// A stream table entry (STE), as eight words.
pub type Entry = [u64; 8];

/// An entry that says nothing (V = 0): transactions abort and are recorded as C_BAD_STE.
pub const INVALID: Entry = [0; 8];

/// The first word of an entry that says "abort" (V = 1, Config = 0b000): transactions abort without a record, and
/// all else in the entry is ignored (5.2, STE.Config).
pub const ABORT: u64 = word0::V.mask() | word0::CONFIG.put(word0::CONFIG_ABORT);

/// A first-level descriptor (5.1).
pub mod level1 {
    use super::Field;
    /// Bytes of a descriptor.
    pub const BYTES: u64 = 8;
    /// 0: no table, all StreamIDs of it are out of range; n: a table of 2^(n-1) entries.
    pub const SPAN: Field = Field::new(4, 0);
    /// Bits 51:6 of the second-level table's address, in place.
    pub const L2PTR: Field = Field::new(51, 6);
}

/// Word 0 of an entry, bits 63:0.
pub mod word0 {
    use super::Field;
    /// The entry is valid.
    pub const V: Field = Field::bit(0);
    /// 0 abort, 4 bypass, 5 stage 1, 6 stage 2, 7 both.
    pub const CONFIG: Field = Field::new(3, 1);
    /// `CONFIG`: abort, and record nothing.
    pub const CONFIG_ABORT: u64 = 0b000;
    /// `CONFIG`: stage 2 only.
    pub const CONFIG_STAGE_2: u64 = 0b110;
}

/// Word 1 of an entry, bits 127:64.
pub mod word1 {
    use super::Field;
    /// Shareability: 1 uses what came with the transaction.
    pub const SHCFG: Field = Field::new(45, 44);
    /// `SHCFG`: as it came.
    pub const SHCFG_INCOMING: u64 = 1;
    /// ATS: 0 aborts translated transactions and translation requests.
    pub const EATS: Field = Field::new(29, 28);
}

/// Word 2 of an entry, bits 191:128: stage 2.
pub mod word2 {
    use super::Field;
    /// The VMID that tags translations.
    pub const S2VMID: Field = Field::new(15, 0);
    /// 64 minus the size of input addresses.
    pub const S2T0SZ: Field = Field::new(37, 32);
    /// The level at which walks start.
    pub const S2SL0: Field = Field::new(39, 38);
    /// Walks: inner cacheability, 1 write-back.
    pub const S2IR0: Field = Field::new(41, 40);
    /// Walks: outer cacheability.
    pub const S2OR0: Field = Field::new(43, 42);
    /// Walks: shareability.
    pub const S2SH0: Field = Field::new(45, 44);
    /// Granule: 0 is 4 KiB.
    pub const S2TG: Field = Field::new(47, 46);
    /// The size of physical addresses.
    pub const S2PS: Field = Field::new(50, 48);
    /// AArch64 tables.
    pub const S2AA64: Field = Field::bit(51);
    /// Faults stall (set) or terminate the transaction (clear).
    pub const S2S: Field = Field::bit(57);
    /// Faults are recorded.
    pub const S2R: Field = Field::bit(58);
}

/// Word 3 of an entry, bits 255:192.
pub mod word3 {
    use super::Field;
    /// Bits 51:4 of the root table's address, in place.
    pub const S2TTB: Field = Field::new(51, 4);
}

/// How a stage-2 walk with the 4 KiB granule starts (5.2, S2T0SZ and S2SL0; ARM DDI 0487, D8.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkStart {
    /// S2T0SZ.
    pub t0sz: u64,
    /// S2SL0: 1 starts at level 1, 2 at level 0.
    pub sl0: u64,
    /// Bytes of the root, concatenated tables included; it is aligned to them.
    pub root_bytes: u64,
}

impl WalkStart {
    /// The start for input addresses of this many bits: at level 1 up to 43, with concatenated tables above 39, and
    /// at level 0 above 43. `None` outside 32 to 48.
    pub const fn new(ipa_bits: u32) -> Option<Self> {
        let (sl0, root_bytes) = match ipa_bits {
            32..=39 => (1, 0x1000),
            40..=43 => (1, 0x1000 << (ipa_bits - 39)),
            44..=48 => (2, 0x1000),
            _ => return None,
        };
        Some(Self { t0sz: 64 - ipa_bits as u64, sl0, root_bytes })
    }
}

/// What a stage-2 entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The VMID that tags translations.
    pub vmid: u16,
    /// S2T0SZ and S2SL0.
    pub start: WalkStart,
    /// S2PS.
    pub ps: u64,
    /// The root table's address.
    pub root: u64,
    /// Walks go through coherent caches.
    pub coherent: bool,
}

impl Stage2 {
    /// The entry: stage 2 only, 4 KiB granule, little-endian AArch64 tables; faults terminate the transaction and
    /// are recorded; ATS off; the transaction's own memory attributes and shareability are the input of stage 2.
    pub const fn encode(&self) -> Entry {
        let (cacheable, shareable) = if self.coherent { (1, 0b11) } else { (0, 0b10) };
        let word2 = word2::S2VMID.put(self.vmid as u64)
            | word2::S2T0SZ.put(self.start.t0sz)
            | word2::S2SL0.put(self.start.sl0)
            | word2::S2IR0.put(cacheable)
            | word2::S2OR0.put(cacheable)
            | word2::S2SH0.put(shareable)
            | word2::S2PS.put(self.ps)
            | word2::S2AA64.mask()
            | word2::S2R.mask();
        [
            word0::V.mask() | word0::CONFIG.put(word0::CONFIG_STAGE_2),
            word1::SHCFG.put(word1::SHCFG_INCOMING),
            word2,
            self.root & word3::S2TTB.mask(),
            0,
            0,
            0,
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_2_entry_has_each_bit_in_its_place() {
        let start = WalkStart { t0sz: 24, sl0: 1, root_bytes: 0x2000 };
        assert_eq!(WalkStart::new(40), Some(start));
        let entry = Stage2 { vmid: 0x1234, start, ps: 4, root: 0x4_5678_2000, coherent: true }.encode();
        assert_eq!(entry[0], 0b1101, "V, Config = stage 2 (5.2, bits 3:0)");
        assert_eq!(entry[1], 1 << 44, "SHCFG = use incoming (bits 109:108)");
        // Bits 143:128, 165:160, 167:166, 169:168, 171:170, 173:172, 178:176, 179, 186.
        let expected = 0x1234
            | 24 << (160 - 128)
            | 1 << (166 - 128)
            | 1 << (168 - 128)
            | 1 << (170 - 128)
            | 3 << (172 - 128)
            | 4 << (176 - 128)
            | 1 << (179 - 128)
            | 1 << (186 - 128);
        assert_eq!(entry[2], expected);
        assert_eq!(entry[3], 0x4_5678_2000);
        assert_eq!(entry[4..], [0; 4]);
        assert!(!word2::S2S.is_set(entry[2]), "a stalled transaction would hold the bus for the guest");
        assert_eq!(word1::EATS.get(entry[1]), 0, "translated transactions are not taken on trust");
    }

    #[test]
    fn an_entry_that_aborts_is_valid_and_says_nothing_else() {
        assert_eq!(ABORT, 0b0001, "V, Config = abort (5.2, bits 3:0)");
    }

    #[test]
    fn a_walk_starts_where_the_manual_says() {
        for (bits, t0sz, sl0, root_bytes) in [
            (32, 32, 1, 0x1000),
            (39, 25, 1, 0x1000),
            (43, 21, 1, 0x1_0000),
            (44, 20, 2, 0x1000),
            (48, 16, 2, 0x1000),
        ] {
            assert_eq!(WalkStart::new(bits), Some(WalkStart { t0sz, sl0, root_bytes }));
        }
        assert_eq!((WalkStart::new(31), WalkStart::new(49)), (None, None));
    }

    #[test]
    fn a_first_level_descriptor_has_its_span_and_pointer() {
        assert_eq!(level1::SPAN.put(9) | level1::L2PTR.mask() & 0x8000_4000, 0x8000_4009);
    }
}
