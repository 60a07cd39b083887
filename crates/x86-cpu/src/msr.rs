//! What a guest's RDMSR and WRMSR do: an MSR that isn't in the table is #GP, as one is that a processor hasn't got.

use crate::cpuid::Offers;
use crate::cr::{self, Allowed, Flush};
use crate::event::Exception;
use crate::permissions::MsrPermissions;
use crate::vmcb::Save;

mod saved;
mod table;

pub use table::TABLE;

/// What becomes of an access to an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The guest's own: VMRUN, VMLOAD and VMSAVE switch it. Its accesses need no exit ([`open`]).
    Own,
    /// Reads give this, writes are #GP.
    Fixed(u64),
    /// Reads give this, writes are swallowed: what Linux writes without asking CPUID.
    Swallowed(u64),
    /// Read and written, as a value that nothing depends on.
    Kept(Slot),
    /// EFER.
    Efer,
    /// PAT: with nested paging a field of the save area.
    Pat,
    /// HWCR.
    Hwcr,
    /// MTRRdefType.
    MtrrDefault,
    /// SPEC_CTRL, if it is offered.
    SpecCtrl,
    /// PRED_CMD, if it is offered: write only.
    Barrier,
    /// DE_CFG, if LFENCE serializes: reads say so.
    Lfence,
    /// The hypervisor's: it has what the answer needs.
    Hypervisor(Of),
}

/// Where a kept value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A variable MTRR, of [`Msrs`].
    MtrrVariable,
    /// A fixed MTRR.
    MtrrFixed,
}

/// MSRs that the hypervisor answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The time-stamp counter.
    Tsc,
    /// TSC_AUX: in the processor while the guest runs.
    TscAux,
    /// APIC_BASE.
    ApicBase,
    /// A register of the local APIC, in x2APIC mode: its number is the MSR's, less 0x800.
    X2Apic,
    /// The local APIC's timer, if deadlines are offered.
    Deadline,
    /// KVM's clock, if it is offered.
    SystemTime,
    /// KVM's time of day, if it is offered.
    WallClock,
}

/// A range of MSRs and what becomes of accesses.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// The name.
    pub name: &'static str,
    /// What becomes of accesses.
    pub policy: Policy,
    /// Why.
    pub why: &'static str,
}

/// A vCPU's values that the save area has no field for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msrs {
    mtrr_variable: [u64; 16],
    mtrr_fixed: [u64; 11],
    mtrr_default: u64,
    hwcr: u64,
    /// TSC_AUX: has to be in the processor while the guest runs.
    pub tsc_aux: u64,
}

/// HWCR.TscFreqSel: the time-stamp counter has the rate of P0.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// HWCR.McStatusWrEn.
const HWCR_MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR.TlbCacheDis, FFDis, IgnneEm: written by Linux and old software, without effect.
const HWCR_SWALLOWED: u64 = 1 << 3 | 1 << 6 | 1 << 8;

impl Msrs {
    /// As firmware leaves them: all memory is write-back by MTRR, without a range that is otherwise.
    pub const fn new() -> Self {
        Self {
            mtrr_variable: [0; 16],
            mtrr_fixed: [0x0606_0606_0606_0606; 11],
            mtrr_default: 0x806,
            hwcr: HWCR_TSC_FREQ_SEL,
            tsc_aux: 0,
        }
    }
}

impl Default for Msrs {
    fn default() -> Self {
        Self::new()
    }
}

/// What RDMSR gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This.
    Value(u64),
    /// What the hypervisor says.
    Hypervisor(Of),
    /// An exception.
    Fault(Exception),
}

/// What WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is done.
    Done(Flush),
    /// The hypervisor has to do it.
    Hypervisor(Of),
    /// The hypervisor has to carry out an indirect branch prediction barrier.
    Barrier,
    /// An exception. Nothing has changed.
    Fault(Exception),
}

/// The row of an MSR, if it has one.
pub fn row(msr: u32) -> Option<&'static Row> {
    TABLE.iter().find(|row| (row.first..=row.last).contains(&msr))
}

impl Of {
    fn is_offered(self, offers: Offers) -> bool {
        match self {
            Self::Tsc | Self::TscAux | Self::ApicBase => true,
            Self::X2Apic => offers.contains(Offers::X2APIC),
            Self::Deadline => offers.contains(Offers::TSC_DEADLINE),
            Self::SystemTime | Self::WallClock => offers.contains(Offers::CLOCK),
        }
    }
}

/// RDMSR of what isn't open in the permission map.
pub fn read(msr: u32, save: &Save, msrs: &Msrs, offers: Offers) -> Read {
    const FAULT: Read = Read::Fault(Exception::GP);
    let Some(row) = row(msr) else { return FAULT };
    let at = (msr - row.first) as usize;
    match row.policy {
        Policy::Own => saved::get(save, msr).map_or(FAULT, Read::Value),
        Policy::Fixed(value) | Policy::Swallowed(value) => Read::Value(value),
        Policy::Kept(slot) => {
            msrs.slot(slot).get(row_offset(row, at)).map_or(FAULT, |value| Read::Value(*value))
        }
        Policy::Efer => Read::Value(cr::read_efer(save)),
        Policy::Pat => Read::Value(save.g_pat),
        Policy::Hwcr => Read::Value(msrs.hwcr),
        Policy::MtrrDefault => Read::Value(msrs.mtrr_default),
        Policy::SpecCtrl if offers.contains(Offers::SPEC_CTRL) => Read::Value(save.spec_ctrl),
        Policy::Lfence if offers.contains(Offers::LFENCE) => Read::Value(LFENCE_SERIALIZES),
        Policy::Hypervisor(Of::TscAux) => Read::Value(msrs.tsc_aux),
        Policy::Hypervisor(of) if of.is_offered(offers) => Read::Hypervisor(of),
        Policy::SpecCtrl | Policy::Lfence | Policy::Barrier | Policy::Hypervisor(_) => FAULT,
    }
}

/// WRMSR of what isn't open in the permission map.
pub fn write(
    msr: u32,
    value: u64,
    save: &mut Save,
    msrs: &mut Msrs,
    offers: Offers,
    allowed: &Allowed,
) -> Written {
    const FAULT: Written = Written::Fault(Exception::GP);
    const DONE: Written = Written::Done(Flush::No);
    let Some(row) = row(msr) else { return FAULT };
    let at = (msr - row.first) as usize;
    let done = |is_right: bool| if is_right { DONE } else { FAULT };
    match row.policy {
        Policy::Own => done(saved::set(save, msr, value)),
        Policy::Swallowed(_) => DONE,
        Policy::Kept(slot) => {
            let offset = row_offset(row, at);
            let is_right = mtrr_is_right(slot, offset, value);
            if let Some(kept) = msrs.slot_mut(slot).get_mut(offset).filter(|_| is_right) {
                *kept = value;
                return DONE;
            }
            FAULT
        }
        Policy::Efer => match cr::write_efer(save, value, allowed) {
            Ok(flush) => Written::Done(flush),
            Err(exception) => Written::Fault(exception),
        },
        Policy::Pat if value.to_le_bytes().into_iter().all(is_pat_type) => {
            save.g_pat = value;
            Written::Done(Flush::Guest)
        }
        Policy::Hwcr => {
            let value = value & !HWCR_SWALLOWED;
            let is_right = value & !(HWCR_TSC_FREQ_SEL | HWCR_MC_STATUS_WRITE) == 0;
            if is_right {
                msrs.hwcr = value;
            }
            done(is_right)
        }
        // Type, fixed ranges, enabled.
        Policy::MtrrDefault if value & !0xcff == 0 && is_mtrr_type(value as u8) => {
            msrs.mtrr_default = value;
            DONE
        }
        Policy::SpecCtrl if offers.contains(Offers::SPEC_CTRL) && value & !0b111 == 0 => {
            save.spec_ctrl = value;
            DONE
        }
        Policy::Barrier if offers.contains(Offers::BARRIER) && value & !1 == 0 => {
            if value == 0 {
                DONE
            } else {
                Written::Barrier
            }
        }
        Policy::Lfence => done(offers.contains(Offers::LFENCE) && value == LFENCE_SERIALIZES),
        Policy::Hypervisor(Of::TscAux) => {
            // The upper half is reserved.
            if value >> 32 != 0 {
                return FAULT;
            }
            msrs.tsc_aux = value;
            Written::Hypervisor(Of::TscAux)
        }
        Policy::Hypervisor(of) if of.is_offered(offers) => Written::Hypervisor(of),
        Policy::Fixed(_)
        | Policy::Pat
        | Policy::MtrrDefault
        | Policy::SpecCtrl
        | Policy::Barrier
        | Policy::Hypervisor(_) => FAULT,
    }
}

/// DE_CFG with LFENCE serializing.
const LFENCE_SERIALIZES: u64 = 1 << 1;

/// Opens what is a guest's own in its permission map.
pub fn open(map: &mut MsrPermissions) {
    for row in TABLE.iter().filter(|row| row.policy == Policy::Own) {
        for msr in row.first..=row.last {
            // The map covers them all (a test says so); what it doesn't exits, and is answered all the same.
            let _ = map.open_read(msr).and_then(|()| map.open_write(msr));
        }
    }
}

impl Msrs {
    fn slot(&self, slot: Slot) -> &[u64] {
        match slot {
            Slot::MtrrVariable => &self.mtrr_variable,
            Slot::MtrrFixed => &self.mtrr_fixed,
        }
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u64] {
        match slot {
            Slot::MtrrVariable => &mut self.mtrr_variable,
            Slot::MtrrFixed => &mut self.mtrr_fixed,
        }
    }
}

/// Which of a slot's values: the fixed MTRRs have three ranges of numbers.
fn row_offset(row: &Row, at: usize) -> usize {
    match row.first {
        0x258 => 1 + at,
        0x268 => 3 + at,
        _ => at,
    }
}

/// PAT's memory types: UC, WC, WT, WP, WB, UC- (APM 2, table 7-8).
fn is_pat_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=7)
}

fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4..=6)
}

fn mtrr_is_right(slot: Slot, offset: usize, value: u64) -> bool {
    match slot {
        Slot::MtrrFixed => value.to_le_bytes().into_iter().all(is_mtrr_type),
        // Base: bits 11:8 are reserved. Mask: bits 10:0 are.
        Slot::MtrrVariable if offset.is_multiple_of(2) => {
            value & 0xfff0_0000_0000_0f00 == 0 && is_mtrr_type(value as u8)
        }
        Slot::MtrrVariable => value & 0xfff0_0000_0000_07ff == 0,
    }
}

#[cfg(test)]
mod tests;
