#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the manual's registers, entries, descriptors and fault records, as data |
//! | `id` | what a unit knows a device by |
//! | `features` | what the capability registers say |
//! | `queue` | invalidations |
//! | `tables` | root and context tables |
//! | `remap` | what interrupts become |
//! | `unit` | the driver: set-up, devices, interrupts, invalidation, faults |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
#[cfg(any(test, feature = "fake"))]
#[allow(missing_docs, reason = "what has none does what its name says")]
pub mod fake;
mod features;
mod id;
mod queue;
mod remap;
pub mod spec;
mod tables;
#[cfg(test)]
mod tests;
mod unit;

pub use axvm_iommu::{Memory, Registers};
pub use error::{Error, Wait};
pub use features::Features;
pub use id::DeviceId;
pub use remap::{Destination, Interrupt};
pub use spec::faults::Fault;
pub use spec::interrupts::{
    Kind as InterruptKind, io_apic_high, io_apic_low, msi_address, msi_address_of_several,
};
pub use spec::registers::REGISTER_BYTES;
pub use unit::{Domain, Drained, Options, OwnInterrupt, Unit};
