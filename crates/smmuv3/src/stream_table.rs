//! Where a stream's entry lies (3.3.1): in one array, or in the second-level tables of an array.

use axvm_addr::{Address, Hpa};
use axvm_iommu::{Memory, Shared};

use crate::error::Error;
use crate::features::Features;
use crate::id::StreamId;
use crate::spec::registers::{strtab_base, strtab_base_cfg};
use crate::spec::stream_table::{ABORT, ENTRY_BYTES, ENTRY_SHIFT, level1};

/// Bits of StreamID that a second-level table resolves: on PCI, a bus. 16 KiB each.
const SPLIT: u32 = 8;

/// Bits of StreamID up to which a two-level table serves all that the SMMU has: 32 KiB of descriptors.
const MOST_BITS_IN_FULL: u32 = 20;

/// A stream table.
#[derive(Debug)]
pub(crate) struct StreamTable {
    base: Hpa,
    /// Bits of StreamID that it serves.
    bits: u32,
    /// Whether these are all that there can be.
    serves_all: bool,
    /// The second-level table of all buses that make no records and have no table of their own, if there are two levels.
    /// All its entries abort silently. It is there from the start: it is wanted when something goes wrong.
    silent: Option<Hpa>,
}

/// Where the SMMU finds a stream's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It finds none: the stream is out of range, its transactions abort and are recorded.
    Nowhere(Hpa),
    /// In the table in which all abort silently; the descriptor that leads there.
    Silent(Hpa),
    /// Here.
    Entry(Hpa),
}

impl StreamTable {
    /// A table for all streams up to `most`, all of whose entries are invalid.
    pub(crate) fn new(
        memory: &Shared<impl Memory>,
        features: &Features,
        most: StreamId,
    ) -> Result<Self, Error> {
        let mut bits = (u32::BITS - most.0.leading_zeros()).max(1);
        if bits > features.stream_bits {
            return Err(Error::StreamOutOfRange { stream: most, bits: features.stream_bits });
        }
        if features.two_level {
            // Room for whatever stream may turn up, so that each can be recorded, and each silenced.
            bits = bits.max(features.stream_bits.min(MOST_BITS_IN_FULL));
        }
        let two_level = features.two_level && bits > SPLIT;
        let bytes = if two_level { level1::BYTES << (bits - SPLIT) } else { ENTRY_BYTES << bits };
        let base = memory.allocate("stream table", bytes)?;
        let silent = if two_level { Some(silent_table(memory)?) } else { None };
        Ok(Self { base, bits, serves_all: bits >= features.stream_bits, silent })
    }

    /// Whether every StreamID that the SMMU can be given has a place in it, so that each can be silenced.
    pub(crate) fn serves_all(&self) -> bool {
        self.serves_all
    }

    /// SMMU_STRTAB_BASE.
    pub(crate) fn base_register(&self) -> u64 {
        strtab_base::RA.mask() | self.base.0 & strtab_base::ADDR.mask()
    }

    /// SMMU_STRTAB_BASE_CFG.
    pub(crate) fn config_register(&self) -> u32 {
        let shape = if self.silent.is_some() {
            strtab_base_cfg::FMT.put(1) | strtab_base_cfg::SPLIT.put(SPLIT.into())
        } else {
            0
        };
        (shape | strtab_base_cfg::LOG2SIZE.put(self.bits.into())) as u32
    }

    /// Where a stream's entry lies, which is made if it isn't there. The SMMU must then be told to forget what it holds
    /// of the stream and its first-level descriptor.
    pub(crate) fn entry_or_create(
        &self,
        memory: &Shared<impl Memory>,
        stream: StreamId,
    ) -> Result<Hpa, Error> {
        let (table, descriptor) = match self.place(memory, stream)? {
            Place::Entry(entry) => return Ok(entry),
            Place::Nowhere(descriptor) => {
                (memory.allocate("stream table", ENTRY_BYTES << SPLIT)?, descriptor)
            }
            // What is silent stays so.
            Place::Silent(descriptor) => (silent_table(memory)?, descriptor),
        };
        lead_to(memory, descriptor, table);
        Ok(Hpa(table.0.wrapping_add(within_table(stream))))
    }

    /// Has a stream's transactions abort without a record. One without a table takes its bus along: that needs no memory.
    /// The SMMU must then be told to forget what it holds of the stream and its first-level descriptor.
    pub(crate) fn silence(&self, memory: &Shared<impl Memory>, stream: StreamId) -> Result<(), Error> {
        match (self.place(memory, stream)?, self.silent) {
            // One word, written at once; with it all others are ignored (3.21.3.1), so that no mixture is ever used.
            (Place::Entry(entry), _) => memory.write64(entry, ABORT),
            (Place::Nowhere(descriptor), Some(silent)) => lead_to(memory, descriptor, silent),
            (Place::Nowhere(_) | Place::Silent(_), _) => {}
        }
        Ok(())
    }

    fn place(&self, memory: &Shared<impl Memory>, stream: StreamId) -> Result<Place, Error> {
        let out_of_range = Error::StreamOutOfRange { stream, bits: self.bits };
        if u64::from(stream.0) >> self.bits != 0 {
            return Err(out_of_range);
        }
        let Some(silent) = self.silent else {
            let entry = self.base.checked_add(u64::from(stream.0) << ENTRY_SHIFT);
            return entry.map(Place::Entry).ok_or(out_of_range);
        };
        let offset = u64::from(stream.0 >> SPLIT) * level1::BYTES;
        let descriptor = self.base.checked_add(offset).ok_or(out_of_range)?;
        let value = memory.read64(descriptor);
        let table = Hpa(value & level1::L2PTR.mask());
        Ok(if !level1::SPAN.is_set(value) {
            Place::Nowhere(descriptor)
        } else if table == silent {
            Place::Silent(descriptor)
        } else {
            Place::Entry(table.checked_add(within_table(stream)).ok_or(out_of_range)?)
        })
    }
}

/// Writes a first-level descriptor.
fn lead_to(memory: &Shared<impl Memory>, descriptor: Hpa, table: Hpa) {
    // What is in the table is there before the SMMU can find it.
    memory.barrier();
    memory.write64(descriptor, level1::SPAN.put(u64::from(SPLIT) + 1) | table.0 & level1::L2PTR.mask());
    memory.barrier();
}

/// A second-level table in which every stream aborts without a record.
fn silent_table(memory: &Shared<impl Memory>) -> Result<Hpa, Error> {
    let table = memory.allocate("stream table", ENTRY_BYTES << SPLIT)?;
    for entry in (table.0..).step_by(ENTRY_BYTES as usize).take(1 << SPLIT) {
        memory.write64(Hpa(entry), ABORT);
    }
    Ok(table)
}

/// Where a stream's entry lies in its second-level table.
fn within_table(stream: StreamId) -> u64 {
    (u64::from(stream.0) % (1 << SPLIT)) << ENTRY_SHIFT
}
