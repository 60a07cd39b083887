//! Registers of devices that the hypervisor drives itself.

use axvm_addr::{Hpa, Span};

/// A block of registers.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: u64,
    size: u64,
}

impl Mmio {
    /// # Safety
    ///
    /// The span must be registers of one device, mapped for the hypervisor as device memory, and driven by nobody else.
    pub unsafe fn new(span: Span<Hpa>) -> Self {
        Self { base: span.start().0, size: span.size() }
    }

    /// The address of `offset`: offsets past the block fall on its first register, so that a wrong one can't leave it.
    fn at(&self, offset: u64, bytes: u64) -> u64 {
        if offset + bytes <= self.size { self.base + offset } else { self.base }
    }

    /// Reads 32 bits.
    pub fn read32(&self, offset: u64) -> u32 {
        // SAFETY: inside registers that are ours (`new`).
        unsafe { (self.at(offset, 4) as *const u32).read_volatile() }
    }

    /// Writes 32 bits.
    pub fn write32(&self, offset: u64, value: u32) {
        // SAFETY: as `read32`.
        unsafe { (self.at(offset, 4) as *mut u32).write_volatile(value) }
    }

    /// Reads 64 bits.
    pub fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as `read32`.
        unsafe { (self.at(offset, 8) as *const u64).read_volatile() }
    }

    /// Writes 64 bits.
    pub fn write64(&self, offset: u64, value: u64) {
        // SAFETY: as `read32`.
        unsafe { (self.at(offset, 8) as *mut u64).write_volatile(value) }
    }

    /// Writes 8 bits.
    pub fn write8(&self, offset: u64, value: u8) {
        // SAFETY: as `read32`.
        unsafe { (self.at(offset, 1) as *mut u8).write_volatile(value) }
    }
}
