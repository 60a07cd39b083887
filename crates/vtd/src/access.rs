//! How the driver reaches the unit and the memory that it shares with it.

use alloc::sync::Arc;

use axvm_addr::Hpa;

use crate::error::{Error, Wait};

/// The unit's registers, by their offsets from its base. Accesses are to uncached memory, of just this width, in order.
pub trait Registers {
    /// Bytes of the block. One that ends before what it should have is refused before it is touched.
    fn size(&self) -> u64;

    /// Microseconds by a clock that runs whatever the unit does: waits end by it.
    fn now_us(&self) -> u64;

    /// Reads a 32-bit register.
    fn read32(&self, offset: usize) -> u32;

    /// Writes a 32-bit register.
    fn write32(&self, offset: usize, value: u32);

    /// Reads a 64-bit register.
    fn read64(&self, offset: usize) -> u64;

    /// Writes a 64-bit register.
    fn write64(&self, offset: usize, value: u64);
}

/// Memory that the unit reads and writes: its tables and its queue.
pub trait Memory {
    /// Gives `bytes` of zeroed memory aligned to `align` (a power of two), in one piece, for good; `None` when there is none. The zeros are
    /// in memory, past the processors' caches.
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa>;

    /// Reads 64 bits.
    fn read64(&self, address: Hpa) -> u64;

    /// Writes 64 bits, single-copy atomically.
    fn write64(&self, address: Hpa, value: u64);

    /// Writes what the processors' caches hold of a span to memory (`CLFLUSH` of each line of it).
    fn flush(&self, address: Hpa, bytes: u64);

    /// Orders all accesses before it, to memory and to registers, before all after it, as the unit sees them (`MFENCE`).
    fn barrier(&self);
}

macro_rules! forward {
    ($($type:ty),*) => {$(
        impl<T: Registers + ?Sized> Registers for $type {
            fn size(&self) -> u64 {
                (**self).size()
            }

            fn now_us(&self) -> u64 {
                (**self).now_us()
            }

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

            fn flush(&self, address: Hpa, bytes: u64) {
                (**self).flush(address, bytes);
            }

            fn barrier(&self) {
                (**self).barrier();
            }
        }
    )*};
}
forward!(&T, Arc<T>);

/// How long a wait lasts at most. An invalidation waits for requests that are under way, and those may take as long as a completion may
/// (PCIe 2.8: 50 ms, and more where software allows it).
pub(crate) const MOST_US: u64 = 1_000_000;

/// How long a wait lasts at most for a unit that has let one time out, and hasn't answered since.
pub(crate) const MOST_OF_THE_DEAF_US: u64 = 1_000;

/// Reads until `done` gives something, for `most_us` at most.
pub(crate) fn wait_for<T>(
    registers: &impl Registers,
    most_us: u64,
    what: Wait,
    mut done: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let start = registers.now_us();
    loop {
        // Asked before the condition is looked at: whoever was kept from running in between doesn't take that for a
        // timeout.
        let now = registers.now_us();
        if let Some(value) = done() {
            return Ok(value);
        }
        if now.saturating_sub(start) >= most_us {
            return Err(Error::Timeout(what));
        }
        core::hint::spin_loop();
    }
}
