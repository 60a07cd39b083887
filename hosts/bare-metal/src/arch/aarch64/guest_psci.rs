//! PSCI and SMCCC as the guest sees them (Arm DEN 0022, DEN 0028). HVC and SMC are alike: both are trapped, and no call goes on
//! to the firmware but questions about its workarounds.

use axvm::vcpu::{Answer, PowerAnswer, PowerRequest};
use axvm::vm::{Power, Start};
use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION,
};
use smccc::psci::error::{
    ALREADY_ON, DENIED, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS,
};
use smccc::psci::{
    AffinityState, MigrateType, PSCI_AFFINITY_INFO_32, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_SUSPEND_32,
    PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE, PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_32,
    PSCI_SYSTEM_RESET2_64, PSCI_SYSTEM_SUSPEND_32, PSCI_VERSION,
};

use super::firmware;
use super::vcpu::Context;

/// A call by its 64-bit convention.
const SMC64: u32 = 1 << 30;

/// PSCI 1.1.
const PSCI_1_1: i32 = 0x1_0001;
/// SMCCC 1.1.
const SMCCC_1_1: i32 = 0x1_0001;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It is answered in x0.
    Answered,
    /// The core does that.
    Power(PowerRequest),
    /// Nobody knows it.
    Unknown,
}

/// The answer to a call that is always the same, does nothing, and has no arguments.
pub fn constant(id: u32) -> Option<u64> {
    match id {
        PSCI_VERSION => Some(PSCI_1_1 as u64),
        SMCCC_VERSION => Some(SMCCC_1_1 as u64),
        _ => None,
    }
}

/// Answers a call, or says what it asks of the core.
pub fn call(context: &mut Context) -> Called {
    let id = context.x(0) as u32;
    // A 32-bit call passes 32-bit arguments.
    let narrow = id & SMC64 == 0;
    let argument = |number| if narrow { context.x(number) & 0xffff_ffff } else { context.x(number) };
    let (first, second, third) = (argument(1), argument(2), argument(3));
    let answer = match id {
        PSCI_VERSION => PSCI_1_1,
        PSCI_FEATURES => match first as u32 {
            PSCI_VERSION
            | PSCI_CPU_OFF
            | PSCI_SYSTEM_OFF
            | PSCI_SYSTEM_RESET
            | PSCI_SYSTEM_RESET2_32
            | PSCI_SYSTEM_RESET2_64
            | PSCI_FEATURES
            | PSCI_MIGRATE_INFO_TYPE
            | SMCCC_VERSION => SUCCESS,
            it if matches!(
                it & !SMC64,
                PSCI_CPU_SUSPEND_32 | PSCI_CPU_ON_32 | PSCI_AFFINITY_INFO_32 | PSCI_SYSTEM_SUSPEND_32
            ) =>
            {
                SUCCESS
            }
            _ => NOT_SUPPORTED,
        },
        // No trusted OS that would have to migrate.
        PSCI_MIGRATE_INFO_TYPE => MigrateType::MigrationNotRequired as i32,
        PSCI_CPU_OFF => return Called::Power(PowerRequest::CpuOff),
        PSCI_SYSTEM_OFF => return Called::Power(PowerRequest::SystemOff),
        PSCI_SYSTEM_RESET => return Called::Power(PowerRequest::SystemReset),
        // A warm reset is the only one that isn't a vendor's own, and is the same here (DEN 0022, 5.13).
        PSCI_SYSTEM_RESET2_32 | PSCI_SYSTEM_RESET2_64 => match first as u32 {
            0 => return Called::Power(PowerRequest::SystemReset),
            _ => INVALID_PARAMETERS,
        },
        SMCCC_VERSION => SMCCC_1_1,
        SMCCC_ARCH_FEATURES => match first as u32 {
            SMCCC_VERSION | SMCCC_ARCH_FEATURES => SUCCESS,
            it @ (SMCCC_ARCH_WORKAROUND_1 | SMCCC_ARCH_WORKAROUND_2 | SMCCC_ARCH_WORKAROUND_3) => {
                workaround(it)
            }
            _ => NOT_SUPPORTED,
        },
        // What the firmware would do on a core's behalf: it has been done on the way in here, or isn't needed.
        SMCCC_ARCH_WORKAROUND_1 | SMCCC_ARCH_WORKAROUND_3 if workaround(id) >= 0 => {
            firmware::smccc_query(id, 0);
            SUCCESS
        }
        // On for good, or not needed: a guest that asks for less gets no less.
        SMCCC_ARCH_WORKAROUND_2 if workaround(id) >= 0 => SUCCESS,
        it => match it & !SMC64 {
            PSCI_CPU_SUSPEND_32 => return Called::Power(PowerRequest::CpuSuspend),
            PSCI_SYSTEM_SUSPEND_32 => {
                let start = Start { entry: first, argument: second };
                return Called::Power(PowerRequest::SystemSuspend { start });
            }
            PSCI_CPU_ON_32 => {
                let start = Start { entry: second, argument: third };
                return Called::Power(PowerRequest::CpuOn { target: first, start });
            }
            // Affinity level 0 only.
            PSCI_AFFINITY_INFO_32 if second == 0 => {
                return Called::Power(PowerRequest::CpuState { target: first });
            }
            PSCI_AFFINITY_INFO_32 => INVALID_PARAMETERS,
            _ => return Called::Unknown,
        },
    };
    set_answer(context, answer);
    Called::Answered
}

fn set_answer(context: &mut Context, answer: i32) {
    context.set_x(0, i64::from(answer) as u64);
}

/// What the core has answered, as PSCI says it (DEN 0022, 5.1.19, 5.2.2 and 5.7).
pub fn answer(context: &mut Context, answer: Answer) {
    let answer = match answer {
        Answer::Power(PowerAnswer::Done) => SUCCESS,
        Answer::Power(PowerAnswer::State(Power::On)) => AffinityState::On as i32,
        Answer::Power(PowerAnswer::State(Power::Off)) => AffinityState::Off as i32,
        Answer::Power(PowerAnswer::State(Power::Starting)) => AffinityState::OnPending as i32,
        Answer::Power(PowerAnswer::IsOn) => ALREADY_ON,
        Answer::Power(PowerAnswer::IsStarting) => ON_PENDING,
        Answer::Power(PowerAnswer::NoSuchCpu) => INVALID_PARAMETERS,
        Answer::Power(PowerAnswer::NotMemory) => INVALID_ADDRESS,
        Answer::Power(PowerAnswer::OthersOn) => DENIED,
        Answer::Nobody | Answer::Value(_) => NOT_SUPPORTED,
    };
    set_answer(context, answer);
}

/// What a guest is told of a workaround, as [`firmware::workaround`] has it. The one against loads that pass stores is on for good
/// where it is needed ([`super::speculation`]): the guest has nothing to do.
fn workaround(function: u32) -> i32 {
    const NOT_NEEDED: i32 = 1;
    match firmware::workaround(function) {
        0 if function == SMCCC_ARCH_WORKAROUND_2 => NOT_NEEDED,
        answer => answer,
    }
}
