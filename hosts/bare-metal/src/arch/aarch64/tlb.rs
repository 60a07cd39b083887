//! What the processors' TLBs forget. Invalidations that go to all CPUs are here and nowhere else, so that none is made once where the
//! core's errata ask for two (`axvm_cpu::speculation`).

use axvm_cpu::walks::{self, FirstStage, Stages};

use super::speculation::invalidate_twice;
use super::sysreg::{dsb, isb, mrs, msr};

/// Invalidates on all CPUs, and waits: twice where after the first an access that was translated before may not have completed.
macro_rules! everywhere {
    ($what:literal $(, $operand:expr)?) => {
        core::arch::asm!(
            concat!("tlbi ", $what),
            "dsb ish",
            "cbz {twice}, 2f",
            concat!("tlbi ", $what),
            "dsb ish",
            "2:",
            "isb",
            twice = in(reg) u64::from(invalidate_twice()),
            $(operand = in(reg) $operand,)?
            options(nostack),
        )
    };
}

/// Forgets the hypervisor's own translation of a page.
///
/// # Safety
///
/// Nothing is accessed there any more.
pub unsafe fn forget_own(address: u64) {
    dsb!("ishst");
    // SAFETY: by the caller's promise.
    unsafe { everywhere!("vae2is, {operand}", address >> 12) }
}

/// Forgets all second-stage translations of the VM with this VTTBR, on all CPUs.
pub fn forget_vm(vttbr: u64) {
    dsb!("ishst");
    walks::forget(&mut Own, vttbr);
}

/// Parks the calling CPU's second stage: after this no translation of a guest is used on it.
pub fn park() {
    walks::leave(&mut Own);
}

/// On a CPU that has come up: no translation at EL1 until a vCPU is there.
pub fn shut() {
    let _: FirstStage = walks::shut(&mut Own);
}

/// Brings a vCPU in on the calling CPU: `bound` writes the control registers, `reset` all of EL1 but TCR and SCTLR, which are `first`.
pub fn enter(vttbr: u64, vtcr: u64, bound: impl FnOnce(), reset: impl FnOnce(), first: FirstStage) {
    let bound = |_: &mut Own| {
        // SAFETY: the second stage, which the hypervisor's own translation doesn't use.
        unsafe { msr!("vtcr_el2", vtcr) };
        bound();
    };
    let reset = |_: &mut Own| {
        // SAFETY: forgets whatever an earlier owner of this VMID left in this CPU's TLB and instruction cache.
        unsafe {
            core::arch::asm!("tlbi vmalls12e1", "dsb nsh", "ic iallu", "dsb nsh", "isb", options(nostack));
        }
        reset();
    };
    walks::enter(&mut Own, vttbr, bound, reset, first);
}

/// The calling CPU.
struct Own;

impl Stages for Own {
    fn tcr(&self) -> u64 {
        mrs!("tcr_el1")
    }

    fn set_tcr(&mut self, value: u64) {
        // SAFETY: EL1's, by which the hypervisor translates nothing.
        unsafe { msr!("tcr_el1", value) }
    }

    fn sctlr(&self) -> u64 {
        mrs!("sctlr_el1")
    }

    fn set_sctlr(&mut self, value: u64) {
        // SAFETY: as in `set_tcr`.
        unsafe { msr!("sctlr_el1", value) }
    }

    fn vttbr(&self) -> u64 {
        mrs!("vttbr_el2")
    }

    fn set_vttbr(&mut self, value: u64) {
        // SAFETY: as in `set_tcr`.
        unsafe { msr!("vttbr_el2", value) }
    }

    fn second_stage_off(&mut self) {
        /// HCR_EL2.VM.
        const VM: u64 = 1;
        // SAFETY: as in `set_tcr`; no guest runs on this CPU.
        unsafe { msr!("hcr_el2", mrs!("hcr_el2") & !VM) }
    }

    fn barrier(&mut self) {
        isb!();
    }

    fn forget(&mut self) {
        // SAFETY: VTTBR_EL2 names the VMID; what is forgotten is read again from its tables.
        unsafe { everywhere!("vmalls12e1is") }
    }
}
