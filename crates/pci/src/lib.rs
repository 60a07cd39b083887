//! Physical PCI: enumeration, capabilities, BARs, resets, topology, isolation groups.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod function;

pub use function::{Bar, BarKind, Function, MsiX, ResetMethod};
