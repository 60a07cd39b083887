//! Where a VM is in its life, and each of its vCPUs: one state machine, which only this module changes.
//!
//! ```text
//!          ┌────────── resume ───────────┐
//!          ▼                             │
//! Built ─► Running ─► Suspending ─► Suspended      from each of the four: ─► Stopping ─► Stopped
//!          ▲              │
//!          └── a vCPU doesn't leave in time
//!
//! vCPUs:   Off ⇄ Starting ─► On ─► Off, while the VM is suspended On ⇄ Held, and at the end Gone
//! ```
//!
//! One lock for all of it: whether a vCPU that goes off was the last is a question about the others, who may be starting it anew at
//! that moment, and whether the VM has stopped is one about all CPUs that it had.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

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
    /// Its vCPUs are told to leave their guest until it is resumed, and some may not have yet.
    Suspending {
        /// When it was told so, in the host's nanoseconds.
        since_ns: u64,
    },
    /// None of its vCPUs executes, until it is resumed.
    Suspended,
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
            Self::Suspending { .. } => "suspending",
            Self::Suspended => "suspended",
            Self::Stopping { .. } | Self::Stopped { .. } => "stopped",
        }
    }

    /// Why it stops or has stopped.
    pub const fn reason(self) -> Option<StopReason> {
        match self {
            Self::Built | Self::Running | Self::Suspending { .. } | Self::Suspended => None,
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

/// How far a VM's vCPUs are with leaving their guest until it is resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// It wasn't told to, or has done so before.
    NotAsked,
    /// Some are still in it, and have the time to.
    Underway,
    /// None is in it any more: from now on the VM is suspended.
    Complete,
    /// These haven't left it, and should have: the VM runs on.
    Overdue(Vec<VcpuId>),
}

/// What a vCPU does that was told to leave its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    /// It goes on in its guest.
    Inside,
    /// It waits.
    Outside,
    /// It leaves its CPU: the VM stops.
    Away,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vcpu {
    Off,
    Starting(Start),
    On,
    /// It is on, and waits until its VM is resumed.
    Held,
    /// It is on, and hasn't come when its VM was to be suspended. That it was told to may still show in what it comes for.
    Late,
    /// Its CPU has left the VM for good.
    Gone,
}

/// What vCPUs are told, for who asks at every exit.
#[repr(u8)]
enum Told {
    Nothing,
    /// To leave their guest.
    Leave,
    /// To leave their VM.
    Stop,
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
    /// A [`Told`], which follows from the state. Written under the lock only.
    told: AtomicU8,
}

impl Life {
    /// Of a VM with so many vCPUs that has just been built.
    pub fn new(vcpus: usize) -> Self {
        let vcpus = core::iter::repeat_n(Vcpu::Off, vcpus).collect();
        Self {
            inner: Mutex::new(Inner { state: State::Built, vcpus, times: Times::default() }),
            told: AtomicU8::new(Told::Nothing as u8),
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
        self.told.load(Ordering::SeqCst) == Told::Stop as u8
    }

    #[inline(always)]
    pub fn must_leave(&self) -> bool {
        self.told.load(Ordering::SeqCst) != Told::Nothing as u8
    }

    fn tell(&self, inner: &Inner) {
        let told = match inner.state {
            State::Stopping { .. } | State::Stopped { .. } => Told::Stop,
            State::Suspending { .. } | State::Suspended => Told::Leave,
            State::Built | State::Running if inner.vcpus.contains(&Vcpu::Late) => Told::Leave,
            State::Built | State::Running => Told::Nothing,
        };
        self.told.store(told as u8, Ordering::SeqCst);
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
            State::Running | State::Suspending { .. } | State::Suspended => {
                State::Stopping { reason, since_ns: now_ns }
            }
            State::Stopping { .. } | State::Stopped { .. } => return false,
        };
        inner.times.asked_ns = now_ns;
        inner.times.stopped_ns = now_ns;
        self.tell(&inner);
        true
    }

    /// Its vCPUs must leave their guest.
    pub fn suspend(&self, now_ns: u64) -> Result<(), WrongState> {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Running => {
                inner.state = State::Suspending { since_ns: now_ns };
                self.tell(&inner);
                Ok(())
            }
            other => Err(WrongState(other)),
        }
    }

    /// How far that is: the VM is suspended once no vCPU is in its guest any more. One for which it is too late isn't changed by that.
    pub fn suspension(&self, now_ns: u64, within_ns: u64) -> Suspension {
        let mut inner = self.inner.lock();
        let State::Suspending { since_ns } = inner.state else { return Suspension::NotAsked };
        let inside = |state: &Vcpu| matches!(state, Vcpu::On | Vcpu::Late);
        let all = (0..).map(VcpuId).zip(&inner.vcpus);
        let inside: Vec<VcpuId> = all.filter(|(_, state)| inside(state)).map(|(vcpu, _)| vcpu).collect();
        if inside.is_empty() {
            inner.state = State::Suspended;
            Suspension::Complete
        } else if now_ns.saturating_sub(since_ns) <= within_ns {
            Suspension::Underway
        } else {
            Suspension::Overdue(inside)
        }
    }

    /// Its vCPUs may go on in their guest: `call` wakes those that wait, while none of them can go on yet. Also of one that isn't quite
    /// suspended.
    pub fn resume(&self, call: impl Fn(VcpuId)) -> Result<(), WrongState> {
        let mut inner = self.inner.lock();
        if !matches!(inner.state, State::Suspending { .. } | State::Suspended) {
            return Err(WrongState(inner.state));
        }
        inner.state = State::Running;
        for (vcpu, state) in (0..).map(VcpuId).zip(&mut inner.vcpus) {
            match state {
                Vcpu::On => *state = Vcpu::Late,
                Vcpu::Held | Vcpu::Starting(_) => call(vcpu),
                Vcpu::Off | Vcpu::Late | Vcpu::Gone => {}
            }
        }
        self.tell(&inner);
        Ok(())
    }

    /// By a vCPU that is on, was told to leave its guest, and has.
    pub fn stay(&self, vcpu: VcpuId) -> Stay {
        let mut inner = self.inner.lock();
        let (stay, now) = match inner.state {
            State::Built | State::Running => (Stay::Inside, Vcpu::On),
            State::Suspending { .. } | State::Suspended => (Stay::Outside, Vcpu::Held),
            State::Stopping { .. } | State::Stopped { .. } => return Stay::Away,
        };
        if let Some(state @ (Vcpu::On | Vcpu::Held | Vcpu::Late)) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = now;
        }
        self.tell(&inner);
        stay
    }

    /// Whether what a vCPU has just left its guest for may come of its being told to leave.
    pub fn is_moot(&self, vcpu: VcpuId) -> bool {
        let inner = self.inner.lock();
        inner.state != State::Running || inner.vcpus.get(usize::from(vcpu.0)) == Some(&Vcpu::Late)
    }

    pub fn power(&self, vcpu: VcpuId) -> Power {
        match self.inner.lock().vcpus.get(usize::from(vcpu.0)) {
            Some(Vcpu::Starting(_)) => Power::Starting,
            Some(Vcpu::On | Vcpu::Held | Vcpu::Late) => Power::On,
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
            Some(Vcpu::On | Vcpu::Held | Vcpu::Late | Vcpu::Gone) | None => Err(NotOff::On),
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
        if let Some(state @ (Vcpu::On | Vcpu::Late)) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = Vcpu::Starting(start);
        }
        self.tell(&inner);
    }

    /// It has left its CPU, and is off unless it begins anew. Whether it was the last that was on, so that nothing can ever start one.
    pub fn vcpu_off(&self, vcpu: VcpuId) -> bool {
        let mut inner = self.inner.lock();
        if let Some(state @ (Vcpu::On | Vcpu::Late)) = inner.vcpus.get_mut(usize::from(vcpu.0)) {
            *state = Vcpu::Off;
        }
        self.tell(&inner);
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
            State::Built | State::Running | State::Suspending { .. } | State::Suspended => {
                Departure::NotAsked
            }
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
