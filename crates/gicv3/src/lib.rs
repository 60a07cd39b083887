//! How a physical GICv3 and its ITSs (Arm IHI 0069) are told where their tables are.
//!
//! Redistributors and ITSs read and write tables in memory, and whether they do so coherently with the processors'
//! caches, in pages of which size, and at which addresses, differs from one to the next. Registers say so in that they
//! don't keep what was written: [`install`] writes, reads back, and settles for what is there, or refuses. What no register
//! says (a missing wire in a chip) is in a table of [errata](quirks).
//!
//! All of it is a decision about values: registers are reached through a trait, which a test can fake.
//!
//! | module | what it holds |
//! |---|---|
//! | `attributes` | memory attributes of tables, and what becomes of them when they are read back |
//! | `table` | the tables of an ITS: page size, one level or two, how many ids they serve |
//! | `errata` | boards whose GIC isn't what it says |
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod errata;
mod table;

pub use attributes::{Access, Field, Refused, install};
pub use errata::{Quirks, may_need_low_memory, quirks};
pub use table::{Contents, Probed, Shape, Table};

/// 64-bit registers, by their offsets in a frame.
pub trait Registers {
    /// Reads one.
    fn read64(&self, offset: u64) -> u64;

    /// Writes one.
    fn write64(&self, offset: u64, value: u64);
}
