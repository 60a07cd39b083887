//! LPIs: which exist, and what ITS commands do to them.

use axvm_addr::VcpuId;

use super::{Handle, Interrupts};
use crate::backend::LPI_PIECE;
use crate::id::Intid;
use crate::irq::{Irq, Kind, Mapped};
use crate::spec::redistributor::LpiProperty;

/// How many LPIs that no event is mapped to are kept at once, of a VM: the rest waits in the guest's memory, so that this takes no
/// more of the hypervisor's.
pub(crate) const STRAYS_MAX: usize = 64;

impl Interrupts {
    /// Counts one more event that is mapped to `lpi`, which comes into being with the first.
    pub(crate) fn bind_lpi(&mut self, lpi: Intid) -> Handle {
        let handle = self.lpi(lpi);
        if let Some(Irq { kind: Kind::Lpi(mapped), .. }) = self.irq_mut(handle) {
            match mapped {
                Mapped::Events(events) => *events = events.saturating_add(1),
                Mapped::Stray => {
                    *mapped = Mapped::Events(1);
                    self.strays = self.strays.saturating_sub(1);
                }
            }
        }
        handle
    }

    /// The LPI of this number, which comes into being if there is none yet.
    fn lpi(&mut self, lpi: Intid) -> Handle {
        if let Some(handle) = self.find_lpi(lpi) {
            return handle;
        }
        let new = Irq::new(lpi, Kind::Lpi(Mapped::Events(0)), None);
        let handle = match self.free_lpis.pop() {
            Some(free) => {
                if let Some(irq) = self.irq_mut(free) {
                    *irq = new;
                }
                free
            }
            None => {
                self.irqs.push(new);
                Handle((self.irqs.len() - 1) as u32)
            }
        };
        self.lpis.insert(lpi.0, handle);
        handle
    }

    /// Counts one event less. The LPI of the last one is gone, its pending state with it.
    pub(crate) fn unbind_lpi(&mut self, handle: Handle) {
        if let Some(Irq { kind: Kind::Lpi(Mapped::Events(events @ 1..)), .. }) = self.irq_mut(handle) {
            *events -= 1;
            if *events == 0 {
                self.remove_lpi(handle);
            }
        }
    }

    /// An LPI that no event is mapped to any more is gone, as soon as no list register holds it.
    fn remove_lpi(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let (lpi, held) = (irq.intid, irq.held.is_some());
        irq.kind = Kind::Lpi(Mapped::Events(0));
        irq.latch = false;
        irq.enabled = false;
        if let Some(held) = &mut irq.held {
            held.cancel();
        }
        self.lpis.remove(&lpi.0);
        self.update(handle);
        if !held {
            self.free_lpis.push(handle);
        }
    }

    /// A message has arrived. A redistributor whose LPIs are disabled ignores it (IHI 0069, GICR_CTLR.EnableLPIs).
    pub(crate) fn message(&mut self, handle: Handle) {
        let target = self.irq(handle).and_then(|irq| irq.target);
        if target.and_then(|vcpu| self.cpu(vcpu)).is_none_or(|cpu| cpu.lpis_enabled) {
            self.latch(handle);
        }
    }

    /// Takes the pending state of LPIs that are pending for a vCPU: of the first from this number on, and of those in one piece with it
    /// ([`LPI_PIECE`]). Returns where the piece begins, and a bit for each. What is in a list register of another vCPU than `current`
    /// may have been taken there, and is left alone: if it hasn't, it stays pending.
    pub(crate) fn take_pending_lpis(
        &mut self,
        current: VcpuId,
        vcpu: VcpuId,
        from: u32,
    ) -> Option<(u32, [u8; LPI_PIECE / 8])> {
        let pending = |irq: &Irq| {
            let known = irq.held.is_none_or(|held| held.vcpu == current);
            irq.target == Some(vcpu) && known && irq.shows_pending()
        };
        let mut piece = None;
        let mut index = self.lpis.find_index(&from).unwrap_or_else(|at| at);
        while let Some((&lpi, &handle)) = self.lpis.get_indexed(index) {
            index += 1;
            if !self.irq(handle).is_some_and(pending) {
                continue;
            }
            let (first, bits) = piece.get_or_insert((lpi & !(LPI_PIECE as u32 - 1), [0; LPI_PIECE / 8]));
            let Some(byte) = bits.get_mut(((lpi - *first) / 8) as usize) else { break };
            *byte |= 1 << (lpi % 8);
            self.clear_lpi(handle);
            if self.end_stray(handle) {
                // It is no more, and the next one has its place.
                index -= 1;
            }
        }
        piece
    }

    /// Makes an LPI pending for a vCPU that no event is mapped to, until it is taken. Whether there was room for it.
    pub(crate) fn add_stray(&mut self, lpi: Intid, vcpu: VcpuId, property: LpiProperty) -> bool {
        if self.strays >= STRAYS_MAX {
            return false;
        }
        self.strays += 1;
        let handle = self.lpi(lpi);
        if let Some(irq) = self.irq_mut(handle) {
            irq.kind = Kind::Lpi(Mapped::Stray);
            irq.target = Some(vcpu);
        }
        self.configure_lpi(handle, property);
        self.latch(handle);
        true
    }

    /// Forgets one of these if it has been taken; or an LPI that went while a list register held it.
    pub(crate) fn free_if_gone(&mut self, handle: Handle) {
        let Some(irq) = self.irq(handle) else { return };
        match irq.kind {
            Kind::Lpi(Mapped::Events(0)) => self.free_lpis.push(handle),
            Kind::Lpi(Mapped::Stray) if !irq.latch => {
                self.end_stray(handle);
            }
            _ => {}
        }
    }

    /// Forgets that it is pending without an event. Whether it was.
    fn end_stray(&mut self, handle: Handle) -> bool {
        let stray = self.irq(handle).is_some_and(Irq::is_stray);
        if stray {
            self.strays = self.strays.saturating_sub(1);
            self.remove_lpi(handle);
        }
        stray
    }

    /// Takes one of these away that may not have been taken. For which vCPU it was.
    pub(crate) fn take_stray(&mut self, lpi: Intid) -> Option<VcpuId> {
        let handle = self.find_lpi(lpi)?;
        let vcpu = self.irq(handle).filter(|irq| irq.is_stray())?.target;
        self.end_stray(handle);
        vcpu
    }

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

    /// Drops the pending state, by a command: a redistributor whose LPIs are disabled ignores commands about them (IHI 0069,
    /// GICR_CTLR.EnableLPIs).
    pub(crate) fn clear_enabled_lpi(&mut self, handle: Handle) {
        let target = self.irq(handle).and_then(|irq| irq.target);
        if target.and_then(|vcpu| self.cpu(vcpu)).is_none_or(|cpu| cpu.lpis_enabled) {
            self.clear_lpi(handle);
        }
    }

    /// Drops the pending state.
    pub(crate) fn clear_lpi(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        irq.latch = false;
        if let Some(held) = &mut irq.held {
            held.cancel();
        }
        self.update(handle);
    }

    /// Moves all LPIs of one vCPU to another. Returns how many interrupts it looked at.
    pub(crate) fn move_lpis(&mut self, from: VcpuId, to: VcpuId) -> usize {
        self.for_each(|state, handle| {
            if state.irq(handle).is_some_and(|irq| irq.is_lpi() && irq.target == Some(from)) {
                state.set_lpi_target(handle, Some(to));
            }
        })
    }
}
