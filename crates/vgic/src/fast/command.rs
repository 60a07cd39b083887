//! The command by which software makes an LPI pending, INT, where it is the only one that waits: carried out without the run loop.

use axvm_addr::Gpa;

use super::Local;
use crate::Vgic;
use crate::id::{ItsDeviceId, ItsEventId};
use crate::its::{Event, ItsState, command_words};
use crate::lists::{HardwareLists, ListRegisters};
use crate::shared::Shared;
use crate::spec::its_command::{COMMAND_BYTES, Command};
use crate::spec::its_registers::{QUEUE_OFFSET, VALID, cbaser_address, cbaser_bytes};

impl Vgic {
    /// A write of `value` to GITS_CWRITER by a vCPU, on its own CPU. Whether it was carried out; if not, nothing has changed.
    pub fn fast_command(
        &self,
        local: Local<'_>,
        value: u64,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let Some(mut its) = self.its.as_ref().and_then(|its| its.try_lock()) else { return false };
        let end = value & QUEUE_OFFSET;
        let Some((device, id, event)) = its.only_int(&self.shared, end) else { return false };
        let done = if self.config().hardware_lpis() {
            self.shared.backend().raise_event(device, id).is_ok()
        } else {
            // With the lock of the tables held, so that the handle stays the event's.
            self.shared
                .try_lock()
                .is_some_and(|mut state| state.list_now(local, event.handle, registers, hardware))
        };
        if done {
            (its.cwriter, its.creadr) = (end, end);
        }
        done
    }
}

impl ItsState {
    /// The event that the only command in a queue up to `end` raises, if that is what it does and nothing is wrong with it.
    fn only_int(&self, shared: &Shared, end: u64) -> Option<(ItsDeviceId, ItsEventId, Event)> {
        let bytes = cbaser_bytes(self.cbaser);
        let ready = self.enabled && self.cbaser & VALID != 0 && self.creadr == self.cwriter;
        if !ready || end >= bytes || end != (self.creadr + COMMAND_BYTES) % bytes {
            return None;
        }
        let address = Gpa(cbaser_address(self.cbaser).wrapping_add(self.creadr));
        let Command::Int { device, event: id } = Command::decode(&command_words(shared, address).ok()?)?
        else {
            return None;
        };
        let event = self.tables.translate(device, id)?;
        let inside = u64::from(device.0) < self.device_entries()
            && u64::from(event.collection) < self.collection_entries();
        (inside && self.tables.target(event.collection).is_some()).then_some((device, id, event))
    }
}
