//! A device's message that has come for the first time since its event was mapped, or since others had its list register.

use super::Local;
use crate::Vgic;
use crate::id::{ItsDeviceId, ItsEventId};
use crate::its::Message;
use crate::lists::{HardwareLists, ListRegisters};

impl Vgic {
    /// The physical LPI of an event has arrived at EL2 on the CPU of a vCPU, as for [`Vgic::hardware_lpi_here`]: it goes into a list
    /// register that is free. `sender` says which event it is, as for [`Vgic::message`]. Answers what that stands for, for
    /// [`Vgic::fast_message`] when it comes again; `None` if it wasn't made pending, and nothing has changed.
    pub fn fast_first_message(
        &self,
        local: Local<'_>,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> Option<Message> {
        let its = self.its.as_ref()?.try_lock()?;
        let (handle, message) = its.translate(&self.shared, sender)?;
        // With the lock of the tables held, so that the handle stays the event's.
        let listed = self.shared.try_lock()?.list_now(local, handle, registers, hardware);
        listed.then_some(message)
    }
}
