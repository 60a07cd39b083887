//! A vCPU in its thread: KVM's exits in the core's words.

use std::ptr::NonNull;
use std::sync::{Arc, MutexGuard};

use axvm::devices::Hint;
use axvm::stats::ExitReason;
use axvm::vcpu::{Answer, Exit, Fault, MmioAccess, PortAccess, Slept, Vcpu};
use axvm_addr::{Gpa, VcpuId};
use axvm_axdevice::Width;
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;

use crate::Vm;
use crate::arch::{self, Access};
use crate::caller::Caller;

/// Where the kernel takes the value of a read from when the vCPU goes on.
#[derive(Clone, Copy)]
struct Wanted {
    at: NonNull<u8>,
    bytes: usize,
}

impl Wanted {
    fn by(data: &mut [u8]) -> Option<Self> {
        Some(Self { at: NonNull::new(data.as_mut_ptr())?, bytes: data.len() })
    }

    /// Puts the value there.
    ///
    /// # Safety
    ///
    /// The bytes are those of the exit that the vCPU was left by last, it hasn't gone on since, and it is there.
    unsafe fn give(self, value: u64) {
        for (offset, byte) in
            value.to_le_bytes().into_iter().chain(core::iter::repeat(0)).take(self.bytes).enumerate()
        {
            // SAFETY: by the caller's promise it is one of the bytes that the kernel shares with whoever runs the vCPU.
            unsafe { self.at.as_ptr().add(offset).write(byte) };
        }
    }
}

/// A vCPU that has its thread.
pub struct Running<'a> {
    vm: &'a Vm,
    vcpu: VcpuId,
    fd: MutexGuard<'a, VcpuFd>,
    caller: Arc<Caller>,
    /// What the last exit wants to read.
    wanted: Option<Wanted>,
    hint: Hint,
}

impl<'a> Running<'a> {
    /// Where it begins.
    pub fn new(vm: &'a Vm, vcpu: VcpuId, fd: MutexGuard<'a, VcpuFd>, caller: Arc<Caller>) -> Self {
        Self { vm, vcpu, fd, caller, wanted: None, hint: Hint::default() }
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

    /// Runs it once. `None`: what it was left for is done.
    fn step(&mut self) -> Option<Exit> {
        self.wanted = None;
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => {
                return match Errno::from_raw_os_error(error.errno()) {
                    Errno::INTR | Errno::AGAIN => None,
                    // What the kernel can't make out, or can't reach: an access that isn't one by a single register to nothing, code that
                    // isn't in memory.
                    Errno::NOSYS | Errno::FAULT => Some(Exit::Fault(Fault::Unanswerable)),
                    _ => Some(Exit::Failed),
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
                let width = Width::from_bytes(data.len() as u64);
                self.wanted = Wanted::by(data);
                io(port, width, None)
            }
            VcpuExit::IoOut(port, data) => {
                io(port, Width::from_bytes(data.len() as u64), Some(value(data) as u32))
            }
            VcpuExit::SystemEvent(kind, _) => arch::system_event(kind),
            // As a triple fault is.
            VcpuExit::Shutdown => Exit::Fault(Fault::Unanswerable),
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => return None,
            _ => Exit::Failed,
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

fn io(port: u16, width: Option<Width>, write: Option<u32>) -> Exit {
    match width {
        Some(width @ (Width::B1 | Width::B2 | Width::B4)) => {
            Exit::Port(PortAccess { port, width, write, continues: false })
        }
        _ => Exit::Fault(Fault::Unanswerable),
    }
}

impl Vcpu for Running<'_> {
    fn run(&mut self) -> Exit {
        while !self.caller.has_called() {
            match self.step() {
                None => self.count(ExitReason::Interrupt),
                Some(exit) => {
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
            // The kernel's firmware has answered.
            Answer::Power(_) => {}
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
