//! Calls to the firmware below: PSCI (Arm DEN 0022) and SMCCC (Arm DEN 0028).

use core::sync::atomic::{AtomicBool, Ordering};

use smccc::{Call, Smc, psci};

use axvm_cpu::firmware as rules;
use axvm_platform::fdt::outline::Outline;
use axvm_platform::model::{Platform, PsciConduit};

use super::cpu::halt;
use super::sysreg::mrs;

/// Whether there is firmware below.
static REACHED: AtomicBool = AtomicBool::new(false);

/// Finds out whether firmware is reached, by what the device tree says of it to EL1. It is called by SMC then.
pub fn find(outline: &Outline<'_>) {
    let el3 = mrs!("id_aa64pfr0_el1") >> 12 & 0xf != 0;
    let reached = outline.psci.is_some_and(|told| rules::is_reached(told == PsciConduit::Smc, el3));
    REACHED.store(reached, Ordering::Relaxed);
}

/// Leaves out of the platform what isn't for the hypervisor: what the tree tells EL1 of firmware that EL2 doesn't reach.
pub fn correct(platform: &mut Platform) {
    if !is_reached() {
        platform.firmware = None;
    }
}

/// Whether there is firmware to call.
pub fn is_reached() -> bool {
    REACHED.load(Ordering::Relaxed)
}

/// Starts the CPU with this MPIDR at the physical address `entry`, with `argument` in its x0.
pub fn cpu_on(mpidr: u64, entry: u64, argument: u64) -> Result<(), psci::error::Error> {
    psci::cpu_on::<Smc>(mpidr, entry, argument)
}

/// Switches the machine off.
pub fn system_off() -> ! {
    if is_reached() {
        let _ = psci::system_off::<Smc>();
    }
    halt()
}

/// Starts the machine again. Memory is kept where the firmware keeps it.
pub fn system_reset() -> ! {
    if is_reached() {
        let _ = psci::system_reset::<Smc>();
    }
    halt()
}

/// What the firmware says of a workaround on the calling CPU ([`rules::workaround`]).
pub fn workaround(function: u32) -> i32 {
    if is_reached() { rules::workaround(function, smccc_query) } else { -1 }
}

/// An SMCCC call with one argument, as firmware answers it. There has to be one.
pub fn smccc_query(function: u32, argument: u32) -> i32 {
    let mut arguments = [0; 7];
    arguments[0] = argument;
    Smc::call32(function, arguments)[0] as i32
}
