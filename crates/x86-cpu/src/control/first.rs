//! The state that a CPU has to be in before it runs any guest: what the table rests on.

use crate::features::{Feature, Features, VM_CR, VM_CR_DIS_A20M, VM_CR_R_INIT, Vendor};
use crate::speculation::Speculation;

/// Bits of an MSR of the CPU's.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// The MSR.
    pub msr: u32,
    /// Its name.
    pub name: &'static str,
    /// The bits that are cleared.
    pub clear: u64,
    /// The bits that are set, then.
    pub set: u64,
    /// Which CPUs have it.
    pub has: fn(&Features) -> bool,
    /// Why.
    pub why: &'static str,
}

impl First {
    /// What the MSR becomes.
    pub const fn value(&self, old: u64) -> u64 {
        old & !self.clear | self.set
    }
}

/// EFER.
const EFER: u32 = 0xc000_0080;
/// TSC_RATIO: 8 bits of integer, 32 of fraction (AMD64 APM 2, 15.30.5).
const TSC_RATIO: u32 = 0xc000_0104;
/// DE_CFG.
const DE_CFG: u32 = 0xc001_1029;

/// The list. VM_HSAVE_PA isn't in it, which is an address, nor DR7, which VMRUN and #VMEXIT clear.
pub const FIRST: &[First] = &[
    First {
        msr: EFER,
        name: "EFER.SVME",
        clear: 0,
        set: 1 << 12,
        has: |features| features.has_svm,
        why: "VMRUN is #UD without it",
    },
    First {
        msr: EFER,
        name: "EFER.AIBRSE",
        clear: 0,
        set: 1 << 21,
        has: |features| features.speculation.contains(Speculation::AUTOMATIC_IBRS),
        why: "the hypervisor's indirect branches don't go by what guests have trained, and #VMEXIT forgets their calls (automatic IBRS)",
    },
    First {
        msr: VM_CR,
        name: "VM_CR.R_INIT, DIS_A20M",
        clear: 0,
        set: VM_CR_R_INIT | VM_CR_DIS_A20M,
        has: |features| features.has_svm,
        why: "an INIT is an #SX of the hypervisor's and resets no CPU; bit 20 of addresses is never masked",
    },
    First {
        msr: TSC_RATIO,
        name: "TSC_RATIO",
        clear: u64::MAX,
        set: 1 << 32,
        has: |features| features.svm.contains(Feature::TSC_RATE),
        why: "a guest's time-stamp counter has the CPU's rate",
    },
    First {
        msr: 0x1d9,
        name: "DEBUGCTL",
        clear: u64::MAX,
        set: 0,
        has: |features| features.has_svm,
        why: "no last branches are recorded: VMRUN switches the register only where that is virtual",
    },
    First {
        msr: 0xda0,
        name: "XSS",
        clear: u64::MAX,
        set: 0,
        has: |features| features.xsaves,
        why: "XSAVES, which is hidden but isn't intercepted, saves nothing that XSAVE doesn't",
    },
    First {
        msr: DE_CFG,
        name: "DE_CFG.LFENCE",
        clear: 0,
        set: 1 << 1,
        has: |features| features.vendor == Vendor::Amd && features.family >= 0x10,
        why: "LFENCE keeps instructions behind it from starting: what bounds checks rest on, in guests too",
    },
];

/// What of the list a CPU has.
pub fn first(features: &Features) -> impl Iterator<Item = &'static First> {
    let features = *features;
    FIRST.iter().filter(move |first| (first.has)(&features))
}
