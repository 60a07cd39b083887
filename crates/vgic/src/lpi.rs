//! What ITS commands do to LPIs.

use axvm_addr::VcpuId;

use crate::interrupts::{Handle, Interrupts};
use crate::irq::Kind;
use crate::spec::redistributor::LpiProperty;

impl Interrupts {
    /// Sends an LPI to another vCPU, or to none. What is pending goes with it.
    pub(crate) fn set_lpi_target(&mut self, handle: Handle, target: Option<VcpuId>) {
        if let Some(irq) = self.irq_mut(handle)
            && core::mem::replace(&mut irq.target, target) != target
        {
            self.update(handle);
        }
    }

    /// Applies what the guest's configuration table says.
    pub(crate) fn configure_lpi(&mut self, handle: Handle, property: LpiProperty) {
        let priority = property.priority & self.priority_mask;
        let Some(irq) = self.irq_mut(handle) else { return };
        if (irq.enabled, irq.priority) != (property.enabled, priority) {
            irq.enabled = property.enabled;
            irq.priority = priority;
            self.update(handle);
        }
    }

    /// Drops the pending state.
    pub(crate) fn clear_lpi(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        irq.latch = false;
        if let Some(held) = &mut irq.held {
            held.cancel = true;
        }
        self.update(handle);
    }

    /// Moves all LPIs of one vCPU to another. Returns how many interrupts it looked at.
    pub(crate) fn move_lpis(&mut self, from: VcpuId, to: VcpuId) -> usize {
        self.for_each(|state, handle| {
            if state.irq(handle).is_some_and(|irq| irq.kind == Kind::Lpi && irq.target == Some(from)) {
                state.set_lpi_target(handle, Some(to));
            }
        })
    }
}
