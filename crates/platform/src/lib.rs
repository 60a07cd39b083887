//! What hardware there is: [`Platform`](model::Platform) and its readers.
//!
//! [`fdt::read`] makes it from a device tree; [`Platform::add_functions`](model::Platform::add_functions)
//! adds what PCI enumeration found; [`snapshot`] saves and loads it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod fdt;
mod functions;
pub mod limits;
pub mod memory;
pub mod model;
pub mod roles;
pub mod snapshot;
mod uart;
