//! PSCI 1.1 (Arm DEN 0022) by SMC: CPUs on and off, the machine off and reset.

use smccc::arch::SMCCC_VERSION;
use smccc::psci::error::{
    ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS,
};
use smccc::psci::{
    MigrateType, PSCI_AFFINITY_INFO_32, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_SUSPEND_32, PSCI_FEATURES,
    PSCI_MIGRATE_INFO_TYPE, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION,
};

use crate::board::{self, RAM};
use crate::states::{OFF, ON, PENDING, of};
use crate::{boot, cpu};

/// Functions with arguments of 64 bits have this bit set, and are otherwise numbered as those of 32 bits.
const SMC64: u32 = 1 << 30;

/// PSCI 1.1, and SMCCC 1.1.
const VERSION_1_1: i32 = 1 << 16 | 1;

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
            Some(number) => of(number).state() as i32,
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
    let Some(target) = board::cpu_number(affinity).map(of) else {
        return INVALID_PARAMETERS;
    };
    if entry < RAM as u64 {
        return INVALID_ADDRESS;
    }
    match target.state() {
        ON => ALREADY_ON,
        PENDING => ON_PENDING,
        _ => {
            target.send(entry, argument);
            cpu::send_event();
            SUCCESS
        }
    }
}

fn off() -> ! {
    let Some(number) = board::cpu_number(cpu::affinity()) else { board::power_off() };
    of(number).set_state(OFF);
    boot::wait_for_call(number)
}
