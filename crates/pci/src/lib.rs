#![doc = include_str!("../README.md")]
//!
//! # Steps
//!
//! | step | function |
//! |---|---|
//! | find the functions, silence them, give them addresses | [`enumerate`] |
//! | say which of them can't be kept apart | [`groups`] |
//! | take one from its owner | [`quarantine`] |
//! | bring one back to its state after power-on | [`reset`] |
//! | say what all this would find on a machine that isn't here | [`recorded`], by what [`lspci`] prints there |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

mod acs;
pub mod aliases;
mod assign;
mod bars;
mod capabilities;
mod clock;
mod config;
mod enumerate;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod function;
mod group;
mod host_bridge;
pub mod ids;
pub mod lspci;
mod path;
pub mod quirks;
mod reach;
pub mod recorded;
mod reset;
mod settle;
mod silence;
pub mod spec;
mod virtio;

#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use config::{ConfigSpace, Registers, Width, is_no_answer};
pub use enumerate::enumerate;
pub use function::{Bar, BarKind, Function, MsiX, ResetMethod, Virtio};
pub use group::{Membership, groups};
pub use host_bridge::HostBridge;
pub use path::{Forwarding, RequesterIds, bridges_above, requester_ids};
pub use reach::{Lack, Reach};
pub use reset::{Kept, ResetError, quarantine, reset};
pub use silence::{NotSilent, confirm_silent, stop_mastering};
