//! A fake IOMMU with its memory, strict where hardware is free: what is written is seen only after a barrier, whatever can be held is
//! held, and it is forgotten only when a COMPLETION_WAIT has followed the invalidation.

extern crate std;

mod hardware;
mod tables;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use axvm_addr::Hpa;
use axvm_iommu::{Memory, Registers};

pub use self::tables::Tables;
use crate::spec::commands::Command;
use crate::spec::device_table::Entry;
use crate::spec::registers::{Control, Status, offset};

/// EFR of QEMU's `amd-iommu` with `xtsup=on`: six levels, INVALIDATE_IOMMU_ALL, entries of 128 bits, x2APIC.
pub const FEATURES: u64 = 0x29d7;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reaches this address.
    Reaches(u64),
    /// It is aborted without a record.
    Aborts,
    /// It is aborted and recorded.
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
    /// It is aborted without a record.
    Aborts,
    /// It is aborted and recorded.
    Faults,
}

/// How the fake misbehaves.
#[derive(Debug, Default)]
pub struct Misbehaviour {
    /// Commands are never consumed.
    pub deaf: bool,
    /// The command buffer doesn't stop when it is told to.
    pub runs_on: bool,
    /// It stops at the command with this number so many times.
    pub refuses: Option<(u8, u32)>,
    /// This device tries to write to address 0 whenever commands complete, so that what it is given in between is held.
    pub restless: Option<u16>,
    /// The tail of the event log says that a record is there before it is.
    pub late_records: bool,
}

/// Where a page goes, whether it may be read, whether written.
type HeldPage = (u64, bool, bool);

#[derive(Debug, Default)]
pub struct State {
    pub registers: BTreeMap<usize, u64>,
    pub register_bytes: u64,
    /// Microseconds.
    clock: u64,
    /// Writes that no barrier has followed.
    written: BTreeMap<u64, u64>,
    /// What the IOMMU sees.
    visible: BTreeMap<u64, u64>,
    allocated: u64,
    /// So many allocations more succeed.
    pub memory_left: Option<u32>,
    held_entries: BTreeMap<u16, Entry>,
    held_pages: BTreeMap<(u16, u64), HeldPage>,
    held_interrupts: BTreeMap<(u16, u32), [u64; 2]>,
    /// Invalidations that no COMPLETION_WAIT has completed.
    waiting: Vec<Command>,
    /// All commands consumed.
    pub log: Vec<Command>,
    pub misbehaviour: Misbehaviour,
    /// All register writes, in order.
    pub writes: Vec<(usize, u64)>,
}

/// An IOMMU, its memory, and the clock that waits for it go by.
#[derive(Debug)]
pub struct Fake(pub RefCell<State>);

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// An IOMMU as it is after reset: everything passes.
    pub fn new() -> Self {
        let mut state = State { allocated: 0x10_0000, register_bytes: 0x4000, ..State::default() };
        state.registers.insert(offset::FEATURES, FEATURES);
        Self(RefCell::new(state))
    }

    /// One with other features.
    pub fn with_features(features: u64) -> Self {
        let fake = Self::new();
        fake.0.borrow_mut().registers.insert(offset::FEATURES, features);
        fake
    }

    /// Microseconds that have passed.
    pub fn clock(&self) -> u64 {
        self.0.borrow().clock
    }

    /// The value of a register.
    pub fn get(&self, offset: usize) -> u64 {
        self.0.borrow().register(offset)
    }

    /// A device's request.
    pub fn dma(&self, device: u16, address: u64, write: bool) -> Outcome {
        self.0.borrow_mut().dma(device, address, write)
    }

    /// A device's MSI, of fixed delivery, with this data.
    pub fn msi(&self, device: u16, data: u32) -> Delivery {
        self.0.borrow_mut().msi(device, data)
    }

    /// The commands consumed since the last call, without those that only wait.
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
        panic!("{offset:#x}: its registers are of 64 bits")
    }

    fn write32(&self, offset: usize, _: u32) {
        panic!("{offset:#x}: its registers are of 64 bits")
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.borrow().register(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.0.borrow_mut().write_register(offset, value);
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
    }

    fn clean(&self, address: Hpa, _: u64) {
        panic!("{address}: it looks into the caches (Control.Coherent)")
    }

    fn barrier(&self) {
        self.0.borrow_mut().barrier();
    }
}

impl State {
    pub(crate) fn register(&self, offset: usize) -> u64 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    pub(crate) fn word(&self, address: u64) -> u64 {
        self.visible.get(&address).copied().unwrap_or(0)
    }

    fn control(&self) -> Control {
        Control::from(self.register(offset::CONTROL))
    }

    fn status(&self) -> Status {
        Status::from(self.register(offset::STATUS))
    }

    fn set_status(&mut self, change: impl FnOnce(Status) -> Status) {
        let now = change(self.status());
        self.registers.insert(offset::STATUS, now.into());
    }
}
