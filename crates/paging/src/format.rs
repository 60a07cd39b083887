//! What a page-table format tells the mapper. All of it is pure.

use axvm_addr::{Hpa, PAGE_SHIFT};

/// A level of lookup, numbered as Arm does: 0 is the widest, 3 holds pages.
pub type Level = u8;

/// log2 of the number of entries of one table: 4 KiB of 8 bytes each, in every format served here.
pub(crate) const INDEX_BITS: u32 = 9;

/// The level that holds pages.
pub(crate) const LAST_LEVEL: Level = 3;

/// What kind of memory an access reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// RAM: write-back cacheable and inner shareable; the guest's own attributes may restrict it.
    Normal,
    /// Memory on a device, as behind a prefetchable BAR: may be gathered and reordered, is never cached.
    NormalNonCacheable,
    /// Registers: every access reaches the device, once, in order.
    Device,
}

/// What a mapping lets its user do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// The kind of memory.
    pub memory: MemoryType,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
    /// Whether instructions may be fetched from it.
    pub execute: bool,
}

impl Attributes {
    /// A guest's RAM: normal, everything allowed.
    pub const RAM: Self = Self { memory: MemoryType::Normal, read: true, write: true, execute: true };

    /// A guest's RAM as its devices see it: normal, read and written.
    pub const DMA: Self = Self { execute: false, ..Self::RAM };

    /// Registers of a device: read and written, never executed.
    pub const REGISTERS: Self = Self { memory: MemoryType::Device, ..Self::DMA };

    /// What a device's messages are written to, an ITS's doorbell: written only.
    pub const DOORBELL: Self = Self { read: false, ..Self::REGISTERS };
}

/// What an entry of a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: an access faults.
    Empty,
    /// The next level's table.
    Table(Hpa),
    /// A block or page: where it starts and what it allows.
    Leaf(Hpa, Attributes),
}

/// How tables are laid out and what their entries mean.
///
/// The mapper chains tables that aren't in a tree through an entry of their own, which holds a page-aligned
/// address: in every format a value whose low twelve bits are zero must decode to [`Entry::Empty`].
pub trait Format {
    /// The size of the addresses that are translated, in bits.
    fn input_bits(&self) -> u32;

    /// The size of the addresses that entries can hold, in bits.
    fn output_bits(&self) -> u32;

    /// The level of the root, at most 3.
    fn start_level(&self) -> Level;

    /// The pages of the root: a power of two, more than one when root tables are concatenated.
    fn root_pages(&self) -> usize;

    /// Whether an entry at this level may be a block (or page).
    fn allows_leaf(&self, level: Level) -> bool;

    /// Whether an entry can say this.
    fn serves(&self, attributes: Attributes) -> bool {
        let _ = attributes;
        true
    }

    /// What `entry` at `level` says.
    fn decode(&self, entry: u64, level: Level) -> Entry;

    /// The entry at `level` that refers to the next level's table.
    fn encode_table(&self, table: Hpa, level: Level) -> u64;

    /// The entry that maps the block or page at `start` at this level.
    fn encode_leaf(&self, start: Hpa, attributes: Attributes, level: Level) -> u64;

    /// The entry turned invalid for every walker, such that [`enabled`](Self::enabled) gives it back.
    fn disabled(&self, entry: u64) -> u64;

    /// What [`disabled`](Self::disabled) was given. An entry that was empty stays empty.
    fn enabled(&self, entry: u64) -> u64;
}

/// log2 of the bytes that one entry at this level covers.
pub(crate) fn level_shift(level: Level) -> u32 {
    PAGE_SHIFT + INDEX_BITS * u32::from(LAST_LEVEL.saturating_sub(level))
}
