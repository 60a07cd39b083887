//! The entries of one table that a span touches.

use axvm_addr::{Address, Gpa, Hpa, Span};

use super::{INDEX_BITS, Level, level_shift};

/// An entry, what it covers and which part of that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Where the entry lies.
    pub entry: Hpa,
    /// The first input address that it covers.
    pub base: u64,
    /// The bytes that it covers.
    pub size: u64,
    /// The part of them within the span.
    pub wanted: Span<Gpa>,
}

impl Slot {
    /// Whether all of it is wanted.
    pub fn is_whole(&self) -> bool {
        self.wanted.size() == self.size
    }
}

/// The slots of a table at `level` that `span` touches, in order. The span lies within what the table covers.
/// `is_root`: several tables may be concatenated, so that the index isn't cut to one table's.
pub(super) fn slots(table: Hpa, level: Level, is_root: bool, span: Span<Gpa>) -> impl Iterator<Item = Slot> {
    let shift = level_shift(level);
    let size = 1u64 << shift;
    let mask = if is_root { u64::MAX } else { (1 << INDEX_BITS) - 1 };
    let first = span.start().0 >> shift;
    let last = span.end().0.saturating_sub(1) >> shift;
    (first..=last).filter_map(move |number| {
        let base = number << shift;
        let from = base.max(span.start().0);
        let to = base.checked_add(size)?.min(span.end().0);
        let wanted = Span::new(Gpa(from), to.checked_sub(from)?).ok()?;
        Some(Slot { entry: table.checked_add((number & mask) * 8)?, base, size, wanted })
    })
}
