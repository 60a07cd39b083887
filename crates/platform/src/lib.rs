#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! [`fdt::read`] makes a [`Platform`](model::Platform) from a device tree, [`acpi::read`] from ACPI's tables, [`sysfs::read`] from what a running Linux says; [`Platform::add_functions`](model::Platform::add_functions)
//! adds what PCI enumeration found; [`snapshot`] saves and loads it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "proptest"))]
extern crate std;

pub mod acpi;
#[cfg(feature = "fake")]
pub mod fake;
pub mod fdt;
mod functions;
pub mod limits;
pub mod memory;
pub mod model;
mod recorded;
pub mod roles;
pub mod snapshot;
pub mod sysfs;
pub mod uart;
mod windows;
