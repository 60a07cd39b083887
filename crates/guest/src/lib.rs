#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod description;
pub mod fdt;
pub mod image;
pub mod x86_64;

pub use description::{
    AcpiDescription, ClockDescription, ConsoleDescription, Description, DeviceDescription, GicDescription,
    IoApicDescription, MsiSender, NodeDescription, PciDescription, PinDescription, Place, PowerDescription,
    WatchdogDescription,
};
