//! The VM model: configuration, plan, address space, devices, events.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod devices;
pub mod events;
pub mod hal;
pub mod ownership;
pub mod plan;
pub mod problem;
pub mod report;
pub mod space;
pub mod stats;
pub mod vm;

pub use devices::AxVmDevices;
pub use hal::AxVMHal;
pub use problem::{Problem, Rule};
pub use report::{Report, Verdict};
pub use space::AddrSpace;
pub use vm::AxVM;
