//! Lines of a VM's emulated devices.

use axvm_addr::Irq;
use axvm_axdevice::InterruptLine;

use super::{AxVM, HostError};
use crate::hal::AxVMHal;

impl<H: AxVMHal> AxVM<H> {
    /// Sets the level of an emulated device's line.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn set_irq_level(&self, irq: Irq, high: bool) -> Result<(), HostError<H>> {
        self.hal.set_irq_level(self.plan.id, irq, high)
    }
}

/// What the VM's emulated devices are given as their line.
impl<H: AxVMHal> InterruptLine for AxVM<H>
where
    Self: Send + Sync,
{
    fn set_level(&self, irq: Irq, high: bool) {
        // A device of the VM's own plan, so that there is such a line; a VM that is being taken apart has none any more.
        let _ = self.set_irq_level(irq, high);
    }
}
