//! Memory that is shared with an SMMU, whether that is coherent with the processors' caches or not.

use axvm_addr::{Hpa, PAGE_SIZE};

use crate::access::Memory;
use crate::error::Error;

/// What processor and SMMU both see: what is written here the SMMU sees after the next [`barrier`](Self::barrier), and
/// what the SMMU has written is what is read here.
///
/// An SMMU that isn't coherent reads and writes memory past the caches. So what is written is cleaned at once, and
/// what is read is read anew: a cache may have taken its line at any time, by speculation, before the SMMU wrote it.
/// No line is ever left dirty, and none is written by both (a queue is written by the one or the other, and has its
/// pages to itself), so that cleaning never puts an old value over one of the SMMU's.
#[derive(Debug)]
pub(crate) struct Shared<M> {
    memory: M,
    coherent: bool,
}

impl<M: Memory> Shared<M> {
    pub(crate) fn new(memory: M, coherent: bool) -> Self {
        Self { memory, coherent }
    }

    /// Zeroed memory, aligned to its size. Never less than a page: no cache line has something else beside it
    /// (CTR_EL0.CWG says 2 KiB at most).
    pub(crate) fn allocate(&self, what: &'static str, bytes: u64) -> Result<Hpa, Error> {
        let bytes = bytes.max(PAGE_SIZE);
        let out_of_memory = Error::OutOfMemory { what, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) };
        let size = usize::try_from(bytes).map_err(|_| out_of_memory)?;
        let block = self.memory.allocate(size, size).ok_or(out_of_memory)?;
        if !self.coherent {
            self.memory.clean(block, bytes);
        }
        Ok(block)
    }

    pub(crate) fn read64(&self, address: Hpa) -> u64 {
        if !self.coherent {
            self.memory.clean(address, 8);
        }
        self.memory.read64(address)
    }

    pub(crate) fn write64(&self, address: Hpa, value: u64) {
        self.memory.write64(address, value);
        if !self.coherent {
            self.memory.clean(address, 8);
        }
    }

    pub(crate) fn barrier(&self) {
        self.memory.barrier();
    }
}
