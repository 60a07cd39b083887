//! Which LPIs there are, and how each is configured (Arm IHI 0069, 5.1).
//!
//! Physical INTIDs from 8192 to 16383 are for the one guest that has LPIs under its own numbers. What lies above is the hypervisor's
//! to choose from; with GICv4 the first of these are doorbells, one for each CPU. Virtual LPIs are numbers of one VM's own.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use axvm_addr::{CpuId, Hpa};
use axvm_vgic::{Intid, LPI_PIECE};
use spin::Mutex;

use super::error::ItsError;
use super::groups::PRIORITY;
use crate::arch::aarch64::cpu;
use crate::memory;

/// INTID bits of all physical LPIs, where the hardware has as many: 24,576 of them.
const LPI_ID_BITS: u32 = 15;

/// INTID bits of the LPIs that a guest has under its own numbers: 8192 of them.
pub const GUEST_LPI_ID_BITS: u32 = 14;

/// The first LPI.
const FIRST: u32 = 8192;

/// The first physical LPI of the hypervisor's own choice.
const FIRST_OWN: u32 = 1 << GUEST_LPI_ID_BITS;

/// What stands for "no doorbell" (IHI 0069, 5.3.21: the spurious INTID).
const NO_DOORBELL: Intid = Intid(1023);

/// INTID bits of the table, of a GIC that has `most`.
fn table_bits(most: u32) -> u32 {
    LPI_ID_BITS.min(most).max(GUEST_LPI_ID_BITS)
}

/// How many LPIs are the hypervisor's to choose from, of a GIC whose INTIDs have so many bits.
pub fn own_count(most_bits: u32) -> u32 {
    (1u32 << table_bits(most_bits)) - FIRST_OWN
}

/// Whether a guest may have an LPI of this number under that number.
pub fn may_be_guests(lpi: Intid) -> bool {
    (FIRST..FIRST_OWN).contains(&lpi.0)
}

/// Takes what is pending of the LPIs that a guest has under its own numbers out of a pending table: a bit for each INTID, from 0 (IHI
/// 0069, 5.1.2). `taken` is told of one piece after another.
///
/// # Safety
///
/// The table must be memory of the hypervisor's, for INTIDs of [`GUEST_LPI_ID_BITS`] bits at least, which nothing else accesses
/// meanwhile.
pub unsafe fn take_pending(table: Hpa, mut taken: impl FnMut(Intid, &[u8; LPI_PIECE / 8])) {
    for first in (FIRST..FIRST_OWN).step_by(LPI_PIECE) {
        let at = Hpa(table.0 + u64::from(first / 8));
        let piece = at.0 as *mut [u8; LPI_PIECE / 8];
        // What the CPU has cached of it is from before.
        cpu::clean_to_memory(at, LPI_PIECE as u64 / 8);
        // SAFETY: by the caller's promise; the piece ends before the table does.
        let bits = unsafe { piece.read() };
        if bits != [0; LPI_PIECE / 8] {
            // SAFETY: the same.
            unsafe { piece.write([0; LPI_PIECE / 8]) };
            cpu::clean_to_memory(at, LPI_PIECE as u64 / 8);
            taken(Intid(first), &bits);
        }
    }
}

/// A configuration table: a byte for each LPI from 8192 (IHI 0069, 5.1.1). The hypervisor alone writes it.
#[derive(Debug)]
pub struct Properties {
    at: Hpa,
    id_bits: u32,
}

impl Properties {
    /// A table in which all LPIs are disabled, for INTIDs of so many bits.
    pub fn new(id_bits: u32) -> Result<Self, ItsError> {
        let new = Self { at: Hpa(0), id_bits };
        let at = memory::allocate(new.bytes(), 0x1000).ok_or(ItsError::NoMemory)?;
        cpu::clean_to_memory(at, new.bytes() as u64);
        Ok(Self { at, ..new })
    }

    /// Where it is.
    pub fn at(&self) -> Hpa {
        self.at
    }

    /// How many bits an INTID has.
    pub fn id_bits(&self) -> u32 {
        self.id_bits
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        (1usize << self.id_bits).saturating_sub(FIRST as usize)
    }

    /// Writes an LPI's byte: priority in bits 7:2, enable in bit 0. The hardware holds to it after an INV command.
    pub fn configure(&self, lpi: Intid, priority: u8, enable: bool) {
        let Some(index) = lpi.0.checked_sub(FIRST).filter(|&index| (index as usize) < self.bytes()) else {
            return;
        };
        let at = Hpa(self.at.0 + u64::from(index));
        // SAFETY: inside the table, which is the hypervisor's; only the GIC reads it besides.
        unsafe { (at.0 as *mut u8).write_volatile(priority & !3 | u8::from(enable)) };
        cpu::clean_to_memory(at, 1);
    }

    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// The GIC doesn't read it any more.
    pub unsafe fn free(self) {
        // SAFETY: allocated so in `new`; the rest by the caller's promise.
        unsafe { memory::free(self.at, self.bytes(), 0x1000) };
    }
}

/// All physical LPIs, shared by all CPUs and ITSs.
pub struct Lpis {
    properties: Properties,
    /// Of those of the hypervisor's choice: whether somebody has it.
    used: Mutex<Vec<bool>>,
    /// How many of them are taken, doorbells apart. Changed with `used` locked.
    taken: AtomicU32,
    /// How many of them, from the first, are doorbells.
    doorbells: u32,
}

impl Lpis {
    /// Allocates the table. `most_bits`: of an INTID, in this GIC. `doorbells`: how many CPUs there are, if the GIC has virtual LPIs.
    pub fn new(most_bits: u32, doorbells: usize) -> Result<Self, ItsError> {
        let id_bits = table_bits(most_bits);
        let properties = Properties::new(id_bits)?;
        let mut used = alloc::vec![false; (1usize << id_bits) - FIRST_OWN as usize];
        let doorbells = doorbells.min(used.len());
        for slot in used.iter_mut().take(doorbells) {
            *slot = true;
        }
        let new = Self {
            properties,
            used: Mutex::new(used),
            taken: AtomicU32::new(0),
            doorbells: doorbells as u32,
        };
        for doorbell in 0..new.doorbells {
            // No redistributor has read the table yet, so that this needs no INV: there is no event to name in one.
            new.properties.configure(Intid(FIRST_OWN + doorbell), PRIORITY, true);
        }
        Ok(new)
    }

    /// Their configuration.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The LPI that calls a CPU when a virtual LPI arrives for a virtual processor that doesn't run there just now.
    pub fn doorbell(&self, cpu: CpuId) -> Intid {
        let cpu = u32::from(cpu.0);
        if cpu < self.doorbells { Intid(FIRST_OWN + cpu) } else { NO_DOORBELL }
    }

    /// Takes `count` neighbouring LPIs, a power of two, of those that the plan keeps for a VM, from 0 on.
    pub fn take(&self, block: Range<u32>, count: usize) -> Result<Intid, ItsError> {
        let (start, end) = (block.start + self.doorbells, block.end + self.doorbells);
        let mut used = self.used.lock();
        let block = used.get_mut(start as usize..end as usize).ok_or(ItsError::NoLpis)?;
        let first = axvm_gicv3::place(block, count).ok_or(ItsError::NoLpis)?;
        for slot in block.iter_mut().skip(first).take(count) {
            *slot = true;
        }
        self.taken.fetch_add(count as u32, Ordering::Relaxed);
        Ok(Intid(FIRST_OWN + start + first as u32))
    }

    /// Takes the last one that is free.
    #[cfg(feature = "protection-off")]
    pub fn take_last(&self) {
        if let Some(slot) = self.used.lock().iter_mut().rev().find(|used| !**used) {
            *slot = true;
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of those of the hypervisor's choice are taken, doorbells apart.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Gives LPIs back that [`Lpis::take`] gave.
    pub fn give_back(&self, first: Intid, count: usize) {
        for slot in self.used.lock().iter_mut().skip((first.0 - FIRST_OWN) as usize).take(count) {
            if core::mem::take(slot) {
                self.taken.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
