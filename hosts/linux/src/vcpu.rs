//! A vCPU in its thread: KVM's exits in the core's words.

use std::ptr::NonNull;
use std::sync::{Arc, MutexGuard};

use axvm::devices::Hint;
use axvm::stats::ExitReason;
use axvm::vcpu::{Answer, Exit, Fault, MmioAccess, PowerRequest, Slept, Vcpu};
use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::Width;
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;

use crate::Vm;
use crate::arch::{self, Access};
use crate::caller::Caller;
use crate::elements::{Direction, Elements, Wanted};
use crate::host::Host;

/// A vCPU that has its thread.
pub struct Running<'a> {
    host: &'static Host,
    vm: &'a Vm,
    vcpu: VcpuId,
    fd: MutexGuard<'a, VcpuFd>,
    caller: Arc<Caller>,
    /// What the last exit wants to read.
    wanted: Option<Wanted>,
    /// What of the last exit is still to be answered.
    elements: Option<Elements>,
    hint: Hint,
}

impl<'a> Running<'a> {
    /// Where it begins.
    pub fn new(
        host: &'static Host,
        vm: &'a Vm,
        vcpu: VcpuId,
        fd: MutexGuard<'a, VcpuFd>,
        caller: Arc<Caller>,
    ) -> Self {
        Self { host, vm, vcpu, fd, caller, wanted: None, elements: None, hint: Hint::default() }
    }

    fn count(&self, reason: ExitReason) {
        self.vm.count_exit(self.vcpu, reason);
    }

    /// An exit that is over for the kernel as soon as the value is there.
    fn give(&mut self, value: u64) {
        if let Some(wanted) = self.wanted.take() {
            // SAFETY: it is of the exit that `run` has come back with last, and taken before it is called again; the vCPU is borrowed.
            unsafe { wanted.give(value) };
        }
    }

    /// It can't go on.
    fn failed(&self, why: &dyn std::fmt::Debug) -> Exit {
        let (name, vcpu) = (self.vm.name(), self.vcpu);
        self.host.link.error(format_args!("{name}: vCPU {vcpu}: KVM doesn't run it: {why:?}"));
        Exit::Failed
    }

    /// Begins with an exit by a port.
    fn begin(&mut self, port: u16, direction: Direction, data: NonNull<[u8]>) -> Exit {
        // SAFETY: it was left by an access to a port, and so this is what the kernel says of it.
        let size = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size };
        self.elements = Elements::of(port, size, direction, data);
        self.element().unwrap_or(Exit::Fault(Fault::Unanswerable))
    }

    /// The next element of the last exit, if there is one.
    fn element(&mut self) -> Option<Exit> {
        // SAFETY: they are of the exit that `run` has come back with last, and all are taken before it is called again; the vCPU is borrowed.
        let element = self.elements.as_mut().and_then(|elements| unsafe { elements.next() });
        let Some(element) = element else {
            self.elements = None;
            return None;
        };
        self.wanted = element.wanted;
        Some(Exit::Port(element.access))
    }

    /// Runs it once. `None`: what it was left for is done.
    fn step(&mut self) -> Option<Exit> {
        self.wanted = None;
        if let Some(exit) = self.element() {
            return Some(exit);
        }
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => {
                return match Errno::from_raw_os_error(error.errno()) {
                    Errno::INTR | Errno::AGAIN => None,
                    // What the kernel can't make out, or can't reach: an access that isn't one by a single register to nothing, code that
                    // isn't in memory.
                    Errno::NOSYS | Errno::FAULT => Some(Exit::Fault(Fault::Unanswerable)),
                    error => Some(self.failed(&error)),
                };
            }
        };
        Some(match exit {
            VcpuExit::MmioRead(gpa, data) => {
                let width = Width::from_bytes(data.len() as u64);
                self.wanted = Wanted::by(data);
                mmio(gpa, width, None)
            }
            VcpuExit::MmioWrite(gpa, data) => {
                mmio(gpa, Width::from_bytes(data.len() as u64), Some(value(data)))
            }
            VcpuExit::IoIn(port, data) => {
                let data = NonNull::from(data);
                self.begin(port, Direction::In, data)
            }
            VcpuExit::IoOut(port, data) => {
                let data = NonNull::from(data);
                self.begin(port, Direction::Out, data)
            }
            VcpuExit::SystemEvent(kind, _) => arch::system_event(kind),
            VcpuExit::X86Rdmsr(read) => {
                *read.error = 1;
                return None;
            }
            VcpuExit::X86Wrmsr(write) => {
                let (msr, value) = (write.index, write.data);
                let done = arch::write_msr(&self.host.kvm, &self.fd, msr, value);
                // What the kernel hears of it, as it was left by such a write.
                self.fd.get_kvm_run().__bindgen_anon_1.msr.error = u8::from(!done);
                return None;
            }
            VcpuExit::Hypercall(call) => {
                let function = call.nr;
                return arch::call(&self.fd, function);
            }
            // As a machine does that has come to a triple fault: it begins anew.
            VcpuExit::Shutdown => Exit::Power(PowerRequest::SystemReset),
            // A state that the processor doesn't enter is the guest's doing.
            VcpuExit::FailEntry(..) => Exit::Fault(Fault::Unanswerable),
            // The interrupt controller's part that isn't the kernel's goes on.
            VcpuExit::IoapicEoi(vector) => {
                self.vm.irqchip().parts().ended(vector);
                return None;
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => return None,
            // An instruction that the kernel can't carry out, at an address where there is nothing.
            VcpuExit::InternalError => Exit::Fault(Fault::Unanswerable),
            exit => {
                let exit = format!("{exit:?}");
                self.failed(&exit)
            }
        })
    }

    /// An access to registers that the architecture answers by itself. `None`: they aren't, or nothing of it is left to do.
    fn own(&mut self, exit: Exit) -> Option<Exit> {
        let Exit::Port(access) = exit else { return Some(exit) };
        let answered = arch::own_port(&self.vm.ends().own, self.vm.irqchip(), &access);
        match answered {
            None => Some(exit),
            Some(Access::Value(value)) => {
                self.count(ExitReason::Port);
                self.give(value.into());
                None
            }
            Some(Access::Asks(request)) => Some(Exit::Power(request)),
        }
    }
}

fn value(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (slot, byte) in bytes.iter_mut().zip(data) {
        *slot = *byte;
    }
    u64::from_le_bytes(bytes)
}

fn mmio(gpa: u64, width: Option<Width>, write: Option<u64>) -> Exit {
    match width {
        Some(width) => Exit::Mmio(MmioAccess { gpa: Gpa(gpa), width, write, continues: false }),
        None => Exit::Fault(Fault::Access { gpa: Gpa(gpa), write: write.is_some() }),
    }
}

impl Vcpu for Running<'_> {
    fn run(&mut self) -> Exit {
        while !self.caller.has_called() {
            match self.step() {
                None => {
                    self.count(ExitReason::Interrupt);
                    if self.caller.is_asked() {
                        self.caller.answer(arch::rests(&self.fd));
                    }
                }
                Some(exit) => {
                    self.caller.moves();
                    if let Some(exit) = self.own(exit) {
                        return exit;
                    }
                }
            }
        }
        self.caller.heard();
        Exit::Interrupted
    }

    fn complete(&mut self, answer: Answer) {
        match answer {
            Answer::Value(value) => self.give(value),
            Answer::Nobody => {
                self.give(u64::MAX);
                arch::complete_nobody(&self.fd);
            }
            Answer::Power(answer) => arch::complete_power(&self.fd, answer),
        }
    }

    fn sleep(&mut self, _: Option<u64>) -> Slept {
        // A guest sleeps in the kernel, and is asked to sleep here by nobody.
        Slept::Awake
    }

    fn hold(&mut self) -> Slept {
        self.caller.wait();
        Slept::Awake
    }

    fn let_go(&mut self) {
        self.caller.heard();
    }

    fn hint(&mut self) -> &mut Hint {
        &mut self.hint
    }

    fn pc(&self) -> u64 {
        arch::pc(&self.fd)
    }
}
