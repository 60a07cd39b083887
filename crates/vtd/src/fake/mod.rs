//! A fake unit with its memory, strict where hardware is free: it reads memory past the processors' caches unless it is coherent, sees what
//! is written only after a barrier, holds whatever can be held, and forgets it only when a wait has followed the invalidation.

extern crate std;

mod hardware;
mod tables;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use axvm_addr::Hpa;
use axvm_iommu::{Memory, Registers};

pub use self::tables::Tables;
use crate::spec::commands::Command;
use crate::spec::registers::{Global, offset};

/// CAP of QEMU's `intel-iommu`, with 8 fault records in place of one.
pub const CAPABILITY: u64 = 0x00d2_078c_222f_0606;
/// ECAP of the same: not coherent, queue, interrupts, x2APIC.
pub const EXTENDED: u64 = 0xf0_0f5a;
/// Where its fault records are, and how many.
pub(crate) const FAULTS_AT: usize = 0x220;
pub(crate) const FAULTS: usize = 8;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reaches this address.
    Reaches(u64),
    /// It is blocked without a record.
    Blocked,
    /// It is blocked and recorded.
    Faults,
}

/// What becomes of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A local APIC gets it.
    To {
        /// Which.
        destination: u32,
        /// The vector.
        vector: u8,
    },
    /// It passes as the device has made it.
    Passes,
    /// It is blocked and recorded.
    Faults,
}

/// How the fake misbehaves.
#[derive(Debug, Default)]
pub struct Misbehaviour {
    /// Descriptors are never consumed.
    pub deaf: bool,
    /// The status never follows a command.
    pub never_follows: bool,
    /// It stops at a descriptor of this kind so many times.
    pub refuses: Option<(u8, u32)>,
    /// This device tries to write to address 0 whenever invalidations complete, so that what it is given in between is held.
    pub restless: Option<u16>,
}

/// Where a page goes, whether it may be read, whether written.
type HeldPage = (u64, bool, bool);

#[derive(Debug, Default)]
pub struct State {
    pub registers: BTreeMap<usize, u32>,
    pub register_bytes: u64,
    /// Microseconds.
    clock: u64,
    /// What the processors have written, and the unit doesn't see yet.
    written: BTreeMap<u64, u64>,
    /// Of that, what was flushed.
    flushed: BTreeSet<u64>,
    /// What the unit sees.
    visible: BTreeMap<u64, u64>,
    allocated: u64,
    /// So many allocations more succeed.
    pub memory_left: Option<u32>,
    held_roots: BTreeMap<u8, u64>,
    held_contexts: BTreeMap<u16, [u64; 2]>,
    held_pages: BTreeMap<(u16, u64), HeldPage>,
    held_interrupts: BTreeMap<u16, [u64; 2]>,
    /// Invalidations that no wait has completed.
    waiting: Vec<Command>,
    /// Where the next fault is recorded.
    next_fault: usize,
    /// The root and the interrupt table that were taken over.
    root: u64,
    interrupts: u64,
    /// All descriptors consumed, but for waits.
    pub log: Vec<Command>,
    pub misbehaviour: Misbehaviour,
    /// All register writes, in order.
    pub writes: Vec<(usize, u64)>,
}

/// A unit, its memory, and the clock that waits for it go by.
#[derive(Debug)]
pub struct Fake(pub RefCell<State>);

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// A unit as it is after reset: everything passes.
    pub fn new() -> Self {
        Self::with(CAPABILITY, EXTENDED)
    }

    /// One with other capabilities.
    pub fn with(capability: u64, extended: u64) -> Self {
        let mut state = State { allocated: 0x10_0000, register_bytes: 0x1000, ..State::default() };
        for (at, value) in [(offset::CAPABILITY, capability), (offset::EXTENDED, extended)] {
            state.registers.extend([(at, value as u32), (at + 4, (value >> 32) as u32)]);
        }
        Self(RefCell::new(state))
    }

    /// Microseconds that have passed.
    pub fn clock(&self) -> u64 {
        self.0.borrow().clock
    }

    /// The value of a register of 32 bits.
    pub fn get(&self, offset: usize) -> u32 {
        self.0.borrow().register(offset)
    }

    /// Gives a register a value that software couldn't.
    pub fn set(&self, offset: usize, value: u32) {
        self.0.borrow_mut().registers.insert(offset, value);
    }

    /// A device's request.
    pub fn dma(&self, device: u16, address: u64, write: bool) -> Outcome {
        self.0.borrow_mut().dma(device, address, write)
    }

    /// A device's MSI, with zero as data.
    pub fn msi(&self, device: u16, address: u32) -> Delivery {
        self.message(device, address, 0)
    }

    /// A device's MSI.
    pub fn message(&self, device: u16, address: u32, data: u16) -> Delivery {
        self.0.borrow_mut().msi(device, address, data)
    }

    /// The descriptors consumed since the last call, without waits.
    pub fn take_log(&self) -> Vec<Command> {
        core::mem::take(&mut self.0.borrow_mut().log)
    }
}

impl Registers for Fake {
    fn size(&self) -> u64 {
        self.0.borrow().register_bytes
    }

    fn now_us(&self) -> u64 {
        let mut state = self.0.borrow_mut();
        state.clock += 10;
        state.clock
    }

    fn read32(&self, offset: usize) -> u32 {
        self.0.borrow().register(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.0.borrow_mut().write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.borrow().register64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.0.borrow_mut().write64(offset, value);
    }
}

impl Memory for Fake {
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa> {
        let mut state = self.0.borrow_mut();
        if let Some(left) = &mut state.memory_left {
            *left = left.checked_sub(1)?;
        }
        let start = state.allocated.next_multiple_of(align as u64);
        state.allocated = start + bytes as u64;
        Some(Hpa(start))
    }

    fn read64(&self, address: Hpa) -> u64 {
        let state = self.0.borrow();
        assert!(address.0.is_multiple_of(8) && address.0 < state.allocated, "{address} is not memory");
        state.written.get(&address.0).copied().unwrap_or_else(|| state.word(address.0))
    }

    fn write64(&self, address: Hpa, value: u64) {
        let mut state = self.0.borrow_mut();
        assert!(address.0.is_multiple_of(8) && address.0 < state.allocated, "{address} is not memory");
        state.written.insert(address.0, value);
        state.flushed.remove(&address.0);
    }

    fn clean(&self, address: Hpa, bytes: u64) {
        let lines = address.0 & !63..(address.0 + bytes).next_multiple_of(64);
        let mut state = self.0.borrow_mut();
        let found: Vec<u64> = state.written.range(lines).map(|(at, _)| *at).collect();
        state.flushed.extend(found);
    }

    fn barrier(&self) {
        self.0.borrow_mut().barrier();
    }
}

impl State {
    pub(crate) fn register(&self, offset: usize) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    pub(crate) fn register64(&self, offset: usize) -> u64 {
        u64::from(self.register(offset)) | u64::from(self.register(offset + 4)) << 32
    }

    pub(crate) fn put64(&mut self, offset: usize, value: u64) {
        self.registers.extend([(offset, value as u32), (offset + 4, (value >> 32) as u32)]);
    }

    pub(crate) fn word(&self, address: u64) -> u64 {
        self.visible.get(&address).copied().unwrap_or(0)
    }

    fn status(&self) -> Global {
        Global::from(self.register(offset::STATUS))
    }
}
