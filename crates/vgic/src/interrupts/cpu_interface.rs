//! The list registers of a vCPU: filled before it enters the guest, read back after it has left (IHI 0069,
//! chapter 6).
//!
//! Between the two, what is in a list register belongs to the hardware; [`Held`] keeps what the rest of the
//! virtual GIC wants of it. If neither side has changed anything, neither [`Interrupts::sync`] nor
//! [`Interrupts::flush`] is needed, and [`ListRegisters::is_unchanged`] knows.

use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;

use super::{Handle, Interrupts};
use crate::id::Intid;
use crate::irq::{End, Held, Irq, Waiting};
use crate::lists::ListRegisters;
use crate::spec::list_register::{
    HCR_EN, HCR_LRENPIE, HCR_NPIE, HCR_TDIR, LIST_REGISTERS_MAX, ListRegister, State, hcr_eoi_count,
};
use crate::spec::{Group, Trigger};

impl Interrupts {
    /// Takes back what is in the list registers of `vcpu`.
    pub(crate) fn sync(&mut self, vcpu: VcpuId, registers: &mut ListRegisters) {
        let Some(cpu) = self.cpu_mut(vcpu) else { return };
        let count = core::mem::take(&mut cpu.held_count);
        // First, while it still shows what was in no list register.
        for _ in 0..hcr_eoi_count(registers.hcr) {
            self.end_unlisted(vcpu);
        }
        for (position, value) in registers.lr.iter().enumerate().take(count) {
            let Some(handle) = self.cpu(vcpu).and_then(|cpu| cpu.held.get(position).copied()) else { break };
            self.take_back(vcpu, handle, ListRegister(*value).state());
        }
        registers.hcr &= HCR_EN | HCR_NPIE | HCR_LRENPIE | HCR_TDIR;
        let repeated = core::mem::take(&mut registers.repeated);
        // The registers are to be filled anew, even if nothing is left for them.
        self.make_stale(vcpu);
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.taken = cpu.taken.wrapping_add(repeated);
        }
    }

    /// Takes one interrupt back that was found in a list register in state `now`.
    fn take_back(&mut self, vcpu: VcpuId, handle: Handle, now: State) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let Some(held) = irq.held.filter(|h| h.vcpu == vcpu) else { return };
        irq.held = None;
        let taken = held.waiting != Waiting::Nothing && !now.pending;
        let dropped = held.waiting == Waiting::Cancelled && now.pending;
        let again = held.waiting == Waiting::LatchAndAgain && taken;
        let ended_by_write = now.active && held.force_active == Some(false);
        if now.pending && matches!(held.waiting, Waiting::Latch | Waiting::LatchAndAgain) {
            irq.latch = true;
        }
        if taken {
            irq.note_pended(again);
        }
        let active = irq.has_active_state() && held.force_active.unwrap_or(now.active);
        irq.active = active.then_some(vcpu);
        if again {
            self.set_host_pending(handle, true);
        }
        let Some(irq) = self.irq(handle) else { return };
        // A linked physical interrupt is active as long as the guest hasn't ended this one; here it won't,
        // any more. A masked one waits for any end.
        if irq.is_done() && (irq.is_held_by_mask() || dropped || ended_by_write) {
            self.release_host(handle);
        }
        if taken && let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.taken = cpu.taken.wrapping_add(1);
        }
        self.update(handle);
        self.free_if_gone(handle);
    }

    /// The guest has ended an interrupt that was in no list register: by the rules of priority that is the
    /// active one of highest priority.
    fn end_unlisted(&mut self, vcpu: VcpuId) {
        let Some(cpu) = self.cpu(vcpu) else { return };
        let ended = cpu
            .list
            .iter()
            .filter_map(|handle| self.irq(*handle).map(|irq| (*handle, irq)))
            .filter(|(_, irq)| irq.active.is_some() && irq.held.is_none())
            .min_by_key(|(_, irq)| (irq.priority, irq.intid))
            .map(|(handle, _)| handle);
        if let Some(handle) = ended {
            self.deactivate(handle);
        }
    }

    /// Ends the active state of an interrupt that is in no list register.
    pub(crate) fn deactivate(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        if irq.active.take().is_none() {
            return;
        }
        // If it is pending too, the physical interrupt is held on account of that.
        if irq.is_done() {
            self.release_host(handle);
        }
        self.update(handle);
    }

    /// Fills the list registers of `vcpu` with what concerns it most: what is pending, by priority, then what is active there.
    ///
    /// What is active needs no list register: the CPU interface knows the running priority by itself, and says how many
    /// interrupts were ended that it had in none (EOIcount). Of LPIs it doesn't say, and needn't: they are never active here. What
    /// is pending needs one, however many are active: it may be more urgent than all of those. In two steps (EOImode) the guest ends
    /// interrupts in an order of its own, which a count doesn't tell: then its writes of ICC_DIR_EL1 are trapped ([`crate::Vgic::deactivate`]).
    pub(crate) fn flush(&mut self, vcpu: VcpuId, registers: &mut ListRegisters) {
        let nothing = self.cpu(vcpu).is_some_and(|cpu| cpu.held_count == 0) && registers.repeated == 0;
        if !nothing || hcr_eoi_count(registers.hcr) != 0 {
            self.sync(vcpu, registers);
        }
        self.take_mail(vcpu);
        let most = self.list_registers;
        let Some((cpu, irqs)) = self.cpu_and_irqs(vcpu) else { return };
        let waiting = cpu.list.len();
        if waiting > most {
            choose(&mut cpu.list, most, |handle| {
                irqs.get(*handle).map(|irq| (irq.active.is_some(), irq.priority, irq.intid))
            });
        }
        let count = waiting.min(most).min(LIST_REGISTERS_MAX);
        for position in 0..count {
            let Some(cpu) = self.cpu_mut(vcpu) else { return };
            let (Some(handle), Some(slot)) = (cpu.list.get(position), cpu.held.get_mut(position)) else {
                break;
            };
            *slot = *handle;
            let handle = *handle;
            let value = self.put(vcpu, handle);
            registers.set(position, value);
        }
        for position in count..registers.count {
            registers.set(position, 0);
        }
        registers.to_write = registers.to_write.max(registers.count).max(count).clamp(1, most);
        registers.count = count;
        registers.hcr = HCR_EN;
        if waiting > most {
            let unlisted = self.cpu(vcpu).map_or(&[][..], |cpu| cpu.list.get(most..).unwrap_or_default());
            let active = |handle: &Handle| self.irq(*handle).is_some_and(|irq| irq.active.is_some());
            if !unlisted.iter().all(active) {
                registers.hcr |= HCR_NPIE;
            }
            if unlisted.iter().any(active) {
                registers.hcr |= HCR_LRENPIE | HCR_TDIR;
            }
        }
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.held_count = count;
            cpu.wants_kick = true;
        }
        if let Some(signal) = self.signals.get(usize::from(vcpu.0)) {
            signal.stale.store(false, Ordering::Release);
        }
    }

    /// Latches what is in the mailbox of `vcpu`.
    pub(crate) fn take_mail(&mut self, vcpu: VcpuId) {
        let Some(signal) = self.signals.get(usize::from(vcpu.0)) else { return };
        let mut sgis = signal.sgis.swap(0, Ordering::AcqRel);
        while sgis != 0 {
            let intid = Intid(sgis.trailing_zeros());
            sgis &= sgis - 1;
            // ICC_SGI1R_EL1 raises SGIs of group 1 only.
            if let Some(handle) = self.find(vcpu, intid)
                && self.irq(handle).is_some_and(|irq| irq.group == Group::One)
            {
                self.latch(handle);
            }
        }
    }

    /// Puts an interrupt into a list register of `vcpu`, and returns the register's value.
    pub(crate) fn put(&mut self, vcpu: VcpuId, handle: Handle) -> u64 {
        let Some(irq) = self.irq(handle) else { return 0 };
        let deliverable = self.is_deliverable(irq) && irq.target_is(vcpu);
        // Pending and active at once is for edges that software made up: a hardware interrupt comes again
        // from the physical GIC when the first has ended, and a level is looked at again then.
        let active = irq.active.is_some();
        let made_up = irq.trigger == Trigger::Edge && irq.host().is_none();
        let pending = deliverable && (!active || made_up);
        let state = State { pending, active };
        let value = match irq.end() {
            End::EndsPhysical(host) => {
                ListRegister::hardware(irq.intid, host, irq.priority, irq.group, state)
            }
            end => {
                // What is kept back is looked at when this has ended.
                let eoi = end == End::Exit || (active && !pending && irq.is_pending());
                ListRegister::software(irq.intid, irq.priority, irq.group, state, eoi)
            }
        };
        if let Some(irq) = self.irq_mut(handle) {
            let waiting = match pending {
                false => Waiting::Nothing,
                true if core::mem::take(&mut irq.latch) => Waiting::Latch,
                true => Waiting::Level,
            };
            irq.held = Some(Held { vcpu, waiting, force_active: None });
        }
        value.0
    }

    /// Whether an interrupt can be delivered to `vcpu`, by its list registers or once they are filled.
    pub(crate) fn has_pending(&mut self, vcpu: VcpuId) -> bool {
        self.take_mail(vcpu);
        let Some(cpu) = self.cpu(vcpu) else { return false };
        let pending = cpu.list.iter().filter_map(|handle| self.irq(*handle)).any(|irq| {
            irq.shows_pending() && self.is_forwarded(irq) && (irq.held.is_some() || irq.target_is(vcpu))
        });
        if !pending && let Some(cpu) = self.cpu_mut(vcpu) {
            // It may go to sleep on this answer: the next change has to wake it.
            cpu.wants_kick = true;
        }
        pending
    }

    /// The list registers of `vcpu`, which starts: all empty, and to be written. `None` if those of its last start haven't come
    /// back.
    ///
    /// What its redistributor and the distributor know is as it was: switching a processor off and on resets its CPU interface
    /// alone, the redistributor need not be in its power domain (IHI 0069, 11.1). What is pending comes, and what is active has
    /// still to be ended.
    pub(crate) fn switch_on(&mut self, vcpu: VcpuId) -> Option<ListRegisters> {
        let cpu = self.cpu_mut(vcpu)?;
        if core::mem::replace(&mut cpu.on, true) {
            return None;
        }
        Some(ListRegisters::new())
    }

    /// Takes back the list registers of `vcpu`, which has left the guest for good: what is in them waits for it.
    pub(crate) fn switch_off(&mut self, vcpu: VcpuId, mut registers: ListRegisters) {
        self.sync(vcpu, &mut registers);
        self.take_mail(vcpu);
        // A processor that is off has no timers, so that no level stands behind those of their interrupts that wait. The physical
        // GIC says what does when it is on again, as long as they aren't active there.
        for intid in self.hardware_ppis.clone() {
            if let Some(handle) = self.find(vcpu, intid)
                && self.irq(handle).is_some_and(|irq| irq.latch && irq.active.is_none())
            {
                self.give_back_now(handle);
                self.update(handle);
            }
        }
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.on = false;
        }
    }
}

/// Brings the `most` elements with the smallest keys to the front, in no order among themselves.
fn choose<T, K: Ord>(list: &mut [T], most: usize, key: impl Fn(&T) -> K) {
    let Some((chosen, rest)) = list.split_at_mut_checked(most) else { return };
    let largest = |chosen: &[T]| {
        let places = chosen.iter().map(&key).enumerate();
        places.max_by(|(_, a), (_, b)| a.cmp(b)).map_or(0, |(place, _)| place)
    };
    let mut place = largest(chosen);
    for other in rest {
        if let Some(one) = chosen.get_mut(place)
            && key(other) < key(one)
        {
            core::mem::swap(other, one);
            place = largest(chosen);
        }
    }
}

impl Irq {
    /// Whether it goes to `vcpu`. While it is active elsewhere it stays there.
    fn target_is(&self, vcpu: VcpuId) -> bool {
        self.target == Some(vcpu)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_smallest_keys_come_first(keys in prop::collection::vec(0u8..20, 0..60), most in 1usize..17) {
            let mut list = keys.clone();
            choose(&mut list, most, |key| *key);
            let (chosen, rest) = list.split_at(most.min(list.len()));
            let largest = chosen.iter().max();
            prop_assert!(rest.iter().all(|key| Some(key) >= largest), "{list:?}");
            let (mut before, mut after) = (keys, list);
            before.sort_unstable();
            after.sort_unstable();
            prop_assert_eq!(before, after);
        }
    }
}
