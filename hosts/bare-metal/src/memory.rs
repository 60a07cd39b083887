//! The hypervisor's own memory: one heap, for objects, tables and queues alike, which is mapped one to one; and access to guests'
//! RAM, which is mapped only while it is accessed.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::alloc::{alloc, dealloc};
use axvm_addr::{Address, Gpa, Hpa, Span};
use axvm_paging::{Attributes, MemoryType};
use axvm_plan::RamPiece;
use axvm_plan::config::MappingFlags;
use buddy_system_allocator::LockedHeap;

use crate::protection::{self, Protection};
use crate::window::{BYTES, Window};

/// Blocks of up to 2^30 bytes; every block is aligned to its size.
#[global_allocator]
static HEAP: LockedHeap<31> = LockedHeap::empty();

/// Bytes of tables and queues that hardware reads.
static TABLES: AtomicU64 = AtomicU64::new(0);

/// What the flags of the core mean to a table.
pub fn attributes(flags: MappingFlags) -> Attributes {
    let memory = if flags.contains(MappingFlags::DEVICE) {
        MemoryType::Device
    } else if flags.contains(MappingFlags::UNCACHED) {
        MemoryType::NormalNonCacheable
    } else {
        MemoryType::Normal
    };
    Attributes {
        memory,
        read: flags.contains(MappingFlags::READ),
        write: flags.contains(MappingFlags::WRITE),
        execute: flags.contains(MappingFlags::EXECUTE),
    }
}

/// Ticks spent on clearing, filling and cleaning guests' RAM.
static FILLING: AtomicU64 = AtomicU64::new(0);

/// Ticks spent so far on clearing, filling and cleaning guests' RAM, by all CPUs.
pub fn filling_ticks() -> u64 {
    FILLING.load(Ordering::Relaxed)
}

/// Counts the ticks of its life.
struct Filling(u64);

impl Filling {
    fn start() -> Self {
        Self(crate::arch::ticks())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        FILLING.fetch_add(crate::arch::ticks().saturating_sub(self.0), Ordering::Relaxed);
    }
}

/// Gives the heap its memory.
///
/// # Safety
///
/// Once, by the first CPU, before the first allocation. The span must be mapped as memory, and be nobody else's, for good.
pub unsafe fn init(span: Span<Hpa>) {
    // SAFETY: by the caller's promise.
    unsafe { HEAP.lock().init(span.start().0 as usize, span.size() as usize) };
}

/// Bytes of it that nobody has.
pub fn free_bytes() -> u64 {
    let heap = HEAP.lock();
    heap.stats_total_bytes().saturating_sub(heap.stats_alloc_actual()) as u64
}

/// Bytes of it that somebody has, and of these, those that [`allocate`] gave.
pub fn taken_bytes() -> (u64, u64) {
    (HEAP.lock().stats_alloc_actual() as u64, TABLES.load(Ordering::Relaxed))
}

/// A zeroed, aligned block of the hypervisor's memory for a table or queue that hardware reads.
pub fn allocate(bytes: usize, align: usize) -> Option<Hpa> {
    let block = allocate_uncleared(bytes, align)?;
    // SAFETY: the block is memory that nobody else has, of this size at least.
    unsafe { crate::arch::zero(block, bytes as u64) };
    Some(block)
}

/// The same, with what was left there: whoever has asked for it writes all of it before anybody reads it.
pub fn allocate_uncleared(bytes: usize, align: usize) -> Option<Hpa> {
    if protection::fails(Protection::NoTable) {
        return None;
    }
    let layout = Layout::from_size_align(bytes.max(1), align).ok()?;
    // SAFETY: the size isn't zero.
    let block = Hpa(NonNull::new(unsafe { alloc(layout) })?.as_ptr() as u64);
    TABLES.fetch_add(layout.size() as u64, Ordering::Relaxed);
    Some(block)
}

/// Gives back what [`allocate`] gave.
///
/// # Safety
///
/// With the same size and alignment, once, and nothing (no hardware either) uses it any more.
pub unsafe fn free(block: Hpa, bytes: usize, align: usize) {
    if let Ok(layout) = Layout::from_size_align(bytes.max(1), align) {
        TABLES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: by the caller's promise.
        unsafe { dealloc(block.0 as *mut u8, layout) }
    }
}

/// Reads 64 bits of a table in the hypervisor's memory.
pub fn read64(address: Hpa) -> u64 {
    // SAFETY: tables come from `allocate`, so they are mapped memory; hardware may write them, so the access is volatile.
    unsafe { (address.0 as *const u64).read_volatile() }
}

/// Writes 64 bits of a table in the hypervisor's memory.
pub fn write64(address: Hpa, value: u64) {
    // SAFETY: as `read64`; the tables' users own them, and no Rust object lies in them.
    unsafe { (address.0 as *mut u64).write_volatile(value) }
}

/// Writes an entry of several words of a table or queue in the hypervisor's memory.
#[cfg_attr(
    target_arch = "x86_64",
    expect(dead_code, reason = "no table there has entries that are written as a whole")
)]
pub fn write_entry<const WORDS: usize>(address: Hpa, entry: &[u64; WORDS]) {
    // SAFETY: as `write64`.
    unsafe { (address.0 as *mut [u64; WORDS]).write_volatile(*entry) }
}

/// Where a VM's RAM is. Rust holds no reference into it: guest and devices change it at any time.
#[derive(Clone, Debug)]
pub struct GuestRam {
    chunks: alloc::vec::Vec<RamPiece>,
}

/// An address that isn't RAM of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotGuestRam(pub Gpa);

impl GuestRam {
    /// # Safety
    ///
    /// Each chunk must be RAM, in whole blocks of [`BYTES`], that nothing of the hypervisor's lies in.
    pub unsafe fn new(chunks: alloc::vec::Vec<RamPiece>) -> Self {
        Self { chunks }
    }

    /// Calls `f` with each piece of `gpa..gpa + length` that a window shows: where it is seen, where in the whole it begins, and its
    /// size.
    fn pieces(&self, gpa: Gpa, length: u64, mut f: impl FnMut(Hpa, usize, usize)) -> Result<(), NotGuestRam> {
        let mut done = 0;
        while done < length {
            let at = gpa.checked_add(done).ok_or(NotGuestRam(gpa))?;
            let chunk = self.chunks.iter().find(|chunk| chunk.gpa.contains(at)).ok_or(NotGuestRam(at))?;
            let RamPiece { gpa: span, hpa } = chunk;
            let offset = at.0 - span.start().0;
            let start = Hpa(hpa.0 + offset);
            let seen = BYTES - start.0 % BYTES;
            let bytes = (span.size() - offset).min(length - done).min(seen);
            // SAFETY: the block is this guest's (`new`).
            let window = unsafe { Window::open(start) }.ok_or(NotGuestRam(at))?;
            f(Hpa(window.at()), done as usize, bytes as usize);
            done += bytes;
        }
        Ok(())
    }

    /// What a window shows of the RAM around `gpa`: where that begins, how much it is, and where it is.
    #[cfg_attr(target_arch = "aarch64", expect(dead_code, reason = "no tables of guests' are walked there"))]
    pub fn around(&self, gpa: Gpa) -> Option<(Gpa, u64, Hpa)> {
        let RamPiece { gpa: span, hpa } = self.chunks.iter().find(|chunk| chunk.gpa.contains(gpa))?;
        let offset = gpa.0 - span.start().0;
        let before = ((hpa.0 + offset) % BYTES).min(offset);
        let start = offset - before;
        let bytes = (span.size() - start).min(BYTES - (hpa.0 + start) % BYTES);
        Some((Gpa(span.start().0 + start), bytes, Hpa(hpa.0 + start)))
    }

    /// Copies out of RAM. On an error nothing or a front part was copied.
    pub fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), NotGuestRam> {
        let length = buffer.len() as u64;
        self.pieces(gpa, length, |hpa, at, bytes| {
            if let Some(part) = buffer.get_mut(at..at + bytes) {
                // SAFETY: the piece is guest RAM, mapped, apart from anything of Rust's (`new`). It may change meanwhile: whatever
                // bytes come are as good as others.
                unsafe { core::ptr::copy(hpa.0 as *const u8, part.as_mut_ptr(), bytes) }
            }
        })
    }

    /// Copies into RAM. On an error nothing or a front part was copied.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), NotGuestRam> {
        self.pieces(gpa, data.len() as u64, |hpa, at, bytes| {
            if let Some(part) = data.get(at..at + bytes) {
                // SAFETY: as in `read`.
                unsafe { core::ptr::copy(part.as_ptr(), hpa.0 as *mut u8, bytes) }
            }
        })
    }

    /// As [`GuestRam::write`], and cleans what was written to the point of coherency, for a guest that starts with its caches
    /// off.
    pub fn load(&self, gpa: Gpa, data: &[u8]) -> Result<(), NotGuestRam> {
        let _counted = Filling::start();
        self.pieces(gpa, data.len() as u64, |hpa, at, bytes| {
            if let Some(part) = data.get(at..at + bytes) {
                // SAFETY: as in `read`.
                unsafe { core::ptr::copy(part.as_ptr(), hpa.0 as *mut u8, bytes) }
                crate::arch::clean_to_memory(hpa, bytes as u64);
            }
        })
    }

    /// Zeroes all of it and cleans it to the point of coherency, so that a guest with its caches off (and a device) sees no
    /// trace of the last owner.
    pub fn clear(&self) -> Result<(), NotGuestRam> {
        let _counted = Filling::start();
        self.chunks.iter().map(|chunk| chunk.gpa).try_for_each(|span| {
            self.pieces(span.start(), span.size(), |hpa, _, bytes| {
                // SAFETY: as in `read`.
                unsafe { crate::arch::zero(hpa, bytes as u64) };
                crate::arch::clean_to_memory(hpa, bytes as u64);
            })
        })
    }
}
