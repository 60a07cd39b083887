//! The control registers that bound a guest: every bit that matters, with its reason, in one table.
//!
//! A register is written as a whole: what the table doesn't set is zero. Zero is the closed side where a bit enables (HCRX_EL2, CPTR's
//! and the fine-grained `n..` traps) and harmless where a bit traps something that the guest may have.
//! Sections are those of the Arm ARM (DDI 0487), D24.2.

use super::sysreg::{isb, mrs, msr};

/// A register that the table sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// HCR_EL2.
    Hcr,
    /// CPTR_EL2 (layout with E2H=0).
    Cptr,
    /// MDCR_EL2.
    Mdcr,
    /// HSTR_EL2.
    Hstr,
    /// CNTHCTL_EL2 (layout with E2H=0).
    Cnthctl,
    /// HCRX_EL2, with FEAT_HCX.
    Hcrx,
    /// The fine-grained traps HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR, HAFGRTR, with FEAT_FGT.
    FineGrained,
    /// ICH_HCR_EL2, the part that doesn't change while the guest runs.
    IchHcr,
}

/// Which guests a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Those whose interrupts the hypervisor takes and injects.
    Emulated,
    /// Those that take physical interrupts themselves.
    Direct,
}

/// Bits of a register and why they are as they are.
#[expect(
    dead_code,
    reason = "names and reasons are for the reader; the compiler sees to it that none is missing"
)]
pub struct Control {
    /// The register.
    pub register: Register,
    /// The field's name.
    pub name: &'static str,
    /// What is written.
    pub bits: u64,
    /// For guests of one kind only.
    pub only: Option<Interrupts>,
    /// Why.
    pub why: &'static str,
}

const fn set(register: Register, name: &'static str, bits: u64, why: &'static str) -> Control {
    Control { register, name, bits, only: None, why }
}

const fn set_for(
    only: Interrupts,
    register: Register,
    name: &'static str,
    bits: u64,
    why: &'static str,
) -> Control {
    Control { register, name, bits, only: Some(only), why }
}

/// A field that stays zero for a reason worth saying.
const fn clear(register: Register, name: &'static str, why: &'static str) -> Control {
    Control { register, name, bits: 0, only: None, why }
}

/// The table.
pub const CONTROLS: &[Control] = {
    use Interrupts::{Direct, Emulated};
    use Register::{Cnthctl, Cptr, FineGrained, Hcr, Hcrx, Hstr, IchHcr, Mdcr};
    &[
        set(Hcr, "VM", 1 << 0, "the second stage bounds every access"),
        set(Hcr, "SWIO", 1 << 1, "invalidating by set and way also cleans: no one else's dirty line is lost"),
        set(Hcr, "PTW", 1 << 2, "a table walk through device memory faults instead of touching registers"),
        set(Hcr, "FMO", 1 << 3, "Group 0 interrupts come here; SGI registers trap"),
        set_for(
            Emulated,
            Hcr,
            "IMO",
            1 << 4,
            "Group 1 interrupts come here; the guest's CPU interface is the virtual one. Direct: they are the guest's",
        ),
        set(Hcr, "AMO", 1 << 5, "SErrors come here"),
        set(Hcr, "FB", 1 << 9, "a TLB or cache maintenance by one vCPU reaches the VM's others"),
        set(Hcr, "BSU", 1 << 10, "barriers reach at least the inner shareable domain"),
        set(Hcr, "TID3", 1 << 18, "identification registers show only what is handled"),
        set(Hcr, "TSC", 1 << 19, "no call reaches the firmware: PSCI could switch the machine off"),
        set(Hcr, "TIDCP", 1 << 20, "implementation defined registers are nobody's"),
        set(Hcr, "TACR", 1 << 21, "so is ACTLR_EL1"),
        set(Hcr, "RW", 1 << 31, "EL1 is AArch64"),
        set(Hcr, "TLOR", 1 << 35, "limited ordering regions are not handled"),
        set(Hcr, "TERR", 1 << 36, "error records belong to the machine"),
        set(Hcr, "TEA", 1 << 37, "an access that the bus aborts is seen here first"),
        set(Hcr, "APK", 1 << 40, "pointer authentication keys are the guest's: the hypervisor has none"),
        set(Hcr, "API", 1 << 41, "and so are its instructions"),
        set_for(
            Direct,
            Hcr,
            "TWI",
            1 << 13,
            "it could sleep where no call of the hypervisor's wakes it (direct.rs). Emulated: a call always does",
        ),
        clear(Hcr, "TWE", "a guest with its own CPU may wait on it: a call, or SEV, ends that"),
        clear(Hcr, "TSW", "set and way maintenance harms nobody, with SWIO"),
        clear(Hcr, "TVM, TRVM", "the first stage is the guest's"),
        clear(Hcr, "E2H, TGE", "the hypervisor is no host kernel"),
        clear(Hcr, "NV", "nested virtualization is hidden"),
        clear(
            Hcr,
            "FWB",
            "memory attributes combine, so that what the second stage calls device stays device",
        ),
        clear(Hcr, "FIEN", "fault injection into error records is hidden"),
        clear(Hcr, "AMVOFFEN", "activity monitors are hidden"),
        clear(Hcr, "EnSCXT", "SCXTNUM is hidden, as CSV2 tells"),
        clear(Hcr, "ATA", "memory tagging is hidden"),
        set(Cptr, "RES1", 0x22ff, "reserved, one"),
        set(Cptr, "TZ", 1 << 8, "SVE is hidden: its state is not reset yet"),
        set(Cptr, "TSM", 1 << 12, "SME is hidden"),
        set(Cptr, "TTA", 1 << 20, "trace registers are hidden"),
        set(Cptr, "TAM", 1 << 30, "activity monitors are hidden"),
        clear(Cptr, "TFP", "floating point is the guest's: the hypervisor uses none"),
        clear(Cptr, "TCPAC", "CPACR_EL1 is the guest's"),
        set(Mdcr, "TPMCR", 1 << 5, "performance counters are hidden"),
        set(Mdcr, "TPM", 1 << 6, "performance counters are hidden"),
        set(Mdcr, "TDOSA", 1 << 10, "the OS lock and power-down of debug are the machine's"),
        set(Mdcr, "TDRA", 1 << 11, "no debug ROM is shown"),
        set(Mdcr, "TPMS", 1 << 14, "statistical profiling is hidden"),
        set(Mdcr, "HPMD", 1 << 17, "nothing is counted in the hypervisor"),
        set(Mdcr, "TTRF", 1 << 19, "trace filters are hidden"),
        set(Mdcr, "HCCD", 1 << 23, "nor are cycles"),
        set(Mdcr, "TDCC", 1 << 27, "the debug communication channel is the machine's"),
        clear(
            Mdcr,
            "TDA, TDE",
            "breakpoints and watchpoints are the guest's: they are reset with the vCPU and can't match at EL2",
        ),
        clear(Mdcr, "E2PB, E2TB", "profiling and trace buffers are the hypervisor's, and off"),
        clear(Hstr, "all", "AArch32 runs at EL0 only, where these registers are no one's but its own"),
        set(Cnthctl, "EL1PCTEN", 1 << 0, "the physical count is no secret"),
        set(Cnthctl, "EL1PCEN", 1 << 1, "the EL1 physical timer is the guest's: the hypervisor has its own"),
        clear(
            Hcrx,
            "all",
            "whatever it would enable (TCR2, SCTLR2, permission indirection, MOPS, GCS, ...) is hidden",
        ),
        clear(
            FineGrained,
            "all",
            "zero traps what is new (the n.. bits) and leaves the rest to the coarse traps",
        ),
        set_for(Emulated, IchHcr, "En", 1 << 0, "the virtual CPU interface is on"),
        set_for(
            Direct,
            IchHcr,
            "TC",
            1 << 10,
            "PMR, CTLR, RPR, DIR and the SGI registers are answered here. Emulated: with IMO and FMO they are virtual",
        ),
        clear(IchHcr, "TALL0, TALL1", "the registers of every interrupt: virtual, or the guest's"),
    ]
};

/// The value of a register, as the table has it for guests of a kind.
#[inline]
pub const fn value(register: Register, interrupts: Interrupts) -> u64 {
    /// Summed up where it is compiled, whatever the level of optimisation.
    const VALUES: [[u64; REGISTERS]; 2] = [values(Interrupts::Emulated), values(Interrupts::Direct)];
    VALUES[interrupts as usize][register as usize]
}

/// How many [`Register`]s there are.
const REGISTERS: usize = Register::IchHcr as usize + 1;

/// The values of all registers.
const fn values(interrupts: Interrupts) -> [u64; REGISTERS] {
    let mut values = [0; REGISTERS];
    let mut index = 0;
    while index < CONTROLS.len() {
        let row = &CONTROLS[index];
        let applies = match row.only {
            None => true,
            Some(only) => only as u8 == interrupts as u8,
        };
        if applies {
            values[row.register as usize] |= row.bits;
        }
        index += 1;
    }
    values
}

/// Writes all of them on the calling CPU, for a guest of a kind. `guest_mpidr`: what the vCPU reads in MPIDR_EL1.
///
/// The second stage itself (VTCR, VTTBR) is the caller's.
pub fn apply(guest_mpidr: u64, interrupts: Interrupts) {
    let value = |register| value(register, interrupts);
    /// MPIDR_EL1, bit 31: RES1.
    const MPIDR_RES1: u64 = 1 << 31;
    // PMCR_EL0.N counters: all of them the guest's (HPMN), which can't reach them; a value beyond N is unpredictable.
    // PMUVer 0: no counters; 0xf: counters of another kind, without this register.
    let hpmn = if !matches!(mrs!("id_aa64dfr0_el1") >> 8 & 0xf, 0 | 0xf) {
        mrs!("pmcr_el0") >> 11 & 0x1f
    } else {
        0
    };
    // SAFETY: these registers bound EL1 and EL0; the hypervisor's own execution depends on none of them.
    unsafe {
        msr!("hcr_el2", crate::protection::hcr(value(Register::Hcr)));
        msr!("cptr_el2", value(Register::Cptr));
        msr!("mdcr_el2", value(Register::Mdcr) | hpmn);
        msr!("hstr_el2", value(Register::Hstr));
        msr!("cnthctl_el2", value(Register::Cnthctl));
        // One clock for all: what a vCPU reads is what the hypervisor's records say.
        msr!("cntvoff_el2", 0);
        msr!("vpidr_el2", mrs!("midr_el1"));
        msr!("vmpidr_el2", guest_mpidr | MPIDR_RES1);
        // FEAT_HCX: ID_AA64MMFR1_EL1.HCX.
        if mrs!("id_aa64mmfr1_el1") >> 40 & 0xf != 0 {
            msr!("s3_4_c1_c2_2", value(Register::Hcrx));
        }
        // FEAT_FGT: ID_AA64MMFR0_EL1.FGT; HAFGRTR also needs FEAT_AMUv1; FEAT_FGT2 brings a second set.
        let fgt = mrs!("id_aa64mmfr0_el1") >> 56 & 0xf;
        if fgt != 0 {
            msr!("s3_4_c1_c1_4", value(Register::FineGrained));
            msr!("s3_4_c1_c1_5", value(Register::FineGrained));
            msr!("s3_4_c1_c1_6", value(Register::FineGrained));
            msr!("s3_4_c3_c1_4", value(Register::FineGrained));
            msr!("s3_4_c3_c1_5", value(Register::FineGrained));
        }
        if fgt >= 2 {
            msr!("s3_4_c3_c1_0", value(Register::FineGrained));
            msr!("s3_4_c3_c1_1", value(Register::FineGrained));
            msr!("s3_4_c3_c1_2", value(Register::FineGrained));
            msr!("s3_4_c3_c1_3", value(Register::FineGrained));
            msr!("s3_4_c3_c1_7", value(Register::FineGrained));
        }
        // FEAT_MPAM: partition ids are the hypervisor's (MPAM2_EL2.TRAPMPAM0EL1, TRAPMPAM1EL1).
        if mrs!("id_aa64pfr0_el1") >> 40 & 0xf != 0 {
            msr!("s3_4_c10_c5_0", 3 << 48);
        }
        if interrupts == Interrupts::Direct {
            msr!("ich_hcr_el2", crate::protection::ich_hcr(value(Register::IchHcr)));
        }
    }
    isb!();
}
