//! How the entry of a window (`crate::window`) is written, and forgotten; and windows that show the CPU's guest's tables and code (`sight`), can't be
//! written, and stay open while its vCPU has the CPU.

use axvm_addr::Hpa;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use crate::window::Window;

/// Windows of a CPU that stay open.
pub const KEPT: usize = 15;

/// Entries of the root under which windows may lie: in the lower half, where addresses are canonical as they are.
pub const ROOT_ENTRIES: u64 = 256;

/// P, R/W; a block's A, D, PS and NX as well (AMD APM 2, 5.4.1).
pub const TABLE: u64 = 3;
pub const BLOCK: u64 = TABLE | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 63;
/// R/W.
const WRITABLE: u64 = 1 << 1;

/// The entry that was written holds: it wasn't present, and no TLB has what isn't.
#[inline(always)]
pub const fn shown() {}

/// Forgets what was walked there. Of this CPU alone: no other has a reason to walk there, and what it may have walked by speculation it never uses.
///
/// # Safety
///
/// Nothing is accessed there any more.
pub unsafe fn forget(address: u64) {
    tlb::flush(VirtAddr::new(address));
}

/// Opens one of those of the calling CPU that stay open, to be read by: it is closed on the same CPU. `number`: one that isn't open.
///
/// # Safety
///
/// The block must be memory of the guest whose vCPU has the CPU, for as long as the window is open.
pub unsafe fn keep(number: usize, start: Hpa) -> Option<Window> {
    if number >= KEPT {
        return None;
    }
    // SAFETY: by the caller's promise; it isn't written.
    unsafe { Window::show(1 + number as u64, start, BLOCK & !WRITABLE) }
}
