//! How the entry of a window (`crate::window`) is written, and forgotten.

pub use super::descriptor::{MEMORY_BLOCK as BLOCK, TABLE};
use super::sysreg::{dsb, isb};
use super::tlb;

/// Windows of a CPU that stay open.
pub const KEPT: usize = 0;

/// Entries of the root under which windows may lie.
pub const ROOT_ENTRIES: u64 = 512;

/// The entry that was written holds.
#[inline(always)]
pub fn shown() {
    dsb!("ishst");
    isb!();
}

/// Forgets what was walked there, on all CPUs: another may have walked there by speculation.
///
/// # Safety
///
/// Nothing is accessed there any more.
pub unsafe fn forget(address: u64) {
    // SAFETY: by the caller's promise.
    unsafe { tlb::forget_own(address) }
}
