//! aarch64: GICv3 with ITSs, SMMUv3, PSCI, and the generic timer.

pub(crate) mod layout;
pub(crate) mod load;
pub(crate) mod mode;
mod mode_words;
pub(crate) mod own_tree;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Gpa, MsiControllerId, Span};
use axvm_guest::{Description, GicDescription};
use axvm_platform::model::Platform;
use serde::{Deserialize, Serialize};

use crate::findings::Findings;
use crate::linux;
use crate::model::{Blob, VmPlan};

use super::{Driven, Emulated, Held, Tables, Words};

/// That this build serves machines of this architecture. In one for others there is no such value, so that nothing of what follows from one
/// takes room in the image.
#[cfg(any(feature = "aarch64", not(feature = "x86_64")))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served;
#[cfg(all(feature = "x86_64", not(feature = "aarch64")))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Served {}

/// SPIs (Arm IHI 0069, 2.2): what a device's line can be.
pub(crate) const SPIS: Range<u32> = 32..1020;

/// Those of a guest's functions, where they aren't the board's: the first, as a guest's own devices have the last below 256.
pub(crate) const LINES_OF_FUNCTIONS: Range<u32> = 32..128;

/// PPIs: a CPU's own interrupts.
const PPIS: Range<u32> = 16..32;

/// Where the page to which MSIs are sent is in an ITS: its second frame (Arm IHI 0069, 12.18).
pub(crate) const DOORBELL: u64 = 64 << 10;

pub(crate) const WORDS: Words = Words {
    iommu: "SMMU",
    source: "stream",
    msi: "ITS",
    sender: "device",
    irq: "INTID",
    irqchip: "a GICv3",
    routable: "a shared one (an SPI is 32 to 1019)",
    console: "a PL011",
    console_compatible: "arm,pl011",
    watchdog: "an arm,sbsa-gwdt",
    cant_start: "its device-tree node isn't okay or has no PSCI, or the GIC doesn't serve it",
    tag: "VMID",
    board_by: "device tree",
    guest_by: "device tree",
    qemu_msi: "-M virt,gic-version=3,its=on",
    qemu_iommu: "-M virt,iommu=smmuv3",
};

pub(crate) const TABLES: Tables = Tables {
    // Arm DDI 0487, D8.2: granule of 4 KiB.
    table: 4096,
    // At most 16 concatenated tables (D8.2.8), aligned to their size.
    root: 16 * 4096,
    // A second-level table of stream table entries: 256 of 64 bytes (Arm IHI 0070, 3.3.1).
    sources: 16 << 10,
    source_bits: 8,
    // An ITS's entry for an event has at most 16 bytes (Arm IHI 0069, GITS_TYPER.ITT_entry_size), and its table 256 at least.
    message: 16,
    messages: 256,
    // A virtual processor's pending table is aligned to 64 KiB (IHI 0069, 5.3.13), and as good as that large.
    receiver: 64 << 10,
};

/// What only aarch64 has, for one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aarch64Plan {
    pub(crate) served: Served,
    /// The emulated GIC, as the guest sees it.
    pub gic: Option<GicPlan>,
    /// In emulated mode: its MSIs become virtual LPIs that the hardware delivers to its vCPUs (GICv4).
    pub virtual_lpis: bool,
}

/// The emulated GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GicPlan {
    /// The distributor.
    pub distributor: Span<Gpa>,
    /// The redistributors, 128 KiB for each vCPU.
    pub redistributors: Span<Gpa>,
    /// The virtual ITS.
    pub its: Option<ItsPlan>,
    /// SPI lines implemented: a multiple of 32.
    pub spis: u16,
}

/// A virtual ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItsPlan {
    /// Its registers.
    pub registers: Span<Gpa>,
    /// The host's behind it.
    pub host: MsiControllerId,
}

impl Aarch64Plan {
    pub(crate) fn registers(&self) -> Vec<Emulated> {
        let mut registers = Vec::new();
        if let Some(gic) = &self.gic {
            registers.push(Emulated { span: gic.distributor, what: "the GIC's distributor" });
            registers.push(Emulated { span: gic.redistributors, what: "the GIC's redistributors" });
            registers.extend(gic.its.map(|its| Emulated { span: its.registers, what: "the ITS" }));
        }
        registers
    }
}

/// Those of the timers of KVM's vCPUs (Linux, arch/arm64/kvm/arch_timer.c), whatever the board's are.
const KVM_TIMER: [u32; 4] = [29, 30, 27, 26];

/// The four interrupts of the generic timer, in the order of its binding: secure, non-secure physical, virtual, hypervisor.
fn timer(platform: &Platform) -> [u32; 4] {
    if linux::host(platform).is_some() {
        return KVM_TIMER;
    }
    let mut timer = [0; 4];
    for (slot, interrupt) in timer.iter_mut().zip(&platform.timer) {
        *slot = interrupt.irq.0;
    }
    timer
}

pub(crate) fn describe(plan: &Aarch64Plan, platform: &Platform, description: &mut Description) {
    description.gic = plan.gic.map(|gic| GicDescription {
        distributor: gic.distributor,
        redistributors: gic.redistributors,
        its: gic.its.map(|its| its.registers),
    });
    description.timer = timer(platform);
}

/// Its device tree.
pub(crate) fn write(vm: &VmPlan) -> Result<Vec<Blob>, String> {
    let tree = axvm_guest::fdt::write(&vm.description, None).map_err(|error| error.to_string())?;
    Ok(alloc::vec![Blob { at: vm.load.description.start(), bytes: tree }])
}

pub(crate) fn lacks(platform: &Platform) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if platform.gic().is_none() {
        lacks.push("GICv3 (QEMU: -M virt,gic-version=3): AxVM serves no other interrupt controller");
    }
    if platform.timer.len() < 4 {
        lacks.push("generic timer with its four interrupts");
    }
    if platform.timer.iter().any(|line| !PPIS.contains(&line.irq.0)) {
        lacks.push(
            "generic timer whose four interrupts are a CPU's own (PPIs): those of its device tree aren't",
        );
    }
    // With one, the interrupt that asks for more would never go away.
    if platform.limits.list_registers < 2 {
        lacks.push("second list register for virtual interrupts: every known CPU has four at least");
    }
    if platform.psci().is_none() {
        lacks.push("PSCI: without it no CPU can be started or the board powered off");
    }
    lacks
}

pub(crate) fn irqchip(platform: &Platform) -> Vec<Driven> {
    let mut registers = Vec::new();
    let mut take = |span, what| registers.push(Driven { span, what });
    if let Some(gic) = platform.gic() {
        take(gic.distributor, format!("the GIC's distributor ({})", gic.path));
        for &span in &gic.redistributors {
            take(span, format!("the GIC's redistributors ({})", gic.path));
        }
        for &span in &gic.legacy {
            take(span, format!("the GIC's CPU interface ({})", gic.path));
        }
        for its in &gic.its {
            take(its.registers, format!("the ITS ({})", its.path));
        }
    }
    registers
}

pub(crate) fn irqchip_lines(platform: &Platform) -> Vec<Held> {
    let maintenance = platform.gic().and_then(|gic| gic.maintenance);
    maintenance.map(|line| Held::new(line, "the GIC's maintenance interrupt".into())).into_iter().collect()
}

pub(crate) fn reserved_node(platform: &Platform, path: &str) -> Option<&'static str> {
    if let Some(gic) = platform.gic() {
        if gic.path == path {
            return Some("the GIC");
        }
        if gic.its.iter().any(|its| its.path == path) {
            return Some("the ITS");
        }
    }
    match path {
        "/timer" => Some("the timer"),
        "/psci" => Some("the firmware's interface"),
        _ => None,
    }
}

pub(crate) fn note_unused(platform: &Platform, findings: &mut Findings) {
    let its = platform.gic().into_iter().flat_map(|gic| &gic.its);
    for its in its.filter(|its| its.pre_its.is_some()) {
        findings.note(format_args!(
            "{} isn't used: what stands before it (socionext,synquacer-pre-its) would let each device interrupt in the name of \
             any other; devices have no MSIs by it",
            its.path
        ));
    }
}

/// The affinity of a vCPU in MPIDR_EL1: sixteen to a cluster, because an SGI's target list names sixteen values of Aff0
/// (Arm IHI 0069, 12.2.23, ICC_SGI1R_EL1).
pub(crate) fn affinity(vcpu: u16) -> u64 {
    u64::from(vcpu % 16) | u64::from(vcpu / 16) << 8
}
