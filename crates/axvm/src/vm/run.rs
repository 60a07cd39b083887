//! The loop of a vCPU: the guest is entered, and what it was left for is done.

use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::Width;

use super::life::Stay;
use super::{AxVM, HostError, NotOff, StopReason, Turn, Whereabouts};
use crate::devices::{Handled, Hint, PortPlace};
use crate::events::Kind;
use crate::hal::{AxVMHal, Resided};
use crate::irqchip::Irqchip;
use crate::stats::ExitReason;
use crate::vcpu::{
    Answer, Exit, Fault, MmioAccess, PortAccess, PowerAnswer, PowerRequest, Slept, SystemAccess, Vcpu,
};

/// Whether a vCPU goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Resume,
    /// It is off, or its VM stops.
    Leave,
}

impl<H: AxVMHal> AxVM<H> {
    /// By a vCPU's own CPU: has it run from where it begins until it is off, if it is to start now. When it comes back the CPU has nothing
    /// of the vCPU any more. A VM all of whose vCPUs are off stops, as nothing can ever start one.
    ///
    /// # Errors
    ///
    /// What kept it from running. Whoever started the vCPU was told that it is on, and may wait for it for ever: the VM stops.
    pub fn run_vcpu(&self, vcpu: VcpuId) -> Result<Turn, HostError<H>> {
        let Some(start) = self.life.take_start(vcpu) else { return Ok(Turn::NotStarted) };
        let result = self.irqchip.enter(vcpu).and_then(|seat| {
            let run = |running: &mut H::Vcpu<'_>| self.run_until_off(vcpu, running);
            let Resided { seat, result } = self.hal().reside(self, vcpu, start, seat, run);
            self.irqchip.leave(vcpu, seat);
            result
        });
        if result.is_err() {
            self.stop(StopReason::HostError);
        }
        if self.life.vcpu_off(vcpu) {
            self.stop(StopReason::CpusOff);
        }
        result.map(|()| Turn::Over)
    }

    /// Runs a vCPU that has its CPU.
    fn run_until_off(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>) {
        while self.may_enter(vcpu, running) {
            match running.run() {
                Exit::Interrupted => {}
                // Its second stage may have been revoked: what it was left for is no fault of its own.
                _ if self.is_stopping() => break,
                exit => match self.handle(vcpu, running, exit) {
                    Next::Resume => {}
                    Next::Leave => return,
                },
            }
        }
        self.note_whereabouts(vcpu, || Whereabouts::Executing { pc: running.pc() });
    }

    /// Whether a vCPU goes on in its guest, or in the guest's sleep. While its VM is suspended it waits here.
    #[inline(always)]
    fn may_enter(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>) -> bool {
        !self.must_leave() || self.stay_out(vcpu, running)
    }

    #[cold]
    fn stay_out(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>) -> bool {
        let mut held = false;
        loop {
            match self.life.stay(vcpu) {
                // Only then, whether it is told once more: that call mustn't be one of those that are forgotten.
                Stay::Inside if held => {
                    running.let_go();
                    held = false;
                }
                Stay::Inside => return true,
                Stay::Outside => {
                    if running.hold() == Slept::Forged {
                        self.violated(None, Kind::Interrupt, None);
                    }
                    held = true;
                }
                Stay::Away => return false,
            }
        }
    }

    fn handle(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, exit: Exit) -> Next {
        match exit {
            Exit::Interrupted => {}
            Exit::Mmio(access) => self.mmio(vcpu, running, access),
            Exit::SystemRegister(access) => self.system_register(vcpu, running, access),
            Exit::Port(access) => self.port(vcpu, running, access),
            Exit::Ipi(request) => {
                self.count_exit(vcpu, ExitReason::Ipi);
                self.irqchip.send_ipi(vcpu, request);
            }
            Exit::Halt { deadline } => {
                self.count_exit(vcpu, ExitReason::Wfi);
                self.sleep(vcpu, running, deadline);
            }
            Exit::Power(request) => return self.power_request(vcpu, running, request),
            Exit::Hypercall => {
                self.count_exit(vcpu, ExitReason::Hypercall);
                self.refusals.hypercall.count();
                running.complete(Answer::Nobody);
            }
            Exit::Fault(fault) => return self.fault(vcpu, fault),
            Exit::Failed => {
                self.stop(StopReason::HostError);
                return Next::Leave;
            }
        }
        Next::Resume
    }

    /// Counts an exit of a vCPU, on its own CPU.
    pub fn count_exit(&self, vcpu: VcpuId, reason: ExitReason) {
        if let Some(exits) = self.exits(vcpu) {
            exits.count(reason);
        }
    }

    fn mmio(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, access: MmioAccess) {
        let answer = self.answer_mmio(vcpu, access, running.hint());
        running.complete(answer);
    }

    /// What an access comes to, which is counted: what [`Vcpu::complete`] is told of [`Exit::Mmio`]. A vCPU's own code may ask for it instead.
    #[inline(always)]
    pub fn answer_mmio(&self, vcpu: VcpuId, access: MmioAccess, hint: &mut Hint) -> Answer {
        let MmioAccess { gpa, width, write, continues } = access;
        let (devices, hal) = (&self.devices, &**self.hal());
        let answered = match write {
            None => devices.mmio_read(vcpu, gpa, width, hint, hal),
            Some(value) => devices.mmio_write(vcpu, gpa, width, value, hint, hal).map(|handled| (0, handled)),
        };
        let (answer, reason) = match answered {
            Some((value, handled)) => (Answer::Value(value), self.note_handled(gpa, handled)),
            None => {
                self.unlisted(gpa, write.is_some());
                (Answer::Nobody, ExitReason::Stage2Fault)
            }
        };
        if !continues {
            self.count_exit(vcpu, reason);
        }
        answer
    }

    /// What to count an access as that was answered.
    fn note_handled(&self, gpa: Gpa, handled: Handled) -> ExitReason {
        match handled {
            Handled::Emulated => {
                self.irqchip.after_access();
                ExitReason::MmioEmulated
            }
            Handled::Silent => ExitReason::MmioEmulated,
            Handled::Forwarded { device, aborted } => self.note_forwarded(gpa, device, aborted),
        }
    }

    #[inline(always)]
    fn note_forwarded(&self, gpa: Gpa, device: u16, aborted: bool) -> ExitReason {
        self.count_registers(device);
        if aborted {
            self.register_aborted(gpa, device);
        }
        ExitReason::MmioForwarded
    }

    /// Counts an access to a device's trapped registers or ports.
    #[inline(always)]
    fn count_registers(&self, device: u16) {
        if let Some(counters) = self.device(device) {
            counters.registers.count();
        }
    }

    #[cold]
    fn register_aborted(&self, gpa: Gpa, device: u16) {
        self.violated(Some(device), Kind::RegisterAbort, Some(gpa.0));
    }

    /// For a vCPU's own code: a read of forwarded registers ([`crate::devices::FastAccess::Forwarded`]) that the guest sees at `gpa`, and
    /// what to count the exit as.
    #[inline(always)]
    pub fn forward_read(
        &self,
        gpa: Gpa,
        device: u16,
        at: &H::Backing,
        offset: u64,
        width: Width,
    ) -> (u64, ExitReason) {
        let read = self.hal().forward_read(at, offset, width);
        let reason = self.note_forwarded(gpa, device, read.is_err());
        (read.unwrap_or(u64::MAX) & width.mask(), reason)
    }

    /// For a vCPU's own code: the same, of a write.
    #[inline(always)]
    pub fn forward_write(
        &self,
        gpa: Gpa,
        device: u16,
        at: &H::Backing,
        offset: u64,
        width: Width,
        value: u64,
    ) -> ExitReason {
        let written = self.hal().forward_write(at, offset, width, value & width.mask());
        self.note_forwarded(gpa, device, written.is_err())
    }

    #[cold]
    fn unlisted(&self, gpa: Gpa, write: bool) {
        self.violated(None, if write { Kind::CpuWrite } else { Kind::CpuRead }, Some(gpa.0));
    }

    fn system_register(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, access: SystemAccess) {
        self.count_exit(vcpu, ExitReason::Sysreg);
        let answer = match self.devices.handle_sysreg(vcpu, access.register, access.write) {
            Some(value) => Answer::Value(value),
            None => {
                self.refusals.sysreg.count();
                Answer::Nobody
            }
        };
        running.complete(answer);
    }

    fn port(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, access: PortAccess) {
        let answer = self.answer_port(vcpu, access);
        running.complete(answer);
    }

    fn answer_port(&self, vcpu: VcpuId, access: PortAccess) -> Answer {
        let PortAccess { port, width, write, continues } = access;
        if !continues {
            self.count_exit(vcpu, ExitReason::Port);
        }
        let value = match self.devices.port_place(port, width) {
            PortPlace::Nobody => {
                self.refuse_port();
                return Answer::Nobody;
            }
            PortPlace::Emulated { entry, offset } => self.ask_port(vcpu, entry, offset, width, write),
            PortPlace::Forwarded { device, at } => self.forward_port(device, at, width, write),
        };
        Answer::Value(value.into())
    }

    /// For a vCPU's own code: an access of [`PortPlace::Nobody`], which is a refusal.
    #[inline(always)]
    pub fn refuse_port(&self) {
        self.refusals.port.count();
    }

    /// For a vCPU's own code: an access of [`PortPlace::Emulated`]. What is read of it; of a write 0.
    #[inline(always)]
    pub fn ask_port(&self, vcpu: VcpuId, entry: u16, offset: u16, width: Width, write: Option<u32>) -> u32 {
        let value = match write {
            None => self.devices.port_read(vcpu, entry, offset, width),
            Some(value) => {
                self.devices.port_write(vcpu, entry, offset, width, value);
                0
            }
        };
        self.irqchip.after_access();
        value
    }

    /// For a vCPU's own code: an access of [`PortPlace::Forwarded`]. What is read of it; of a write 0.
    #[inline(always)]
    pub fn forward_port(&self, device: u16, at: u16, width: Width, write: Option<u32>) -> u32 {
        self.count_registers(device);
        let mask = width.mask() as u32;
        match write {
            None => self.hal().forward_port_read(at, width) & mask,
            Some(value) => {
                self.hal().forward_port_write(at, width, value & mask);
                0
            }
        }
    }

    /// Sleeps in a vCPU's place.
    fn sleep(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, deadline: Option<u64>) {
        while self.may_enter(vcpu, running) {
            match running.sleep(deadline) {
                Slept::Asleep => {}
                // By the call that it must leave.
                Slept::Awake if self.is_moot(vcpu) => {}
                Slept::Awake => return,
                Slept::Forged => return self.violated(None, Kind::Interrupt, None),
            }
        }
        self.note_whereabouts(vcpu, || Whereabouts::Waiting { pc: running.pc(), deadline });
    }

    fn power_request(&self, vcpu: VcpuId, running: &mut H::Vcpu<'_>, request: PowerRequest) -> Next {
        self.count_exit(vcpu, ExitReason::Hypercall);
        let answer = match request {
            PowerRequest::CpuOff => return Next::Leave,
            PowerRequest::SystemOff => {
                self.stop(StopReason::SystemOff);
                return Next::Leave;
            }
            PowerRequest::SystemReset => {
                self.stop(StopReason::SystemReset);
                return Next::Leave;
            }
            PowerRequest::CpuSuspend => {
                running.complete(Answer::Power(PowerAnswer::Done));
                self.sleep(vcpu, running, None);
                return Next::Resume;
            }
            PowerRequest::SystemSuspend { start } if !self.is_ram(Gpa(start.entry)) => PowerAnswer::NotMemory,
            PowerRequest::SystemSuspend { .. } if !self.life.is_alone(vcpu) => PowerAnswer::OthersOn,
            PowerRequest::SystemSuspend { start } => {
                self.sleep(vcpu, running, None);
                self.life.begin_anew(vcpu, start);
                return Next::Leave;
            }
            PowerRequest::CpuState { target } => match self.vcpu_called(target) {
                Some(target) => PowerAnswer::State(self.power(target)),
                None => PowerAnswer::NoSuchCpu,
            },
            PowerRequest::CpuOn { target, start } => match self.vcpu_called(target) {
                None => PowerAnswer::NoSuchCpu,
                Some(_) if !self.is_ram(Gpa(start.entry)) => PowerAnswer::NotMemory,
                Some(target) => match self.start_vcpu(target, start) {
                    Ok(()) => PowerAnswer::Done,
                    Err(NotOff::On) => PowerAnswer::IsOn,
                    Err(NotOff::Starting) => PowerAnswer::IsStarting,
                },
            },
        };
        running.complete(Answer::Power(answer));
        Next::Resume
    }

    /// Whether a vCPU could execute there.
    fn is_ram(&self, gpa: Gpa) -> bool {
        self.plan().ram.iter().any(|piece| piece.gpa.contains(gpa))
    }

    fn fault(&self, vcpu: VcpuId, fault: Fault) -> Next {
        let reason = match fault {
            Fault::Access { gpa, write } => {
                self.unlisted(gpa, write);
                ExitReason::Stage2Fault
            }
            Fault::Fetch { gpa } => {
                self.violated(None, Kind::CpuExecute, gpa.map(|gpa| gpa.0));
                ExitReason::Stage2Fault
            }
            Fault::Bus { gpa } => {
                let device = gpa.and_then(|gpa| self.device_at(gpa));
                self.violated(device, Kind::RegisterAbort, gpa.map(|gpa| gpa.0));
                ExitReason::Other
            }
            Fault::Unanswerable => {
                self.stop(StopReason::GuestFault);
                ExitReason::Other
            }
        };
        self.count_exit(vcpu, reason);
        if fault == Fault::Unanswerable { Next::Leave } else { Next::Resume }
    }
}
