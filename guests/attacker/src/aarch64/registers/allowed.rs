//! The system registers that a guest may reach, by groups, each with its reason. On a given CPU there may be fewer.

use core::ops::RangeInclusive;

use crate::registers::Register;

/// What is done to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// Both.
    ReadWrite,
}

/// Registers that are alike.
pub struct Group {
    op0: u8,
    op1: u8,
    crn: u8,
    crm: RangeInclusive<u8>,
    op2: RangeInclusive<u8>,
    access: Access,
    #[expect(dead_code, reason = "for the reader; the compiler sees to it that none is missing")]
    why: &'static str,
}

impl Group {
    /// Whether the group has this register, and allows this.
    pub fn allows(&self, register: Register, access: Access) -> bool {
        (self.op0, self.op1, self.crn) == (register.op0, register.op1, register.crn)
            && self.crm.contains(&register.crm)
            && self.op2.contains(&register.op2)
            && (self.access == Access::ReadWrite || self.access == access)
    }
}

const fn read(
    place: (u8, u8, u8),
    crm: RangeInclusive<u8>,
    op2: RangeInclusive<u8>,
    why: &'static str,
) -> Group {
    Group { op0: place.0, op1: place.1, crn: place.2, crm, op2, access: Access::Read, why }
}

const fn write(
    place: (u8, u8, u8),
    crm: RangeInclusive<u8>,
    op2: RangeInclusive<u8>,
    why: &'static str,
) -> Group {
    Group { access: Access::Write, ..read(place, crm, op2, why) }
}

const fn both(
    place: (u8, u8, u8),
    crm: RangeInclusive<u8>,
    op2: RangeInclusive<u8>,
    why: &'static str,
) -> Group {
    Group { access: Access::ReadWrite, ..read(place, crm, op2, why) }
}

/// The list: op0, op1 and CRn; CRm; op2.
pub const ALLOWED: &[Group] = &[
    // Debug: all of it is trapped.
    both((2, 0, 0), 0..=0, 2..=2, "OSDTRRX_EL1: answered, nobody is at the channel's other end"),
    both((2, 0, 0), 0..=15, 4..=7, "DBGBVR, DBGBCR, DBGWVR, DBGWCR: those that match at the guest's levels"),
    both((2, 0, 0), 2..=2, 0..=0, "MDCCINT_EL1: answered, does nothing"),
    both((2, 0, 0), 2..=2, 2..=2, "MDSCR_EL1: its guest's bits"),
    both((2, 0, 0), 3..=3, 2..=2, "OSDTRTX_EL1: as OSDTRRX_EL1"),
    both((2, 0, 0), 6..=6, 2..=2, "OSECCR_EL1: answered, does nothing"),
    read((2, 0, 1), 0..=0, 0..=0, "MDRAR_EL1: no debug ROM"),
    write((2, 0, 1), 0..=0, 4..=4, "OSLAR_EL1: answered, the lock stays open"),
    read((2, 0, 1), 1..=1, 4..=4, "OSLSR_EL1: the lock is open"),
    both((2, 0, 1), 3..=4, 4..=4, "OSDLR_EL1, DBGPRCR_EL1: answered, do nothing"),
    both((2, 0, 7), 8..=9, 6..=6, "DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1: answered, do nothing"),
    read((2, 0, 7), 14..=14, 6..=6, "DBGAUTHSTATUS_EL1: answered, no external debug is said to be there"),
    read((2, 3, 0), 1..=1, 0..=0, "MDCCSR_EL0: an empty channel"),
    both((2, 3, 0), 4..=5, 0..=0, "DBGDTR_EL0, DBGDTRRX_EL0, DBGDTRTX_EL0: as OSDTRRX_EL1"),
    // Identification.
    read((3, 0, 0), 0..=0, 0..=0, "MIDR_EL1: guests work around the core's errata by it"),
    read((3, 0, 0), 0..=0, 5..=6, "MPIDR_EL1, which is the vCPU's; REVIDR_EL1: as MIDR_EL1"),
    read((3, 0, 0), 1..=7, 0..=7, "identification: trapped, what is handled is shown"),
    read((3, 1, 0), 0..=0, 0..=2, "CCSIDR_EL1, CLIDR_EL1, CCSIDR2_EL1: the caches, which it maintains"),
    read((3, 1, 0), 0..=0, 6..=7, "SMIDR_EL1, AIDR_EL1: what the implementation is"),
    both((3, 2, 0), 0..=0, 0..=0, "CSSELR_EL1: chooses among the first"),
    read((3, 3, 0), 0..=0, 1..=1, "CTR_EL0: lines of caches"),
    read((3, 3, 0), 0..=0, 7..=7, "DCZID_EL0: how much DC ZVA clears"),
    // What EL1 is made of.
    both((3, 0, 1), 0..=0, 0..=0, "SCTLR_EL1"),
    both((3, 0, 1), 0..=0, 1..=1, "ACTLR_EL1: trapped, reads as zero"),
    both((3, 0, 1), 0..=0, 2..=2, "CPACR_EL1"),
    both((3, 0, 2), 0..=0, 0..=2, "TTBR0_EL1, TTBR1_EL1, TCR_EL1: the first stage is the guest's"),
    both((3, 0, 2), 1..=2, 0..=3, "pointer authentication keys"),
    both((3, 0, 2), 3..=3, 0..=1, "the last of them"),
    both((3, 0, 4), 0..=0, 0..=1, "SPSR_EL1, ELR_EL1"),
    both((3, 0, 4), 1..=1, 0..=0, "SP_EL0"),
    both((3, 0, 4), 2..=2, 0..=0, "SPSel"),
    read((3, 0, 4), 2..=2, 2..=2, "CurrentEL"),
    both((3, 0, 4), 2..=2, 3..=4, "PAN, UAO"),
    read((3, 0, 4), 3..=3, 0..=0, "ALLINT: nothing traps its reads; there are no interrupts that it is for"),
    both((3, 0, 4), 6..=6, 0..=0, "ICC_PMR_EL1: virtual, or trapped"),
    both((3, 0, 5), 1..=1, 0..=1, "AFSR0_EL1, AFSR1_EL1"),
    both((3, 0, 5), 2..=2, 0..=0, "ESR_EL1"),
    both((3, 0, 6), 0..=0, 0..=0, "FAR_EL1"),
    both((3, 0, 7), 4..=4, 0..=0, "PAR_EL1"),
    both((3, 0, 10), 2..=2, 0..=0, "MAIR_EL1"),
    both((3, 0, 10), 3..=3, 0..=0, "AMAIR_EL1"),
    both((3, 0, 12), 0..=0, 0..=0, "VBAR_EL1"),
    read((3, 0, 12), 1..=1, 0..=0, "ISR_EL1: what is pending for it"),
    both((3, 0, 12), 1..=1, 1..=1, "DISR_EL1: the virtual one (VDISR_EL2), as SErrors go to EL2"),
    both((3, 0, 13), 0..=0, 1..=1, "CONTEXTIDR_EL1"),
    both((3, 0, 13), 0..=0, 4..=4, "TPIDR_EL1"),
    both((3, 0, 14), 1..=1, 0..=0, "CNTKCTL_EL1"),
    read((3, 3, 2), 4..=4, 0..=1, "RNDR, RNDRRS: random numbers"),
    both((3, 3, 4), 2..=2, 0..=1, "NZCV, DAIF: at EL2 its masks count for nothing"),
    both((3, 3, 4), 2..=2, 5..=7, "DIT, SSBS, TCO: of its own execution"),
    both((3, 3, 4), 4..=4, 0..=1, "FPCR, FPSR"),
    both((3, 3, 13), 0..=0, 2..=3, "TPIDR_EL0, TPIDRRO_EL0"),
    // The interrupt controller's CPU interface: virtual; with passthrough interrupts Group 1's is the CPU's own, but for what traps.
    read((3, 0, 12), 8..=8, 0..=0, "ICC_IAR0_EL1: virtual"),
    write((3, 0, 12), 8..=8, 1..=1, "ICC_EOIR0_EL1: virtual"),
    read((3, 0, 12), 8..=8, 2..=2, "ICC_HPPIR0_EL1: virtual"),
    both((3, 0, 12), 8..=8, 3..=7, "ICC_BPR0_EL1, ICC_AP0R_EL1: virtual"),
    both(
        (3, 0, 12),
        9..=9,
        0..=3,
        "ICC_AP1R_EL1: virtual, or its own; docs/security.md says what a forged one leads to",
    ),
    read((3, 0, 12), 9..=9, 5..=5, "ICC_NMIAR1_EL1: no interrupt has that property"),
    write((3, 0, 12), 11..=11, 1..=1, "ICC_DIR_EL1: virtual, or trapped"),
    read((3, 0, 12), 11..=11, 3..=3, "ICC_RPR_EL1: virtual, or trapped"),
    write((3, 0, 12), 11..=11, 5..=7, "ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1: trapped"),
    read((3, 0, 12), 12..=12, 0..=0, "ICC_IAR1_EL1"),
    write((3, 0, 12), 12..=12, 1..=1, "ICC_EOIR1_EL1"),
    read((3, 0, 12), 12..=12, 2..=2, "ICC_HPPIR1_EL1"),
    both((3, 0, 12), 12..=12, 3..=3, "ICC_BPR1_EL1"),
    both((3, 0, 12), 12..=12, 4..=4, "ICC_CTLR_EL1: virtual, or trapped"),
    both((3, 0, 12), 12..=12, 5..=5, "ICC_SRE_EL1: system registers are on"),
    both((3, 0, 12), 12..=12, 6..=7, "ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1"),
    // The generic timer.
    read((3, 3, 14), 0..=0, 0..=2, "CNTFRQ_EL0, CNTPCT_EL0, CNTVCT_EL0: time is no secret"),
    read((3, 3, 14), 0..=0, 5..=6, "CNTPCTSS_EL0, CNTVCTSS_EL0: the same"),
    both((3, 3, 14), 2..=2, 0..=2, "the physical timer, which is its own: the hypervisor has one at EL2"),
    both((3, 3, 14), 3..=3, 0..=2, "the virtual timer"),
];
