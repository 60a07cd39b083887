//! A FIFO of at most 16 entries that never allocates.

use crate::spec::FIFO_DEPTH;

/// A FIFO of `T`.
#[derive(Clone, Debug)]
pub(crate) struct Fifo<T> {
    entries: [T; FIFO_DEPTH],
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Fifo<T> {
    pub(crate) fn new() -> Self {
        Self { entries: [T::default(); FIFO_DEPTH], first: 0, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds at the end, or gives back that there is no room.
    pub(crate) fn push(&mut self, entry: T) -> Result<(), Full> {
        if self.len >= FIFO_DEPTH {
            return Err(Full);
        }
        let at = (self.first + self.len) % FIFO_DEPTH;
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = entry;
            self.len += 1;
        }
        Ok(())
    }

    pub(crate) fn front(&self) -> Option<T> {
        if self.is_empty() { None } else { self.entries.get(self.first).copied() }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.front()?;
        self.first = (self.first + 1) % FIFO_DEPTH;
        self.len -= 1;
        Some(entry)
    }
}

/// There was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;
