//! How a driver reaches an IOMMU.

use alloc::sync::Arc;

use axvm_addr::Hpa;

/// An IOMMU's registers, by their offsets from its base. Accesses are to device memory, of just this width, in order.
pub trait Registers {
    /// Bytes of the block. One that ends before what a driver needs it refuses before it is touched.
    fn size(&self) -> u64;

    /// Microseconds by a clock that runs whatever the IOMMU does: waits end by it.
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

/// Memory that an IOMMU reads and writes: queues and tables. Each of these is one or a few instructions; what an IOMMU needs that doesn't
/// look into the processors' caches, [`Shared`](crate::Shared) makes of them.
pub trait Memory {
    /// Gives `bytes` of zeroed memory aligned to `align` (a power of two), in one piece, for good; `None` when there is none.
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa>;

    /// The same of memory that has these words over and over.
    fn allocate_filled(&self, bytes: usize, align: usize, words: &[u64]) -> Option<Hpa> {
        let base = self.allocate(bytes, align)?;
        let places = (base.0..base.0.saturating_add(bytes as u64)).step_by(8).map(Hpa);
        places.zip(words.iter().cycle()).for_each(|(at, word)| self.write64(at, *word));
        Some(base)
    }

    /// Reads 64 bits.
    fn read64(&self, address: Hpa) -> u64;

    /// Writes 64 bits, single-copy atomically.
    fn write64(&self, address: Hpa, value: u64);

    /// Writes what the processors' caches hold of a span to memory, and has them forget it (`DC CIVAC` of each line of it, to the point of
    /// coherency; `CLFLUSH`). Nobody calls it for an IOMMU that looks into them.
    fn clean(&self, address: Hpa, bytes: u64);

    /// Orders all accesses before it, to memory and to registers, before all after it, as the IOMMU sees them (`DSB SY`, `MFENCE`).
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

            fn allocate_filled(&self, bytes: usize, align: usize, words: &[u64]) -> Option<Hpa> {
                (**self).allocate_filled(bytes, align, words)
            }

            fn read64(&self, address: Hpa) -> u64 {
                (**self).read64(address)
            }

            fn write64(&self, address: Hpa, value: u64) {
                (**self).write64(address, value);
            }

            fn clean(&self, address: Hpa, bytes: u64) {
                (**self).clean(address, bytes);
            }

            fn barrier(&self) {
                (**self).barrier();
            }
        }
    )*};
}
forward!(&T, Arc<T>);
