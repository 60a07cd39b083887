//! The reset of every register of EL1 and EL0 that a guest can see and that isn't trapped: at each start of a vCPU, so that nothing of
//! what ran on the CPU before shows. `registers` and its kin (systems/runs.toml) have a guest read all that MRS can name.

use super::sysreg::{dsb, isb, mrs, msr};

/// SCTLR_EL1 at reset: MMU and caches off, RES1 bits one (Arm ARM, SCTLR_EL1).
pub const SCTLR: u64 = 0x30d0_0980;

/// Writes zeros to registers.
macro_rules! zero {
    ($($name:literal),* $(,)?) => { $(msr!($name, 0);)* };
}

/// Brings every EL1 and EL0 register that a guest can see to a fixed value, but those that [`super::tlb::enter`] is given.
pub fn registers() {
    // SAFETY: registers of EL1 and EL0, which the hypervisor itself doesn't use.
    unsafe {
        #[rustfmt::skip]
        zero!(
            "cpacr_el1", "ttbr0_el1", "ttbr1_el1", "mair_el1", "amair_el1", "contextidr_el1",
            "vbar_el1", "esr_el1", "far_el1", "afsr0_el1", "afsr1_el1", "par_el1", "elr_el1", "spsr_el1",
            "sp_el0", "sp_el1", "tpidr_el0", "tpidrro_el0", "tpidr_el1", "csselr_el1", "mdccint_el1",
            "cntkctl_el1", "cntv_ctl_el0", "cntv_cval_el0", "cntp_ctl_el0", "cntp_cval_el0",
        );
        // AArch32 state where EL1 can run it (ID_AA64PFR0_EL1.EL1 = 2).
        if mrs!("id_aa64pfr0_el1") >> 4 & 0xf == 2 {
            #[rustfmt::skip]
            zero!("dacr32_el2", "ifsr32_el2", "fpexc32_el2", "spsr_abt", "spsr_und", "spsr_irq", "spsr_fiq");
        }
        // Keys, with FEAT_PAuth (ID_AA64ISAR1.APA, API; ISAR2.APA3): the names are those of the encodings.
        if mrs!("id_aa64isar1_el1") & 0xff0 != 0 || mrs!("s3_0_c0_c6_2") >> 12 & 0xf != 0 {
            #[rustfmt::skip]
            zero!(
                "s3_0_c2_c1_0", "s3_0_c2_c1_1", "s3_0_c2_c1_2", "s3_0_c2_c1_3", "s3_0_c2_c2_0",
                "s3_0_c2_c2_1", "s3_0_c2_c2_2", "s3_0_c2_c2_3", "s3_0_c2_c3_0", "s3_0_c2_c3_1",
            );
        }
        // Floating point and vectors, where there are any (FP field not 0xf).
        if mrs!("id_aa64pfr0_el1") >> 16 & 0xf != 0xf {
            core::arch::asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "msr fpcr, xzr",
                "msr fpsr, xzr",
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                "movi v\\n\\().2d, #0",
                ".endr",
                options(nostack),
            );
        }
    }
    dsb!("sy");
    isb!();
}
