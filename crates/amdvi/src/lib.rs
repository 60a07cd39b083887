#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the manual's registers, entries, commands and events, as data |
//! | `id` | what an IOMMU knows a device by |
//! | `features` | what the Extended Feature Register says |
//! | `ring` | commands in, events out |
//! | `table` | the device table |
//! | `remap` | the devices' interrupt tables |
//! | `iommu` | the driver: set-up, devices, interrupts, invalidation, events |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
#[cfg(any(test, feature = "fake"))]
#[allow(missing_docs, reason = "what has none does what its name says")]
pub mod fake;
mod features;
mod id;
mod iommu;
mod remap;
mod ring;
pub mod spec;
mod table;
#[cfg(test)]
mod tests;

pub use axvm_iommu::{Memory, Registers};
pub use error::{Error, Wait};
pub use features::Features;
pub use id::DeviceId;
pub use iommu::{Domain, Hints, Iommu, Options};
pub use remap::{Destination, Interrupt};
pub use ring::Drained;
pub use spec::events::{Event, Kind};
pub use spec::interrupts::Kind as InterruptKind;
pub use spec::registers::REGISTER_BYTES;
