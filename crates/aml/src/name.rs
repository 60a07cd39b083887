//! Names and paths (ACPI 6.5, 20.2.2 and 5.3).

use alloc::vec::Vec;
use core::fmt;

/// A name: four characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub [u8; 4]);

impl fmt::Display for Name {
    /// Without the underscores at its end, which only fill it up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = 4 - self.0.iter().rev().take(3).take_while(|byte| **byte == b'_').count();
        self.0.iter().take(length).try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// At the top of the namespace.
    Top,
    /// So many levels above where it is written.
    Here { up: u16 },
}

/// A path as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub root: Root,
    pub names: Vec<Name>,
}
