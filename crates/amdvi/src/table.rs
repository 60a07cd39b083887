//! The device table (2.2.2): an entry for each device id.

use axvm_addr::{Hpa, PAGE_SIZE};
use axvm_iommu::{Memory, allocate_filled};

use crate::error::Error;
use crate::id::DeviceId;
use crate::spec::device_table::{ENTRY_BYTES, Entry, blocked};
use crate::spec::registers::DeviceTableBase;

/// A device table.
#[derive(Debug)]
pub(crate) struct DeviceTable {
    base: Hpa,
    bytes: u64,
}

impl DeviceTable {
    /// A table for all devices up to `last`, in which each is blocked, and what it tries is recorded. An id beyond the table has no
    /// entry: what comes from there is aborted (2.2.2).
    pub(crate) fn new(memory: &impl Memory, last: DeviceId) -> Result<Self, Error> {
        let bytes = ((u64::from(last.0) + 1) * ENTRY_BYTES).next_multiple_of(PAGE_SIZE);
        // By far the most that is written before a guest runs: 65,536 entries.
        const NOBODYS: Entry = blocked(false);
        let base = allocate_filled(memory, "device table", bytes, PAGE_SIZE, &NOBODYS)?;
        Ok(Self { base, bytes })
    }

    /// Device Table Base Address Register.
    pub(crate) fn base_register(&self) -> u64 {
        let pages = self.bytes / PAGE_SIZE;
        DeviceTableBase::new().with_size((pages - 1) as u16).with_base(self.base.0 >> 12).into()
    }

    /// Where a device's entry lies.
    pub(crate) fn entry(&self, device: DeviceId) -> Result<Hpa, Error> {
        let offset = u64::from(device.0) * ENTRY_BYTES;
        if offset >= self.bytes {
            let last = DeviceId((self.bytes / ENTRY_BYTES - 1) as u16);
            return Err(Error::OutOfRange { device, last });
        }
        Ok(Hpa(self.base.0.wrapping_add(offset)))
    }
}

/// The words of an entry, by their addresses.
pub(crate) fn word(entry: Hpa, number: u64) -> Hpa {
    Hpa(entry.0.wrapping_add(number * 8))
}
