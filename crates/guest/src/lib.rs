#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod description;
pub mod fdt;
pub mod image;

pub use description::{
    ClockDescription, ConsoleDescription, Description, DeviceDescription, GicDescription, MsiSender,
    NodeDescription, PciDescription, PinDescription, WatchdogDescription,
};
