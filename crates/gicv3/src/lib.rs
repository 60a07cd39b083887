#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | `attributes` | memory attributes of tables, and what becomes of them when they are read back |
//! | `redistributor` | which redistributors a region has, and whose they are |
//! | [`resident`] | the tables of a virtual processor at a redistributor |
//! | `table` | the tables of an ITS: page size, one level or two, how many ids they serve |
//! | `lpis` | where in a VM's block of LPIs a device's lie |
//! | `errata` | boards whose GIC isn't what it says |
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod errata;
mod lpis;
mod redistributor;
pub mod resident;
mod table;

pub use attributes::{Access, Field, Refused, install};
pub use errata::{Quirks, may_need_low_memory, quirks};
pub use lpis::place;
pub use redistributor::{Redistributor, redistributors};
pub use table::{Contents, Probed, Shape, Table};

/// 64-bit registers, by their offsets in a frame.
pub trait Registers {
    /// Reads one.
    fn read64(&self, offset: u64) -> u64;

    /// Writes one.
    fn write64(&self, offset: u64, value: u64);
}
