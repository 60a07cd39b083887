//! Registers of devices that the hypervisor drives itself.

use axvm_addr::{Hpa, Span};

use crate::log;

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

    /// Bytes of the block.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The address of `offset`, if the access stays in the block. One that doesn't is a mistake of a driver's, which has to
    /// see to it that the block is as large as it needs: it is said, reads give all ones, writes are lost.
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > self.size) {
            log::error!(
                "register {offset:#x} isn't in the block of {:#x} bytes at {:#x}",
                self.size,
                self.base
            );
            return None;
        }
        self.base.checked_add(offset)
    }

    /// Reads 32 bits.
    pub fn read32(&self, offset: u64) -> u32 {
        // SAFETY: inside registers that are ours (`new`).
        self.at(offset, 4).map_or(u32::MAX, |at| unsafe { (at as *const u32).read_volatile() })
    }

    /// Writes 32 bits.
    pub fn write32(&self, offset: u64, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            // SAFETY: as `read32`.
            unsafe { (at as *mut u32).write_volatile(value) }
        }
    }

    /// Reads 64 bits.
    pub fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as `read32`.
        self.at(offset, 8).map_or(u64::MAX, |at| unsafe { (at as *const u64).read_volatile() })
    }

    /// Writes 64 bits.
    pub fn write64(&self, offset: u64, value: u64) {
        if let Some(at) = self.at(offset, 8) {
            // SAFETY: as `read32`.
            unsafe { (at as *mut u64).write_volatile(value) }
        }
    }

    /// Writes 8 bits.
    #[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "no controller there has such registers"))]
    pub fn write8(&self, offset: u64, value: u8) {
        if let Some(at) = self.at(offset, 1) {
            // SAFETY: as `read32`.
            unsafe { (at as *mut u8).write_volatile(value) }
        }
    }
}

/// Registers of 32 bits in a row that were found to be in their block, so that an access asks for nothing but its place in the row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    first: u64,
    count: u32,
}

impl Mmio {
    /// `count` registers from `offset` on; none of them if not all are in the block.
    #[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "no controller there is on a fast path"))]
    pub fn row(&self, offset: u64, count: u32) -> Row {
        let fits = offset & 3 == 0 && offset.saturating_add(u64::from(count) * 4) <= self.size;
        Row { first: self.base.wrapping_add(offset), count: if fits { count } else { 0 } }
    }
}

#[cfg_attr(target_arch = "x86_64", expect(dead_code, reason = "no controller there is on a fast path"))]
impl Row {
    /// Reads the register at `place`; all ones beyond the row.
    #[inline(always)]
    pub fn read(self, place: u32) -> u32 {
        if place >= self.count {
            return u32::MAX;
        }
        // SAFETY: inside registers that are ours (`Mmio::new`, `Mmio::row`).
        unsafe { (self.first as *const u32).add(place as usize).read_volatile() }
    }

    /// Writes the register at `place`; nothing beyond the row.
    #[inline(always)]
    pub fn write(self, place: u32, value: u32) {
        if place < self.count {
            // SAFETY: as `read`.
            unsafe { (self.first as *mut u32).add(place as usize).write_volatile(value) }
        }
    }
}
