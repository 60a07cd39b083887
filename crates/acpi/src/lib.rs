#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it reads |
//! |---|---|
//! | `root` | RSDP, RSDT and XSDT: where the tables are |
//! | `signature` | what tables are called |
//! | `table` | a table's header and checksum; the records that tables consist of |
//! | [`fadt`] | power, reset, the ports that are ACPI's own |
//! | [`madt`] | CPUs and interrupt controllers |
//! | [`mcfg`] | PCI's config space |
//! | [`spcr`] | the console |
//! | [`srat`] | which CPUs and which memory are near each other |
//! | [`hpet`] | the event timer |
//! | [`ivrs`] | AMD's IOMMUs |
//! | [`dmar`] | Intel's IOMMUs |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod dmar;
mod error;
pub mod fadt;
pub mod hpet;
pub mod ivrs;
pub mod madt;
pub mod mcfg;
mod root;
mod signature;
pub mod spcr;
pub mod srat;
mod table;

pub use error::Error;
pub use root::{Listed, Memory, Tables, list, listed};
pub use signature::Signature;
pub use table::{GenericAddress, Space, Table};
