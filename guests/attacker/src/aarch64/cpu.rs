//! Accesses by the CPU, and calls to firmware.

use alloc::format;
use alloc::string::String;

use axvm_platform::model::PsciConduit;
use smccc::arch::SMCCC_ARCH_WORKAROUND_2;
use smccc::psci::{PSCI_AFFINITY_INFO_64, PSCI_CPU_ON_64, PSCI_MIGRATE_64, PSCI_SYSTEM_OFF};

use crate::board::Board;
use crate::machine::{Fault, call, has_system_error, load32, store32, take_system_error};
use crate::println;

/// Reads where nothing was given.
pub fn mmio_outside(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    let secret = board.number("axvm.secret");
    match load32(target) {
        Err(Fault) => format!("blocked at {target:#x}: abort"),
        Ok(value) if secret.is_some_and(|secret| secret as u32 == value) => {
            format!("succeeded: {target:#x} has {value:#x}")
        }
        Ok(value @ (0 | u32::MAX)) => format!("blocked at {target:#x}: reads {value:#x}"),
        Ok(value) => format!("succeeded: {target:#x} has {value:#x}"),
    }
}

/// Writes where nothing was given.
pub fn mmio_outside_write(board: &Board) -> String {
    const MARK: u32 = 0x4158_564d;
    let Some(target) = board.target() else { return "skipped: no target".into() };
    let written = store32(target, MARK);
    match (written, load32(target)) {
        (_, Ok(MARK)) => format!("succeeded: {target:#x} was written"),
        (Err(Fault), _) => format!("blocked at {target:#x}: abort"),
        (Ok(()), _) => format!("blocked at {target:#x}: ignored"),
    }
}

/// -1 of either width (Arm DEN 0028, 5.2).
fn is_not_supported(result: u64) -> bool {
    result as u32 == u32::MAX
}

/// Calls that no one handles are answered so, and reach no firmware.
pub fn unknown_calls(_: &Board) -> String {
    const FUNCTIONS: &[u32] = &[
        0x8200_0000, // SiP service
        0xc200_ff01,
        0x8300_0000, // OEM service
        0x8400_ff00, // standard service, no function
        0xc400_ffff,
        0x8600_ff01,             // hypervisor's vendor service
        0xb200_0000,             // trusted application
        0xbf00_ff00,             // trusted OS
        SMCCC_ARCH_WORKAROUND_2, // of the architecture, and not there
        0x0000_0000,             // a yielding call of old
        0x7fff_ffff,
    ];
    for conduit in [PsciConduit::Hvc, PsciConduit::Smc] {
        for &function in FUNCTIONS {
            match call(conduit, function, [0x4000_0000, 1, 2]) {
                Some(result) if is_not_supported(result) => {}
                // An instruction that doesn't exist has no effect either.
                None => {}
                Some(result) => return format!("succeeded: {conduit:?} {function:#x} gave {result:#x}"),
            }
        }
    }
    format!("blocked: {} calls", FUNCTIONS.len() * 2)
}

/// PSCI calls about CPUs that aren't the VM's.
pub fn calls_for_others(board: &Board) -> String {
    let own = |mpidr: u64| board.platform.cpus.iter().any(|cpu| cpu.hardware_id == mpidr);
    let mut tried = 0;
    for conduit in [PsciConduit::Hvc, PsciConduit::Smc] {
        for mpidr in (0..16).chain([0x100, 0x1_0000, 0x1_0000_0000, u64::MAX]).filter(|&mpidr| !own(mpidr)) {
            for function in [PSCI_CPU_ON_64, PSCI_AFFINITY_INFO_64, PSCI_MIGRATE_64] {
                // 0 is success for the first, "on" for the second; errors are negative.
                if let Some(result) = call(conduit, function, [mpidr, board.scratch, 0])
                    && (result as u32).cast_signed() >= 0
                {
                    return format!(
                        "succeeded: {conduit:?} {function:#x} for CPU {mpidr:#x} gave {result:#x}"
                    );
                }
                tried += 1;
            }
        }
    }
    format!("blocked: {tried} calls")
}

/// PSCI SYSTEM_OFF (Arm DEN 0022, 5.1.9) by SMC: it must end this VM and no more. A neighbour says whether it still runs.
pub fn system_off(_: &Board) -> String {
    println!("ATTACK smc-system-off calls");
    match call(PsciConduit::Smc, PSCI_SYSTEM_OFF, [0; 3]) {
        Some(result) => format!("broken: SYSTEM_OFF came back with {result:#x}"),
        None => "broken: SYSTEM_OFF gave an exception".into(),
    }
}

/// Has the tests' firmware (`firmware/`) answer the CPU by an SError, as a bus does on which an access fails late. It is this VM's:
/// recorded, and taken by the guest once it unmasks them.
pub fn system_error(_: &Board) -> String {
    const SYSTEM_ERROR: u32 = 0x8300_0001;
    const CLASS: u64 = 0x2f;
    if has_system_error() {
        return "broken: one is pending before".into();
    }
    if call(PsciConduit::Smc, SYSTEM_ERROR, [0; 3]) != Some(SYSTEM_ERROR.into()) {
        return "skipped: this firmware makes none".into();
    }
    let pending = has_system_error();
    let taken = [take_system_error(), take_system_error()];
    match (pending, taken) {
        (true, [Some(syndrome), None]) if syndrome >> 26 == CLASS => "ok".into(),
        _ => format!("broken: pending {pending}, taken {taken:x?}"),
    }
}
