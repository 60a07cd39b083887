//! What happens most, done without a lock and without reading every list register back: an interrupt that comes again
//! after the guest has ended the last one, and software interrupts. With the lock, if nobody has it: what software makes pending
//! goes into a list register that is free.
//!
//! An interrupt stays where it is ([`Held`](crate::irq::Held)) until its vCPU's list registers are synced, even when the
//! guest has long ended it. If it comes again before that, and nothing else about it has changed since it was put there,
//! the same value goes into the same list register. Whether something has changed is known without asking: whatever
//! changes makes the vCPU's registers stale, and kicks it. A change that is made at the same time finds an interrupt
//! that came just before it.
//!
//! A message needs one thing more, that its event still stands for the same LPI: [`Message`] says which translation it is
//! of, and any ITS command makes it an old one.
//!
//! A software interrupt to another vCPU is a bit in that one's mailbox and a kick. Where anything is in the way, nothing
//! is done, and the caller goes the long way.

use core::sync::atomic::Ordering;

use axvm_addr::{Intid, ItsDeviceId, ItsEventId, VcpuId};

use crate::Vgic;
use crate::cpu_interface::ListRegisters;
use crate::interrupts::{Handle, Interrupts, Signal};
use crate::its::ItsState;
use crate::spec::list_register::{HCR_EN, ListRegister};
use crate::spec::sgi::SgiRequest;

/// What belongs to one vCPU of a VM, looked up once.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    pub(crate) vcpu: VcpuId,
    pub(crate) signal: &'a Signal,
    /// What names it alone in ICC_SGI1R_EL1.
    sgi_target: u64,
}

/// What an event was translated to, as of an ITS command ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    lpi: Intid,
    /// [`Vgic::its_generation`] then.
    generation: u32,
}

/// The calling CPU's list registers, which hold what the guest that was just left has in them.
pub trait HardwareLists {
    /// Reads ICH_LR\<index\>_EL2; `None` where that isn't done at once.
    fn read(&self, index: usize) -> Option<u64>;
    /// Writes ICH_LR\<index\>_EL2, which can be read.
    fn write(&self, index: usize, value: u64);
}

impl Vgic {
    /// For what a vCPU does at once.
    pub fn local(&self, vcpu: VcpuId) -> Option<Local<'_>> {
        let sgi_target = *self.sgi_targets.get(usize::from(vcpu.0))?;
        Some(Local { vcpu, signal: self.signal(vcpu)?, sgi_target })
    }

    fn signal(&self, vcpu: VcpuId) -> Option<&Signal> {
        self.signals.get(usize::from(vcpu.0))
    }

    /// A physical SPI or PPI has arrived at EL2 on the CPU of a vCPU, as for [`Vgic::hardware_spi`] and
    /// [`Vgic::hardware_ppi`]. Whether it was made pending; if not, nothing has changed.
    #[inline(always)]
    pub fn hardware_at_once(
        local: Local<'_>,
        host: Intid,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        registers.again(local.signal, hardware, |it| it.is_pending_hardware() && it.host_field() == host)
    }

    /// What a device's event stands for now, for [`Vgic::message_at_once`]. `sender` says which event: it is asked while no command
    /// of the guest's is carried out, so that what it finds in the backend's tables and what is found here belong together.
    pub fn message(&self, sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>) -> Option<Message> {
        let its = self.its.as_ref()?.lock();
        Some(self.translate(&its, sender)?.1)
    }

    /// What an event stands for. The ITS is locked: no command comes between what is asked here.
    pub(crate) fn translate(
        &self,
        its: &ItsState,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> Option<(Handle, Message)> {
        let (device, event) = sender()?;
        let event = its.is_enabled().then(|| its.tables.translate(device, event))??;
        let generation = self.its_generation.load(Ordering::Acquire);
        Some((event.handle, Message { lpi: event.lpi, generation }))
    }

    /// The physical LPI of a message has arrived at EL2 on the CPU of a vCPU, as for [`Vgic::hardware_lpi`]. Whether it was made
    /// pending; if not, nothing has changed.
    #[inline(always)]
    pub fn message_at_once(
        &self,
        local: Local<'_>,
        message: Message,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        message.generation == self.its_generation.load(Ordering::Acquire)
            && registers.message_again(local.signal, hardware, message.lpi)
    }

    /// Carries out a write of `value` to ICC_SGI1R_EL1, as [`Vgic::send_sgi`]. Whether that was done; if not, nothing has
    /// changed.
    #[inline(always)]
    pub fn send_sgi_at_once(
        &self,
        local: Local<'_>,
        value: u64,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let request = SgiRequest(value);
        let intid = Intid(request.intid());
        if request.target() == local.sgi_target {
            return registers.again(local.signal, hardware, |it| it.is_pending_software(intid));
        }
        // None, or several: the long way.
        let Some(other) = self.sgi_targets.iter().position(|target| *target == request.target()) else {
            return false;
        };
        self.post_sgi(VcpuId(other as u16), intid);
        true
    }

    /// With direct delivery: the software interrupt that a write of `value` to ICC_SGI1R_EL1 by a vCPU raises at itself.
    /// `None` if it isn't one, or not at that one only.
    #[inline(always)]
    pub fn sgi_to_itself(local: Local<'_>, value: u64) -> Option<Intid> {
        let request = SgiRequest(value);
        let group0 = local.signal.group0_sgis.load(Ordering::Relaxed);
        (request.target() == local.sgi_target && group0 >> request.intid() & 1 == 0)
            .then(|| Intid(request.intid()))
    }

    /// With direct delivery: carries out a write of `value` to ICC_SGI1R_EL1, as [`Vgic::send_sgi`]. Whether that was done; if
    /// not, nothing has changed.
    pub fn raise_sgi_at_once(&self, value: u64) -> bool {
        let request = SgiRequest(value);
        let intid = Intid(request.intid());
        let one = self.sgi_targets.iter().position(|target| *target == request.target());
        let (Some(one), Some(state)) = (one, self.try_lock()) else { return false };
        let vcpu = VcpuId(one as u16);
        let irq = state.find(vcpu, intid).and_then(|handle| state.irq(handle));
        if irq.is_some_and(|irq| irq.group1) {
            self.backend().raise_sgi(vcpu, intid);
        }
        true
    }

    /// Puts a software interrupt into the mailbox of a vCPU, and kicks it if it was empty.
    fn post_sgi(&self, vcpu: VcpuId, intid: Intid) {
        let Some(signal) = self.signal(vcpu) else { return };
        if signal.sgis.fetch_or(1 << (intid.0 & 0xf), Ordering::AcqRel) == 0 {
            self.backend().kick(vcpu);
        }
    }

    /// Takes what is in the mailbox of a vCPU, on its own CPU, after a kick. Whether there is nothing more to look at:
    /// then the guest can be entered as it was left.
    #[inline(always)]
    pub fn take_sgis_at_once(
        &self,
        local: Local<'_>,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let signal = local.signal;
        let mut sgis = signal.sgis.swap(0, Ordering::AcqRel);
        while sgis != 0 {
            let intid = Intid(sgis.trailing_zeros());
            if !registers.again(signal, hardware, |it| it.is_pending_software(intid)) {
                // The long way looks at the mailbox too.
                signal.sgis.fetch_or(sgis, Ordering::AcqRel);
                return false;
            }
            sgis &= sgis - 1;
        }
        !signal.stale.load(Ordering::Acquire) && !self.its_backlog.load(Ordering::Acquire)
    }

    /// Whether something is in the mailbox of `vcpu`.
    pub(crate) fn has_mail(&self, vcpu: VcpuId) -> bool {
        self.signal(vcpu).is_some_and(|it| it.sgis.load(Ordering::Acquire) != 0)
    }
}

impl ListRegisters {
    /// Makes an interrupt pending once more that was put into one of these as pending, and that the guest has since taken
    /// and ended. Whether that could be done.
    #[inline(always)]
    fn again(
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
    fn message_again(&mut self, signal: &Signal, hardware: &impl HardwareLists, lpi: Intid) -> bool {
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

impl Interrupts {
    /// The list register that an interrupt can be put into at once: one that is free, of a vCPU that has nothing else to look at, for
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

    /// Makes an interrupt pending and puts it into a list register at once. Whether that was done; if not, nothing has changed.
    pub(crate) fn list_at_once(
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

    /// Latches what is in the mailbox of `vcpu`.
    pub(crate) fn take_mail(&mut self, vcpu: VcpuId) {
        let Some(signal) = self.signals.get(usize::from(vcpu.0)) else { return };
        let mut sgis = signal.sgis.swap(0, Ordering::AcqRel);
        while sgis != 0 {
            let intid = Intid(sgis.trailing_zeros());
            sgis &= sgis - 1;
            // ICC_SGI1R_EL1 raises SGIs of group 1 only.
            if let Some(handle) = self.find(vcpu, intid)
                && self.irq(handle).is_some_and(|irq| irq.group1)
            {
                self.latch(handle);
            }
        }
    }
}
