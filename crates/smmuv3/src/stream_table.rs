//! Where a stream's entry lies (3.3.1): in one array, or in the second-level tables of an array.

use axvm_addr::{Address, Hpa, StreamId};

use crate::access::Memory;
use crate::error::Error;
use crate::features::Features;
use crate::spec::registers::{strtab_base, strtab_base_cfg};
use crate::spec::stream_table::{ENTRY_BYTES, ENTRY_SHIFT, level1};

/// Bits of StreamID that a second-level table resolves: on PCI, a bus. 16 KiB each.
const SPLIT: u32 = 8;

/// A stream table.
#[derive(Debug)]
pub(crate) struct StreamTable {
    base: Hpa,
    /// Bits of StreamID that it serves.
    bits: u32,
    two_level: bool,
}

impl StreamTable {
    /// A table for all streams up to `most`, all of whose entries are invalid.
    pub(crate) fn new(memory: &impl Memory, features: &Features, most: StreamId) -> Result<Self, Error> {
        let bits = (u32::BITS - most.0.leading_zeros()).max(1);
        if bits > features.stream_bits {
            return Err(Error::StreamOutOfRange { stream: most, bits: features.stream_bits });
        }
        let two_level = features.two_level && bits > SPLIT;
        let bytes = if two_level { level1::BYTES << (bits - SPLIT) } else { ENTRY_BYTES << bits };
        let base = allocate(memory, "stream table", bytes)?;
        Ok(Self { base, bits, two_level })
    }

    /// SMMU_STRTAB_BASE.
    pub(crate) fn base_register(&self) -> u64 {
        strtab_base::RA.mask() | self.base.0 & strtab_base::ADDR.mask()
    }

    /// SMMU_STRTAB_BASE_CFG.
    pub(crate) fn config_register(&self) -> u32 {
        let shape = if self.two_level {
            strtab_base_cfg::FMT.put(1) | strtab_base_cfg::SPLIT.put(SPLIT.into())
        } else {
            0
        };
        (shape | strtab_base_cfg::LOG2SIZE.put(self.bits.into())) as u32
    }

    /// Where a stream's entry lies; `Ok(None)` if its second-level table isn't there, so that the stream is out of
    /// range for the SMMU.
    pub(crate) fn entry(&self, memory: &impl Memory, stream: StreamId) -> Result<Option<Hpa>, Error> {
        let descriptor = match self.descriptor(stream)? {
            None => return Ok(self.base.checked_add(u64::from(stream.0) << ENTRY_SHIFT)),
            Some(descriptor) => memory.read64(descriptor),
        };
        if !level1::SPAN.is_set(descriptor) {
            return Ok(None);
        }
        Ok(Hpa(descriptor & level1::L2PTR.mask()).checked_add(within_table(stream)))
    }

    /// The same, but makes the second-level table if it isn't there. The SMMU must then be told to forget what it
    /// holds of the stream and its first-level descriptor.
    pub(crate) fn entry_or_create(&self, memory: &impl Memory, stream: StreamId) -> Result<Hpa, Error> {
        if let Some(entry) = self.entry(memory, stream)? {
            return Ok(entry);
        }
        let table = allocate(memory, "stream table", ENTRY_BYTES << SPLIT)?;
        if let Some(descriptor) = self.descriptor(stream)? {
            // The table's zeros are there before the SMMU can find it.
            memory.barrier();
            let span = u64::from(SPLIT) + 1;
            memory.write64(descriptor, level1::SPAN.put(span) | table.0 & level1::L2PTR.mask());
            memory.barrier();
        }
        Ok(Hpa(table.0.wrapping_add(within_table(stream))))
    }

    /// The first-level descriptor for a stream, if the table has two levels.
    fn descriptor(&self, stream: StreamId) -> Result<Option<Hpa>, Error> {
        if u64::from(stream.0) >> self.bits != 0 {
            return Err(Error::StreamOutOfRange { stream, bits: self.bits });
        }
        let offset = u64::from(stream.0 >> SPLIT) * level1::BYTES;
        Ok(self.base.checked_add(offset).filter(|_| self.two_level))
    }
}

/// Where a stream's entry lies in its second-level table.
fn within_table(stream: StreamId) -> u64 {
    (u64::from(stream.0) % (1 << SPLIT)) << ENTRY_SHIFT
}

/// Memory aligned to its size, and to 64 bytes at least, as all structures want it.
pub(crate) fn allocate(memory: &impl Memory, what: &'static str, bytes: u64) -> Result<Hpa, Error> {
    let out_of_memory = Error::OutOfMemory { what, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) };
    let bytes = usize::try_from(bytes.max(64)).map_err(|_| out_of_memory)?;
    memory.allocate(bytes, bytes).ok_or(out_of_memory)
}
