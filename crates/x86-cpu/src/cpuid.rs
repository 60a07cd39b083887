//! What CPUID shows a guest (AMD64 APM 3, appendix E; Intel SDM 2, CPUID): nothing that isn't in the table, and a machine that fits together.
//!
//! A bit is shown only if the table says so. Leaves that tell how many there are of something are computed: the vCPUs are the cores of one
//! package, whatever the host has.

use crate::features::{Leaf, Source, Vendor};

mod computed;
mod table;

pub use table::TABLE;

bitflags::bitflags! {
    /// What the hypervisor gives a guest beside what the processor has.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offers: u8 {
        /// The local APIC has a mode with MSRs.
        const X2APIC = 1 << 0;
        /// The local APIC's timer has a mode with deadlines.
        const TSC_DEADLINE = 1 << 1;
        /// KVM's paravirtual clock.
        const CLOCK = 1 << 2;
        /// The time-stamp counter has one rate, whatever the CPU does.
        const INVARIANT_TSC = 1 << 3;
        /// PRED_CMD: the indirect branch prediction barrier is carried out.
        const BARRIER = 1 << 4;
        /// SPEC_CTRL is switched between guest and hypervisor.
        const SPEC_CTRL = 1 << 5;
        /// LFENCE serializes (DE_CFG): the hypervisor has seen to it on each CPU.
        const LFENCE = 1 << 6;
        /// The local APIC's timer never stops (ARAT).
        const STEADY_TIMER = 1 << 7;
    }
}

/// What a guest sees, whichever vCPU asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// How many vCPUs it has. Their local APICs have the ids 0, 1, 2 and so on.
    pub vcpus: u16,
    /// How wide its physical addresses are: what nested tables and I/O page tables can translate.
    pub physical_bits: u8,
    /// The state that XCR0 may enable, as far as the processor has it and it is of [`STATES`]; 0 hides XSAVE, and AVX with it.
    pub xcr0: u64,
    /// What it is given.
    pub offers: Offers,
}

/// What of a vCPU CPUID tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its APIC's id.
    pub apic_id: u32,
    /// Its APIC is on (APIC_BASE).
    pub apic_enabled: bool,
    /// Its CR4.
    pub cr4: u64,
    /// Its XCR0.
    pub xcr0: u64,
}

/// A register of CPUID's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The manual's names.
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// What a guest sees of some bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Zero.
    Hidden,
    /// What the processor has.
    Host,
    /// What the processor has, if XCR0 may enable all of this state.
    State(u64),
    /// What the processor has, if it is offered.
    HostIf(Offers),
    /// Set, if it is offered.
    If(Offers),
    /// Set.
    Set,
    /// Another function says it.
    Computed,
}

/// Which subleaves a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subleaf {
    /// The leaf has none.
    Any,
    /// This one.
    Only(u32),
}

/// Bits of a leaf and what a guest sees of them.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub subleaf: Subleaf,
    /// The register.
    pub register: Register,
    /// The bits.
    pub mask: u32,
    /// What is seen.
    pub rule: Rule,
    /// What they are, and why.
    pub why: &'static str,
}

/// The state that XCR0 may ever enable: x87, SSE, AVX, AVX-512. What else there is belongs to something that is hidden: MPX, protection keys, AMX.
pub const STATES: u64 = 0b1110_0111;

/// The last of the leaves that the processor's makers have in common.
pub const LAST: u32 = 0xd;
/// The first of the hypervisor's.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// The last of AMD's.
pub const LAST_EXTENDED: u32 = 0x8000_0021;

impl Rule {
    fn apply(self, host: u32, mask: u32, view: &View) -> u32 {
        let shown = match self {
            Self::Hidden | Self::Computed => 0,
            Self::Host => host,
            Self::State(state) if view.xcr0 & state == state => host,
            Self::HostIf(offer) if view.offers.contains(offer) => host,
            Self::If(offer) if view.offers.contains(offer) => u32::MAX,
            Self::Set => u32::MAX,
            Self::State(_) | Self::HostIf(_) | Self::If(_) => 0,
        };
        shown & mask
    }
}

fn part(leaf: &mut Leaf, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut leaf.eax,
        Register::Ebx => &mut leaf.ebx,
        Register::Ecx => &mut leaf.ecx,
        Register::Edx => &mut leaf.edx,
    }
}

/// The rows of a leaf. The table is in the order of leaves.
fn rows(leaf: u32) -> &'static [Row] {
    let first = TABLE.partition_point(|row| row.leaf < leaf);
    let rest = TABLE.get(first..).unwrap_or(&[]);
    let count = rest.iter().position(|row| row.leaf != leaf).unwrap_or(rest.len());
    rest.get(..count).unwrap_or(&[])
}

/// What CPUID returns to a vCPU. `host` is the CPU that the vCPU has. Leaves that aren't known, and those above the last, are zero.
pub fn cpuid(leaf: u32, subleaf: u32, host: &impl Source, view: &View, asker: &Asker) -> Leaf {
    cpuid_by(leaf, subleaf, host, view, asker)
}

/// The same for any processor: compiled once, and as this crate is (for speed), not as its user.
fn cpuid_by(leaf: u32, subleaf: u32, host: &dyn Source, view: &View, asker: &Asker) -> Leaf {
    let view = &View { xcr0: view.xcr0 & STATES, ..*view };
    let base = leaf & 0xc000_0000;
    let here = match base {
        0 | 0x8000_0000 => {
            let most = host.cpuid(base, 0).eax;
            if most & 0xc000_0000 != base || leaf > most {
                Leaf::default()
            } else {
                host.cpuid(leaf, subleaf)
            }
        }
        _ => Leaf::default(),
    };
    let mut here = here;
    let mut seen = Leaf::default();
    for row in rows(leaf) {
        if matches!(row.subleaf, Subleaf::Only(only) if only != subleaf) {
            continue;
        }
        let bits = row.rule.apply(*part(&mut here, row.register), row.mask, view);
        *part(&mut seen, row.register) |= bits;
    }
    computed::add(leaf, subleaf, &here, &mut seen, host, view, asker);
    seen
}

/// Whether AMD's way of telling topology is the guest's.
fn vendor(host: &dyn Source) -> Vendor {
    crate::features::Vendor::read(host)
}

#[cfg(test)]
mod tests;
