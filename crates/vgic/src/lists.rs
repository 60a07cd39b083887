//! The list registers of a vCPU as values, and what can be done with them alone: an interrupt that comes again after the guest has
//! ended the last one goes where that was.
//!
//! An interrupt stays noted in its place ([`Held`](crate::irq::Held)) until its vCPU's list registers are synced, even when the
//! guest has long ended it. If it comes again before that, and nothing else about it has changed since it was put there,
//! the same value goes into the same list register. Whether something has changed is known without asking: whatever
//! changes makes the vCPU's registers stale, and kicks it. A change that is made at the same time finds an interrupt
//! that came just before it.

use core::sync::atomic::Ordering;

use crate::id::Intid;
use crate::signal::Signal;
use crate::spec::list_register::{HCR_EN, LIST_REGISTERS_MAX, ListRegister, hcr_eoi_count};

/// The calling CPU's list registers, which hold what the guest that was just left has in them.
pub trait HardwareLists {
    /// Reads ICH_LR\<index\>_EL2; `None` where the fast path doesn't.
    fn read(&self, index: usize) -> Option<u64>;
    /// Writes ICH_LR\<index\>_EL2, which can be read.
    fn write(&self, index: usize, value: u64);
}

/// The list registers of one vCPU, as they are to be written before it enters the guest, or were read after
/// it left.
///
/// Before entry, after [`crate::Vgic::flush`]: if [`Self::to_write`] isn't zero, write `lr[..to_write]` to
/// ICH_LR\<n\>_EL2 and `hcr` (with the hypervisor's own trap bits added) to ICH_HCR_EL2, and set it to zero.
/// After exit, before [`crate::Vgic::sync`]: read `lr[..count]` back, and, if `hcr` has
/// [`HCR_LRENPIE`](crate::spec::list_register::HCR_LRENPIE),
/// ICH_HCR_EL2 into `hcr`.
///
/// They come from [`crate::Vgic::switch_on`] and end in [`crate::Vgic::switch_off`]: what is in them is nowhere else.
#[derive(Debug)]
#[must_use = "the interrupts in them would be lost: give them back by `Vgic::switch_off`"]
pub struct ListRegisters {
    /// The values of ICH_LR\<n\>_EL2.
    pub lr: [u64; LIST_REGISTERS_MAX],
    /// How many, from the first, have an interrupt.
    pub count: usize,
    /// How many, from the first, are to be written.
    pub to_write: usize,
    /// The bits of ICH_HCR_EL2 that are the virtual GIC's: En, NPIE, LRENPIE, TDIR, and EOIcount when it was read
    /// back.
    pub hcr: u64,
    /// What was last put into `lr`.
    written: [u64; LIST_REGISTERS_MAX],
    /// How many interrupts the guest has taken that were made pending again where they were.
    pub(crate) repeated: u64,
}

impl ListRegisters {
    /// All empty, and all to be written: [`crate::Vgic::flush`] reduces that to those that the CPU has.
    pub(crate) const fn new() -> Self {
        Self {
            lr: [0; LIST_REGISTERS_MAX],
            count: 0,
            to_write: LIST_REGISTERS_MAX,
            hcr: HCR_EN,
            written: [0; LIST_REGISTERS_MAX],
            repeated: 0,
        }
    }

    /// Whether the guest has changed nothing in them.
    pub fn is_unchanged(&self) -> bool {
        self.lr.iter().zip(&self.written).take(self.count).all(|(now, then)| now == then)
            && hcr_eoi_count(self.hcr) == 0
    }

    /// Which of them an interrupt was last put into.
    pub(crate) fn slot_of(&self, intid: Intid) -> Option<usize> {
        self.written().iter().position(|value| ListRegister(*value).intid() == intid)
    }

    /// What was last put into those that have an interrupt.
    pub(crate) fn written(&self) -> &[u64] {
        self.written.get(..self.count).unwrap_or_default()
    }

    pub(crate) fn set(&mut self, position: usize, value: u64) {
        for array in [&mut self.lr, &mut self.written] {
            if let Some(slot) = array.get_mut(position) {
                *slot = value;
            }
        }
    }
}

impl ListRegisters {
    /// Makes an interrupt pending once more that was put into one of these as pending, and that the guest has since taken
    /// and ended. Whether that could be done.
    #[inline(always)]
    pub(crate) fn again(
        &mut self,
        signal: &Signal,
        hardware: &impl HardwareLists,
        is: impl Fn(ListRegister) -> bool,
    ) -> bool {
        let Some((slot, value)) = self.unchanged(signal, is) else { return false };
        if hardware.read(slot).is_none_or(|now| ListRegister(now).in_use()) {
            return false;
        }
        self.repeat(hardware, slot, value);
        true
    }

    /// Makes an LPI pending once more that was put into one of these as pending. Whether that could be done. One that still waits
    /// is pending as it is; one that the guest has taken is over, whether its handler is or not: its end finds it in no list
    /// register, which is nothing to an LPI.
    #[inline(always)]
    pub(crate) fn message_again(
        &mut self,
        signal: &Signal,
        hardware: &impl HardwareLists,
        lpi: Intid,
    ) -> bool {
        let Some((slot, value)) = self.unchanged(signal, |it| it.is_pending_software(lpi)) else {
            return false;
        };
        let Some(now) = hardware.read(slot) else { return false };
        if !ListRegister(now).state().pending {
            self.repeat(hardware, slot, value);
        }
        true
    }

    /// Which of these an interrupt was put into, and as what, if nothing else is to be looked at.
    #[inline(always)]
    fn unchanged(&self, signal: &Signal, is: impl Fn(ListRegister) -> bool) -> Option<(usize, u64)> {
        if self.to_write != 0 || self.hcr != HCR_EN || signal.stale.load(Ordering::Acquire) {
            return None;
        }
        let mut values = self.written().iter().enumerate();
        values.find(|(_, value)| is(ListRegister(**value))).map(|(slot, value)| (slot, *value))
    }

    #[inline(always)]
    fn repeat(&mut self, hardware: &impl HardwareLists, slot: usize, value: u64) {
        hardware.write(slot, value);
        self.repeated = self.repeated.wrapping_add(1);
    }
}
