//! What software makes pending goes into a list register that is free.

use core::sync::atomic::Ordering;

use super::Local;
use crate::Vgic;
use crate::id::Intid;
use crate::interrupts::{Handle, Interrupts};
use crate::irq::Irq;
use crate::lists::{HardwareLists, ListRegisters};
use crate::spec::SPI_FIRST;
use crate::spec::list_register::HCR_EN;

impl Vgic {
    /// A write of `value` to GICD_ISPENDR\<word\>, on the vCPU's own CPU, that makes one SPI pending. Whether it was done; if not,
    /// nothing has changed.
    pub fn fast_pend(
        &self,
        local: Local<'_>,
        word: u32,
        value: u32,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        if word == 0 || !value.is_power_of_two() {
            return false;
        }
        let Some(mut state) = self.shared.try_lock() else { return false };
        let Some(handle) = state.find(local.vcpu, Intid(word * SPI_FIRST + value.trailing_zeros())) else {
            return true;
        };
        if state.direct.is_some() {
            state.set_host_pending(handle, true);
            return true;
        }
        if state.irq(handle).is_none_or(Irq::is_held_by_mask)
            || state.free_slot(local, handle, registers, hardware).is_none()
        {
            return false;
        }
        if let Some(irq) = state.irq_mut(handle) {
            irq.note_pended(true);
        }
        state.hold_host(handle);
        state.list_now(local, handle, registers, hardware)
    }
}

impl Interrupts {
    /// The list register that an interrupt can be put into here: one that is free, of a vCPU that has nothing else to look at, for
    /// an interrupt of its own that isn't pending, active or listed. It may be pending from now on.
    pub(crate) fn free_slot(
        &self,
        local: Local<'_>,
        handle: Handle,
        registers: &ListRegisters,
        hardware: &impl HardwareLists,
    ) -> Option<usize> {
        let slot = registers.count;
        let (cpu, irq) = (self.cpu(local.vcpu)?, self.irq(handle)?);
        let as_filled = registers.to_write == 0
            && registers.hcr == HCR_EN
            && !local.signal.stale.load(Ordering::Acquire)
            && (cpu.held_count, cpu.list.len()) == (slot, slot);
        let idle = irq.is_done() && !irq.is_pending() && irq.queued.is_none();
        let comes = irq.target == Some(local.vcpu) && self.is_forwarded(irq);
        (as_filled && idle && comes && slot < self.list_registers && hardware.read(slot).is_some())
            .then_some(slot)
    }

    /// Makes an interrupt pending and puts it into a list register. Whether that was done; if not, nothing has changed.
    pub(crate) fn list_now(
        &mut self,
        local: Local<'_>,
        handle: Handle,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let Some(slot) = self.free_slot(local, handle, registers, hardware) else { return false };
        if let Some(irq) = self.irq_mut(handle) {
            irq.latch = true;
            irq.queued = Some(local.vcpu);
        }
        if let Some(cpu) = self.cpu_mut(local.vcpu) {
            // There is room: the list has no more than there are list registers.
            cpu.list.push(handle);
            cpu.held_count = slot + 1;
            if let Some(held) = cpu.held.get_mut(slot) {
                *held = handle;
            }
        }
        let value = self.put(local.vcpu, handle);
        registers.set(slot, value);
        registers.count = slot + 1;
        hardware.write(slot, value);
        true
    }
}
