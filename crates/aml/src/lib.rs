#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it is |
//! |---|---|
//! | `machine` | what tables are loaded into and evaluated by, and what that may take |
//! | `run` | statements: definitions, decisions, loops |
//! | `expression`, `operator` | what has a value |
//! | `object`, `value` | values: read, stored to, compared, converted |
//! | `field` | fields of the hardware's registers: read, written |
//! | `namespace`, `name`, `code` | the tree of names, and the bytes |
//! | `space` | the hardware, as far as somebody answers for it |
//! | [`resource`] | what `_CRS` says |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod code;
mod error;
mod expression;
mod field;
mod machine;
mod name;
mod namespace;
mod object;
mod operator;
mod pci;
pub mod resource;
mod run;
mod space;
mod value;

pub use error::Error;
pub use machine::{Aml, Answer, Failure};
pub use namespace::NodeId;
pub use space::{Hardware, Nothing, PciFunction, Space};
pub use value::Data;

/// The text of a compressed EISA id (ACPI 6.5, 19.3.4): of `_HID` and `_CID`, where they are numbers.
pub fn eisa_id(number: u32) -> alloc::string::String {
    let number = number.swap_bytes();
    let letter = |shift: u32| char::from(0x40 + (number >> shift & 0x1f) as u8);
    alloc::format!("{}{}{}{:04X}", letter(26), letter(21), letter(16), number & 0xffff)
}
