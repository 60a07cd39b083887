#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it is | who uses it |
//! |---|---|---|
//! | [`model`] | what a system file says | everyone |
//! | `file` | the TOML reader: all problems at once, each with its place (feature `toml`) | the tool |
//! | [`packed`] | an envelope of version, length and checksum around a postcard value | tool and hypervisor |
//! | [`bundle`] | system, images and run options in one file | tool and hypervisor |
//! | [`protection`] | what a test image can leave out | everyone |
//! | [`record`] | what the hypervisor says, kept in memory | the hypervisor |
//! | [`wire`] | frames on the console that a guest can't forge | tool and hypervisor |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bundle;
#[cfg(any(test, feature = "toml"))]
pub mod file;
pub mod model;
pub mod packed;
pub mod protection;
pub mod record;
pub mod wire;

/// The version that the tool writes into a bundle and the hypervisor compares with its own: they share this crate, so they
/// are of one release exactly if these are equal.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What stands before [`VERSION`] in the hypervisor's image, so that the tool can compare before it starts anything.
pub const VERSION_MARK: &str = "AxVM image, version ";

/// The mark, the version and an end, for the hypervisor to have in its image (its banner, or a `#[used]` static).
pub const IMAGE_MARK: &str = concat!("AxVM image, version ", env!("CARGO_PKG_VERSION"), "\n");
