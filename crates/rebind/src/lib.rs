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
mod uses;

pub use check::{Refusal, Uses, Wanted, check, is_harmless};
pub use former::{BrokenLine, Former};
pub use steps::{GiveBackError, TakeError, WriteError, give_back, take};
pub use uses::{EndError, end_uses, fate, see_unused};

use axvm_platform::sysfs::Files;

/// The driver by which programs have a function.
pub const VFIO_PCI: &str = "vfio-pci";

/// A Linux that is told something, too.
pub trait Sysfs: Files {
    /// Writes a text to a file, at once, as files of sysfs want it. It takes as long as a driver takes, but not without a bound.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError>;

    /// Takes a file system away from where it is mounted. What was written to it is on its disk then, also where programs have files of it
    /// open, which get errors from there on.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    fn unmount(&self, at: &str) -> Result<(), WriteError>;

    /// Ends swapping to a disk, by its name, or to a file, by its path.
    ///
    /// # Errors
    ///
    /// [`WriteError`].
    fn swap_off(&self, disk: &str) -> Result<(), WriteError>;
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
