#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod former;
mod steps;
#[cfg(test)]
mod tests;

pub use check::{Refusal, Uses, Wanted, check};
pub use former::{BrokenLine, Former};
pub use steps::{GiveBackError, TakeError, WriteError, give_back, take};

use axvm_platform::sysfs::Files;

/// The driver by which programs have a function.
pub const VFIO_PCI: &str = "vfio-pci";

/// Files of a Linux that are written, too.
pub trait Sysfs: Files {
    /// Writes a text to a file, at once, as files of sysfs want it. It takes as long as a driver takes, but not without a bound.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError>;
}

/// The folder of a PCI driver.
fn driver_folder(driver: &str) -> alloc::string::String {
    alloc::format!("sys/bus/pci/drivers/{driver}")
}

/// A file of a function's.
fn file(function: axvm_addr::PciAddress, name: &str) -> alloc::string::String {
    alloc::format!("sys/bus/pci/devices/{function}/{name}")
}

/// The driver that has a function now.
fn driver_now(files: &impl Files, function: axvm_addr::PciAddress) -> Option<alloc::string::String> {
    files.link_name(&file(function, "driver"))
}
