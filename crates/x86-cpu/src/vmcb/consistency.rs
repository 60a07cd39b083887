//! What VMRUN refuses (AMD64 APM 2, 15.5.1, "Canonicalization and Consistency Checks"), to say why after it has.

use super::{EventKind, NESTED_PAGING, Vmcb};

/// Why VMRUN refuses a VMCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// EFER.SVME is clear.
    #[error("EFER.SVME is clear")]
    Svme,
    /// CR0.NW is set and CD isn't.
    #[error("CR0.NW is set without CD")]
    Cache,
    /// A register has a bit set that is zero always.
    #[error("{0} has a reserved bit set")]
    Reserved(&'static str),
    /// Long mode and paging without PAE or protection.
    #[error("EFER.LME and CR0.PG are set without CR4.PAE and CR0.PE")]
    LongMode,
    /// CS is both of 64 and of 32 bits.
    #[error("CS.L and CS.D are both set in long mode")]
    Code,
    /// VMRUN isn't intercepted.
    #[error("VMRUN isn't intercepted")]
    Vmrun,
    /// A permission map or the nested table lies above the physical addresses.
    #[error("{0} lies above the physical addresses")]
    Above(&'static str),
    /// The event to be injected is none.
    #[error("the injected event is none")]
    Injection,
    /// The ASID is the host's.
    #[error("the ASID is 0")]
    Asid,
    /// gPAT has a memory type that there isn't.
    #[error("gPAT has a memory type that there isn't")]
    Pat,
}

impl Vmcb {
    /// Whether VMRUN takes it, as far as that doesn't depend on what more the processor has.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, physical_bits: u8) -> Result<(), Refused> {
        let (control, save) = (&self.control, &self.save);
        let must = |holds: bool, refused| if holds { Ok(()) } else { Err(refused) };
        let bit = |value: u64, bit: u32| value & 1 << bit != 0;
        let above = !((1u64 << physical_bits.clamp(32, 52)) - 1);
        let long = bit(save.efer, 8) && bit(save.cr0, 31);
        must(bit(save.efer, 12), Refused::Svme)?;
        must(!bit(save.cr0, 29) || bit(save.cr0, 30), Refused::Cache)?;
        must(save.cr0 >> 32 == 0, Refused::Reserved("CR0"))?;
        must(!long || save.cr3 & above == 0, Refused::Reserved("CR3"))?;
        must(save.cr4 >> 32 == 0, Refused::Reserved("CR4"))?;
        must(save.dr6 >> 32 == 0, Refused::Reserved("DR6"))?;
        must(save.dr7 >> 32 == 0, Refused::Reserved("DR7"))?;
        must(!long || bit(save.cr4, 5) && bit(save.cr0, 0), Refused::LongMode)?;
        must(!(long && save.cs.attributes.is_long() && save.cs.attributes.is_big()), Refused::Code)?;
        must(control.intercepts.svm & 1 != 0, Refused::Vmrun)?;
        must(control.io_permissions & above == 0, Refused::Above("the I/O permission map"))?;
        must(control.msr_permissions & above == 0, Refused::Above("the MSR permission map"))?;
        must(control.asid != 0, Refused::Asid)?;
        if control.nested & NESTED_PAGING != 0 {
            must(control.nested_cr3 & above == 0, Refused::Above("the nested page table"))?;
            let types = save.g_pat.to_le_bytes();
            must(types.into_iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)), Refused::Pat)?;
        }
        if control.injection & 1 << 31 != 0 {
            let is_event = control.injected().is_some_and(|event| {
                // An exception has a vector below 32, and 2 is no exception's.
                event.kind != EventKind::Exception || event.vector < 32 && event.vector != 2
            });
            must(is_event, Refused::Injection)?;
        }
        Ok(())
    }
}
