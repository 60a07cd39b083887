//! The page below 1 MiB at which other CPUs begin, in real mode.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::string::ToString;
use axvm_addr::{Address, Hpa, PAGE_SIZE, Span};
use axvm_platform::model::{Platform, Reserved};

use super::own_map::{Rights, early_map};
use crate::log;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Where it is; 0: nowhere.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// Below this address there is no memory for it: on machines with a BIOS the extended BIOS data area may begin here.
const LOW_END: u64 = 0x9_f000;

/// Takes a page of free memory below 1 MiB, and puts the first instructions there. The page is the hypervisor's from then on.
///
/// # Safety
///
/// For the first CPU alone, before the hypervisor's own map is in use.
pub unsafe fn install(platform: &mut Platform) {
    // Not the first page, where the real mode's own tables are.
    let Some(low) = Span::new(Hpa(PAGE_SIZE), LOW_END - PAGE_SIZE).ok() else { return };
    let free = platform.free_memory();
    let pages =
        (1..LOW_END / PAGE_SIZE).rev().filter_map(|page| Span::new(Hpa(page * PAGE_SIZE), PAGE_SIZE).ok());
    let page =
        pages.filter(|page| low.encloses(page)).find(|page| free.iter().any(|free| free.encloses(page)));
    let Some(page) = page else {
        log::warn!("there is no free memory below 1 MiB: no other CPU can be started");
        return;
    };
    // SAFETY: by the caller's promise; it is free memory.
    if unsafe { early_map(page.start().0, page.end().0, Rights::Code) }.is_err() {
        return;
    }
    let (from, to) = (&raw const trampoline_start, &raw const trampoline_end);
    // SAFETY: the instructions are less than a page, and the page is the hypervisor's.
    unsafe {
        core::ptr::copy_nonoverlapping(from, page.start().get() as *mut u8, to as usize - from as usize)
    };
    platform.reserved.push(Reserved { span: page, owner: "the hypervisor".to_string(), no_map: false });
    PAGE.store(page.start().0, Ordering::Relaxed);
}

/// Where it is.
pub fn page() -> Option<Hpa> {
    match PAGE.load(Ordering::Relaxed) {
        0 => None,
        page => Some(Hpa(page)),
    }
}
