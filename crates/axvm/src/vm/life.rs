//! Where a VM is in its life, and each of its vCPUs: one state machine, which only this module changes.
//!
//! ```text
//! Built ─► Running ─► Stopping ─► Stopped
//!                         vCPUs: Off ⇄ Starting ─► On ─► Off, and at the end Gone
//! ```
//!
//! One lock for all of it: whether a vCPU that goes off was the last is a question about the others, who may be starting it anew at
//! that moment, and whether the VM has stopped is one about all CPUs that it had.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::VcpuId;
use spin::Mutex;

/// Why a VM stopped. The names only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// It powered itself off.
    SystemOff,
    /// It asked to be started again.
    SystemReset,
    /// It switched all its CPUs off, so that nothing could ever switch one on.
    CpusOff,
    /// Its policy stops it at a violation.
    Violation,
    /// It did what can't be answered as the architecture says.
    GuestFault,
    /// Its guest let its watchdog expire.
    Watchdog,
    /// Somebody had it stopped.
    Stopped,
    /// Somebody had it started again.
    Restarted,
    /// The run was ended from outside.
    RunEnded,
    /// The hypervisor couldn't go on with it.
    HostError,
}

impl StopReason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::SystemOff,
        Self::SystemReset,
        Self::CpusOff,
        Self::Violation,
        Self::GuestFault,
        Self::Watchdog,
        Self::Stopped,
        Self::Restarted,
        Self::RunEnded,
        Self::HostError,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SystemOff => "system-off",
            Self::SystemReset => "system-reset",
            Self::CpusOff => "cpus-off",
            Self::Violation => "violation",
            Self::GuestFault => "guest-fault",
            Self::Watchdog => "watchdog",
            Self::Stopped => "stopped",
            Self::Restarted => "restarted",
            Self::RunEnded => "run-ended",
            Self::HostError => "host-error",
        }
    }
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has everything, and hasn't run.
    Built,
    /// Its vCPUs run or may be started.
    Running,
    /// Its vCPUs are told to leave it, and some haven't yet.
    Stopping {
        /// Why.
        reason: StopReason,
        /// When it was told so, in the host's nanoseconds.
        since_ns: u64,
    },
    /// Every vCPU's CPU has left it for good.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

impl State {
    /// Its name in reports, which don't tell one that must stop from one that has.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Built => "created",
            Self::Running => "running",
            Self::Stopping { .. } | Self::Stopped { .. } => "stopped",
        }
    }

    /// Why it stops or has stopped.
    pub const fn reason(self) -> Option<StopReason> {
        match self {
            Self::Built | Self::Running => None,
            Self::Stopping { reason, .. } | Self::Stopped { reason } => Some(reason),
        }
    }
}

/// What can't be done in the state that the VM is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the VM is {}", .0.name())]
pub struct WrongState(pub State);

/// Where a vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its first instruction.
    pub entry: u64,
    /// What it finds in its first register.
    pub argument: u64,
}

/// Why a vCPU can't be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOff {
    /// It runs, or there is none of this number.
    #[error("it is on")]
    On,
    /// It is being started.
    #[error("it is being started")]
    Starting,
}

/// What came of a vCPU's CPU looking after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It isn't to start.
    NotStarted,
    /// It ran, and is off.
    Over,
}

/// What a vCPU is, as its guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It doesn't run, and its CPU has nothing of it.
    Off,
    /// Somebody has started it, and its CPU hasn't taken that up.
    Starting,
    /// It runs.
    On,
}

/// How far a VM's CPUs are with leaving it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It wasn't told to stop.
    NotAsked,
    /// Some are still in it, and have the time to.
    Underway,
    /// All have left it.
    Complete,
    /// The CPUs of these vCPUs haven't, and should have.
    Overdue(Vec<VcpuId>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vcpu {
    Off,
    Starting(Start),
    On,
    /// Its CPU has left the VM for good.
    Gone,
}

struct Inner {
    state: State,
    vcpus: Vec<Vcpu>,
    times: Times,
}

/// When what happened to a VM, in the host's nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// It was started.
    pub started_ns: Option<u64>,
    /// It was told to stop.
    pub asked_ns: u64,
    /// Every CPU had left it.
    pub stopped_ns: u64,
}

/// A VM's life.
pub(super) struct Life {
    inner: Mutex<Inner>,
    /// Whether `state` is past [`State::Running`], for who asks at every exit. Written under the lock only.
    ended: AtomicBool,
}

impl Life {
    /// Of a VM with so many vCPUs that has just been built.
    pub fn new(vcpus: usize) -> Self {
        let vcpus = core::iter::repeat_n(Vcpu::Off, vcpus).collect();
        Self {
            inner: Mutex::new(Inner { state: State::Built, vcpus, times: Times::default() }),
            ended: AtomicBool::new(false),
        }
    }

    pub fn state(&self) -> State {
        self.inner.lock().state
    }

    pub fn times(&self) -> Times {
        self.inner.lock().times
    }

    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// It may run, and its first vCPU starts.
    pub fn start(&self, first: Start, now_ns: u64) -> Result<(), WrongState> {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Built => {
                inner.times.started_ns = Some(now_ns);
                inner.state = State::Running;
                if let Some(vcpu) = inner.vcpus.first_mut() {
                    *vcpu = Vcpu::Starting(first);
                }
                Ok(())
            }
            other => Err(WrongState(other)),
        }
    }

    /// It must not run any more. Whether this was what stopped it: the first reason stays.
    pub fn stop(&self, reason: StopReason, now_ns: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.state = match inner.state {
            // No CPU has ever been in it.
            State::Built => State::Stopped { reason },
            State::Running => State::Stopping { reason, since_ns: now_ns },
            State::Stopping { .. } | State::Stopped { .. } => return false,
        };
        inner.times.asked_ns = now_ns;
        inner.times.stopped_ns = now_ns;
        self.ended.store(true, Ordering::SeqCst);
        true
    }

    pub fn power(&self, vcpu: VcpuId) -> Power {
        match self.inner.lock().vcpus.get(usize::from(vcpu.0)) {
            Some(Vcpu::Starting(_)) => Power::Starting,
            Some(Vcpu::On) => Power::On,
            Some(Vcpu::Off | Vcpu::Gone) | None => Power::Off,
        }
    }

    pub fn start_vcpu(&self, vcpu: VcpuId, start: Start) -> Result<(), NotOff> {
        match self.inner.lock().vcpus.get_mut(usize::from(vcpu.0)) {
            Some(state @ Vcpu::Off) => {
                *state = Vcpu::Starting(start);
                Ok(())
            }
            Some(Vcpu::Starting(_)) => Err(NotOff::Starting),
            Some(Vcpu::On | Vcpu::Gone) | None => Err(NotOff::On),
        }
    }

    pub fn take_start(&self, vcpu: VcpuId) -> Option<Start> {
        let mut inner = self.inner.lock();
        if inner.state != State::Running {
            return None;
        }
        let state = inner.vcpus.get_mut(usize::from(vcpu.0))?;
        let Vcpu::Starting(start) = *state else { return None };
        *state = Vcpu::On;
        Some(start)
    }

    /// By a vCPU that is on: whether all others are off. Then they stay so, as nobody else could start one.
    pub fn is_alone(&self, vcpu: VcpuId) -> bool {
        let inner = self.inner.lock();
        (0..).map(VcpuId).zip(&inner.vcpus).all(|(id, state)| id == vcpu || *state == Vcpu::Off)
    }

    /// By a vCPU that is on, and is about to leave its CPU: it begins there when it comes back.
    pub fn begin_anew(&self, vcpu: VcpuId, start: Start) {
        let mut inner = self.inner.lock();
        if let Some(state @ Vcpu::On) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = Vcpu::Starting(start);
        }
    }

    /// It has left its CPU, and is off unless it begins anew. Whether it was the last that was on, so that nothing can ever start one.
    pub fn vcpu_off(&self, vcpu: VcpuId) -> bool {
        let mut inner = self.inner.lock();
        if let Some(state @ Vcpu::On) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = Vcpu::Off;
        }
        inner.vcpus.iter().all(|state| *state == Vcpu::Off)
    }

    /// Whether it was the last, so that the VM has stopped.
    pub fn vcpu_gone(&self, vcpu: VcpuId, now_ns: u64) -> bool {
        let mut inner = self.inner.lock();
        let State::Stopping { reason, .. } = inner.state else { return false };
        if let Some(state) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = Vcpu::Gone;
        }
        let last = inner.vcpus.iter().all(|state| *state == Vcpu::Gone);
        if last {
            inner.state = State::Stopped { reason };
            inner.times.stopped_ns = now_ns;
        }
        last
    }

    pub fn departure(&self, now_ns: u64, within_ns: u64) -> Departure {
        let inner = self.inner.lock();
        match inner.state {
            State::Built | State::Running => Departure::NotAsked,
            State::Stopped { .. } => Departure::Complete,
            State::Stopping { since_ns, .. } if now_ns.saturating_sub(since_ns) <= within_ns => {
                Departure::Underway
            }
            State::Stopping { .. } => {
                let all = (0..).map(VcpuId).zip(&inner.vcpus);
                Departure::Overdue(
                    all.filter(|(_, state)| **state != Vcpu::Gone).map(|(vcpu, _)| vcpu).collect(),
                )
            }
        }
    }
}
