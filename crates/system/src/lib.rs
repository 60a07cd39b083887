//! The system file: its model, its TOML reader (feature `std`), its packed form, and the bundle that a boot loader
//! carries to the hypervisor.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod model;
