#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chain;
mod format;
mod mapper;
mod memory;
mod stage2;

pub use format::{Attributes, Entry, Format, Level, MemoryType};
pub use mapper::{MapError, Mapper, UnmapError};
pub use memory::{Invalidate, NotInvalidated, TableMemory};
pub use stage2::{Stage2Format, UnsupportedInputSize, physical_size_field};
