//! Second-stage tables for tests: four levels, pages only. Written by hand, from D51397, 9.8, so that the driver is tested without another
//! crate.

use axvm_addr::Hpa;
use axvm_iommu::Memory;

use super::{Fake, State};
use crate::unit::Domain;

const READ: u64 = 1;
const WRITE: u64 = 2;
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
        self.set(address, target | access);
    }

    /// Maps nothing at `address` any more. What a unit holds of it stays until it is invalidated.
    pub fn unmap(&self, address: u64) {
        self.set(address, 0);
    }

    fn set(&self, address: u64, value: u64) {
        let mut table = self.root.0;
        for level in [3u64, 2, 1] {
            let entry = Hpa(table + (address >> (12 + 9 * level) & 511) * 8);
            let mut next = Memory::read64(self.fake, entry);
            if next == 0 {
                next = self.fake.allocate(0x1000, 0x1000).unwrap().0 | READ | WRITE;
                self.put(entry, next);
            }
            table = next & ADDRESS;
        }
        self.put(Hpa(table + (address >> 12 & 511) * 8), value);
        self.fake.barrier();
    }

    fn put(&self, at: Hpa, value: u64) {
        Memory::write64(self.fake, at, value);
        self.fake.clean(at, 8);
    }
}

impl State {
    /// The page that an address is mapped to, whether it may be read, whether written.
    pub(super) fn walk(&self, root: u64, levels: u64, address: u64) -> Option<(u64, bool, bool)> {
        let mut table = root;
        let (mut read, mut write) = (true, true);
        if address >> (12 + 9 * levels) != 0 {
            return None;
        }
        for level in (0..levels).rev() {
            let entry = self.word(table + (address >> (12 + 9 * level) & 511) * 8);
            if entry & (READ | WRITE) == 0 {
                return None;
            }
            read &= entry & READ != 0;
            write &= entry & WRITE != 0;
            table = entry & ADDRESS;
        }
        Some((table, read, write))
    }
}
