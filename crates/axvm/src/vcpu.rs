//! A vCPU as the core runs it: what it is left for, and what it is answered.
//!
//! [`Vcpu::run`] comes back with an [`Exit`] that the architecture's own code doesn't answer: what the guest asked for, in neutral terms.
//! The core's loop (`AxVM::run_vcpu`) does it and gives the answer to [`Vcpu::complete`]. Which register takes a value, how a narrow one is
//! extended, and what a guest meets where nobody answered is the vCPU's to know.

use axvm_addr::Gpa;
use axvm_axdevice::{SysReg, Width};

use crate::devices::Hint;
use crate::vm::{Power, Start};

/// Why a guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An interrupt of the host's came, somebody kicked the vCPU, or there was no reason: it goes on. The vCPU counts that itself, as it
    /// does everything that it answers on its own.
    Interrupted,
    /// An access to registers in memory. To be completed.
    Mmio(MmioAccess),
    /// An access to a port. To be completed.
    Port(PortAccess),
    /// An access to a system register that isn't the vCPU's own. To be completed.
    SystemRegister(SystemAccess),
    /// A call that the vCPU doesn't know. To be completed.
    Hypercall,
    /// The guest interrupts CPUs of its own.
    Ipi(IpiRequest),
    /// The guest has nothing to do until an interrupt comes, or, if it says so, until its clock is that.
    Halt {
        /// In ticks of the clock that the guest reads.
        deadline: Option<u64>,
    },
    /// The guest asks its firmware to switch something on or off. To be completed.
    Power(PowerRequest),
    /// It did what can't be done. The guest has been told so as its architecture says.
    Fault(Fault),
    /// The host can't go on with it.
    Failed,
}

/// An access to registers in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Where.
    pub gpa: Gpa,
    /// How wide.
    pub width: Width,
    /// What is written; `None`: it is a read.
    pub write: Option<u64>,
    /// Whether it is part of an instruction whose first part was an exit before, and not counted again.
    pub continues: bool,
}

/// An access to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Which.
    pub port: u16,
    /// How wide.
    pub width: Width,
    /// What is written; `None`: it is a read.
    pub write: Option<u32>,
    /// Whether it is a further element of a string instruction whose first one was an exit before, and not counted again.
    pub continues: bool,
}

/// An access to a system register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemAccess {
    /// Which.
    pub register: SysReg,
    /// What is written; `None`: it is a read.
    pub write: Option<u64>,
}

/// What a guest wrote to send interrupts to CPUs of its own, as its architecture has it: only its interrupt controller reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpiRequest(pub u64);

/// What a guest asks its firmware for, however the firmware numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// To switch a CPU on.
    CpuOn {
        /// What the guest calls it.
        target: u64,
        /// Where it begins.
        start: Start,
    },
    /// To switch the calling one off. There is no answer, and nothing more of this vCPU.
    CpuOff,
    /// What a CPU is.
    CpuState {
        /// What the guest calls it.
        target: u64,
    },
    /// To sleep until an interrupt comes, and go on.
    CpuSuspend,
    /// To have the whole machine sleep until an interrupt comes for the calling CPU, the only one that is on; that begins anew then.
    SystemSuspend {
        /// Where.
        start: Start,
    },
    /// To switch the machine off.
    SystemOff,
    /// To start it anew.
    SystemReset,
}

/// What came of a [`PowerRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAnswer {
    /// It is done.
    Done,
    /// What a CPU is.
    State(Power),
    /// The CPU is on.
    IsOn,
    /// It is being switched on.
    IsStarting,
    /// There is no such CPU.
    NoSuchCpu,
    /// Nothing can be executed where it was to begin.
    NotMemory,
    /// Other CPUs aren't off.
    OthersOn,
}

/// What a guest did that can't be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An access to what isn't listed, that the vCPU couldn't make out in full.
    Access {
        /// Where.
        gpa: Gpa,
        /// Whether it was a write.
        write: bool,
    },
    /// It fetched an instruction from what isn't listed, or isn't to be executed.
    Fetch {
        /// Where, if that is known.
        gpa: Option<Gpa>,
    },
    /// The bus answered an access to what is mapped with an error.
    Bus {
        /// Where, if that is known.
        gpa: Option<Gpa>,
    },
    /// There is no answer to it that the architecture knows. The VM ends.
    Unanswerable,
}

/// What the core answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read gave this, in the bits of its width; a write was taken (and this is 0).
    Value(u64),
    /// Nobody is there, or nobody knows it. The guest meets what its architecture says of that.
    Nobody,
    /// The answer to a power request.
    Power(PowerAnswer),
}

/// What became of a vCPU's sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// It has something to do, or its time is over: it is entered again.
    Awake,
    /// It has slept, and may sleep on.
    Asleep,
    /// As [`Slept::Awake`]; its guest had shut calls out, by what no guest of the plan's does. That is undone.
    Forged,
}

/// A vCPU that has a CPU: [`crate::AxVMHal::reside`] makes it, reset to where it starts, and ends it.
pub trait Vcpu {
    /// Enters the guest, and comes back with what the core has to do with. Must return soon after the vCPU was kicked
    /// ([`crate::AxVMHal::kick`]), also if that was before it was called. After an exit that says so, [`Vcpu::complete`] was called.
    ///
    /// What the guest asks for and the architecture's own code can answer never gets here; the vCPU counts it with the VM's counters.
    fn run(&mut self) -> Exit;

    /// Answers the last exit: once, and before the next run.
    fn complete(&mut self, answer: Answer);

    /// Sleeps in the guest's place, until an interrupt is pending for it, it is kicked, or its clock is `deadline`. It may come back early.
    fn sleep(&mut self, deadline: Option<u64>) -> Slept;

    /// Waits in the guest's place, which its VM's suspension keeps out, until the vCPU is kicked, whatever comes for the guest: that waits,
    /// too, and so does the guest's own sleep if it is in one. It may come back early. `Forged` says the same as of a sleep.
    fn hold(&mut self) -> Slept;

    /// It was held, and goes on: calls that came meanwhile are forgotten. Whether it must leave is asked after that.
    fn let_go(&mut self);

    /// The device that it reached last, kept where also its own code finds it.
    fn hint(&mut self) -> &mut Hint;

    /// Where it executes, for who debugs.
    fn pc(&self) -> u64;
}
