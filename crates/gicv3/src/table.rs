//! The tables of an ITS (IHI 0069, 5.2 and 12.19.1, GITS_BASER).

use axvm_addr::Hpa;

use crate::Registers;
use crate::attributes::{Access, Field, Refused, install};

/// GITS_BASER.
mod baser {
    /// Pages, less one.
    pub const SIZE: u64 = 0xff;
    /// Page size: 0, 1, 2 for 4, 16 and 64 KiB. An implementation may have one only.
    pub const PAGE_SHIFT: u32 = 8;
    pub const PAGE: u64 = 3 << PAGE_SHIFT;
    /// Bits 47:12 of the address in place; with 64 KiB pages bits 15:12 are the address's 51:48.
    pub const ADDRESS: u64 = 0xffff_ffff_f000;
    pub const INDIRECT: u64 = 1 << 62;
    pub const VALID: u64 = 1 << 63;
    pub const ENTRY_SHIFT: u32 = 48;
    pub const KIND_SHIFT: u32 = 56;
}

/// Bytes of a first-level entry.
const LEVEL1_BYTES: u64 = 8;
/// The most pages of a table.
const MOST_PAGES: u64 = 256;
/// The most bytes of a table, so that an ITS whose ids have many bits doesn't take all the memory that there is.
const MOST_BYTES: u64 = 0x10_0000;
/// Beyond this a table of one level isn't made where two are to be had.
const MOST_FLAT_BYTES: u64 = 0x1_0000;

/// What a table is about (GITS_BASER.Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Devices.
    Devices,
    /// Virtual processors.
    VirtualProcessors,
    /// Collections.
    Collections,
}

/// What a GITS_BASER offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What it is for.
    pub contents: Contents,
    /// Bytes of an entry.
    pub entry_bytes: u64,
    /// Bytes of a page: the largest that it has.
    pub page_bytes: u64,
    /// Whether there may be two levels.
    pub two_level: bool,
}

impl Probed {
    /// Asks a register; `None` if no table is wanted there. It is left without a table.
    pub fn read(registers: &(impl Registers + ?Sized), offset: u64) -> Option<Self> {
        let value = registers.read64(offset);
        let contents = match value >> baser::KIND_SHIFT & 7 {
            1 => Contents::Devices,
            2 => Contents::VirtualProcessors,
            4 => Contents::Collections,
            _ => return None,
        };
        // 64 KiB first; what isn't there reads back as something that is. The encoding 3 is reserved and means 64 KiB.
        registers.write64(offset, baser::INDIRECT | 2 << baser::PAGE_SHIFT);
        let read = registers.read64(offset);
        let page_bytes = 0x1000 << (2 * (read >> baser::PAGE_SHIFT & 3).min(2));
        Some(Self {
            contents,
            entry_bytes: (value >> baser::ENTRY_SHIFT & 0x1f) + 1,
            page_bytes,
            two_level: read & baser::INDIRECT != 0,
        })
    }

    /// The shape of a table for ids below `ids`. One that can't be that large serves fewer: [`Shape::ids`].
    pub fn shape(&self, ids: u64) -> Shape {
        let flat = ids.saturating_mul(self.entry_bytes);
        let most = (MOST_PAGES * self.page_bytes).min(MOST_BYTES);
        let level2_ids = self.page_bytes / self.entry_bytes;
        let (two_level, bytes) = if self.two_level && flat > MOST_FLAT_BYTES.max(self.page_bytes) {
            (true, ids.div_ceil(level2_ids).saturating_mul(LEVEL1_BYTES))
        } else {
            (false, flat)
        };
        let pages = bytes.min(most).div_ceil(self.page_bytes).max(1);
        let entries = pages * self.page_bytes / if two_level { LEVEL1_BYTES } else { self.entry_bytes };
        let served = if two_level { entries.saturating_mul(level2_ids) } else { entries };
        Shape { probed: *self, two_level, pages, ids: served.min(ids) }
    }
}

/// The shape of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    probed: Probed,
    two_level: bool,
    pages: u64,
    /// Ids below this are served.
    pub ids: u64,
}

impl Shape {
    /// Bytes of the table, or of its first level. It is aligned to a page.
    pub const fn bytes(&self) -> u64 {
        self.pages * self.probed.page_bytes
    }

    /// The alignment.
    pub const fn align(&self) -> u64 {
        self.probed.page_bytes
    }

    /// Puts a zeroed table there.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub fn install(
        self,
        registers: &(impl Registers + ?Sized),
        offset: u64,
        table: Hpa,
        access: Access,
    ) -> Result<Table, Refused> {
        let page = (self.probed.page_bytes.trailing_zeros() as u64 - 12) / 2;
        let high = if page == 2 { table.0 >> 48 << 12 & 0xf000 } else { 0 };
        let value = baser::VALID
            | if self.two_level { baser::INDIRECT } else { 0 }
            | table.0 & baser::ADDRESS
            | high
            | page << baser::PAGE_SHIFT
            | (self.pages - 1);
        let must = baser::VALID | baser::INDIRECT | baser::ADDRESS | baser::PAGE | baser::SIZE;
        install(registers, offset, Field::Its, access, value, must)?;
        Ok(Table { shape: self, at: table })
    }
}

/// A table that an ITS has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its shape.
    pub shape: Shape,
    at: Hpa,
}

impl Table {
    /// For an id of a table of two levels: where its first-level entry is. `None`: one level, or no such id.
    pub fn level1_entry(&self, id: u64) -> Option<Hpa> {
        let within = id.checked_div(self.shape.probed.page_bytes / self.shape.probed.entry_bytes)?;
        let there = self.shape.two_level && id < self.shape.ids;
        there.then(|| Hpa(self.at.0.wrapping_add(within * LEVEL1_BYTES)))
    }

    /// Bytes of a second-level table, and its alignment.
    pub const fn level2_bytes(&self) -> u64 {
        self.shape.probed.page_bytes
    }

    /// The first-level entry for a second-level table.
    pub const fn level1_value(table: Hpa) -> u64 {
        baser::VALID | table.0
    }

    /// Whether a first-level entry has a table.
    pub const fn has_level2(value: u64) -> bool {
        value & baser::VALID != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::fake::Fake;

    const OFFSET: u64 = 0x100;
    const READ_ONLY: u64 = 7 << 56 | 0x1f << 48;

    fn fake(kind: u64, entry: u64, fixed: u64, reads: u64) -> Fake {
        let fake = Fake { fixed: [(OFFSET, READ_ONLY | fixed)].into(), ..Fake::default() };
        fake.values.borrow_mut().insert(OFFSET, kind << 56 | (entry - 1) << 48 | reads);
        fake
    }

    #[test]
    fn a_table_of_one_level_is_told_in_pages() {
        let fake = fake(4, 8, 0, 0);
        let probed = Probed::read(&fake, OFFSET).unwrap();
        let expected =
            Probed { contents: Contents::Collections, entry_bytes: 8, page_bytes: 0x1_0000, two_level: true };
        assert_eq!(probed, expected);
        let shape = probed.shape(4);
        assert_eq!((shape.bytes(), shape.ids), (0x1_0000, 4));
        let table = shape.install(&fake, OFFSET, Hpa(0x4012_0000), Access::Coherent).unwrap();
        assert_eq!(table.level1_entry(0), None);
        let expected = 1 << 63 | 4 << 56 | 7 << 48 | 7 << 59 | 1 << 10 | 2 << 8 | 0x4012_0000;
        assert_eq!(fake.read64(OFFSET), expected);
    }

    #[test]
    fn devices_beyond_a_page_have_two_levels_where_there_are_two() {
        let fake = fake(1, 8, 0, 0);
        let probed = Probed::read(&fake, OFFSET).unwrap();
        for (bits, level1) in [(16, 0x1_0000), (20, 0x1_0000), (26, 0x1_0000), (30, 0x10_0000)] {
            let shape = probed.shape(1 << bits);
            assert_eq!((shape.bytes(), shape.ids), (level1, 1 << bits), "{bits}");
        }
        assert_eq!(probed.shape(1 << 32), probed.shape(1 << 30), "no more than that");
        let table = probed.shape(1 << 20).install(&fake, OFFSET, Hpa(0x4012_0000), Access::Coherent).unwrap();
        assert_eq!(fake.read64(OFFSET) >> 62, 0b11, "valid, indirect");
        assert_eq!(table.level2_bytes(), 0x1_0000);
        assert_eq!(table.level1_entry(0x1fff), Some(Hpa(0x4012_0000)));
        assert_eq!(table.level1_entry(0x2000), Some(Hpa(0x4012_0008)));
        assert_eq!(table.level1_entry(0xf_ffff), Some(Hpa(0x4012_0000 + 127 * 8)));
        assert_eq!(table.level1_entry(0x10_0000), None);
        assert!(Table::has_level2(Table::level1_value(Hpa(0x5000_0000))) && !Table::has_level2(0));
    }

    #[test]
    fn without_a_second_level_the_ids_that_find_no_room_are_not_served() {
        let fake = fake(1, 8, baser::INDIRECT, 0);
        let probed = Probed::read(&fake, OFFSET).unwrap();
        assert!(!probed.two_level);
        assert_eq!((probed.shape(1 << 16).bytes(), probed.shape(1 << 16).ids), (0x8_0000, 1 << 16));
        let most = probed.shape(1 << 32);
        assert_eq!((most.bytes(), most.ids), (0x10_0000, 1 << 17));
    }

    #[test]
    fn a_page_size_that_is_fixed_is_the_one_that_is_used() {
        for (encoding, page_bytes) in [(0, 0x1000), (1, 0x4000), (2, 0x1_0000)] {
            let fake = fake(1, 8, baser::PAGE, encoding << 8);
            let probed = Probed::read(&fake, OFFSET).unwrap();
            assert_eq!(probed.page_bytes, page_bytes);
            let shape = probed.shape(1 << 16);
            assert_eq!((shape.align(), shape.ids), (page_bytes, 1 << 16));
            shape.install(&fake, OFFSET, Hpa(0x4012_0000), Access::Coherent).unwrap();
            assert_eq!(fake.read64(OFFSET) & baser::SIZE, shape.bytes() / page_bytes - 1);
        }
    }

    #[test]
    fn high_addresses_lie_where_64_kib_pages_have_them() {
        let fake = fake(1, 8, 0, 0);
        let shape = Probed::read(&fake, OFFSET).unwrap().shape(16);
        shape.install(&fake, OFFSET, Hpa(0xa_0000_0012_0000), Access::Coherent).unwrap();
        assert_eq!(fake.read64(OFFSET) & baser::ADDRESS, 0x0000_0012_a000);
    }

    #[test]
    fn what_is_not_kept_is_refused_or_settled_for() {
        // Addresses of 32 bits.
        let narrow = fake(1, 8, 0xffff_0000_0000, 0);
        let shape = Probed::read(&narrow, OFFSET).unwrap().shape(16);
        assert!(shape.install(&narrow, OFFSET, Hpa(0x1_4012_0000), Access::Coherent).is_err());
        assert!(shape.install(&narrow, OFFSET, Hpa(0x4012_0000), Access::Coherent).is_ok());
        // No shareability.
        let apart = fake(1, 8, 3 << 10, 0);
        let shape = Probed::read(&apart, OFFSET).unwrap().shape(16);
        shape.install(&apart, OFFSET, Hpa(0x4012_0000), Access::Coherent).unwrap();
        assert_eq!(apart.read64(OFFSET) >> 59 & 7, 1, "not cached");
    }

    #[test]
    fn registers_for_nothing_or_for_something_unknown_are_left_alone() {
        for kind in [0, 3, 5, 6, 7] {
            let fake = fake(kind, 8, 0, 0);
            assert_eq!(Probed::read(&fake, OFFSET), None);
            assert_eq!(fake.read64(OFFSET), kind << 56 | 7 << 48);
        }
    }
}
