//! Root and context tables (3.4.2): a context table for each bus, with an entry for each of its functions.

use axvm_addr::{Hpa, PAGE_SIZE};
use axvm_iommu::{Memory, Shared};

use crate::error::Error;
use crate::id::DeviceId;
use crate::spec::tables::{ContextLow, ENTRY_BYTES, Root};

/// The tables.
#[derive(Debug)]
pub(crate) struct Tables {
    root: Hpa,
    /// The context table of all buses that make no records and have none of their own: all its entries are blocked silently. It is there
    /// from the start, as it is wanted when something goes wrong.
    silent: Hpa,
}

/// What blocks a device without a record.
const SILENT: u64 = 1 << 1;

impl Tables {
    /// Tables in which each device is blocked, and what it tries is recorded.
    pub fn new(memory: &Shared<impl Memory>) -> Result<Self, Error> {
        debug_assert_eq!(SILENT, u64::from(ContextLow::new().with_silent(true)));
        let root = memory.allocate("root table", PAGE_SIZE)?;
        Ok(Self { root, silent: silent_table(memory)? })
    }

    /// Where the root table is.
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// A device's entry, which is made if it isn't there.
    pub fn entry_or_create(&self, memory: &Shared<impl Memory>, device: DeviceId) -> Result<Hpa, Error> {
        let at = self.root_entry(device);
        let root = Root::from(memory.read64(at));
        let mut table = Hpa(root.table() << 12);
        if !root.present() || table == self.silent {
            // What is silent stays so.
            table = if root.present() {
                silent_table(memory)?
            } else {
                memory.allocate("context table", PAGE_SIZE)?
            };
            lead_to(memory, at, table);
        }
        Ok(Hpa(table.0.wrapping_add(u64::from(device.0 & 0xff) * ENTRY_BYTES)))
    }

    /// Has a device's requests be blocked without a record. One whose bus has no table takes that along, which needs no memory. The unit
    /// must then be told to forget what it holds of it.
    pub fn silence(&self, memory: &Shared<impl Memory>, device: DeviceId) {
        let at = self.root_entry(device);
        let root = Root::from(memory.read64(at));
        if !root.present() {
            lead_to(memory, at, self.silent);
        } else if root.table() << 12 != self.silent.0 {
            let entry = (root.table() << 12).wrapping_add(u64::from(device.0 & 0xff) * ENTRY_BYTES);
            memory.write64(Hpa(entry), SILENT);
        }
    }

    fn root_entry(&self, device: DeviceId) -> Hpa {
        Hpa(self.root.0.wrapping_add(u64::from(device.0 >> 8) * ENTRY_BYTES))
    }
}

/// Writes a root entry.
fn lead_to(memory: &Shared<impl Memory>, at: Hpa, table: Hpa) {
    // What is in the table is there before the unit can find it.
    memory.barrier();
    memory.write64(at, Root::new().with_present(true).with_table(table.0 >> 12).into());
    memory.barrier();
}

/// A context table in which every device is blocked without a record.
fn silent_table(memory: &Shared<impl Memory>) -> Result<Hpa, Error> {
    let table = memory.allocate("context table", PAGE_SIZE)?;
    for at in (table.0..).step_by(ENTRY_BYTES as usize).take((PAGE_SIZE / ENTRY_BYTES) as usize) {
        memory.write64(Hpa(at), SILENT);
    }
    Ok(table)
}
