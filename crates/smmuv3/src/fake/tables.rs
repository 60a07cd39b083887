//! Stage-2 tables for tests: 40-bit addresses, two concatenated level 1 tables, pages only. Written by hand, from
//! ARM DDI 0487, D8.3, so that the driver is tested without another crate.

use axvm_addr::Hpa;
use axvm_iommu::Memory;

use super::{Fake, State};

/// Tables in a fake's memory.
#[derive(Debug)]
pub struct Tables<'a> {
    fake: &'a Fake,
    root: Hpa,
}

impl<'a> Tables<'a> {
    /// Tables that map nothing.
    pub fn new(fake: &'a Fake) -> Self {
        Self { fake, root: zeroed(fake, 0x2000) }
    }

    /// Where they begin.
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// Maps the page at `address` to `target`.
    pub fn map(&self, address: u64, target: u64, read: bool, write: bool) {
        let access = u64::from(read) << 6 | u64::from(write) << 7;
        self.set(address, target | 1 << 10 | 3 << 8 | 0xf << 2 | access | 3);
    }

    /// Maps nothing at `address` any more. What an SMMU holds of it stays until it is invalidated.
    pub fn unmap(&self, address: u64) {
        self.set(address, 0);
    }

    fn set(&self, address: u64, value: u64) {
        let mut entry = Hpa(self.root.0 + (address >> 30) * 8);
        for shift in [21, 12] {
            let mut table = Memory::read64(self.fake, entry);
            if table == 0 {
                table = zeroed(self.fake, 0x1000).0 | 3;
                Memory::write64(self.fake, entry, table);
                self.fake.clean(entry, 8);
            }
            entry = Hpa((table & !0xfff) + (address >> shift & 511) * 8);
        }
        Memory::write64(self.fake, entry, value);
        self.fake.clean(entry, 8);
        self.fake.barrier();
    }
}

fn zeroed(fake: &Fake, bytes: usize) -> Hpa {
    let block = fake.allocate(bytes, bytes).unwrap();
    fake.clean(block, bytes as u64);
    fake.barrier();
    block
}

impl State {
    /// The page that an address is mapped to, whether it may be read, whether written.
    pub fn walk(&self, root: u64, address: u64) -> Option<(u64, bool, bool)> {
        let mut table = root;
        let mut entry = 0;
        for (shift, mask) in [(30, 0x3ff), (21, 0x1ff), (12, 0x1ff)] {
            entry = self.word(table + (address >> shift & mask) * 8);
            if entry & 3 != 3 {
                return None;
            }
            table = entry & 0xffff_ffff_f000;
        }
        Some((table, entry & 1 << 6 != 0, entry & 1 << 7 != 0))
    }
}
