//! Which vCPUs of a VM are on.
//!
//! One lock for all of them: whether a vCPU that goes off was the last is a question about the others, who may be starting it anew
//! at that moment.

use alloc::vec::Vec;

use axvm_addr::VcpuId;
use spin::Mutex;

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

/// What a vCPU is, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It doesn't run, and its CPU has nothing of it.
    Off,
    /// Somebody has started it, and its CPU hasn't taken that up.
    Starting,
    /// It runs.
    On,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Off,
    Starting(Start),
    On,
}

/// Which vCPUs of a VM are on. At first none.
pub struct PowerStates(Mutex<Vec<State>>);

impl PowerStates {
    /// Of so many vCPUs.
    pub fn new(vcpus: usize) -> Self {
        Self(Mutex::new(core::iter::repeat_n(State::Off, vcpus).collect()))
    }

    fn with<R>(&self, vcpu: VcpuId, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        self.0.lock().get_mut(usize::from(vcpu.0)).map(f)
    }

    /// What a vCPU is now; one that there isn't is off.
    pub fn of(&self, vcpu: VcpuId) -> Power {
        let power = self.with(vcpu, |state| match state {
            State::Off => Power::Off,
            State::Starting(_) => Power::Starting,
            State::On => Power::On,
        });
        power.unwrap_or(Power::Off)
    }

    /// Has a vCPU start.
    ///
    /// # Errors
    ///
    /// [`NotOff`]; then it is as it was.
    pub fn start(&self, vcpu: VcpuId, start: Start) -> Result<(), NotOff> {
        let started = self.with(vcpu, |state| match state {
            State::Off => {
                *state = State::Starting(start);
                Ok(())
            }
            State::Starting(_) => Err(NotOff::Starting),
            State::On => Err(NotOff::On),
        });
        started.unwrap_or(Err(NotOff::On))
    }

    /// By a vCPU itself: where it begins, if somebody has started it. From then on it is on.
    pub fn take_start(&self, vcpu: VcpuId) -> Option<Start> {
        self.with(vcpu, |state| match *state {
            State::Starting(start) => {
                *state = State::On;
                Some(start)
            }
            State::Off | State::On => None,
        })?
    }

    /// By a vCPU itself, of which nothing is left in its CPU: it is off. Answers whether all are, so that nothing can ever start one.
    pub fn off(&self, vcpu: VcpuId) -> bool {
        let mut states = self.0.lock();
        if let Some(state) = states.get_mut(usize::from(vcpu.0)) {
            *state = State::Off;
        }
        states.iter().all(|state| *state == State::Off)
    }
}
