//! A CPU's own registers at EL3 (Arm ARM DDI 0487, D24.2), and what it starts EL2 with.

use core::arch::asm;

macro_rules! mrs {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading it has no effect.
        unsafe { core::arch::asm!(concat!("mrs {0}, ", $register), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

macro_rules! msr {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: EL3's own configuration, or of a lower level that doesn't run now: no Rust object depends on it.
        unsafe { core::arch::asm!(concat!("msr ", $register, ", {0}"), in(reg) value, options(nostack)) };
    }};
}

pub(crate) use {mrs, msr};

/// Bits of SCR_EL3 that there always are.
mod scr {
    /// Lower levels are non-secure.
    pub const NS: u64 = 1 << 0;
    /// Group 0 interrupts, which are the secure world's, come to EL3.
    pub const FIQ: u64 = 1 << 2;
    pub const RES1: u64 = 3 << 4;
    /// HVC works.
    pub const HCE: u64 = 1 << 8;
    /// EL2 is AArch64.
    pub const RW: u64 = 1 << 10;
}

/// A feature whose registers trap to EL3 unless a bit of SCR_EL3 is set.
struct Feature {
    /// The identification register, and where the field is in it.
    field: (fn() -> u64, u32),
    /// The bits.
    scr: u64,
}

const FEATURES: &[Feature] = &[
    // Pointer authentication (APA, API): keys and instructions.
    Feature { field: (isar1, 4), scr: 3 << 16 },
    Feature { field: (isar1, 8), scr: 3 << 16 },
    // The same by FEAT_PACQARMA3 (APA3).
    Feature { field: (isar2, 12), scr: 3 << 16 },
    // Memory tags (MTE).
    Feature { field: (pfr1, 8), scr: 1 << 26 },
    // SME: EnTP2.
    Feature { field: (pfr1, 24), scr: 1 << 41 },
    // Fine-grained traps (FGT), enhanced counters (ECV).
    Feature { field: (mmfr0, 56), scr: 1 << 27 },
    Feature { field: (mmfr0, 60), scr: 1 << 28 },
    // HCRX_EL2 (HCX).
    Feature { field: (mmfr1, 40), scr: 1 << 38 },
    // TCR2 (TCRX), SCTLR2 (SCTLRX), permission indirection (S1PIE).
    Feature { field: (mmfr3, 0), scr: 1 << 43 },
    Feature { field: (mmfr3, 4), scr: 1 << 44 },
    Feature { field: (mmfr3, 8), scr: 1 << 45 },
];

fn isar1() -> u64 {
    mrs!("id_aa64isar1_el1")
}
fn isar2() -> u64 {
    mrs!("s3_0_c0_c6_2")
}
fn pfr1() -> u64 {
    mrs!("id_aa64pfr1_el1")
}
fn mmfr0() -> u64 {
    mrs!("id_aa64mmfr0_el1")
}
fn mmfr1() -> u64 {
    mrs!("id_aa64mmfr1_el1")
}
fn mmfr3() -> u64 {
    mrs!("s3_0_c0_c7_3")
}

const fn field(value: u64, at: u32) -> u64 {
    value >> at & 0xf
}

/// Makes the lower levels non-secure, and gives them what the CPU has.
pub fn set_up() {
    let present = FEATURES.iter().filter(|it| field((it.field.0)(), it.field.1) != 0);
    // CSV2 2 or more: SCXTNUM.
    let context_numbers = if field(mrs!("id_aa64pfr0_el1"), 56) >= 2 { 1 << 25 } else { 0 };
    msr!(
        "scr_el3",
        present.fold(scr::NS | scr::FIQ | scr::RES1 | scr::HCE | scr::RW | context_numbers, |all, it| all
            | it.scr)
    );
    // CPTR_EL3: EZ for SVE, ESM for SME; floating point isn't trapped.
    let sve = field(mrs!("id_aa64pfr0_el1"), 32) != 0;
    let sme = field(pfr1(), 24) != 0;
    msr!("cptr_el3", u64::from(sve) << 8 | u64::from(sme) << 12);
    isb();
    if sve {
        // ZCR_EL3.LEN: the longest vectors.
        msr!("s3_6_c1_c2_0", 0xf);
    }
    if sme {
        // SMCR_EL3: LEN, and FA64 where there is such a thing.
        msr!("s3_6_c1_c2_6", 0xf | 1 << 31);
    }
    // MDCR_EL3: debug and performance monitors are non-secure software's.
    msr!("mdcr_el3", 0);
    isb();
}

/// What the boot protocol asks of EL2: MMU and caches off.
pub fn reset_el2() {
    msr!("sctlr_el2", 0x30c5_0830);
    msr!("hcr_el2", 0);
    msr!("vpidr_el2", mrs!("midr_el1"));
    msr!("vmpidr_el2", mrs!("mpidr_el1"));
    msr!("cntvoff_el2", 0);
    isb();
}

/// Passes an SError on to EL2, as firmware does that takes them first: the return from EL3 is into EL2's vector, with the registers
/// that an SError leaves there (Arm ARM, AArch64.TakeException).
pub fn pass_system_error() {
    /// EL2 with its own stack pointer, everything masked.
    const EL2H_MASKED: u64 = 0x3c9;
    /// SError from the same level, and from a lower one in AArch64.
    const FROM_EL2: u64 = 0x380;
    const FROM_BELOW: u64 = 0x580;
    /// EC of SError, IL; IDS: what the rest says is the implementation's own, here nothing.
    const SYNDROME: u64 = 0x2f << 26 | 1 << 25 | 1 << 24;
    let (pc, pstate) = (mrs!("elr_el3"), mrs!("spsr_el3"));
    let vector = if pstate >> 2 & 3 == 2 { FROM_EL2 } else { FROM_BELOW };
    msr!("elr_el2", pc);
    msr!("spsr_el2", pstate);
    msr!("esr_el2", SYNDROME);
    msr!("elr_el3", mrs!("vbar_el2") + vector);
    msr!("spsr_el3", EL2H_MASKED);
}

/// The affinity fields of this CPU's MPIDR.
pub fn affinity() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// Orders what was written to registers before what follows.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) }
}

/// Orders what was written to memory before what follows, for everyone.
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) }
}

/// Wakes the CPUs that wait for an event.
pub fn send_event() {
    dsb();
    // SAFETY: others wake and look.
    unsafe { asm!("sev", options(nomem, nostack)) }
}

/// Waits for an event.
pub fn wait_for_event() {
    // SAFETY: waiting changes nothing.
    unsafe { asm!("wfe", options(nomem, nostack)) }
}

/// Waits for an interrupt, which stays pending if it is masked.
pub fn wait_for_interrupt() {
    dsb();
    // SAFETY: waiting changes nothing.
    unsafe { asm!("wfi", options(nostack)) }
}
