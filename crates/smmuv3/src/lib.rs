#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the manual's registers, entries, commands and events, as data |
//! | `id` | what an SMMU knows a DMA master by |
//! | `close` | the first step: abort everything |
//! | `features` | what the identification registers say |
//! | `queue` | commands in, events out |
//! | `stream_table` | where a stream's entry lies |
//! | `smmu` | the driver: set-up, streams, invalidation, events and errors |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod close;
mod error;
#[cfg(any(test, feature = "fake"))]
#[allow(missing_docs, reason = "what has none does what its name says")]
pub mod fake;
mod features;
mod id;
mod queue;
mod smmu;
pub mod spec;
mod stream_table;
#[cfg(test)]
mod tests;

pub use axvm_iommu::{Memory, Registers};
pub use close::close;
pub use error::{CommandError, Error, Wait};
pub use features::Features;
pub use id::StreamId;
pub use smmu::{Domain, Drained, GlobalErrors, Options, Smmu};
pub use spec::events::{Class, Event, Kind};
pub use spec::registers::REGISTER_BYTES;
