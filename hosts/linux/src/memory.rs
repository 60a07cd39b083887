//! What guests' memory is made of: mappings of this process.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axvm::space::Backing;
use axvm_axdevice::Width;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileMemoryError, VolatileSlice};

// Linux, include/uapi/asm-generic/mman.h and mman-common.h.
const PROT_READ_WRITE: i32 = 1 | 2;
const MAP_PRIVATE: i32 = 0x2;
const MAP_ANONYMOUS: i32 = 0x20;
const MAP_LOCKED: i32 = 0x2000;
const MAP_POPULATE: i32 = 0x8000;
const MAP_HUGETLB: i32 = 0x4_0000;

/// Why there is no memory for a guest.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel gives none.
    #[error(
        "{bytes} bytes of memory can't be mapped and locked: {error} (free memory, or `ulimit -l` where AxVM doesn't run as root)"
    )]
    NotMapped {
        /// How many were wanted.
        bytes: u64,
        /// The kernel's reason.
        error: io::Error,
    },
    /// More than this process can address.
    #[error("{0} bytes are more than a process can map")]
    TooMuch(u64),
    /// Bytes that go past its end.
    #[error("something doesn't fit into its memory: {0}")]
    Past(#[from] VolatileMemoryError),
}

/// What memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages of those that the kernel keeps.
    Huge,
    /// The kernel keeps too few of them, or none.
    Ordinary,
}

/// A place in a mapping of this process, which is there as long as something refers to it.
#[derive(Clone, Debug)]
pub struct Place {
    mapping: Arc<MmapRegion>,
    offset: usize,
}

impl Place {
    /// Zeroed memory: huge pages where the kernel keeps some, and in any case all there and locked, so that no guest waits for another's.
    ///
    /// # Errors
    ///
    /// [`MemoryError`].
    pub fn allocate(bytes: u64) -> Result<(Self, Pages), MemoryError> {
        let size = usize::try_from(bytes).map_err(|_| MemoryError::TooMuch(bytes))?;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE;
        let map = |flags| MmapRegion::build(None, size, PROT_READ_WRITE, flags);
        let huge = map(flags | MAP_HUGETLB).map(|mapping| (mapping, Pages::Huge));
        let made = huge.or_else(|_| map(flags).map(|mapping| (mapping, Pages::Ordinary)));
        let (mapping, pages) = made.map_err(|error| match error {
            MmapRegionError::Mmap(error) => MemoryError::NotMapped { bytes, error },
            _ => MemoryError::TooMuch(bytes),
        })?;
        Ok((Self { mapping: Arc::new(mapping), offset: 0 }, pages))
    }

    /// From `offset` in a mapping on.
    pub fn of(mapping: Arc<MmapRegion>, offset: u64) -> Option<Self> {
        let place = Self { mapping, offset: 0 };
        place.advance(offset)
    }

    /// Where it is in this process.
    pub fn address(&self) -> u64 {
        // It lies in the mapping, so that the sum is an address.
        (self.mapping.as_ptr() as u64).wrapping_add(self.offset as u64)
    }

    /// How many bytes follow.
    pub fn length(&self) -> u64 {
        self.mapping.size().saturating_sub(self.offset) as u64
    }

    /// Copies bytes there.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Past`]; nothing or a front part was copied.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let at = usize::try_from(offset).map_err(|_| MemoryError::TooMuch(offset))?;
        let at = self.offset.checked_add(at).ok_or(MemoryError::TooMuch(offset))?;
        let rest = self.mapping.as_volatile_slice().offset(at)?;
        Ok(rest.write_slice(bytes, 0)?)
    }

    /// Reads as many bytes from a file, from where it is, to there.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Past`]; also where the file can't be read, or has fewer. A front part may have been read.
    pub fn fill(&self, mut file: &File, bytes: u64) -> Result<(), MemoryError> {
        let bytes = usize::try_from(bytes).map_err(|_| MemoryError::TooMuch(bytes))?;
        let rest = self.mapping.as_volatile_slice().offset(self.offset)?;
        Ok(rest.read_exact_volatile_from(0, &mut file, bytes)?)
    }

    /// Copies bytes from there.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Past`].
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let at = usize::try_from(offset).map_err(|_| MemoryError::TooMuch(offset))?;
        let at = self.offset.checked_add(at).ok_or(MemoryError::TooMuch(offset))?;
        let rest = self.mapping.as_volatile_slice().offset(at)?;
        Ok(rest.read_slice(bytes, 0)?)
    }
}

impl Place {
    /// Reads registers, by one access.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Past`].
    pub fn load(&self, offset: u64, width: Width) -> Result<u64, MemoryError> {
        let (rest, at) = self.registers(offset)?;
        Ok(match width {
            Width::B1 => rest.load::<u8>(at, Ordering::SeqCst)?.into(),
            Width::B2 => rest.load::<u16>(at, Ordering::SeqCst)?.into(),
            Width::B4 => rest.load::<u32>(at, Ordering::SeqCst)?.into(),
            Width::B8 => rest.load::<u64>(at, Ordering::SeqCst)?,
        })
    }

    /// Writes registers, by one access.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Past`].
    pub fn store(&self, offset: u64, width: Width, value: u64) -> Result<(), MemoryError> {
        let (rest, at) = self.registers(offset)?;
        match width {
            Width::B1 => rest.store(value as u8, at, Ordering::SeqCst)?,
            Width::B2 => rest.store(value as u16, at, Ordering::SeqCst)?,
            Width::B4 => rest.store(value as u32, at, Ordering::SeqCst)?,
            Width::B8 => rest.store(value, at, Ordering::SeqCst)?,
        }
        Ok(())
    }

    fn registers(&self, offset: u64) -> Result<(VolatileSlice<'_>, usize), MemoryError> {
        let at = usize::try_from(offset).map_err(|_| MemoryError::TooMuch(offset))?;
        let at = self.offset.checked_add(at).ok_or(MemoryError::TooMuch(offset))?;
        Ok((self.mapping.as_volatile_slice(), at))
    }
}

impl Backing for Place {
    fn advance(&self, bytes: u64) -> Option<Self> {
        let offset = self.offset.checked_add(usize::try_from(bytes).ok()?)?;
        (offset <= self.mapping.size()).then(|| Self { mapping: self.mapping.clone(), offset })
    }
}
