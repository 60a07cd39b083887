//! Calls to the firmware below: PSCI (Arm DEN 0022) and SMCCC (Arm DEN 0028).

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::{Hvc, Smc, psci};

use axvm_platform::model::PsciConduit;

/// HVC from EL2 traps to EL2 itself, so only a platform that says so gets it; SMC is what firmware at EL3 takes, and
/// what QEMU stands in for.
static BY_HVC: AtomicBool = AtomicBool::new(false);

/// Says how the platform's firmware is called.
pub fn set_conduit(conduit: PsciConduit) {
    BY_HVC.store(conduit == PsciConduit::Hvc, Ordering::Relaxed);
}

/// Starts the CPU with this MPIDR at the physical address `entry`, with `argument` in its x0.
pub fn cpu_on(mpidr: u64, entry: u64, argument: u64) -> Result<(), psci::error::Error> {
    if BY_HVC.load(Ordering::Relaxed) {
        psci::cpu_on::<Hvc>(mpidr, entry, argument)
    } else {
        psci::cpu_on::<Smc>(mpidr, entry, argument)
    }
}

/// Switches the machine off.
pub fn system_off() -> ! {
    let _ =
        if BY_HVC.load(Ordering::Relaxed) { psci::system_off::<Hvc>() } else { psci::system_off::<Smc>() };
    loop {
        // SAFETY: waiting changes nothing.
        unsafe { core::arch::asm!("wfe", options(nomem, nostack)) }
    }
}

/// What the firmware says of a workaround on the calling CPU (SMCCC_ARCH_FEATURES): 0 needed and there, 1 not needed, negative not
/// supported, or -2 not needed.
pub fn workaround(function: u32) -> i32 {
    const SMCCC_VERSION: u32 = 0x8000_0000;
    const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
    // Before SMCCC 1.1 there was nothing to ask.
    if smccc_query(SMCCC_VERSION, 0) < 0x1_0001 {
        return -1;
    }
    smccc_query(SMCCC_ARCH_FEATURES, function)
}

/// An SMCCC call with one argument, as firmware answers it; NOT_SUPPORTED where there is none.
pub fn smccc_query(function: u32, argument: u32) -> i32 {
    let mut arguments = [0; 7];
    arguments[0] = argument;
    use smccc::Call;
    (if BY_HVC.load(Ordering::Relaxed) {
        Hvc::call32(function, arguments)
    } else {
        Smc::call32(function, arguments)
    })[0] as i32
}
