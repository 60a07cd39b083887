//! An interrupt that comes again after the guest has ended the last one.

use super::Local;
use crate::Vgic;
use crate::id::Intid;
use crate::its::Message;
use crate::lists::{HardwareLists, ListRegisters};

impl Vgic {
    /// A physical SPI or PPI has arrived at EL2 on the CPU of a vCPU, as for [`Vgic::hardware_spi`] and
    /// [`Vgic::hardware_ppi`]. Whether it was made pending; if not, nothing has changed.
    #[inline(always)]
    pub fn fast_hardware(
        local: Local<'_>,
        host: Intid,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        registers.again(local.signal, hardware, |it| it.is_pending_hardware() && it.host_field() == host)
    }

    /// The physical LPI of a message has arrived at EL2 on the CPU of a vCPU, as for [`Vgic::hardware_lpi`]. Whether it was made
    /// pending; if not, nothing has changed.
    #[inline(always)]
    pub fn fast_message(
        &self,
        local: Local<'_>,
        message: Message,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        message.generation == self.shared.its_generation()
            && registers.message_again(local.signal, hardware, message.lpi)
    }
}
