//! Why a mapping can't be made or taken away.

use axvm_addr::{Gpa, Hpa, Span};

use crate::format::Attributes;
use crate::memory::NotInvalidated;

/// Why nothing was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A span or an address that doesn't start or end at a page's boundary, or an empty span.
    #[error("{span} to {start:#x}: only whole pages of 4 KiB can be mapped")]
    NotWholePages {
        /// The span to be mapped.
        span: Span<Gpa>,
        /// Where it was to be mapped to.
        start: Hpa,
    },
    /// A span past what the tables translate.
    #[error("{span} doesn't lie within the {bits} bits of guest-physical address that are translated")]
    InputOutOfRange {
        /// The span to be mapped.
        span: Span<Gpa>,
        /// The size of guest-physical addresses.
        bits: u32,
    },
    /// Memory past what an entry can hold.
    #[error("{size:#x} bytes at {start:#x} don't lie within {bits} bits of physical address")]
    OutputOutOfRange {
        /// Where the span was to be mapped to.
        start: Hpa,
        /// Its size.
        size: u64,
        /// The size of physical addresses.
        bits: u32,
    },
    /// Attributes that the tables' entries can't say.
    #[error("{span} can't be mapped: these tables have no entries with such rights or of such memory")]
    NotServed {
        /// The span to be mapped.
        span: Span<Gpa>,
        /// How it was to be mapped.
        attributes: Attributes,
    },
    /// A part of the span is mapped already.
    #[error("{requested} can't be mapped: {address:#x} is mapped to {existing:#x} already")]
    AlreadyMapped {
        /// The first guest-physical address that is.
        address: Gpa,
        /// What it is mapped to.
        existing: Hpa,
        /// The span to be mapped.
        requested: Span<Gpa>,
    },
    /// No memory for tables.
    #[error("no memory for {needed} pages of tables")]
    OutOfTables {
        /// The pages that the operation takes.
        needed: usize,
    },
    /// The tree was revoked.
    #[error("the page tables are revoked")]
    Revoked,
}

/// Why a span wasn't unmapped as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// A span that doesn't start or end at a page's boundary, or an empty one. Nothing has changed.
    #[error("{span}: only whole pages of 4 KiB can be unmapped")]
    NotWholePages {
        /// The span to be unmapped.
        span: Span<Gpa>,
    },
    /// A span past what the tables translate. Nothing has changed.
    #[error("{span} doesn't lie within the {bits} bits of guest-physical address that are translated")]
    InputOutOfRange {
        /// The span to be unmapped.
        span: Span<Gpa>,
        /// The size of guest-physical addresses.
        bits: u32,
    },
    /// No memory for the tables that split a block. Nothing has changed.
    #[error("no memory for {needed} pages of tables to split a block with")]
    OutOfTables {
        /// The pages that the operation takes.
        needed: usize,
    },
    /// The tree was revoked: nothing is mapped, and nothing has changed.
    #[error("the page tables are revoked")]
    Revoked,
    /// Walkers may still hold what was unmapped. All entries of the span are gone (and, if a block was being
    /// split, those of all the block); tables that were emptied are kept from reuse for good. The memory behind
    /// the span must not be given to anyone else.
    #[error(transparent)]
    NotInvalidated(#[from] NotInvalidated),
}
