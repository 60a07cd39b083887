//! Memory that is shared with an IOMMU, whether that looks into the processors' caches or not.

use axvm_addr::{Hpa, PAGE_SIZE};

use crate::access::Memory;

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for {bytes} bytes of an IOMMU's {what}")]
pub struct OutOfMemory {
    /// What it was for.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
}

/// Zeroed memory.
///
/// # Errors
///
/// There is none.
pub fn allocate(
    memory: &impl Memory,
    what: &'static str,
    bytes: u64,
    align: u64,
) -> Result<Hpa, OutOfMemory> {
    let none = OutOfMemory { what, bytes };
    let (Ok(size), Ok(align)) = (usize::try_from(bytes), usize::try_from(align)) else { return Err(none) };
    memory.allocate(size, align).ok_or(none)
}

/// Memory that has these words over and over.
///
/// # Errors
///
/// There is none.
pub fn allocate_filled(
    memory: &impl Memory,
    what: &'static str,
    bytes: u64,
    align: u64,
    words: &[u64],
) -> Result<Hpa, OutOfMemory> {
    let none = OutOfMemory { what, bytes };
    let (Ok(size), Ok(align)) = (usize::try_from(bytes), usize::try_from(align)) else { return Err(none) };
    memory.allocate_filled(size, align, words).ok_or(none)
}

/// What processor and IOMMU both see: what is written here the IOMMU sees after the next [`barrier`](Self::barrier), and what the IOMMU
/// has written is what is read here.
///
/// An IOMMU that isn't coherent reads and writes memory past the caches. So what is written is cleaned at once, and what is read is read
/// anew: a cache may have taken its line at any time, by speculation, before the IOMMU wrote it. No line is ever left dirty, and none is
/// written by both (a queue is written by the one or the other, and has its pages to itself), so that cleaning never puts an old value over
/// one of the IOMMU's.
#[derive(Debug)]
pub struct Shared<M> {
    memory: M,
    coherent: bool,
}

impl<M: Memory> Shared<M> {
    /// Shares memory with an IOMMU that is coherent with the processors' caches, or isn't.
    pub fn new(memory: M, coherent: bool) -> Self {
        Self { memory, coherent }
    }

    /// Zeroed memory, aligned to its size, which is a power of two. Never less than a page: no cache line has something else beside it
    /// (Arm's CTR_EL0.CWG says 2 KiB at most).
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn allocate(&self, what: &'static str, bytes: u64) -> Result<Hpa, OutOfMemory> {
        let bytes = bytes.max(PAGE_SIZE);
        let block = allocate(&self.memory, what, bytes, bytes)?;
        if !self.coherent {
            self.memory.clean(block, bytes);
        }
        Ok(block)
    }

    /// Reads 64 bits.
    pub fn read64(&self, address: Hpa) -> u64 {
        if !self.coherent {
            self.memory.clean(address, 8);
        }
        self.memory.read64(address)
    }

    /// Writes 64 bits.
    pub fn write64(&self, address: Hpa, value: u64) {
        self.memory.write64(address, value);
        if !self.coherent {
            self.memory.clean(address, 8);
        }
    }

    /// Orders all accesses before it before all after it, as the IOMMU sees them.
    pub fn barrier(&self) {
        self.memory.barrier();
    }
}
