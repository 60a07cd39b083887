#![doc = include_str!("../README.md")]
//!
//! [`early`] is apart from that: the first map of a program's own.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod amd_io;
mod chain;
pub mod early;
mod format;
mod intel_io;
mod mapper;
mod memory;
mod nested;
mod stage2;

pub use amd_io::AmdIoFormat;
pub use format::{Attributes, Entry, Format, Level, MemoryType};
pub use intel_io::{IntelIoFeatures, IntelIoFormat};
pub use mapper::{MapError, Mapper, UnmapError};
pub use memory::{Invalidate, NotInvalidated, TableMemory};
pub use nested::{HostFormat, NestedFormat};
pub use stage2::{Stage2Format, UnsupportedInputSize, physical_size_field};
