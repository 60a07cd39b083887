//! Unmapping: the one place where entries that walkers may hold are taken away.

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, Span};

use super::{Mapper, UnmapError, entries};
use crate::chain::Chain;
use crate::format::{Attributes, Entry, Format, LAST_LEVEL, Level};
use crate::memory::{Invalidate, NotInvalidated, TableMemory};

/// An unmapping under way.
struct Removal<'a, I: Invalidate> {
    invalidate: &'a I,
    /// Tables reserved for splitting blocks.
    spares: Chain,
    /// Tables taken out of the tree, which walkers may still hold.
    emptied: Chain,
    /// Bytes that were mapped and no longer are.
    removed: u64,
    failed: Option<NotInvalidated>,
}

impl<M: TableMemory, F: Format> Mapper<M, F> {
    /// Unmaps `span`, whatever of it is mapped, and returns the bytes that were. A block of which only a part
    /// goes is split: until the smaller mappings are in place, all of it is unmapped for a moment, and an access
    /// to it from another processor faults and must be retried; a device's is lost. So don't cut blocks under a
    /// device that works.
    ///
    /// The order is: entries, barrier, [`Invalidate::invalidate`], and only then the freeing of emptied tables.
    ///
    /// # Errors
    ///
    /// See [`UnmapError`]: with the exception of [`UnmapError::NotInvalidated`] nothing has changed.
    pub fn unmap(&mut self, span: Span<Gpa>, invalidate: &impl Invalidate) -> Result<u64, UnmapError> {
        if self.is_revoked() {
            return Err(UnmapError::Revoked);
        }
        if span.is_empty() || !span.is_aligned(PAGE_SIZE) {
            return Err(UnmapError::NotWholePages { span });
        }
        if !self.translates(span) {
            return Err(UnmapError::InputOutOfRange { span, bits: self.format.input_bits() });
        }

        let level = self.format.start_level();
        let needed = self.tables_to_split(Some(self.root), level, span);
        let spares = Chain::reserve(&self.memory, needed).ok_or(UnmapError::OutOfTables { needed })?;
        self.pages += needed;
        let mut removal = Removal { invalidate, spares, emptied: Chain::EMPTY, removed: 0, failed: None };
        self.remove(self.root, level, span, &mut removal);
        self.memory.barrier();
        if removal.removed != 0
            && let Err(error) = invalidate.invalidate(span)
        {
            removal.failed = Some(error);
        }

        self.pages -= removal.spares.length();
        removal.spares.free(&self.memory);
        if let Some(error) = removal.failed {
            return Err(error.into());
        }
        self.pages -= removal.emptied.length();
        removal.emptied.free(&self.memory);
        Ok(removal.removed)
    }

    /// The number of tables that unmapping `span` below `table` (or within a block that covers it) takes.
    fn tables_to_split(&self, table: Option<Hpa>, level: Level, span: Span<Gpa>) -> usize {
        if level >= LAST_LEVEL {
            return 0;
        }
        let mut needed = 0;
        for slot in self.slots(table.unwrap_or_default(), level, span) {
            let below = level + 1;
            match table.map(|_| self.entry(&slot, level)) {
                Some(Entry::Empty) => {}
                Some(Entry::Table(next)) => needed += self.tables_to_split(Some(next), below, slot.wanted),
                Some(Entry::Leaf(..)) | None if slot.is_whole() => {}
                Some(Entry::Leaf(..)) | None => needed += 1 + self.tables_to_split(None, below, slot.wanted),
            }
        }
        needed
    }

    fn remove<I: Invalidate>(&self, table: Hpa, level: Level, span: Span<Gpa>, removal: &mut Removal<'_, I>) {
        for slot in self.slots(table, level, span) {
            match self.entry(&slot, level) {
                Entry::Empty => {}
                Entry::Leaf(start, attributes) => {
                    self.memory.write(slot.entry, 0);
                    removal.removed += slot.wanted.size();
                    if slot.is_whole() {
                        continue;
                    }
                    // Break before make (ARM DDI 0487, D8.17.1): the block must be forgotten everywhere before
                    // smaller mappings of the same addresses appear. If that can't be told, it stays broken.
                    self.memory.barrier();
                    let Ok(block) = Span::new(Gpa(slot.base), slot.size) else { continue };
                    if let Err(error) = removal.invalidate.invalidate(block) {
                        removal.failed = Some(error);
                        continue;
                    }
                    if let Some(next) = removal.spares.pop(&self.memory) {
                        let rest = Rest { block, start, attributes, hole: slot.wanted };
                        self.fill_rest(next, level.saturating_add(1), block, &rest, &mut removal.spares);
                        self.memory.barrier();
                        self.set_entry(&slot, level, self.format.encode_table(next, level));
                    }
                }
                Entry::Table(next) => {
                    self.remove(next, level.saturating_add(1), slot.wanted, removal);
                    if entries(next, 1).all(|entry| self.memory.read(entry) == 0) {
                        self.memory.write(slot.entry, 0);
                        // The table's link shows only to walkers that still hold the table, as an empty entry.
                        self.memory.barrier();
                        removal.emptied.push(&self.memory, next);
                    }
                }
            }
        }
    }

    /// Fills `table`, which no walker can find yet, with `within`'s part of a block, but its hole.
    fn fill_rest(&self, table: Hpa, level: Level, within: Span<Gpa>, rest: &Rest, spares: &mut Chain) {
        for slot in self.slots(table, level, within) {
            let covered = slot.wanted;
            if rest.hole.encloses(&covered) {
                continue;
            }
            if !rest.hole.overlaps(&covered) {
                let output = Hpa(rest.start.0.wrapping_add(slot.base.wrapping_sub(rest.block.start().get())));
                self.memory.write(slot.entry, self.format.encode_leaf(output, rest.attributes, level));
            } else if let Some(next) = spares.pop(&self.memory) {
                self.fill_rest(next, level.saturating_add(1), covered, rest, spares);
                self.memory.barrier();
                self.memory.write(slot.entry, self.format.encode_table(next, level));
            }
        }
    }
}

/// What stays of a block that is split.
struct Rest {
    block: Span<Gpa>,
    /// The output address of the block.
    start: Hpa,
    attributes: Attributes,
    /// What goes.
    hole: Span<Gpa>,
}
