//! Windows on memory that the hypervisor has not mapped for itself: guests' RAM. Each CPU has some, of one block of 2 MiB each, at addresses
//! of its own above everything that is mapped one to one. The first is open only while it is used, to copy or to zero. The architecture may have
//! others, which stay open.

use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{CpuId, Hpa};

use crate::arch::windows::{self, BLOCK, KEPT, ROOT_ENTRIES, TABLE};
use crate::{cpus, memory};

/// The bytes of a window. Guests' RAM comes in such blocks, so that none holds another's.
pub const BYTES: u64 = 2 << 20;

/// Windows under one last table.
const PER_TABLE: u64 = 512;

/// Windows of a CPU.
const PER_CPU: u64 = 1 + KEPT as u64;

/// What one entry of the root spans.
const ROOT_SHIFT: u32 = 39;

/// Where the windows begin, and the first of their tables: they follow each other. 0: there are none yet.
static BASE: AtomicU64 = AtomicU64::new(0);
static TABLES: AtomicU64 = AtomicU64::new(0);

/// Makes room for the windows of so many CPUs in a map that nobody walks yet, where nothing else is mapped.
///
/// # Safety
///
/// `root` must be the root of the map that the hypervisor goes over to.
pub unsafe fn install(root: Hpa, cpus: usize) -> Option<()> {
    let last_tables = (cpus as u64 * PER_CPU).div_ceil(PER_TABLE).clamp(1, 512);
    let index = (0..ROOT_ENTRIES).rev().find(|index| memory::read64(Hpa(root.0 + index * 8)) == 0)?;
    let middle = memory::allocate(4096, 4096)?;
    let tables = memory::allocate((last_tables * 4096) as usize, 4096)?;
    for table in 0..last_tables {
        memory::write64(Hpa(middle.0 + table * 8), (tables.0 + table * 4096) | TABLE);
    }
    memory::write64(Hpa(root.0 + index * 8), middle.0 | TABLE);
    BASE.store(index << ROOT_SHIFT, Ordering::Relaxed);
    TABLES.store(tables.0, Ordering::Relaxed);
    Some(())
}

/// A window of this CPU's while it is open.
pub struct Window {
    /// Where what was asked for can be accessed.
    at: u64,
    entry: Hpa,
    address: u64,
}

impl Window {
    /// Opens the calling CPU's first window on the block that holds `start`. Nobody opens a second one meanwhile: what is done through a
    /// window is copying and zeroing, and interrupts are masked.
    ///
    /// # Safety
    ///
    /// The block must be memory, a guest's or given to nobody yet.
    #[inline(always)]
    pub unsafe fn open(start: Hpa) -> Option<Self> {
        // SAFETY: by the caller's promise.
        unsafe { Self::show(0, start, BLOCK) }
    }

    /// Opens one of the calling CPU's that isn't open. Until it is closed the CPU stays the one that it is.
    ///
    /// # Safety
    ///
    /// The block must be memory that the window's user may access as `attributes` say.
    #[inline(always)]
    pub unsafe fn show(number: u64, start: Hpa, attributes: u64) -> Option<Self> {
        let CpuId(cpu) = cpus::current()?.id;
        let position = u64::from(cpu) * PER_CPU + number;
        let address = BASE.load(Ordering::Relaxed) + position * BYTES;
        let entry = Hpa(TABLES.load(Ordering::Relaxed) + position * 8);
        if entry.0 < 4096 {
            return None;
        }
        // It was invalid, and nobody remembers what is invalid.
        memory::write64(entry, start.0 & !(BYTES - 1) | attributes);
        windows::shown();
        Some(Self { at: address + start.0 % BYTES, entry, address })
    }

    /// Where `start` is seen.
    #[inline(always)]
    pub fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        memory::write64(self.entry, 0);
        // SAFETY: of this CPU's window, which nobody uses any more.
        unsafe { windows::forget(self.address) }
    }
}
