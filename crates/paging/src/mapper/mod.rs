//! The mapper: a tree of tables in some format.

mod error;
mod slots;
#[cfg(test)]
mod tests;
mod unmap;

use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, Span};

pub use self::error::{MapError, UnmapError};
use self::slots::{Slot, slots};
use crate::chain::Chain;
use crate::format::{Attributes, Entry, Format, INDEX_BITS, LAST_LEVEL, Level, level_shift};
use crate::memory::{Invalidate, NotInvalidated, TableMemory};
use crate::stage2::Stage2Format;

/// A tree of tables that maps guest-physical addresses, and the only one who writes it.
///
/// It isn't locked: whoever shares it puts it behind a lock. Dropping it keeps its tables allocated, since a
/// walker may still use them; [`destroy`](Self::destroy) gives them back.
#[derive(Debug)]
pub struct Mapper<M: TableMemory, F: Format = Stage2Format> {
    memory: M,
    format: F,
    root: Hpa,
    /// Pages held by tables, those of the root included.
    pages: usize,
    reach: Reach,
}

/// What walkers find at the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The tree.
    Open,
    /// Nothing, until it is opened again: every root entry is disabled.
    Shut,
    /// Nothing, for good.
    Revoked,
}

/// What is to be mapped: where, to what, how.
#[derive(Clone, Copy)]
struct Request {
    span: Span<Gpa>,
    /// The output address of `span.start()`.
    start: Hpa,
    attributes: Attributes,
}

impl Request {
    /// The output address of an input address within the span.
    fn output(&self, input: u64) -> Hpa {
        Hpa(input.wrapping_sub(self.span.start().0).wrapping_add(self.start.0))
    }
}

impl<M: TableMemory, F: Format> Mapper<M, F> {
    /// An empty tree: every access faults.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfTables`] if there is no memory for the root.
    pub fn new(memory: M, format: F) -> Result<Self, MapError> {
        let pages = format.root_pages();
        let root = memory.allocate(pages).ok_or(MapError::OutOfTables { needed: pages })?;
        memory.barrier();
        Ok(Self { memory, format, root, pages, reach: Reach::Open })
    }

    /// Where walks start: what goes into `VTTBR_EL2`'s or a stream table entry's table base. It stays the same
    /// until [`destroy`](Self::destroy).
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// The format, which says how walkers are to be set up.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The pages of 4 KiB that the tables take.
    pub fn pages_held(&self) -> usize {
        self.pages
    }

    /// Whether [`clear_root`](Self::clear_root) was called.
    pub fn is_revoked(&self) -> bool {
        self.reach == Reach::Revoked
    }

    /// Maps `span` to the memory from `start`, with the largest blocks that both addresses allow. Nothing needs
    /// to be invalidated afterwards, as walkers don't hold what was not there (ARM DDI 0487, D8.16; IHI 0070,
    /// 3.17).
    ///
    /// # Errors
    ///
    /// Nothing has changed if addresses aren't those of whole pages or out of range, if a part of `span` is
    /// mapped already, if the format has no such attributes, or if there isn't enough memory for tables.
    pub fn map(&mut self, span: Span<Gpa>, start: Hpa, attributes: Attributes) -> Result<(), MapError> {
        if self.is_revoked() {
            return Err(MapError::Revoked);
        }
        if span.is_empty() || !span.is_aligned(PAGE_SIZE) || !start.is_aligned(PAGE_SIZE) {
            return Err(MapError::NotWholePages { span, start });
        }
        if !self.translates(span) {
            return Err(MapError::InputOutOfRange { span, bits: self.format.input_bits() });
        }
        if !self.format.serves(attributes) {
            return Err(MapError::NotServed { span, attributes });
        }
        let bits = self.format.output_bits();
        if start.checked_add(span.size() - 1).is_none_or(|last| last.0.checked_shr(bits).unwrap_or(0) != 0) {
            return Err(MapError::OutputOutOfRange { start, size: span.size(), bits });
        }

        let request = Request { span, start, attributes };
        let level = self.format.start_level();
        let needed = self.tables_to_map(Some(self.root), level, span, &request)?;
        let mut spares = Chain::reserve(&self.memory, needed).ok_or(MapError::OutOfTables { needed })?;
        self.fill(self.root, level, span, &request, &mut spares);
        self.pages += needed - spares.length();
        spares.free(&self.memory);
        self.memory.barrier();
        Ok(())
    }

    /// What `address` is mapped to, with what attributes, at which level.
    pub fn query(&self, address: Gpa) -> Option<(Hpa, Attributes, Level)> {
        let whole = Span::new(address, 1).ok().filter(|span| !self.is_revoked() && self.translates(*span))?;
        let mut table = self.root;
        for level in self.format.start_level()..=LAST_LEVEL {
            let slot = self.slots(table, level, whole).next()?;
            match self.entry(&slot, level) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next,
                Entry::Leaf(start, attributes) => {
                    return Some((start.checked_add(address.0 - slot.base)?, attributes, level));
                }
            }
        }
        None
    }

    /// Revokes the whole tree at once: every root entry becomes invalid, then walkers forget. Whoever runs on
    /// the tree faults at the next access. The tree can then only be [destroyed](Self::destroy).
    ///
    /// # Errors
    ///
    /// [`NotInvalidated`] from `invalidate`; the root is cleared all the same, and the call can be repeated.
    pub fn clear_root(&mut self, invalidate: &impl Invalidate) -> Result<(), NotInvalidated> {
        self.close(Reach::Revoked, invalidate)
    }

    /// As [`clear_root`](Self::clear_root), until [`open`](Self::open): what is mapped stays known, and can be changed meanwhile.
    /// A tree that is revoked stays so.
    ///
    /// # Errors
    ///
    /// [`NotInvalidated`] from `invalidate`; the root is shut all the same, and the call can be repeated.
    pub fn shut(&mut self, invalidate: &impl Invalidate) -> Result<(), NotInvalidated> {
        let reach = if self.is_revoked() { Reach::Revoked } else { Reach::Shut };
        self.close(reach, invalidate)
    }

    /// Lets walkers find the tree again that was [shut](Self::shut). Nothing needs to be invalidated, as after
    /// [`map`](Self::map). A tree that is revoked stays so.
    pub fn open(&mut self) {
        if self.reach == Reach::Shut {
            self.reach = Reach::Open;
            self.rewrite_root(|format, value| format.enabled(value));
            self.memory.barrier();
        }
    }

    fn close(&mut self, reach: Reach, invalidate: &impl Invalidate) -> Result<(), NotInvalidated> {
        if self.reach == Reach::Open {
            // The address stays in the invalid entry, so that the tables are found.
            self.rewrite_root(|format, value| format.disabled(value));
        }
        self.reach = reach;
        self.memory.barrier();
        match self.whole() {
            Some(whole) => invalidate.invalidate(whole),
            None => Ok(()),
        }
    }

    fn rewrite_root(&self, with: impl Fn(&F, u64) -> u64) {
        for entry in self.root_entries() {
            let value = self.memory.read(entry);
            if value != 0 {
                self.memory.write(entry, with(&self.format, value));
            }
        }
    }

    /// Whether the entries of this level are those of a root at which walkers find nothing.
    fn is_shut(&self, level: Level) -> bool {
        self.reach == Reach::Shut && level == self.format.start_level()
    }

    /// What a slot of the tree holds, whether walkers find it now or not.
    fn entry(&self, slot: &Slot, level: Level) -> Entry {
        let value = self.memory.read(slot.entry);
        self.format.decode(if self.is_shut(level) { self.format.enabled(value) } else { value }, level)
    }

    /// Writes a slot of the tree, so that walkers find it once they may.
    fn set_entry(&self, slot: &Slot, level: Level, value: u64) {
        let shown = if self.is_shut(level) { self.format.disabled(value) } else { value };
        self.memory.write(slot.entry, shown);
    }

    /// Takes the tree down and gives all its memory back. No processor and no stream may be set to this root any
    /// more: after it the root's page may hold anything.
    ///
    /// # Errors
    ///
    /// [`NotInvalidated`] with the mapper, revoked, for another try; nothing has been freed.
    pub fn destroy(mut self, invalidate: &impl Invalidate) -> Result<(), (Self, NotInvalidated)> {
        if let Err(error) = self.clear_root(invalidate) {
            return Err((self, error));
        }
        let level = self.format.start_level();
        for entry in self.root_entries() {
            let value = self.format.enabled(self.memory.read(entry));
            if let Entry::Table(table) = self.format.decode(value, level) {
                self.free_below(table, level.saturating_add(1));
            }
        }
        self.memory.free(self.root, self.format.root_pages());
        Ok(())
    }

    fn free_below(&self, table: Hpa, level: Level) {
        if level < LAST_LEVEL {
            for entry in entries(table, 1) {
                if let Entry::Table(next) = self.format.decode(self.memory.read(entry), level) {
                    self.free_below(next, level + 1);
                }
            }
        }
        self.memory.free(table, 1);
    }

    /// All that the tree can translate.
    fn whole(&self) -> Option<Span<Gpa>> {
        Span::new(Gpa(0), 1u64.checked_shl(self.format.input_bits())?).ok()
    }

    fn translates(&self, span: Span<Gpa>) -> bool {
        self.whole().is_some_and(|whole| whole.encloses(&span))
    }

    fn root_entries(&self) -> impl Iterator<Item = Hpa> + use<M, F> {
        entries(self.root, self.format.root_pages())
    }

    /// The slots of a table at `level` that `span` touches.
    fn slots(&self, table: Hpa, level: Level, span: Span<Gpa>) -> impl Iterator<Item = Slot> + use<M, F> {
        slots(table, level, level == self.format.start_level(), span)
    }

    /// Whether one leaf can serve all of a slot: it is wanted whole, and the output address is aligned to it.
    fn fits(&self, slot: &Slot, level: Level, output: Hpa) -> bool {
        slot.is_whole() && self.format.allows_leaf(level) && output.is_aligned(slot.size)
    }

    /// The number of tables that mapping `span` below `table` (or below a table that is yet to be made) takes,
    /// or the first address that is mapped already.
    fn tables_to_map(
        &self,
        table: Option<Hpa>,
        level: Level,
        span: Span<Gpa>,
        request: &Request,
    ) -> Result<usize, MapError> {
        if level >= LAST_LEVEL && table.is_none() {
            return Ok(0);
        }
        let mut needed = 0usize;
        for slot in self.slots(table.unwrap_or_default(), level, span) {
            let entry = table.map_or(Entry::Empty, |_| self.entry(&slot, level));
            let below = level.saturating_add(1);
            match entry {
                Entry::Leaf(start, _) => {
                    let address = slot.wanted.start();
                    let existing = Hpa(start.0.wrapping_add(address.0 - slot.base));
                    return Err(MapError::AlreadyMapped { address, existing, requested: request.span });
                }
                Entry::Table(next) => {
                    needed += self.tables_to_map(Some(next), below, slot.wanted, request)?
                }
                Entry::Empty if self.fits(&slot, level, request.output(slot.base)) => {}
                Entry::Empty => needed += 1 + self.tables_to_map(None, below, slot.wanted, request)?,
            }
        }
        Ok(needed)
    }

    /// Maps `span` below `table`, which [`tables_to_map`](Self::tables_to_map) found to be free.
    fn fill(&self, table: Hpa, level: Level, span: Span<Gpa>, request: &Request, spares: &mut Chain) {
        for slot in self.slots(table, level, span) {
            let output = request.output(slot.base);
            if let Entry::Table(next) = self.entry(&slot, level) {
                self.fill(next, level.saturating_add(1), slot.wanted, request, spares);
            } else if self.fits(&slot, level, output) {
                self.set_entry(&slot, level, self.format.encode_leaf(output, request.attributes, level));
            } else if let Some(next) = spares.pop(&self.memory) {
                // A table is complete before a walker can find it.
                self.fill(next, level.saturating_add(1), slot.wanted, request, spares);
                self.memory.barrier();
                self.set_entry(&slot, level, self.format.encode_table(next, level));
            }
        }
    }
}

/// The entries of a table of `pages` pages.
fn entries(table: Hpa, pages: usize) -> impl Iterator<Item = Hpa> {
    (0..(pages as u64) << INDEX_BITS).map(move |index| Hpa(table.0.wrapping_add(index * 8)))
}
