//! What a vCPU's exits ask of its VM: accesses to devices, interrupts, counters.

use axvm::devices::{AtOnce, Forward, Handled, Hint};
use axvm::events::Kind;
use axvm::stats::{ExitCounters, ExitReason};
use axvm::vm::DeviceCounters;
use axvm_addr::{Gpa, Hpa, Span, VcpuId};
use axvm_axdevice::Width;

use super::{NoDevice, Vm};

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

    fn note_handled(&self, gpa: Gpa, handled: Handled) -> ExitReason {
        match handled {
            Handled::Emulated => {
                self.irqchip.after_access();
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

    /// The counters of a device, by its position in the plan.
    pub fn device_counters(&self, position: u16) -> Option<&DeviceCounters> {
        self.core.device(position)
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
