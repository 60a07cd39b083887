//! What a mapper asks of its surroundings: memory for tables, and the invalidation of what walkers hold.

use alloc::sync::Arc;

use axvm_addr::{Gpa, Hpa, Span};

/// The memory that tables lie in.
///
/// Tables are named by their host-physical addresses, so that an implementation may reach them through an
/// identity mapping, a window, or a test's map.
pub trait TableMemory {
    /// Gives `pages` (a power of two) pages of 4 KiB, zeroed, aligned to their size, in one piece; `None` when
    /// there are none. The zeros are visible to every walker.
    fn allocate(&self, pages: usize) -> Option<Hpa>;

    /// Takes back what [`allocate`](Self::allocate) gave, with the same number of pages. No walker refers to it.
    fn free(&self, table: Hpa, pages: usize);

    /// Reads the 64-bit entry at this address.
    fn read(&self, entry: Hpa) -> u64;

    /// Writes the 64-bit entry at this address, single-copy atomically, and cleans it to where walkers read it
    /// if they aren't coherent with this processor's caches.
    fn write(&self, entry: Hpa, value: u64);

    /// Orders the writes before it before those after it, as every walker sees them (Arm: `DSB ISHST`, and `SY`
    /// for walkers outside the inner shareable domain). Without effect where [`write`](Self::write) does so.
    fn barrier(&self) {}
}

/// Makes walkers forget translations.
///
/// A tree that processors and an SMMU share needs both done here.
pub trait Invalidate {
    /// Makes every walker of the tree forget what it holds for `span`, entries of intermediate tables included,
    /// and returns only when that has completed and accesses made with the old translations have finished
    /// (processors: `TLBI`, `DSB`; SMMU: the `CMD_TLBI_*` command, `CMD_SYNC`). The mapper has put a
    /// [`barrier`](TableMemory::barrier) between its writes and this call.
    ///
    /// # Errors
    ///
    /// [`NotInvalidated`] if completion can't be told, as when an SMMU's queue has stopped. Tables that a
    /// walker might still use are then kept from reuse.
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated>;
}

/// An invalidation whose completion can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the invalidation of old translations did not complete")]
pub struct NotInvalidated;

macro_rules! forward_table_memory {
    ($($type:ty),*) => {$(
        impl<M: TableMemory + ?Sized> TableMemory for $type {
            fn allocate(&self, pages: usize) -> Option<Hpa> {
                (**self).allocate(pages)
            }

            fn free(&self, table: Hpa, pages: usize) {
                (**self).free(table, pages);
            }

            fn read(&self, entry: Hpa) -> u64 {
                (**self).read(entry)
            }

            fn write(&self, entry: Hpa, value: u64) {
                (**self).write(entry, value);
            }

            fn barrier(&self) {
                (**self).barrier();
            }
        }
    )*};
}
forward_table_memory!(&M, Arc<M>);

impl<I: Invalidate + ?Sized> Invalidate for &I {
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated> {
        (**self).invalidate(span)
    }
}
