//! A fake SMMU with its memory, strict where hardware is free: what is written is seen only after a barrier,
//! whatever can be held is held, and it is forgotten only when a CMD_SYNC has followed the invalidation.
//!
//! One that isn't coherent sees memory past the processors' caches (`cache`): they keep whatever was read or written
//! until they are told to clean it.

extern crate std;

mod cache;
mod hardware;
mod tables;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use axvm_addr::Hpa;
use axvm_iommu::{Memory, Registers};

use self::cache::Cache;
pub use self::tables::Tables;
use crate::spec::commands::Command;
use crate::spec::registers::*;
use crate::spec::stream_table::{self, Entry, word0};

/// IDR0 of QEMU's `virt`.
pub const IDR0: u32 = 0x0d44_101b;
/// IDR1 of QEMU's `virt`.
pub const IDR1: u32 = 19 << 21 | 19 << 16 | 16;
/// IDR5 of QEMU's `virt`.
pub const IDR5: u32 = 0x74;

/// What comes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reaches this address.
    Reaches(u64),
    /// It aborts without a trace.
    Aborts,
    /// It aborts with an event of this number.
    Faults(u8),
}

/// How the fake misbehaves.
#[derive(Debug, Default)]
pub struct Misbehaviour {
    /// GBPA.UPDATE never clears.
    pub gbpa_stuck: bool,
    /// CR0ACK and IRQ_CTRLACK never follow.
    pub never_acknowledges: bool,
    /// Commands are never consumed.
    pub deaf: bool,
    /// So many times more it hears of commands, then twice not.
    pub hears: Option<usize>,
    /// The command with this opcode is refused this many times, with this reason.
    pub refuses: Option<(u64, u32, u32)>,
}

/// Where a page goes, whether it may be read, whether written.
type HeldPage = (u64, bool, bool);

#[derive(Debug, Default)]
pub struct State {
    pub registers: BTreeMap<usize, u32>,
    /// The processors' caches, where the SMMU doesn't see into them.
    cache: Option<Cache>,
    /// Microseconds.
    clock: u64,
    /// Bytes of the register block.
    pub register_bytes: u64,
    /// Writes that no barrier has followed.
    written: BTreeMap<u64, u64>,
    /// What the SMMU sees.
    pub visible: BTreeMap<u64, u64>,
    allocated: u64,
    pub refuse_memory: bool,
    held_entries: BTreeMap<u32, Entry>,
    held_descriptors: BTreeMap<u32, u64>,
    held_pages: BTreeMap<(u16, u64), HeldPage>,
    /// Invalidations that no CMD_SYNC has completed.
    waiting: Vec<Command>,
    /// All commands consumed.
    pub log: Vec<Command>,
    pub misbehaviour: Misbehaviour,
    /// All register writes, in order.
    pub writes: Vec<(usize, u64)>,
    event_producer: u32,
}

/// An SMMU, its memory, and the clock that waits for it go by.
#[derive(Debug)]
pub struct Fake(pub RefCell<State>);

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// An SMMU as it is after reset: open.
    pub fn new() -> Self {
        let mut state = State { allocated: 0x10_0000, register_bytes: 0x2_0000, ..State::default() };
        state.registers.extend([(idr0::OFFSET, IDR0), (idr1::OFFSET, IDR1), (idr5::OFFSET, IDR5)]);
        // As after reset: open.
        state.registers.insert(gbpa::OFFSET, 0x1000);
        Self(RefCell::new(state))
    }

    /// One that isn't coherent with the processors' caches, as the identification registers say too, or don't.
    pub fn not_coherent(idr0: u32) -> Self {
        let fake = Self::new();
        fake.set(idr0::OFFSET, idr0);
        fake.0.borrow_mut().cache = Some(Cache::default());
        fake
    }

    /// Writes a word as the SMMU does.
    pub fn write_as_smmu(&self, address: u64, value: u64) {
        self.0.borrow_mut().visible.insert(address, value);
    }

    /// A word as the SMMU sees it.
    pub fn seen_by_smmu(&self, address: u64) -> u64 {
        self.0.borrow().word(address)
    }

    /// Microseconds that have passed.
    pub fn clock(&self) -> u64 {
        self.0.borrow().clock
    }

    /// Gives a register a value that software couldn't.
    pub fn set(&self, offset: usize, value: u32) {
        self.0.borrow_mut().registers.insert(offset, value);
    }

    /// The value of a register.
    pub fn get(&self, offset: usize) -> u32 {
        self.0.borrow().register(offset)
    }

    /// A device's transaction.
    pub fn dma(&self, stream: u32, address: u64, write: bool) -> Outcome {
        self.0.borrow_mut().dma(stream, address, write)
    }

    /// Puts a record into the event queue, as the SMMU does.
    pub fn record(&self, record: [u64; 4]) {
        self.0.borrow_mut().record(record);
    }

    /// The commands consumed since the last call.
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
        self.0.borrow_mut().write_register(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        let state = self.0.borrow();
        u64::from(state.register(offset)) | u64::from(state.register(offset + 4)) << 32
    }

    fn write64(&self, offset: usize, value: u64) {
        let mut state = self.0.borrow_mut();
        state.writes.push((offset, value));
        state.registers.insert(offset, value as u32);
        state.registers.insert(offset + 4, (value >> 32) as u32);
    }
}

impl Memory for Fake {
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa> {
        let mut state = self.0.borrow_mut();
        if state.refuse_memory {
            return None;
        }
        let start = state.allocated.next_multiple_of(align as u64);
        state.allocated = start + bytes as u64;
        state.zero(start, bytes as u64);
        Some(Hpa(start))
    }

    fn read64(&self, address: Hpa) -> u64 {
        let mut state = self.0.borrow_mut();
        assert!(address.0.is_multiple_of(8) && address.0 < state.allocated, "{address} is not memory");
        state.processor_reads(address.0)
    }

    fn write64(&self, address: Hpa, value: u64) {
        let mut state = self.0.borrow_mut();
        assert!(address.0.is_multiple_of(8) && address.0 < state.allocated, "{address} is not memory");
        state.processor_writes(address.0, value);
    }

    fn clean(&self, address: Hpa, bytes: u64) {
        self.0.borrow_mut().clean(address.0, bytes);
    }

    fn barrier(&self) {
        self.0.borrow_mut().barrier();
    }
}

impl State {
    pub fn register(&self, offset: usize) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    pub fn word(&self, address: u64) -> u64 {
        self.visible.get(&address).copied().unwrap_or(0)
    }

    /// Makes writes visible. The words of one entry that change between two barriers may be seen in any order, so
    /// an entry that the SMMU may use must not change by more than its first word, and an entry whose words it may
    /// hold must not become valid.
    fn barrier(&mut self) {
        let written = core::mem::take(&mut self.written);
        let changed: BTreeMap<u64, u64> =
            written.into_iter().filter(|(address, value)| self.word(*address) != *value).collect();
        let entries: BTreeSet<u64> = changed.keys().map(|address| address & !63).collect();
        for entry in entries {
            let Some(stream) = self.stream_of(entry) else { continue };
            let rest = changed.range(entry + 8..entry + 64).next().is_some();
            let before = self.word(entry);
            let after = changed.get(&entry).copied().unwrap_or(before);
            let aborts = after == stream_table::ABORT;
            let held = self.held_entries.get(&stream).is_some_and(|held| word0::V.is_set(held[0]));
            if rest {
                assert!(
                    !word0::V.is_set(before | after),
                    "stream {stream:#x}: words of a valid entry change"
                );
                assert!(!held, "stream {stream:#x}: words change while the valid entry may be held");
            }
            // One that aborts makes the SMMU ignore all else (5.2, STE.Config), so that it may take another's place in one
            // write.
            if word0::V.is_set(before) && word0::V.is_set(after) && !aborts {
                panic!("stream {stream:#x}: a valid entry becomes another one");
            }
        }
        self.visible.extend(changed);
    }
}
