//! A driver for Arm's SMMUv3 (Arm IHI 0070): which memory each DMA master reaches, by stage-2 tables.
//!
//! It is closed by default. [`close`] makes all transactions abort and is the first thing to do after reset,
//! since an SMMU that nobody has set up lets them pass. [`Smmu::new`] then turns translation on with a stream
//! table in which nothing is assigned: a transaction of any stream aborts and leaves an event. Only
//! [`Smmu::attach`] opens a stream, to what one set of stage-2 tables maps, and [`Smmu::block`] closes it again, without
//! events from then on.
//!
//! The hardware is reached through two traits, [`Registers`] and [`Memory`], so that the driver runs on any host
//! and against a fake. It isn't locked: whoever shares a [`Smmu`] puts it behind a lock. Every wait is bounded by a clock.
//! An SMMU that isn't coherent with the processors' caches is served by cleaning and invalidating them.
//!
//! Served: stage 2 with AArch64 tables of the 4 KiB granule (as `axvm-paging` makes them), linear and two-level stream
//! tables, wired interrupts for events and global errors. Not served: stage 1, ATS, page requests, stalls, and the
//! SMMU's own message signalled interrupts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the manual's registers, entries, commands and events, as data |
//! | `access` | the two traits |
//! | `shared` | memory that is shared with it, coherent or not |
//! | `close` | the first step: abort everything |
//! | `features` | what the identification registers say |
//! | `queue` | commands in, events out |
//! | `stream_table` | where a stream's entry lies |
//! | `smmu` | the driver: set-up, streams, invalidation, events and errors |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod close;
mod error;
#[cfg(test)]
mod fake;
mod features;
mod queue;
mod shared;
mod smmu;
pub mod spec;
mod stream_table;
#[cfg(test)]
mod tests;

pub use access::{Memory, REGISTER_BYTES, Registers};
pub use close::close;
pub use error::{CommandError, Error, Wait};
pub use features::Features;
pub use smmu::{Domain, Drained, GlobalErrors, Options, Smmu};
pub use spec::events::{Class, Event, Kind};
