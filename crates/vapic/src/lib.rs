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
//! | `identity` | what of a local APIC says whether an interrupt is for it |
//! | `timer` | its timer |
//! | `vectors` | 256 bits |
//! | `io` | an I/O APIC |
//! | `inbox` | what comes for a local APIC from other CPUs |
//! | [`direct`] | what a guest does by itself that has its CPUs' local APICs |
//! | `apics` | all of a VM's, with their locks |
//! | `at_once` | the commonest of what their CPUs ask them |
//! | `devices` | their registers, as devices |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod apics;
mod at_once;
mod base;
mod devices;
pub mod direct;
mod identity;
mod inbox;
mod io;
mod local;
mod message;
pub mod spec;
mod timer;
mod vectors;

pub use apics::{
    Activity, Apics, ApicsConfig, Backend, Effect, Ends, News, NoSuchLine, NotServed, Pending, Pin, Startup,
    Taker, Turn,
};
pub use at_once::{AtOnce, TimerEnd};
pub use base::{Base, Mode};
pub use devices::{ApicMsrs, IoPage, LocalPage};
pub use identity::Identity;
pub use io::IoApic;
pub use local::{LocalApic, Refused, Written};
pub use message::{Alone, Delivery, Destination, Ipi, Message, Signal, Target};
