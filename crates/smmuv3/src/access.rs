//! How the driver reaches the SMMU and the memory that it shares with it.

use alloc::sync::Arc;

use axvm_addr::Hpa;

use crate::error::{Error, Wait};

/// The SMMU's registers, by their offsets from its base; register page 1 starts at 0x10000. Accesses are to
/// device memory, of just this width, in order.
pub trait Registers {
    /// Reads a 32-bit register.
    fn read32(&self, offset: usize) -> u32;

    /// Writes a 32-bit register.
    fn write32(&self, offset: usize, value: u32);

    /// Reads a 64-bit register.
    fn read64(&self, offset: usize) -> u64;

    /// Writes a 64-bit register.
    fn write64(&self, offset: usize, value: u64);
}

/// Memory that the SMMU reads and writes: queues and stream tables.
///
/// If the SMMU isn't coherent with the processors' caches ([`Features::coherent`](crate::Features)), reads and
/// writes here must reach memory: by a non-cacheable mapping, or by cleaning after a write and invalidating before
/// a read.
pub trait Memory {
    /// Gives `bytes` of zeroed memory aligned to `align` (a power of two), in one piece, for good; `None` when
    /// there is none. The SMMU sees the zeros.
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa>;

    /// Reads 64 bits.
    fn read64(&self, address: Hpa) -> u64;

    /// Writes 64 bits, single-copy atomically.
    fn write64(&self, address: Hpa, value: u64);

    /// Orders all accesses before it, to memory and to registers, before all after it, as the SMMU sees them
    /// (`DSB SY`).
    fn barrier(&self);
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        impl<T: Registers + ?Sized> Registers for $type {
            fn read32(&self, offset: usize) -> u32 {
                (**self).read32(offset)
            }

            fn write32(&self, offset: usize, value: u32) {
                (**self).write32(offset, value);
            }

            fn read64(&self, offset: usize) -> u64 {
                (**self).read64(offset)
            }

            fn write64(&self, offset: usize, value: u64) {
                (**self).write64(offset, value);
            }
        }

        impl<T: Memory + ?Sized> Memory for $type {
            fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa> {
                (**self).allocate(bytes, align)
            }

            fn read64(&self, address: Hpa) -> u64 {
                (**self).read64(address)
            }

            fn write64(&self, address: Hpa, value: u64) {
                (**self).write64(address, value);
            }

            fn barrier(&self) {
                (**self).barrier();
            }
        }
    )*};
}
forward!(&T, Arc<T>);

/// How often a register is read before a wait is given up: far more than a working SMMU takes for any of them.
const POLLS: u32 = 1_000_000;

/// Reads until `done` gives something, boundedly.
pub(crate) fn wait_for<T>(what: Wait, mut done: impl FnMut() -> Option<T>) -> Result<T, Error> {
    for _ in 0..POLLS {
        if let Some(value) = done() {
            return Ok(value);
        }
        core::hint::spin_loop();
    }
    Err(Error::Timeout(what))
}
