//! Memory for reading the device tree: given out once, never taken back.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 2 << 20;

#[repr(C, align(16))]
struct Heap {
    bytes: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: the first CPU, and no handler of an interrupt, allocates: there is no second user at any time.
unsafe impl Sync for Heap {}

// SAFETY: each call gives a part of `bytes` that no other call gave, aligned as asked.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get().cast::<u8>();
        let used = self.used.load(Ordering::Relaxed);
        // No read-modify-write: with the MMU off RAM is Device memory, where exclusives need not work.
        let start = (base.addr() + used).next_multiple_of(layout.align()) - base.addr();
        match start.checked_add(layout.size()) {
            Some(end) if end <= SIZE => {
                self.used.store(end, Ordering::Relaxed);
                base.wrapping_add(start)
            }
            _ => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Heap = Heap { bytes: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) };
