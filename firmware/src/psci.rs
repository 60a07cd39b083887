//! PSCI 1.1 (Arm DEN 0022) by SMC: CPUs on and off, the machine off and reset.

use core::sync::atomic::{AtomicU64, Ordering};

use smccc::arch::SMCCC_VERSION;
use smccc::psci::error::{
    ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS,
};
use smccc::psci::{
    AffinityState, MigrateType, PSCI_AFFINITY_INFO_32, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_SUSPEND_32,
    PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION,
};

use crate::board::{self, CPUS, RAM};
use crate::{boot, cpu};

/// Functions with arguments of 64 bits have this bit set, and are otherwise numbered as those of 32 bits.
const SMC64: u32 = 1 << 30;

/// PSCI 1.1, and SMCCC 1.1.
const VERSION_1_1: i32 = 1 << 16 | 1;

/// States, as AFFINITY_INFO says them.
const ON: u64 = AffinityState::On as u64;
const OFF: u64 = AffinityState::Off as u64;
const PENDING: u64 = AffinityState::OnPending as u64;

/// What is known of a CPU. Its caller writes `entry` and `argument` before it makes it pending, itself only `state` after
/// that.
struct Cpu {
    /// [`OFF`] shifted by one, so that cleared memory says that it is off: see [`Cpu::state`].
    state: AtomicU64,
    entry: AtomicU64,
    argument: AtomicU64,
}

impl Cpu {
    const fn new() -> Self {
        Self { state: AtomicU64::new(0), entry: AtomicU64::new(0), argument: AtomicU64::new(0) }
    }

    fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire) ^ OFF
    }

    fn set_state(&self, state: u64) {
        self.state.store(state ^ OFF, Ordering::Release);
    }
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

/// Answers a call of non-secure software.
pub fn call(id: u32, arguments: [u64; 3]) -> i32 {
    let wide = id & SMC64 != 0;
    let narrow = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let [first, second, third] = arguments.map(narrow);
    match id & !SMC64 {
        PSCI_VERSION if !wide => VERSION_1_1,
        SMCCC_VERSION if !wide => VERSION_1_1,
        // Every state is one from which an interrupt wakes the CPU with everything as it was.
        PSCI_CPU_SUSPEND_32 => {
            cpu::wait_for_interrupt();
            SUCCESS
        }
        PSCI_CPU_OFF if !wide => off(),
        PSCI_CPU_ON_32 => on(first, second, third),
        PSCI_AFFINITY_INFO_32 if second == 0 => match board::cpu_number(first) {
            Some(number) => STATES[number].state() as i32,
            None => INVALID_PARAMETERS,
        },
        PSCI_AFFINITY_INFO_32 => INVALID_PARAMETERS,
        // No secure operating system that would have to move.
        PSCI_MIGRATE_INFO_TYPE if !wide => MigrateType::MigrationNotRequired as i32,
        PSCI_SYSTEM_OFF if !wide => board::power_off(),
        PSCI_SYSTEM_RESET if !wide => board::reset(),
        PSCI_FEATURES if !wide => features(first as u32),
        _ => NOT_SUPPORTED,
    }
}

fn features(id: u32) -> i32 {
    match id {
        PSCI_VERSION
        | SMCCC_VERSION
        | PSCI_CPU_OFF
        | PSCI_MIGRATE_INFO_TYPE
        | PSCI_SYSTEM_OFF
        | PSCI_SYSTEM_RESET
        | PSCI_FEATURES => SUCCESS,
        _ => match id & !SMC64 {
            PSCI_CPU_SUSPEND_32 | PSCI_CPU_ON_32 | PSCI_AFFINITY_INFO_32 => SUCCESS,
            _ => NOT_SUPPORTED,
        },
    }
}

fn on(affinity: u64, entry: u64, argument: u64) -> i32 {
    let Some(target) = board::cpu_number(affinity).map(|number| &STATES[number]) else {
        return INVALID_PARAMETERS;
    };
    if entry < RAM as u64 {
        return INVALID_ADDRESS;
    }
    match target.state() {
        ON => ALREADY_ON,
        PENDING => ON_PENDING,
        _ => {
            target.entry.store(entry, Ordering::Relaxed);
            target.argument.store(argument, Ordering::Relaxed);
            target.set_state(PENDING);
            cpu::send_event();
            SUCCESS
        }
    }
}

fn off() -> ! {
    let Some(number) = board::cpu_number(cpu::affinity()) else { board::power_off() };
    STATES[number].set_state(OFF);
    boot::wait_for_call(number)
}
