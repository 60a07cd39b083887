//! The registers that have a field for each interrupt. They mean the same in the distributor, for SPIs, and
//! in a redistributor's SGI frame, for SGIs and PPIs (IHI 0069, 12.9 and 12.11).

use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;

use super::{Handle, Interrupts};
use crate::id::Intid;
use crate::irq::{Held, Kind};
use crate::spec::distributor::Bank;
use crate::spec::{AFFINITY_MASK, Group, Trigger};

impl Interrupts {
    /// Reads word `word` of a register array of one bit for each interrupt.
    pub(crate) fn read_bank(&self, vcpu: VcpuId, bank: Bank, word: u32) -> u32 {
        let mut value = 0;
        for bit in 0..32 {
            let Some(irq) = self.find(vcpu, Intid(word * 32 + bit)).and_then(|h| self.irq(h)) else {
                continue;
            };
            let hardware = || self.host_state(irq);
            let set = match bank {
                Bank::SetPending | Bank::ClearPending if self.direct.is_some() => hardware().pending,
                Bank::SetActive | Bank::ClearActive if self.direct.is_some() => hardware().active,
                Bank::Group => irq.group == Group::One,
                Bank::SetEnable | Bank::ClearEnable => irq.enabled,
                // A level that is up, or what was made pending while it is disabled or active, waits in the hardware.
                Bank::SetPending | Bank::ClearPending => irq.shows_pending() || hardware().pending,
                Bank::SetActive | Bank::ClearActive => irq.shows_active(),
            };
            value |= u32::from(set) << bit;
        }
        value
    }

    /// Keeps an SGI's group where it can be looked at without the lock.
    fn note_group(&self, vcpu: VcpuId, intid: u32, group: Group) {
        if let Some(signal) = self.signals.get(usize::from(vcpu.0))
            && intid < 16
        {
            let others = signal.group0_sgis.load(Ordering::Relaxed) & !(1 << intid);
            signal.group0_sgis.store(others | u32::from(group == Group::Zero) << intid, Ordering::Relaxed);
        }
    }

    /// Before pending or active state is read: vCPUs that have one of the interrupts in their list registers are to look
    /// at it. What they find is seen by the next read, so that who waits for the end of an interrupt elsewhere sees it.
    pub(crate) fn ask_holders(&mut self, vcpu: VcpuId, bank: Bank, word: u32) {
        if matches!(bank, Bank::Group | Bank::SetEnable | Bank::ClearEnable) {
            return;
        }
        for bit in 0..32 {
            let irq = self.find(vcpu, Intid(word * 32 + bit)).and_then(|handle| self.irq(handle));
            if let Some(held) = irq.and_then(|irq| irq.held) {
                self.make_stale(held.vcpu);
            }
        }
    }

    /// Writes word `word` of a register array of one bit for each interrupt.
    pub(crate) fn write_bank(&mut self, vcpu: VcpuId, bank: Bank, word: u32, value: u32) {
        let mut left = if bank == Bank::Group { u32::MAX } else { value };
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            let set = value >> bit & 1 != 0;
            let Some(handle) = self.find(vcpu, Intid(word * 32 + bit)) else { continue };
            match bank {
                Bank::Group => {
                    let group = if set { Group::One } else { Group::Zero };
                    if let Some(irq) = self.irq_mut(handle)
                        && core::mem::replace(&mut irq.group, group) != group
                    {
                        self.note_group(vcpu, word * 32 + bit, group);
                        if self.direct.is_some() {
                            self.mirror(handle);
                        }
                        self.update(handle);
                    }
                }
                Bank::SetEnable => self.set_enabled(handle, true),
                Bank::ClearEnable => self.set_enabled(handle, false),
                Bank::SetPending => self.set_pending(handle),
                Bank::ClearPending => self.clear_pending(handle),
                Bank::SetActive => self.set_active(handle),
                Bank::ClearActive => self.clear_active(handle),
            }
        }
    }

    fn set_enabled(&mut self, handle: Handle, enabled: bool) {
        let Some(irq) = self.irq_mut(handle) else { return };
        if irq.enabled == enabled {
            return;
        }
        irq.enabled = enabled;
        let intid = irq.intid;
        self.switches.note(intid, enabled);
        self.mirror(handle);
        self.update(handle);
    }

    fn set_pending(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        // A physical interrupt is made pending where it comes from, and then arrives as it always does.
        if irq.host().is_none() {
            return self.latch(handle);
        }
        irq.note_pended(true);
        // What has arrived and waits for the guest is pending as it is, and comes once.
        if irq.held.as_mut().is_some_and(Held::ask_again) {
            self.update(handle);
        } else if !irq.latch {
            self.pend_host(handle);
        }
    }

    /// Makes a physical interrupt pending. If it would arrive at once, it has: that saves the way over the hardware.
    fn pend_host(&mut self, handle: Handle) {
        let Some(irq) = self.irq(handle) else { return };
        let comes = self.direct.is_none() && irq.is_done() && irq.target.is_some() && self.is_forwarded(irq);
        if !comes {
            return self.set_host_pending(handle, true);
        }
        self.hold_host(handle);
        self.latch(handle);
    }

    fn clear_pending(&mut self, handle: Handle) {
        if self.direct.is_some() {
            return self.set_host_pending(handle, false);
        }
        let Some(irq) = self.irq_mut(handle) else { return };
        let latch = core::mem::take(&mut irq.latch);
        irq.note_pended(false);
        let physical = irq.host().is_some();
        let quiet = irq.held.is_none() && irq.active.is_none();
        if let Some(held) = &mut irq.held {
            held.cancel();
        }
        if physical {
            self.set_host_pending(handle, false);
            // It was taken at EL2 and so is active there; with nobody to end it, it would never come again.
            if latch && quiet {
                self.release_host(handle);
            }
        }
        self.update(handle);
    }

    fn set_active(&mut self, handle: Handle) {
        if self.direct.is_some() {
            return self.set_host_active(handle, true);
        }
        let Some(irq) = self.irq_mut(handle) else { return };
        let Some(target) = irq.target else { return };
        if let Some(held) = &mut irq.held {
            held.force_active = Some(true);
        } else if irq.active.is_none() {
            irq.active = Some(target);
        } else {
            return;
        }
        self.hold_host(handle);
        self.update(handle);
    }

    pub(crate) fn clear_active(&mut self, handle: Handle) {
        if self.direct.is_some() {
            return self.set_host_active(handle, false);
        }
        let Some(irq) = self.irq_mut(handle) else { return };
        if let Some(held) = &mut irq.held {
            held.force_active = Some(false);
            self.update(handle);
        } else {
            self.deactivate(handle);
        }
    }

    /// Reads `bytes` bytes of IPRIORITYR from that of `first` on.
    pub(crate) fn read_priorities(&self, vcpu: VcpuId, first: u32, bytes: u32) -> u64 {
        (0..bytes.min(4))
            .filter_map(|n| {
                let irq = self.find(vcpu, Intid(first + n)).and_then(|h| self.irq(h))?;
                Some(u64::from(irq.priority) << (n * 8))
            })
            .fold(0, |all, one| all | one)
    }

    /// Writes `bytes` bytes of IPRIORITYR from that of `first` on.
    pub(crate) fn write_priorities(&mut self, vcpu: VcpuId, first: u32, bytes: u32, value: u64) {
        for n in 0..bytes.min(4) {
            let priority = (value >> (n * 8)) as u8 & self.priority_mask;
            let Some(handle) = self.find(vcpu, Intid(first + n)) else { continue };
            if let Some(irq) = self.irq_mut(handle)
                && core::mem::replace(&mut irq.priority, priority) != priority
            {
                self.mirror(handle);
                self.update(handle);
            }
        }
    }

    /// Reads word `word` of ICFGR: two bits for each interrupt, of which the upper one says "edge".
    pub(crate) fn read_config(&self, vcpu: VcpuId, word: u32) -> u32 {
        // SGIs are edges, those too that don't exist for the guest.
        if word == 0 {
            return 0xaaaa_aaaa;
        }
        (0..16)
            .filter_map(|n| {
                let irq = self.find(vcpu, Intid(word * 16 + n)).and_then(|h| self.irq(h))?;
                Some(u32::from(irq.trigger == Trigger::Edge) << (n * 2 + 1))
            })
            .fold(0, |all, one| all | one)
    }

    /// Writes word `word` of ICFGR. SGIs are edges and PPIs levels, whatever is written: the manual allows
    /// that.
    pub(crate) fn write_config(&mut self, vcpu: VcpuId, word: u32, value: u32) {
        for n in 0..16 {
            let trigger = if value >> (n * 2 + 1) & 1 != 0 { Trigger::Edge } else { Trigger::Level };
            let Some(handle) = self.find(vcpu, Intid(word * 16 + n)) else { continue };
            if let Some(irq) = self.irq_mut(handle)
                && matches!(irq.kind, Kind::Spi { .. })
                && core::mem::replace(&mut irq.trigger, trigger) != trigger
            {
                self.mirror(handle);
                self.update(handle);
            }
        }
    }

    /// Reads GICD_IROUTER of `intid`.
    pub(crate) fn read_route(&self, vcpu: VcpuId, intid: Intid) -> u64 {
        match self.find(vcpu, intid).and_then(|handle| self.irq(handle)).map(|irq| irq.kind) {
            Some(Kind::Spi { route }) => route,
            _ => 0,
        }
    }

    /// Writes the bits in `mask` of GICD_IROUTER of `intid`. Interrupt_Routing_Mode stays 0, as
    /// GICD_TYPER.No1N says.
    pub(crate) fn write_route(&mut self, vcpu: VcpuId, intid: Intid, mask: u64, value: u64) {
        let Some(handle) = self.find(vcpu, intid) else { return };
        let Some(Kind::Spi { route }) = self.irq(handle).map(|irq| irq.kind) else { return };
        let route = (route & !mask | value & mask) & AFFINITY_MASK;
        let target = self.vcpu_with_affinity(route);
        let Some(irq) = self.irq_mut(handle) else { return };
        irq.kind = Kind::Spi { route };
        if irq.target != target {
            irq.target = target;
            self.mirror(handle);
            self.update(handle);
        }
    }
}
