//! The control registers that bound a guest, written as `axvm_cpu::control` has them: the table with the reasons is there.

use axvm_cpu::control::{Interrupts, Register, STEPS, State, When, value};
use axvm_cpu::features::{Feature, Features, IdRegisters};

use super::protection;
use super::sysreg::{isb, mrs, msr};

/// What the calling CPU has.
pub fn features() -> Features {
    Features::of(&IdRegisters {
        pfr0: mrs!("id_aa64pfr0_el1"),
        pfr1: mrs!("id_aa64pfr1_el1"),
        dfr0: mrs!("id_aa64dfr0_el1"),
        isar1: mrs!("id_aa64isar1_el1"),
        isar2: mrs!("s3_0_c0_c6_2"),
        mmfr0: mrs!("id_aa64mmfr0_el1"),
        mmfr1: mrs!("id_aa64mmfr1_el1"),
    })
}

/// Brings the calling CPU into the states that the table rests on.
pub fn establish(when: When) {
    let features = features();
    for step in STEPS.iter().filter(|step| step.when == when) {
        if step.needs.is_some_and(|feature| !features.has(feature)) {
            continue;
        }
        // SAFETY: debug state and virtual errors of EL1: no code of the hypervisor's is debugged, or takes a virtual error.
        unsafe {
            match step.state {
                State::DebugControlClear => msr!("mdscr_el1", 0),
                State::DoubleLockOpen => msr!("osdlr_el1", 0),
                State::OsLockOpen => msr!("oslar_el1", 0),
                State::NoVirtualError => {
                    // VSESR_EL2, VDISR_EL2.
                    msr!("s3_4_c5_c2_3", 0);
                    msr!("s3_4_c12_c1_1", 0);
                }
            }
        }
        isb!();
    }
}

/// Writes all of them on the calling CPU, for a guest of a kind. `guest_mpidr`: what the vCPU reads in MPIDR_EL1.
///
/// The second stage itself (VTCR, VTTBR) is the caller's.
pub fn apply(guest_mpidr: u64, interrupts: Interrupts) {
    /// MPIDR_EL1, bit 31: RES1.
    const MPIDR_RES1: u64 = 1 << 31;
    let features = features();
    let value = |register| value(register, interrupts, features);
    // PMCR_EL0.N counters: all of them the guest's (HPMN), which can't reach them; a value beyond N is unpredictable.
    let hpmn = if features.has(Feature::Counters) { mrs!("pmcr_el0") >> 11 & 0x1f } else { 0 };
    // SAFETY: these registers bound EL1 and EL0; the hypervisor's own execution depends on none of them.
    unsafe {
        msr!("hcr_el2", protection::hcr(value(Register::Hcr)));
        msr!("cptr_el2", value(Register::Cptr));
        msr!("mdcr_el2", protection::mdcr(value(Register::Mdcr)) | hpmn);
        msr!("hstr_el2", value(Register::Hstr));
        msr!("cnthctl_el2", value(Register::Cnthctl));
        // One clock for all: what a vCPU reads is what the hypervisor's records say.
        msr!("cntvoff_el2", 0);
        msr!("vpidr_el2", mrs!("midr_el1"));
        msr!("vmpidr_el2", guest_mpidr | MPIDR_RES1);
        if features.has(Feature::MoreControl) {
            msr!("s3_4_c1_c2_2", value(Register::Hcrx));
        }
        if features.has(Feature::FineGrained) {
            msr!("s3_4_c1_c1_4", value(Register::FineGrained));
            msr!("s3_4_c1_c1_5", value(Register::FineGrained));
            msr!("s3_4_c1_c1_6", value(Register::FineGrained));
            msr!("s3_4_c3_c1_4", value(Register::FineGrained));
            msr!("s3_4_c3_c1_5", value(Register::FineGrained));
            if features.has(Feature::ActivityMonitors) {
                msr!("s3_4_c3_c1_6", value(Register::FineGrained));
            }
        }
        if features.has(Feature::FineGrained2) {
            msr!("s3_4_c3_c1_0", value(Register::FineGrained));
            msr!("s3_4_c3_c1_1", value(Register::FineGrained));
            msr!("s3_4_c3_c1_2", value(Register::FineGrained));
            msr!("s3_4_c3_c1_3", value(Register::FineGrained));
            msr!("s3_4_c3_c1_7", value(Register::FineGrained));
        }
        if features.has(Feature::Partitions) {
            msr!("s3_4_c10_c5_0", value(Register::Mpam2));
        }
        if interrupts == Interrupts::Direct {
            msr!("ich_hcr_el2", protection::ich_hcr(value(Register::IchHcr)));
        }
    }
    isb!();
}
