//! PSCI 1.1 (Arm DEN 0022) by SMC: CPUs on and off, the machine off and reset.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::board::{self, CPUS, RAM};
use crate::{boot, cpu};

/// Functions; those of 64 bits have bit 30 set as well.
mod function {
    pub const VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON: u32 = 0x8400_0003;
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const FEATURES: u32 = 0x8400_000a;
    /// SMCCC_VERSION (Arm DEN 0028).
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    /// There is a form of it with arguments of 64 bits.
    pub const WIDE: u32 = 1 << 30;
}

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// States, as AFFINITY_INFO says them.
const ON: u64 = 0;
const OFF: u64 = 1;
const PENDING: u64 = 2;

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
pub fn call(id: u32, arguments: [u64; 3]) -> i64 {
    let wide = id & function::WIDE != 0;
    let narrow = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let [first, second, third] = arguments.map(narrow);
    match id & !function::WIDE {
        function::VERSION if !wide => 1 << 16 | 1,
        function::SMCCC_VERSION if !wide => 1 << 16 | 1,
        // Every state is one from which an interrupt wakes the CPU with everything as it was.
        function::CPU_SUSPEND => {
            cpu::wait_for_interrupt();
            SUCCESS
        }
        function::CPU_OFF if !wide => off(),
        function::CPU_ON => on(first, second, third),
        function::AFFINITY_INFO if second == 0 => match board::cpu_number(first) {
            Some(number) => STATES[number].state() as i64,
            None => INVALID_PARAMETERS,
        },
        function::AFFINITY_INFO => INVALID_PARAMETERS,
        // No secure operating system that would have to move.
        function::MIGRATE_INFO_TYPE if !wide => 2,
        function::SYSTEM_OFF if !wide => board::power_off(),
        function::SYSTEM_RESET if !wide => board::reset(),
        function::FEATURES if !wide => features(first as u32),
        _ => NOT_SUPPORTED,
    }
}

fn features(id: u32) -> i64 {
    match id {
        function::VERSION
        | function::SMCCC_VERSION
        | function::CPU_OFF
        | function::MIGRATE_INFO_TYPE
        | function::SYSTEM_OFF
        | function::SYSTEM_RESET
        | function::FEATURES => SUCCESS,
        _ => match id & !function::WIDE {
            function::CPU_SUSPEND | function::CPU_ON | function::AFFINITY_INFO => SUCCESS,
            _ => NOT_SUPPORTED,
        },
    }
}

fn on(affinity: u64, entry: u64, argument: u64) -> i64 {
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
