//! Which CPUs are on, and where those go that are called.

use core::sync::atomic::{AtomicU64, Ordering};

use smccc::psci::AffinityState;

use crate::board::CPUS;
use crate::cpu;

/// States, as AFFINITY_INFO says them.
pub const ON: u64 = AffinityState::On as u64;
pub const OFF: u64 = AffinityState::Off as u64;
pub const PENDING: u64 = AffinityState::OnPending as u64;

/// What is known of a CPU. Its caller writes `entry` and `argument` before it makes it pending, itself only `state` after
/// that.
pub struct Cpu {
    /// [`OFF`] shifted by one, so that cleared memory says that it is off: see [`Cpu::state`].
    state: AtomicU64,
    entry: AtomicU64,
    argument: AtomicU64,
}

impl Cpu {
    const fn new() -> Self {
        Self { state: AtomicU64::new(0), entry: AtomicU64::new(0), argument: AtomicU64::new(0) }
    }

    /// One of [`ON`], [`OFF`], [`PENDING`].
    pub fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire) ^ OFF
    }

    /// Sets it.
    pub fn set_state(&self, state: u64) {
        self.state.store(state ^ OFF, Ordering::Release);
    }

    /// Has it go there, with this, once it looks.
    pub fn send(&self, entry: u64, argument: u64) {
        self.entry.store(entry, Ordering::Relaxed);
        self.argument.store(argument, Ordering::Relaxed);
        self.set_state(PENDING);
    }
}

/// The CPU of this number.
pub fn of(number: usize) -> &'static Cpu {
    &STATES[number]
}

static STATES: [Cpu; CPUS] = [const { Cpu::new() }; CPUS];

/// The first CPU was never off.
pub fn first_is_on() {
    STATES[0].set_state(ON);
}

/// Waits until the CPU is called; where it goes, with what.
pub fn called(number: usize) -> (u64, u64) {
    let this = &STATES[number];
    while this.state() != PENDING {
        cpu::wait_for_event();
    }
    let call = (this.entry.load(Ordering::Relaxed), this.argument.load(Ordering::Relaxed));
    this.set_state(ON);
    call
}
