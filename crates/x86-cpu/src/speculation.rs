//! What is done against speculation that a guest steers: each measure with its moment, what asks for it, and its reason, in one table.
//!
//! By AMD's papers "Software Techniques for Managing Speculation" (90343), on branch type confusion, on the speculative return stack overflow
//! (SRSO) and on transient scheduler attacks (TSA). The hypervisor is compiled without the compilers' counterparts (retpolines, safe returns), so that
//! what a guest has trained must be gone before its code runs.

use crate::features::{Features, Vendor};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// PRED_CMD (MSR 0x49) bit 0: an indirect branch prediction barrier.
    Barrier,
    /// 32 calls, so that no return goes by what the guest has called.
    FillReturns,
    /// VERW of a selector in memory, which clears the buffers.
    Verw,
}

/// When it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As the last thing before VMRUN.
    Entry,
    /// As the first thing after #VMEXIT, before an indirect branch or a return.
    Exit,
    /// When a CPU goes from a VM to another one, or to the hypervisor alone.
    Change,
}

/// A measure, and which CPUs need it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is done.
    pub measure: Measure,
    /// When.
    pub moment: Moment,
    /// Which CPUs need it, of those that can do it.
    pub needs: fn(&Features) -> bool,
    /// Why.
    pub why: &'static str,
}

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        measure: Measure::Barrier,
        moment: Moment::Change,
        needs: |features| features.speculation.contains(Speculation::BARRIER),
        why: "no branch of one guest's goes by what another has trained",
    },
    Row {
        measure: Measure::Barrier,
        moment: Moment::Exit,
        needs: |features| {
            // From Bulldozer to Zen 4, but those that say that they don't need it.
            features.vendor == Vendor::Amd
                && (0x15..=0x19).contains(&features.family)
                && !features.speculation.contains(Speculation::NO_RETURN_OVERFLOW)
                && features.speculation.contains(Speculation::BARRIER)
        },
        why: "returns of the hypervisor's go by what the guest has trained (branch type confusion, SRSO)",
    },
    Row {
        measure: Measure::FillReturns,
        moment: Moment::Exit,
        needs: |features| !features.speculation.contains(Speculation::AUTOMATIC_IBRS),
        why: "returns of the hypervisor's go by the guest's calls. Automatic IBRS has the processor forget them",
    },
    Row {
        measure: Measure::Verw,
        moment: Moment::Entry,
        needs: |features| {
            let has = |bits| features.speculation.contains(bits);
            has(Speculation::VERW_CLEARS)
                && !has(Speculation::NO_SCHEDULER_STORES | Speculation::NO_SCHEDULER_LOADS)
        },
        why: "what the hypervisor has loaded and stored could be inferred from when instructions end (TSA)",
    },
];

bitflags::bitflags! {
    /// What CPUID says of speculation.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Speculation: u8 {
        /// IBPB (0x8000_0008 EBX bit 12).
        const BARRIER = 1 << 0;
        /// Automatic IBRS (0x8000_0021 EAX bit 8).
        const AUTOMATIC_IBRS = 1 << 1;
        /// SRSO_NO (0x8000_0021 EAX bit 29).
        const NO_RETURN_OVERFLOW = 1 << 2;
        /// VERW_CLEAR (0x8000_0021 EAX bit 5).
        const VERW_CLEARS = 1 << 3;
        /// TSA_SQ_NO (0x8000_0021 ECX bit 1).
        const NO_SCHEDULER_STORES = 1 << 4;
        /// TSA_L1_NO (0x8000_0021 ECX bit 2).
        const NO_SCHEDULER_LOADS = 1 << 5;
    }
}

impl Speculation {
    /// Of EBX of leaf 0x8000_0008, EAX and ECX of leaf 0x8000_0021.
    pub(crate) fn read(sizes: u32, further: u32, scheduler: u32) -> Self {
        let mut found = Self::empty();
        for (register, bit, says) in [
            (sizes, 12, Self::BARRIER),
            (further, 8, Self::AUTOMATIC_IBRS),
            (further, 29, Self::NO_RETURN_OVERFLOW),
            (further, 5, Self::VERW_CLEARS),
            (scheduler, 1, Self::NO_SCHEDULER_STORES),
            (scheduler, 2, Self::NO_SCHEDULER_LOADS),
        ] {
            found.set(says, register & 1 << bit != 0);
        }
        found
    }
}

/// What a CPU needs at a moment, in this order.
pub fn measures(moment: Moment, features: &Features) -> impl Iterator<Item = Measure> {
    let features = *features;
    TABLE.iter().filter(move |row| row.moment == moment && (row.needs)(&features)).map(|row| row.measure)
}

#[cfg(test)]
mod tests;
