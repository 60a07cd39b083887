//! Identification registers as a guest sees them: only what is handled. HCR_EL2.TID3 traps them all.
//!
//! For each register there is a mask of the fields that pass. What isn't listed reads as zero: not there. A field that counts
//! downwards from "not there" (ID_AA64PFR0_EL1.FP, AdvSIMD; the page granules) passes.

use super::sysreg::mrs;

use axvm_cpu::Encoding;

/// A mask of the four-bit fields whose lowest bits are given.
const fn fields(shifts: &[u32]) -> u64 {
    let mut mask = 0;
    let mut index = 0;
    while index < shifts.len() {
        mask |= 0xf << shifts[index];
        index += 1;
    }
    mask
}

/// The value of an identification register, or `None` if the encoding isn't one of the trapped group (op0 3, op1 0, CRn 0,
/// CRm 1 to 7): Arm ARM, HCR_EL2.TID3. Registers of the group that no mask names read as zero, as unallocated ones do.
pub fn read(register: Encoding) -> Option<u64> {
    let (3, 0, 0, crm @ 1..=7, op2) = register else { return None };
    Some(match (crm, op2) {
        // ID_AA64PFR0: EL0 to EL3 at bits 0-15, FP 16, AdvSIMD 20, GIC 24, DIT 48, CSV2 56 (cut to 1: no SCXTNUM), CSV3 60.
        // Not: RAS, SVE, SEL2, MPAM, AMU, RME. EL2 isn't there for the guest.
        (4, 0) => {
            let value = mrs!("id_aa64pfr0_el1");
            let csv2 = (value >> 56 & 0xf).min(1);
            value & fields(&[0, 4, 12, 16, 20, 24, 48, 60]) | csv2 << 56
        }
        // ID_AA64PFR1: BT 0, SSBS 4. Not: MTE, SME, NMI, GCS, ...
        (4, 1) => mrs!("id_aa64pfr1_el1") & fields(&[0, 4]),
        // ID_AA64DFR0: debug version 0, BRPs 12, WRPs 20, CTX_CMPs 28. Not: trace, PMU, SPE, double lock.
        (5, 0) => {
            let value = mrs!("id_aa64dfr0_el1");
            // A version above 8.0's says what else there is (the OS lock's new rules): 6 is the plain one.
            value & fields(&[12, 20, 28]) | 6 | 0xf << 36
        }
        // ID_AA64ISAR0: all instructions but TME (24).
        (6, 0) => mrs!("id_aa64isar0_el1") & !fields(&[24]),
        // ID_AA64ISAR1: all but LS64 (60), XS (56: HCRX), SPECRES by EL (40 passes).
        (6, 1) => mrs!("id_aa64isar1_el1") & !fields(&[56, 60]),
        // ID_AA64ISAR2: WFxT 0, RPRES 4, GPA3 8, APA3 12, BC 20, PAC_frac 24, CLRBHB 28. Not: MOPS (HCRX), SYSREG_128, ...
        (6, 2) => mrs!("s3_0_c0_c6_2") & fields(&[0, 4, 8, 12, 20, 24, 28]),
        // ID_AA64MMFR0: PARange 0, ASIDBits 4, SNSMem 12, granules 20-28, and their stage 2 forms 32-40, ExS 44. Not: BigEnd and
        // BigEndEL0 (trapped registers are little-endian), FGT, ECV.
        (7, 0) => mrs!("id_aa64mmfr0_el1") & fields(&[0, 4, 12, 20, 24, 28, 32, 36, 40, 44]),
        // ID_AA64MMFR1: HAFDBS 0, VMIDBits 4, VH hidden, HPDS 12, PAN 20, SpecSEI 24, XNX hidden, ETS 36, nTLBPA 48, CMOW hidden.
        (7, 1) => mrs!("id_aa64mmfr1_el1") & fields(&[0, 12, 20, 24, 36, 48]),
        // ID_AA64MMFR2: CnP 0, UAO 4, LSM 8, IESB 12, VARange 16, CCIDX 20, ST 28, AT 32, IDS 36, TTL 48, BBM 52, E0PD 60. Not: NV,
        // FWB, EVT.
        (7, 2) => mrs!("id_aa64mmfr2_el1") & fields(&[0, 4, 8, 12, 16, 20, 28, 32, 36, 48, 52, 60]),
        // AArch32 at EL0, where there is any: as it is. CRm 1 to 3; ID_DFR0 (1, 2) and ID_DFR1 (3, 5) only without PMU: zero.
        (1, 0) => mrs!("id_pfr0_el1"),
        (1, 1) => mrs!("id_pfr1_el1"),
        (1, 4) => mrs!("id_mmfr0_el1"),
        (1, 5) => mrs!("id_mmfr1_el1"),
        (1, 6) => mrs!("id_mmfr2_el1"),
        (1, 7) => mrs!("id_mmfr3_el1"),
        (2, 0) => mrs!("id_isar0_el1"),
        (2, 1) => mrs!("id_isar1_el1"),
        (2, 2) => mrs!("id_isar2_el1"),
        (2, 3) => mrs!("id_isar3_el1"),
        (2, 4) => mrs!("id_isar4_el1"),
        (2, 5) => mrs!("id_isar5_el1"),
        (2, 6) => mrs!("id_mmfr4_el1"),
        (2, 7) => mrs!("s3_0_c0_c2_7"),
        (3, 0) => mrs!("mvfr0_el1"),
        (3, 1) => mrs!("mvfr1_el1"),
        (3, 2) => mrs!("mvfr2_el1"),
        _ => 0,
    })
}
