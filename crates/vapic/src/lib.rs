#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`spec`] | the manuals' registers, as data |
//! | `message` | interrupts on their way: who gets them, and how |
//! | `base` | the MSR that turns a local APIC on and switches its mode |
//! | `local` | a local APIC |
//! | `timer` | its timer |
//! | `vectors` | 256 bits |
//! | `io` | an I/O APIC |
#![no_std]
#![forbid(unsafe_code)]

mod base;
mod io;
mod local;
mod message;
pub mod spec;
mod timer;
mod vectors;

pub use base::{Base, Mode};
pub use io::IoApic;
pub use local::{LocalApic, Refused, Written};
pub use message::{Delivery, Destination, Ipi, Message, Signal, Target};
pub use timer::Deadline;
