//! The first map of a program that has just turned on its MMU, one to one, in a fixed number of tables: pages, and blocks of 2 MiB where
//! they fill one, in tables of four levels with 512 entries each.
//!
//! It grows while it is walked. So an entry is written once at most, from nothing to what it stays: a block never becomes a table, nor
//! a table a block, which on Arm would need break-before-make (DDI 0487, D8.16.1), and code can't break what it runs by.

use axvm_addr::Hpa;

/// Where an entry has its address.
const ADDRESS: u64 = 0xffff_ffff_f000;

/// The bits of an entry that say what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// It leads to a table.
    pub table: u64,
    /// It is a block of 2 MiB.
    pub block: u64,
    /// It is a page.
    pub page: u64,
    /// By these bits a block is told from a table.
    pub told_by: u64,
}

impl Kinds {
    /// Arm's with the granule of 4 KiB (Arm ARM, DDI 0487, D8.3).
    pub const ARM: Self = Self { table: 3, block: 1, page: 3, told_by: 3 };
    /// Those of x86's long mode (AMD64 Architecture Programmer's Manual 2, 5.3.3): P, R/W of tables, PS of blocks.
    pub const X86: Self = Self { table: 3, block: 1 << 7 | 1, page: 1, told_by: 1 << 7 };
}

/// Where the tables are.
pub trait EarlyTables {
    /// Reads an entry.
    fn read(&self, entry: Hpa) -> u64;

    /// Writes an entry, single-copy atomically.
    fn write(&mut self, entry: Hpa, value: u64);

    /// A zeroed table, if there is one more.
    fn table(&mut self) -> Option<Hpa>;
}

/// There are no more tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTables;

/// Adds whole pages around `start..end` with these attributes. What is mapped already stays as it is. The caller puts a barrier behind
/// it.
///
/// # Errors
///
/// [`NoTables`]; a front part may be mapped.
pub fn map(
    tables: &mut impl EarlyTables,
    kinds: Kinds,
    root: Hpa,
    start: u64,
    end: u64,
    attributes: u64,
) -> Result<(), NoTables> {
    let mut at = start & !0xfff;
    while at < end {
        let mut table = root.0;
        let mut shift = 39;
        loop {
            let entry = Hpa(table + (at >> shift & 511) * 8);
            let value = tables.read(entry);
            let block = shift == 21 && at & 0x1f_ffff == 0 && end - at >= 1 << 21;
            let fresh = match value {
                0 if shift == 12 => at | attributes | kinds.page,
                0 if block => at | attributes | kinds.block,
                0 => tables.table().ok_or(NoTables)?.0 | kinds.table,
                value => value,
            };
            if value == 0 {
                tables.write(entry, fresh);
            }
            if shift == 12 || fresh & kinds.told_by == kinds.block & kinds.told_by {
                at = (at | ((1 << shift) - 1)) + 1;
                break;
            }
            table = fresh & ADDRESS;
            shift -= 9;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use super::*;

    const ROOT: Hpa = Hpa(0x9000_0000);
    const BOTH: [Kinds; 2] = [Kinds::ARM, Kinds::X86];
    const MEMORY: u64 = 0x700;
    const DEVICE: u64 = 0x600;

    /// Tables that are walked at any time: an entry that counts may never change.
    struct Walked {
        kinds: Kinds,
        entries: BTreeMap<u64, u64>,
        next: u64,
        left: usize,
    }

    impl Walked {
        fn new(kinds: Kinds, left: usize) -> Self {
            Self { kinds, entries: BTreeMap::new(), next: ROOT.0 + 0x1000, left }
        }

        fn map(&mut self, start: u64, end: u64, attributes: u64) -> Result<(), NoTables> {
            map(self, self.kinds, ROOT, start, end, attributes)
        }

        /// The size of the block, and its attributes.
        fn walk(&self, address: u64) -> Option<(u64, u64)> {
            let mut table = ROOT.0;
            for shift in [39, 30, 21, 12] {
                let entry = self.read(Hpa(table + (address >> shift & 511) * 8));
                let is_leaf =
                    shift == 12 || entry & self.kinds.told_by == self.kinds.block & self.kinds.told_by;
                if entry & 1 == 0 {
                    return None;
                }
                if is_leaf {
                    let size = 1 << shift;
                    assert_eq!(entry & ADDRESS, address & !(size - 1), "one to one");
                    return Some((size, entry & 0xf00));
                }
                table = entry & ADDRESS;
            }
            None
        }
    }

    impl EarlyTables for Walked {
        fn read(&self, entry: Hpa) -> u64 {
            self.entries.get(&entry.0).copied().unwrap_or(0)
        }

        fn write(&mut self, entry: Hpa, value: u64) {
            let before = self.entries.insert(entry.0, value).unwrap_or(0);
            assert_eq!(
                before & 1,
                0,
                "{:#x} was valid, and changes to {value:#x}: that needs break-before-make",
                before
            );
        }

        fn table(&mut self) -> Option<Hpa> {
            self.left = self.left.checked_sub(1)?;
            self.next += 0x1000;
            Some(Hpa(self.next))
        }
    }

    #[test]
    fn blocks_where_they_fill_one_and_pages_beside_them() {
        for kinds in BOTH {
            let mut map = Walked::new(kinds, 8);
            map.map(0x401f_f800, 0x4060_1001, MEMORY).unwrap();
            assert_eq!(map.walk(0x401f_efff), None);
            assert_eq!(map.walk(0x401f_f000), Some((0x1000, MEMORY)));
            assert_eq!(map.walk(0x4020_0000), Some((0x20_0000, MEMORY)));
            assert_eq!(map.walk(0x4040_0000), Some((0x20_0000, MEMORY)));
            assert_eq!(map.walk(0x4060_1fff), Some((0x1000, MEMORY)));
            assert_eq!(map.walk(0x4060_2000), None);
        }
    }

    #[test]
    fn nothing_that_is_mapped_changes_its_size_or_its_kind() {
        // Every order of: a page within a block, the block, more than the block, registers across its end.
        let spans = [
            (0x4021_0000, 0x4021_1000, MEMORY),
            (0x4020_0000, 0x4040_0000, MEMORY),
            (0x4000_0000, 0x4080_0000, MEMORY),
            (0x403f_f000, 0x4040_1000, DEVICE),
        ];
        let orders = 0..4usize.pow(4);
        for (order, kinds) in orders.flat_map(|order| BOTH.map(|kinds| (order, kinds))) {
            let mut map = Walked::new(kinds, 8);
            let mut before: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for step in 0..4 {
                let (start, end, attributes) = spans[order / 4usize.pow(step) % 4];
                map.map(start, end, attributes).unwrap();
                for (&address, &was) in &before {
                    assert_eq!(map.walk(address), Some(was));
                }
                for address in (start..end).step_by(0x1000) {
                    before.insert(address, map.walk(address).unwrap());
                }
            }
        }
    }

    #[test]
    fn tables_that_are_used_up_are_an_error() {
        assert_eq!(Walked::new(Kinds::ARM, 2).map(0x1000, 0x2000, MEMORY), Err(NoTables));
        assert_eq!(Walked::new(Kinds::ARM, 3).map(0x1000, 0x2000, MEMORY), Ok(()));
    }
}
