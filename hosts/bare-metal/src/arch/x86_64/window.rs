//! Windows on memory that the hypervisor has not mapped for itself: guests' RAM. Each CPU has some, of one block of 2 MiB each, at addresses
//! of its own above everything that is mapped one to one. One is open only while it is used, to copy or to zero. The others show the CPU's
//! guest's tables and code (`sight`), can't be written, and stay open while its vCPU has the CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{CpuId, Hpa};
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use crate::{cpus, memory};

/// The bytes of a window. Guests' RAM comes in such blocks, so that none holds another's.
pub const BYTES: u64 = 2 << 20;

/// Windows under one last table.
const PER_TABLE: u64 = 512;

/// Windows of a CPU: the first to copy and to zero by, and so many that stay open.
const PER_CPU: u64 = 1 + KEPT as u64;
/// How many can stay open.
pub const KEPT: usize = 15;

/// What one entry of the root spans.
const ROOT_SHIFT: u32 = 39;

/// P, R/W; a block's A, D, PS and NX as well (AMD APM 2, 5.4.1).
const TABLE: u64 = 3;
const BLOCK: u64 = TABLE | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 63;
/// R/W.
const WRITABLE: u64 = 1 << 1;

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
    // In the lower half, where addresses are canonical as they are.
    let index = (0..256u64).rev().find(|index| memory::read64(Hpa(root.0 + index * 8)) == 0)?;
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

/// This CPU's window while it is open.
pub struct Window {
    /// Where what was asked for can be accessed.
    at: u64,
    entry: Hpa,
    address: u64,
}

impl Window {
    /// Opens the calling CPU's window on the block that holds `start`. Nobody opens a second one meanwhile: what is done through a
    /// window is copying and zeroing, and interrupts are masked.
    ///
    /// # Safety
    ///
    /// The block must be memory, a guest's or given to nobody yet.
    pub unsafe fn open(start: Hpa) -> Option<Self> {
        Self::show(0, start, BLOCK)
    }

    /// Opens one of those of the calling CPU that stay open, to be read by: it is closed on the same CPU. `number`: one that isn't open.
    ///
    /// # Safety
    ///
    /// The block must be memory of the guest whose vCPU has the CPU, for as long as the window is open.
    pub unsafe fn keep(number: usize, start: Hpa) -> Option<Self> {
        if number >= KEPT {
            return None;
        }
        Self::show(1 + number as u64, start, BLOCK & !WRITABLE)
    }

    fn show(number: u64, start: Hpa, attributes: u64) -> Option<Self> {
        let CpuId(cpu) = cpus::current()?.id;
        let position = u64::from(cpu) * PER_CPU + number;
        let address = BASE.load(Ordering::Relaxed) + position * BYTES;
        let entry = Hpa(TABLES.load(Ordering::Relaxed) + position * 8);
        if entry.0 < 4096 {
            return None;
        }
        // It wasn't present, and no TLB has what isn't.
        memory::write64(entry, start.0 & !(BYTES - 1) | attributes);
        Some(Self { at: address + start.0 % BYTES, entry, address })
    }

    /// Where `start` is seen.
    pub fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        memory::write64(self.entry, 0);
        // Of this CPU alone: no other has a reason to walk there, and what it may have walked by speculation it never uses.
        tlb::flush(VirtAddr::new(self.address));
    }
}
