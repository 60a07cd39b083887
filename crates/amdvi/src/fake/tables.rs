//! I/O page tables for tests: four levels, pages only. Written by hand, from 48882, 2.2.3, so that the driver is tested without another
//! crate.

use axvm_addr::Hpa;
use axvm_iommu::Memory;

use super::{Fake, State};
use crate::iommu::Domain;

const PRESENT: u64 = 1;
const READ: u64 = 1 << 61;
const WRITE: u64 = 1 << 62;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// Tables in a fake's memory.
#[derive(Debug)]
pub struct Tables<'a> {
    fake: &'a Fake,
    root: Hpa,
}

impl<'a> Tables<'a> {
    /// Tables that map nothing.
    pub fn new(fake: &'a Fake) -> Self {
        let root = fake.allocate(0x1000, 0x1000).unwrap();
        Self { fake, root }
    }

    /// A domain of these tables.
    pub fn domain(&self, id: u16) -> Domain {
        Domain { id, root: self.root, levels: 4 }
    }

    /// Maps the page at `address` to `target`.
    pub fn map(&self, address: u64, target: u64, read: bool, write: bool) {
        let access = if read { READ } else { 0 } | if write { WRITE } else { 0 };
        self.set(address, target | access | PRESENT);
    }

    /// Maps nothing at `address` any more. What an IOMMU holds of it stays until it is invalidated.
    pub fn unmap(&self, address: u64) {
        self.set(address, 0);
    }

    fn set(&self, address: u64, value: u64) {
        let mut table = self.root.0;
        for level in [4u64, 3, 2] {
            let entry = Hpa(table + (address >> (12 + 9 * (level - 1)) & 511) * 8);
            let mut next = Memory::read64(self.fake, entry);
            if next == 0 {
                let page = self.fake.allocate(0x1000, 0x1000).unwrap();
                next = page.0 | (level - 1) << 9 | READ | WRITE | PRESENT;
                Memory::write64(self.fake, entry, next);
            }
            table = next & ADDRESS;
        }
        Memory::write64(self.fake, Hpa(table + (address >> 12 & 511) * 8), value);
        self.fake.barrier();
    }
}

impl State {
    /// The page that an address is mapped to, whether it may be read, whether written.
    pub(super) fn walk(&self, root: u64, levels: u8, address: u64) -> Option<(u64, bool, bool)> {
        let mut table = root;
        let mut level = u64::from(levels);
        let (mut read, mut write) = (true, true);
        if address >> (12 + 9 * level) != 0 {
            return None;
        }
        loop {
            let entry = self.word(table + (address >> (12 + 9 * (level - 1)) & 511) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            read &= entry & READ != 0;
            write &= entry & WRITE != 0;
            let next = entry >> 9 & 7;
            if next == 0 {
                assert_eq!(level, 1, "the fake's tables have pages only");
                return Some((entry & ADDRESS, read, write));
            }
            assert_eq!(next, level - 1, "no level is skipped");
            (table, level) = (entry & ADDRESS, next);
        }
    }
}
