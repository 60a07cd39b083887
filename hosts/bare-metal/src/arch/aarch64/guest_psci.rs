//! PSCI and SMCCC as the guest sees them (Arm DEN 0022, DEN 0028). HVC and SMC are alike: both are trapped, and no call goes on
//! to the firmware but questions about its workarounds.

use axvm::vm::{NotOff, Power, Start};

use super::psci;
use super::vcpu::Context;
use crate::vm::{StopReason, Vm};

/// Function ids, without the bit that tells 64-bit calls (bit 30).
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
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
    pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
    pub const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
    pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
}

/// A call by its 64-bit convention.
const SMC64: u32 = 1 << 30;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// PSCI 1.1.
const PSCI_VERSION: i64 = 0x1_0001;
/// SMCCC 1.1.
const SMCCC_VERSION: i64 = 0x1_0001;

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Go on: the answer is in x0.
    Resume,
    /// Sleep until an interrupt is pending for the vCPU, then go on.
    Suspend,
    /// The vCPU is off.
    Off,
    /// The VM stops.
    Stop(StopReason),
}

/// The answer to a call that is always the same, does nothing, and has no arguments.
pub fn constant(id: u32) -> Option<u64> {
    match id {
        function::VERSION => Some(PSCI_VERSION as u64),
        function::SMCCC_VERSION => Some(SMCCC_VERSION as u64),
        _ => None,
    }
}

/// Answers a call.
pub fn call(vm: &Vm, context: &mut Context) -> After {
    let id = context.x(0) as u32;
    // A 32-bit call passes 32-bit arguments.
    let narrow = id & SMC64 == 0;
    let argument = |number| if narrow { context.x(number) & 0xffff_ffff } else { context.x(number) };
    let (first, second, third) = (argument(1), argument(2), argument(3));
    let mut after = After::Resume;
    let answer = match id {
        function::VERSION => PSCI_VERSION,
        function::FEATURES => match first as u32 {
            function::VERSION
            | function::CPU_OFF
            | function::SYSTEM_OFF
            | function::SYSTEM_RESET
            | function::FEATURES
            | function::MIGRATE_INFO_TYPE
            | function::SMCCC_VERSION => SUCCESS,
            it if matches!(
                it & !SMC64,
                function::CPU_SUSPEND | function::CPU_ON | function::AFFINITY_INFO
            ) =>
            {
                SUCCESS
            }
            _ => NOT_SUPPORTED,
        },
        // No trusted OS that would have to migrate.
        function::MIGRATE_INFO_TYPE => 2,
        function::CPU_OFF => {
            after = After::Off;
            SUCCESS
        }
        function::SYSTEM_OFF => {
            after = After::Stop(StopReason::SystemOff);
            SUCCESS
        }
        function::SYSTEM_RESET => {
            after = After::Stop(StopReason::SystemReset);
            SUCCESS
        }
        function::SMCCC_VERSION => SMCCC_VERSION,
        function::SMCCC_ARCH_FEATURES => match first as u32 {
            function::SMCCC_VERSION | function::SMCCC_ARCH_FEATURES => SUCCESS,
            it
            @ (function::ARCH_WORKAROUND_1 | function::ARCH_WORKAROUND_2 | function::ARCH_WORKAROUND_3) => {
                i64::from(workaround(it))
            }
            _ => NOT_SUPPORTED,
        },
        // What the firmware would do on a core's behalf: it has been done on the way in here, or isn't needed.
        function::ARCH_WORKAROUND_1 | function::ARCH_WORKAROUND_3 if workaround(id) >= 0 => {
            psci::smccc_query(id, 0);
            SUCCESS
        }
        // On for good, or not needed: a guest that asks for less gets no less.
        function::ARCH_WORKAROUND_2 if workaround(id) >= 0 => SUCCESS,
        it => match it & !SMC64 {
            function::CPU_SUSPEND => {
                after = After::Suspend;
                SUCCESS
            }
            function::CPU_ON => cpu_on(vm, first, second, third),
            // Affinity level 0 only.
            function::AFFINITY_INFO if second == 0 => match vm.vcpu_by_mpidr(first) {
                Some(target) => affinity_info(vm.power(target)),
                None => INVALID_PARAMETERS,
            },
            function::AFFINITY_INFO => INVALID_PARAMETERS,
            _ => {
                vm.count_refused_hypercall();
                NOT_SUPPORTED
            }
        },
    };
    context.set_x(0, answer as u64);
    after
}

/// AFFINITY_INFO (DEN 0022, 5.7).
fn affinity_info(power: Power) -> i64 {
    match power {
        Power::On => 0,
        Power::Off => 1,
        Power::Starting => 2,
    }
}

fn cpu_on(vm: &Vm, mpidr: u64, entry: u64, argument: u64) -> i64 {
    let Some(target) = vm.vcpu_by_mpidr(mpidr) else { return INVALID_PARAMETERS };
    if !vm.is_ram(entry) {
        return INVALID_ADDRESS;
    }
    match vm.start_vcpu(target, Start { entry, argument }) {
        Ok(()) => SUCCESS,
        Err(NotOff::On) => ALREADY_ON,
        Err(NotOff::Starting) => ON_PENDING,
    }
}

/// What a guest is told of a workaround, as [`psci::workaround`] has it. The one against loads that pass stores is on for good
/// where it is needed ([`super::speculation`]): the guest has nothing to do.
fn workaround(function: u32) -> i32 {
    const NOT_NEEDED: i32 = 1;
    match psci::workaround(function) {
        0 if function == self::function::ARCH_WORKAROUND_2 => NOT_NEEDED,
        answer => answer,
    }
}
