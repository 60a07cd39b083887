//! Writes of control registers that exit: CR0, CR4, CR8, XCR0 (AMD64 APM 2, 3.1, 11.5.2) and EFER (3.1.7).
//!
//! A write either changes the save area, all of it, or raises what the processor would.

use crate::event::Exception;
use crate::start::{EFER_LMA, EFER_LME, EFER_SVME};
use crate::vmcb::Save;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_TS: u64 = 1 << 3;
const CR0_WP: u64 = 1 << 16;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG. Others are reserved: what is written to them doesn't count.
const CR0_DEFINED: u64 = 0xe005_003f;

const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_PSE: u64 = 1 << 4;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_UMIP: u64 = 1 << 11;
/// VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT: every processor with long mode has them.
const CR4_ALWAYS: u64 = 0x7ff;

const EFER_SCE: u64 = 1 << 0;
const EFER_NXE: u64 = 1 << 11;
const EFER_FFXSR: u64 = 1 << 14;

/// Whether translations that are cached may have become wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flush {
    /// No.
    No,
    /// The next VMRUN has to flush this guest's.
    Guest,
}

impl Flush {
    const fn of(changed: u64) -> Self {
        if changed == 0 { Self::No } else { Self::Guest }
    }
}

/// What CR4 and XCR0 may be: what of CPUID the guest sees decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Bits of CR4.
    pub cr4: u64,
    /// Bits of EFER beside LMA.
    pub efer: u64,
    /// Bits of XCR0; 0 where the guest has no XSAVE.
    pub xcr0: u64,
}

impl Allowed {
    /// By what the guest sees of CPUID, leaf and subleaf.
    pub fn by(cpuid: impl Fn(u32, u32) -> crate::features::Leaf) -> Self {
        let first = cpuid(1, 0);
        let seventh = cpuid(7, 0);
        let extended = cpuid(0x8000_0001, 0);
        let state = cpuid(0xd, 0);
        let mut cr4 = CR4_ALWAYS;
        let mut take = |has: bool, bit| cr4 |= if has { bit } else { 0 };
        take(first.ecx & 1 << 26 != 0, CR4_OSXSAVE);
        take(seventh.ebx & 1 << 0 != 0, CR4_FSGSBASE);
        take(seventh.ebx & 1 << 7 != 0, CR4_SMEP);
        take(seventh.ebx & 1 << 20 != 0, CR4_SMAP);
        take(seventh.ecx & 1 << 2 != 0, CR4_UMIP);
        let mut efer = EFER_LME;
        let mut take = |has: bool, bit| efer |= if has { bit } else { 0 };
        take(extended.edx & 1 << 11 != 0, EFER_SCE);
        take(extended.edx & 1 << 20 != 0, EFER_NXE);
        take(extended.edx & 1 << 25 != 0, EFER_FFXSR);
        Self { cr4, efer, xcr0: u64::from(state.eax) | u64::from(state.edx) << 32 }
    }
}

/// What the guest has written of what the processor holds otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// CR4.MCE: the processor's stays set.
    pub mce: bool,
}

/// MOV to CR0, also after a selective intercept. CD and NW are checked, and don't reach the processor: the guest reads them as clear.
///
/// # Errors
///
/// #GP.
pub fn write_cr0(save: &mut Save, value: u64) -> Result<Flush, Exception> {
    let refused = value >> 32 != 0
        || value & CR0_PG != 0 && value & CR0_PE == 0
        || value & CR0_NW != 0 && value & CR0_CD == 0;
    if refused {
        return Err(Exception::GP);
    }
    let value = value & CR0_DEFINED & !(CR0_CD | CR0_NW) | CR0_ET;
    let changed = value ^ save.cr0;
    let mut efer = save.efer;
    if changed & CR0_PG != 0 {
        if value & CR0_PG != 0 {
            if efer & EFER_LME != 0 {
                if save.cr4 & CR4_PAE == 0 || save.cs.attributes.is_long() {
                    return Err(Exception::GP);
                }
                efer |= EFER_LMA;
            }
        } else {
            if efer & EFER_LMA != 0 && save.cs.attributes.is_long() {
                return Err(Exception::GP);
            }
            efer &= !EFER_LMA;
        }
    }
    save.cr0 = value;
    save.efer = efer;
    Ok(Flush::of(changed & (CR0_PG | CR0_WP | CR0_PE)))
}

/// CLTS.
pub const fn clear_task_switched(save: &mut Save) {
    save.cr0 &= !CR0_TS;
}

/// LMSW: bits 3:0, of which PE can't be cleared.
///
/// # Errors
///
/// #GP.
pub fn load_status(save: &mut Save, word: u16) -> Result<Flush, Exception> {
    let value = save.cr0 & !0xe | u64::from(word) & 0xf;
    write_cr0(save, value)
}

/// What the guest reads of CR4.
pub const fn read_cr4(save: &Save, shown: &Shown) -> u64 {
    if shown.mce { save.cr4 } else { save.cr4 & !CR4_MCE }
}

/// MOV to CR4.
///
/// # Errors
///
/// #GP: a bit that the guest hasn't got, or PAE cleared in long mode.
pub fn write_cr4(
    save: &mut Save,
    shown: &mut Shown,
    value: u64,
    allowed: &Allowed,
) -> Result<Flush, Exception> {
    let leaves_pae = value & CR4_PAE == 0 && save.efer & EFER_LMA != 0;
    if value & !allowed.cr4 != 0 || leaves_pae {
        return Err(Exception::GP);
    }
    let changed = (value ^ save.cr4) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP);
    save.cr4 = value | CR4_MCE;
    shown.mce = value & CR4_MCE != 0;
    Ok(Flush::of(changed))
}

/// What the guest reads of EFER.
pub const fn read_efer(save: &Save) -> u64 {
    save.efer & !EFER_SVME
}

/// WRMSR of EFER. LMA is what CR0.PG and LME make it, whatever is written.
///
/// # Errors
///
/// #GP: a bit that the guest hasn't got, or LME changed while paging is on.
pub fn write_efer(save: &mut Save, value: u64, allowed: &Allowed) -> Result<Flush, Exception> {
    let value = value & !EFER_LMA;
    let changed = value ^ save.efer;
    if value & !allowed.efer != 0 || changed & EFER_LME != 0 && save.cr0 & CR0_PG != 0 {
        return Err(Exception::GP);
    }
    save.efer = value | save.efer & EFER_LMA | EFER_SVME;
    Ok(Flush::of(changed & EFER_NXE))
}

/// XSETBV: what XCR0 becomes.
///
/// # Errors
///
/// #GP: not at CPL 0, another register than 0, or state that isn't allowed, or not without other state (11.5.2).
pub fn xcr0(save: &Save, register: u32, value: u64, allowed: &Allowed) -> Result<u64, Exception> {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const AVX512: u64 = 7 << 5;
    let needs = |state: u64, other: u64| value & state != 0 && value & other != other;
    let refused = save.cpl != 0
        || register != 0
        || value & !allowed.xcr0 != 0
        || value & X87 == 0
        || needs(AVX, SSE)
        || needs(AVX512, AVX512 | AVX);
    if refused { Err(Exception::GP) } else { Ok(value) }
}

#[cfg(test)]
mod tests;
