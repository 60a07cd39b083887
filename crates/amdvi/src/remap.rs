//! Interrupt tables (2.2.5): one for each device that has interrupts.

use axvm_addr::Hpa;
use axvm_iommu::{Memory, allocate};

use crate::error::Error;
use crate::features::Features;
use crate::id::DeviceId;
use crate::spec::device_table::{InterruptControl, InterruptWord};
use crate::spec::interrupts::{
    ALIGNMENT, ENTRIES, ENTRIES_IN_MEMORY, Kind, LOG2_ENTRIES, Narrow, WideHigh, WideLow,
};

/// Which CPUs get an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The one with this local APIC.
    Physical(u32),
    /// Those that answer to this logical id.
    Logical(u32),
}

/// What an interrupt of a device becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The vector: 32 to 255.
    pub vector: u8,
    /// Who gets it.
    pub destination: Destination,
    /// How it is delivered. NMI, SMI, INIT and ExtINT there are none.
    pub kind: Kind,
}

/// A device's interrupt table. What it has no entry for is aborted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterruptTable {
    base: Hpa,
    wide: bool,
}

impl InterruptTable {
    pub(crate) fn new(memory: &impl Memory, features: &Features) -> Result<Self, Error> {
        let entry_bytes = if features.wide_interrupts { 16 } else { 4 };
        let base = allocate(memory, "interrupt table", ENTRIES_IN_MEMORY * entry_bytes, ALIGNMENT)?;
        Ok(Self { base, wide: features.wide_interrupts })
    }

    /// What the device's entry says of interrupts.
    pub(crate) fn device_word(&self) -> u64 {
        InterruptWord::new()
            .with_valid(true)
            .with_length(LOG2_ENTRIES)
            .with_table(self.base.0 >> 6)
            .with_control(InterruptControl::Remap)
            .into()
    }

    /// Nothing is in it any more. The IOMMU must then be told to forget what it holds of it.
    pub(crate) fn clear(&self, memory: &impl Memory) {
        let bytes = u64::from(ENTRIES) * if self.wide { 16 } else { 4 };
        (0..bytes).step_by(8).for_each(|offset| memory.write64(Hpa(self.base.0.wrapping_add(offset)), 0));
    }

    /// A change of an entry, which then says what an interrupt becomes, or that there is none. The IOMMU must be told to forget what it
    /// holds of the table after each of its two steps.
    pub(crate) fn encode(
        &self,
        features: &Features,
        device: DeviceId,
        index: u16,
        interrupt: Option<Interrupt>,
    ) -> Result<Change, Error> {
        if index >= ENTRIES {
            return Err(Error::Index { device, index });
        }
        let value = interrupt.map(|interrupt| encode(features, interrupt)).transpose()?;
        Ok(Change { table: *self, index, value })
    }

    fn word(&self, index: u16, number: u64) -> Hpa {
        let bytes = if self.wide { 16 } else { 4 };
        Hpa(self.base.0.wrapping_add(u64::from(index) * bytes).wrapping_add(number * 8) & !7)
    }
}

/// A change of one entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    table: InterruptTable,
    index: u16,
    /// Both words of an entry of 128 bits, or in the first one of 32.
    value: Option<[u64; 2]>,
}

impl Change {
    /// First: the entry isn't used any more.
    pub(crate) fn retire(&self, memory: &impl Memory) {
        self.put(memory, [0, 0]);
    }

    /// Then, when nothing of it is held: it is used as it shall be. Whether there was something to be done.
    pub(crate) fn install(&self, memory: &impl Memory) -> bool {
        let Some(value) = self.value else { return false };
        self.put(memory, value);
        true
    }

    fn put(&self, memory: &impl Memory, [low, high]: [u64; 2]) {
        let first = self.table.word(self.index, 0);
        if self.table.wide {
            // The first word has the bit that makes the entry valid: it is the last that is set, and the first that is cleared.
            if low == 0 {
                memory.write64(first, 0);
            }
            memory.write64(self.table.word(self.index, 1), high);
            if low != 0 {
                memory.barrier();
                memory.write64(first, low);
            }
        } else {
            let shift = u32::from(self.index % 2) * 32;
            let others = memory.read64(first) & !(u64::from(u32::MAX) << shift);
            memory.write64(first, others | low << shift);
        }
    }
}

/// The words of an entry.
fn encode(features: &Features, interrupt: Interrupt) -> Result<[u64; 2], Error> {
    let Interrupt { vector, destination, kind } = interrupt;
    if vector < 32 {
        return Err(Error::Vector { vector });
    }
    let (destination, logical) = match destination {
        Destination::Physical(id) => (id, false),
        Destination::Logical(id) => (id, true),
    };
    let bits = if features.x2apic { 32 } else { 8 };
    if u64::from(destination) >> bits != 0 {
        return Err(Error::Destination { destination, bits });
    }
    if !features.wide_interrupts {
        let entry = Narrow::new().with_enabled(true).with_kind(kind as u8).with_logical(logical);
        let entry = entry.with_destination(destination as u8).with_vector(vector);
        return Ok([u32::from(entry).into(), 0]);
    }
    let low = WideLow::new().with_enabled(true).with_kind(kind as u8).with_logical(logical);
    let low = low.with_destination(destination & 0xff_ffff);
    let high = WideHigh::new().with_vector(vector).with_destination((destination >> 24) as u8);
    Ok([low.into(), high.into()])
}
