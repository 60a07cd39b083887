//! A chain of tables that aren't part of a tree, held together through their own first entries.

use axvm_addr::Hpa;

use crate::memory::TableMemory;

/// Tables reserved before an operation, or emptied by it. The links are page-aligned addresses, which say nothing
/// to a walker that still reads one of the tables (see [`Format`](crate::Format)).
///
/// It must be emptied before it is dropped, or its tables are lost.
#[derive(Debug)]
pub(crate) struct Chain {
    head: Hpa,
    length: usize,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self { head: Hpa(0), length: 0 };

    /// Reserves `count` tables of one page, all of them or none.
    pub(crate) fn reserve(memory: &impl TableMemory, count: usize) -> Option<Self> {
        let mut chain = Self::EMPTY;
        for _ in 0..count {
            match memory.allocate(1) {
                Some(table) => chain.push(memory, table),
                None => {
                    chain.free(memory);
                    return None;
                }
            }
        }
        Some(chain)
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Puts in a table whose entries are all empty.
    pub(crate) fn push(&mut self, memory: &impl TableMemory, table: Hpa) {
        memory.write(table, self.head.0);
        self.head = table;
        self.length += 1;
    }

    /// Takes out a table whose entries are all empty.
    pub(crate) fn pop(&mut self, memory: &impl TableMemory) -> Option<Hpa> {
        self.length = self.length.checked_sub(1)?;
        let table = self.head;
        self.head = Hpa(memory.read(table));
        memory.write(table, 0);
        Some(table)
    }

    /// Frees all that is in it.
    pub(crate) fn free(&mut self, memory: &impl TableMemory) {
        while let Some(table) = self.pop(memory) {
            memory.free(table, 1);
        }
    }
}
