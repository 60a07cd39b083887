//! An instruction against the fault that it is said to have caused.
//!
//! Whoever reads an instruction after its fault may read another: a second processor can change it meanwhile. What it says
//! counts as far as the fault bears it out, so that it leads nowhere that the processor hasn't checked for this program.

use crate::{Access, Direction, LoadStore};

/// Pages of 4 KiB, the smallest unit of what a processor checks.
const PAGE: u64 = 1 << 12;

/// What of an address counts: with top byte ignore (TCR_ELx.TBI) a fault's may have the tag or not.
const UNTAGGED: u64 = (1 << 56) - 1;

/// A fault on a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whether it was a store (ESR_ELx.ISS.WnR).
    pub write: bool,
    /// The virtual address (FAR_ELx).
    pub address: u64,
}

/// Why an instruction isn't performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It isn't the one that faulted, or reaches beyond the page that faulted.
    Access,
    /// Its address isn't a multiple of the width, as device memory wants it.
    Misaligned,
}

impl LoadStore {
    /// As [`LoadStore::access`], if that is what can have faulted so: of the fault's direction, aligned, all of it in the page
    /// that faulted, the address that faulted among its own.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] says which of these it isn't.
    pub fn at_fault(&self, base: u64, index: u64, fault: Fault) -> Result<Access, Mismatch> {
        let access = self.access(base, index);
        let is_store = self.direction() == Direction::Store;
        if is_store != fault.write || fault.address.wrapping_sub(access.address) & UNTAGGED >= self.total() {
            return Err(Mismatch::Access);
        }
        if access.address & (self.bytes() - 1) != 0 {
            return Err(Mismatch::Misaligned);
        }
        // All of it in one page: that of the address that faulted, which is in it.
        let in_page = access.address & (PAGE - 1);
        if in_page + self.total() <= PAGE { Ok(access) } else { Err(Mismatch::Access) }
    }
}
