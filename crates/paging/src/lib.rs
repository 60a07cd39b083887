//! Second-stage page tables: what bounds the memory that a guest's processors and devices reach.
//!
//! A [`Format`] says how a table is laid out and what its entries mean; it is pure. The [`Mapper`] builds,
//! changes and takes down a tree of tables in any format, through a [`TableMemory`] that a test can fake. One
//! format is here: Arm's stage 2 with the 4 KiB granule ([`Stage2Format`]), which processors (`VTTBR_EL2`) and
//! SMMUs (a stream table entry's `S2TTB`) walk alike.
//!
//! The rules the mapper keeps:
//!
//! - A mapping takes the largest blocks that the alignment of both addresses allows.
//! - A mapping never replaces another: an overlap is refused and named.
//! - An operation that fails for want of memory has changed nothing: its tables are reserved before it starts.
//! - No valid entry turns into another valid entry in one step (break before make).
//! - No table is freed before [`Invalidate`] has said that no walker holds it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chain;
mod format;
mod mapper;
mod memory;
mod stage2;

pub use format::{Attributes, Entry, Format, Level, MemoryType};
pub use mapper::{MapError, Mapper, UnmapError};
pub use memory::{Invalidate, NotInvalidated, TableMemory};
pub use stage2::{Stage2Format, UnsupportedInputSize, physical_size_field};
