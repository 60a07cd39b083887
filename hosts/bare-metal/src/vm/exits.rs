//! What a vCPU's exits ask of its VM: accesses to devices, interrupts, counters.

use axvm::devices::{AtOnce, Forward, Handled, Hint};
use axvm::events::Kind;
use axvm::stats::{ExitCounters, ExitReason};
use axvm::vm::DeviceCounters;
use axvm_addr::{Gpa, Hpa, Span, VcpuId};
use axvm_axdevice::Width;
use axvm_vgic::{HardwareLists, ListRegisters, Local, Message};
use axvm_vgic::{Intid, ItsDeviceId};

use super::{NoDevice, Vm};
use crate::arch::gic;
use crate::protection::{self, Protection};

/// What became of a physical interrupt.
pub enum Delivered<'a> {
    /// It isn't the VM's.
    Foreign,
    /// It is: what is left to do about it is the guest's.
    Own,
    /// The same, of a message: what it stands for until the guest says otherwise, and the counters of the device that sends it.
    Message(Message, &'a DeviceCounters),
}

impl Vm {
    /// A vCPU's counters.
    pub fn exits(&self, id: VcpuId) -> Option<&ExitCounters> {
        self.core.exits(id)
    }

    /// Counts an exit of a vCPU, on its own CPU.
    pub fn count_exit(&self, id: VcpuId, reason: ExitReason) {
        if let Some(exits) = self.core.exits(id) {
            exits.count(reason);
        }
    }

    /// Counts a call that was answered NOT_SUPPORTED.
    pub fn count_refused_hypercall(&self) {
        self.core.refusals.hypercall.count();
    }

    /// Counts a system register that isn't there.
    pub fn count_refused_sysreg(&self) {
        self.core.refusals.sysreg.count();
    }

    /// Whether a BAR that isn't decoded now would be there: nobody answers, which on PCI is all ones.
    fn is_silent(&self, gpa: Gpa) -> bool {
        self.bridges.iter().any(|bridge| bridge.claims(gpa))
    }

    /// Whether an emulated or forwarded device is there.
    pub fn is_device(&self, gpa: Gpa) -> bool {
        Span::new(gpa, 1).is_ok_and(|byte| self.devices.overlaps(byte)) || self.is_silent(gpa)
    }

    /// Whether all `width` bytes at `gpa` are one device's.
    pub fn answers(&self, gpa: Gpa, width: Width) -> bool {
        self.devices.answers(gpa, width) || self.is_silent(gpa)
    }

    /// An access to the device that was accessed last, if it comes to something simple.
    #[inline]
    pub fn at_once(&self, gpa: Gpa, bytes: u64, write: bool, hint: Hint) -> Option<AtOnce> {
        self.devices.at_once(gpa, bytes, write, hint)
    }

    /// A read of [`AtOnce::Emulated`].
    pub fn read_at_once(&self, gpa: Gpa, hint: Hint) -> Option<u32> {
        self.devices.read_at_once(gpa, hint)
    }

    /// A write of [`AtOnce::Emulated`]; whether it was done.
    pub fn write_at_once(&self, gpa: Gpa, hint: Hint, value: u32) -> bool {
        self.devices.write_at_once(gpa, hint, value)
    }

    /// A read of forwarded registers, and what to count the exit as.
    #[inline(always)]
    pub fn forward_read(&self, gpa: Gpa, device: u16, hpa: Hpa, width: Width) -> (u64, ExitReason) {
        let read = self.core.hal().forward_read(hpa, width);
        let reason = self.note_forwarded(gpa, device, read.is_err());
        (read.unwrap_or(u64::MAX) & width.mask(), reason)
    }

    /// A write to forwarded registers, and what to count the exit as.
    #[inline(always)]
    pub fn forward_write(&self, gpa: Gpa, device: u16, hpa: Hpa, width: Width, value: u64) -> ExitReason {
        let written = self.core.hal().forward_write(hpa, width, value & width.mask());
        self.note_forwarded(gpa, device, written.is_err())
    }

    /// A trapped read.
    pub fn mmio_read(&self, vcpu: VcpuId, gpa: Gpa, width: Width, hint: &mut Hint) -> Result<u64, NoDevice> {
        let (value, reason) = self.read_device(vcpu, gpa, width, hint)?;
        self.count_exit(vcpu, reason);
        Ok(value)
    }

    /// A read that is all or part of an exit, and what to count the exit as.
    pub fn read_device(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        hint: &mut Hint,
    ) -> Result<(u64, ExitReason), NoDevice> {
        match self.devices.mmio_read(vcpu, gpa, width, hint, &**self.core.hal()) {
            Some((value, handled)) => Ok((value, self.note_handled(gpa, handled))),
            None if self.is_silent(gpa) => Ok((u64::MAX, ExitReason::MmioEmulated)),
            None => Err(NoDevice),
        }
    }

    /// A trapped write.
    pub fn mmio_write(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        value: u64,
        hint: &mut Hint,
    ) -> Result<(), NoDevice> {
        let reason = self.write_device(vcpu, gpa, width, value, hint)?;
        self.count_exit(vcpu, reason);
        Ok(())
    }

    /// A write that is all or part of an exit, and what to count the exit as.
    pub fn write_device(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        value: u64,
        hint: &mut Hint,
    ) -> Result<ExitReason, NoDevice> {
        match self.devices.mmio_write(vcpu, gpa, width, value, hint, &**self.core.hal()) {
            Some(handled) => Ok(self.note_handled(gpa, handled)),
            None if self.is_silent(gpa) => Ok(ExitReason::MmioEmulated),
            None => Err(NoDevice),
        }
    }

    /// A guest that takes interrupts itself has just accessed a device: if a line of the emulated ones is still high, it comes again.
    fn repeat_levels(&self) {
        if self.direct {
            self.vgic.repeat_levels();
        }
    }

    fn note_handled(&self, gpa: Gpa, handled: Handled) -> ExitReason {
        match handled {
            Handled::Emulated => {
                self.repeat_levels();
                ExitReason::MmioEmulated
            }
            Handled::Forwarded { device, aborted } => self.note_forwarded(gpa, device, aborted),
        }
    }

    #[inline(always)]
    fn note_forwarded(&self, gpa: Gpa, device: u16, aborted: bool) -> ExitReason {
        if let Some(counters) = self.core.device(device) {
            counters.registers.count();
        }
        if aborted {
            self.register_aborted(gpa, device);
        }
        ExitReason::MmioForwarded
    }

    #[cold]
    fn register_aborted(&self, gpa: Gpa, device: u16) {
        self.host().violated(self.id(), Some(device), Kind::RegisterAbort, Some(gpa.0));
    }

    /// Where the guest sees the distributor that is emulated for it.
    pub fn emulated_distributor(&self) -> Option<Gpa> {
        let gic =
            self.core.plan().gic.filter(|_| protection::real_distributor(&self.host().platform).is_none())?;
        Some(gic.distributor.start())
    }

    /// Where the guest sees the ITS that is emulated for it.
    pub fn emulated_its(&self) -> Option<Gpa> {
        self.core.plan().gic?.its.map(|its| its.registers.start())
    }

    /// A write to ICC_SGI1R_EL1.
    pub fn send_sgi(&self, from: VcpuId, value: u64) {
        if protection::is_off(Protection::Sgi) {
            for vm in self.host().vms().iter().filter(|vm| vm.id() != self.id()) {
                vm.receive_foreign_sgi(value);
            }
        }
        self.vgic.send_sgi(from, value);
    }

    /// A write to ICC_SGI1R_EL1, as [`Vm::send_sgi`], if it takes no lock that is held. Whether it was done.
    #[inline(always)]
    pub fn fast_send_sgi(
        &self,
        from: Local<'_>,
        value: u64,
        lists: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        !protection::is_off(Protection::Sgi) && self.vgic.fast_send_sgi(from, value, lists, hardware)
    }

    /// The same of a VM that takes physical interrupts itself.
    pub fn fast_raise_sgi(&self, value: u64) -> bool {
        !protection::is_off(Protection::Sgi) && self.vgic.fast_raise_sgi(value)
    }

    /// A software interrupt of another VM's, which gets here only without [`Protection::Sgi`].
    fn receive_foreign_sgi(&self, value: u64) {
        let all_others = value & 1 << 40 != 0;
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if all_others || value & 1 << (vcpu.mpidr & 0xf) != 0 {
                self.vgic.inject(VcpuId(id), Intid((value >> 24 & 0xf) as u32));
            }
        }
    }

    /// The counters of the device that has this line.
    pub fn device_of_line(&self, id: Intid) -> Option<&DeviceCounters> {
        let line = self.core.plan().lines.iter().find(|line| line.irq == id.into())?;
        self.core.device(line.device)
    }

    /// The position of the device that sends messages with this id.
    fn sender(&self, device: ItsDeviceId) -> Option<u16> {
        let mut devices = (0..).zip(&self.core.plan().devices);
        devices
            .find(|(_, plan)| plan.msi.is_some_and(|msi| ItsDeviceId::from(msi.source) == device))
            .map(|(position, _)| position)
    }

    /// A physical interrupt was taken on the vCPU's CPU: what it is to this VM.
    pub fn deliver(&self, vcpu: VcpuId, id: Intid) -> Delivered<'_> {
        let mut known = None;
        let (injected, counters) = match id.0 {
            16..32 => {
                if !self.vgic.config().hardware_ppis.contains(&id) {
                    return Delivered::Foreign;
                }
                (self.vgic.hardware_ppi_here(vcpu, id), None)
            }
            32..1020 => {
                let mut lines = self.core.plan().lines.iter();
                let Some(line) = lines.find(|line| line.irq == id.into()) else { return Delivered::Foreign };
                (self.vgic.hardware_spi_here(vcpu, id), self.core.device(line.device))
            }
            8192.. => {
                let mut sender = None;
                let message = self.vgic.hardware_lpi_here(vcpu, || {
                    let event = self.backend.event_of(id)?;
                    sender = Some(event.0);
                    Some(event)
                });
                let Some(sender) = sender else { return Delivered::Foreign };
                let counters = self.sender(sender).and_then(|device| self.core.device(device));
                known = message.zip(counters);
                (message.is_some(), counters)
            }
            _ => return Delivered::Foreign,
        };
        if injected {
            if let Some(exits) = self.core.exits(vcpu) {
                exits.count_injected();
            }
            if let Some(counters) = counters {
                counters.interrupts.count();
            }
        } else if id.0 < 8192 {
            // The guest has no use for it now: it doesn't stay active.
            gic::deactivate(id);
        }
        known.map_or(Delivered::Own, |(message, counters)| Delivered::Message(message, counters))
    }

    /// The bus aborted an access of a vCPU to what is mapped for it, at `gpa` if that is known.
    pub fn aborted(&self, gpa: Option<Gpa>) {
        let device = gpa.and_then(|gpa| self.core.device_at(gpa));
        self.host().violated(self.id(), device, Kind::RegisterAbort, gpa.map(|gpa| gpa.0));
    }

    /// A vCPU did what the plan doesn't list.
    pub fn violated(&self, kind: Kind, address: Option<u64>) {
        self.host().violated(self.id(), None, kind, address);
    }
}
