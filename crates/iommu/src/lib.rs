#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod entries;
mod shared;
mod wait;

pub use access::{Memory, Registers};
pub use entries::Entries;
pub use shared::{OutOfMemory, Shared, allocate, allocate_filled};
pub use wait::{MOST_OF_THE_DEAF_US, MOST_US, TimedOut, wait_for};
