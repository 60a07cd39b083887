//! Memory that is shared with a unit, whether that snoops the processors' caches or not (ECAP.C).

use axvm_addr::Hpa;

use crate::access::Memory;
use crate::error::Error;

/// What the processors write and the unit sees after the next [`barrier`](Self::barrier). What the unit writes, the word of a wait, it
/// writes so that it is seen (6.5.2.8).
#[derive(Debug)]
pub(crate) struct Shared<M> {
    memory: M,
    coherent: bool,
}

impl<M: Memory> Shared<M> {
    pub fn new(memory: M, coherent: bool) -> Self {
        Self { memory, coherent }
    }

    /// Zeroed memory, aligned to its size.
    pub fn allocate(&self, what: &'static str, bytes: u64) -> Result<Hpa, Error> {
        let none = Error::OutOfMemory { what, bytes };
        let size = usize::try_from(bytes).map_err(|_| none)?;
        self.memory.allocate(size, size).ok_or(none)
    }

    pub fn read64(&self, address: Hpa) -> u64 {
        self.memory.read64(address)
    }

    pub fn write64(&self, address: Hpa, value: u64) {
        self.memory.write64(address, value);
        if !self.coherent {
            self.memory.flush(address, 8);
        }
    }

    pub fn barrier(&self) {
        self.memory.barrier();
    }
}
