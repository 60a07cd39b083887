//! What whoever carries the plan out can't go beyond ([`Limits`]): tags for VMs, stream and device ids, LPIs, memory for tables. What
//! several VMs have a share of is checked in sum.

use alloc::vec::Vec;

use axvm_addr::{IommuId, MsiSource, Span};
use axvm_pci::BarKind;
use axvm_platform::limits::Limits;

use super::board::Board;
use super::findings::{Bytes, Findings, VmRef};
use super::given::{Given, Kind};
use super::model::VmPlan;
use crate::config::VMInterruptMode;
use crate::problem::Rule;

/// Events that a device can have: MSI-X's vectors (PCIe 7.7.2.2).
const EVENTS: u32 = 2048;

/// A translation table (Arm DDI 0487, D8.2: granule of 4 KiB).
const TABLE: u64 = 4096;

/// A root of concatenated tables is at most 16 of them (D8.2.8), and aligned to its size.
const ROOT: u64 = 16 * TABLE;

/// A second-level table of stream table entries: 256 of 64 bytes (Arm IHI 0070, 3.3.1).
const STREAMS: u64 = 16 << 10;

/// An ITS's entry for an event has at most 16 bytes (Arm IHI 0069, GITS_TYPER.ITT_entry_size), and its table 256 bytes at least.
const EVENT: u64 = 16;
const EVENT_TABLE: u64 = 256;

/// A virtual processor's pending table is aligned to 64 KiB (IHI 0069, 5.3.13), and as good as that large.
const PENDING: u64 = 64 << 10;

/// What else a host holds for a VM, its emulated devices for instance, and for each vCPU of it.
const PER_VM: u64 = 64 << 10;
const PER_VCPU: u64 = 16 << 10;

/// Whether each device's ids are such that IOMMU and interrupt controller can tell it apart.
pub(super) fn check_devices(given: &[Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    let limits = &board.platform.limits;
    for device in given.iter().filter(|device| !device.refused) {
        for source in &device.hardware.sources {
            if let Some(&bits) = limits.source_bits.get(usize::from(source.iommu.0))
                && u64::from(source.id.0) >> bits != 0
            {
                findings.device(
                    device.reference(),
                    "",
                    Rule::Limit,
                    format_args!(
                        "its stream {:#x} is above those that SMMU {} can serve: its ids have {bits} bits",
                        source.id.0, source.iommu
                    ),
                );
            }
        }
        for line in device.hardware.lines.iter().filter(|line| line.irq.0 >= limits.lines.end) {
            findings.device(
                device.reference(),
                "",
                Rule::Limit,
                format_args!(
                    "its interrupt {} is above the lines that can be served: they end before INTID {}",
                    line.irq, limits.lines.end
                ),
            );
        }
        let Some(msi) = device.hardware.msi else { continue };
        let MsiSource { controller, id } = msi.source;
        let its = limits.msi.get(usize::from(controller.0));
        if let Some(its) = its.filter(|its| u64::from(id.0) >> its.source_bits != 0) {
            findings.device(
                device.reference(),
                "",
                Rule::Limit,
                format_args!(
                    "its device id {:#x} is above those that ITS {controller} can serve: its ids have {} bits",
                    id.0, its.source_bits
                ),
            );
        }
        let events = events(device, given);
        let most = its.map_or(EVENTS, |its| EVENTS.min(1 << its.message_bits.min(31)));
        if events > most {
            findings.device(
                device.reference(),
                "",
                Rule::Limit,
                format_args!(
                    "what sends MSIs with its device id ({:#x}) can send {events}, but ITS {controller} tells {most} apart: give it \
                     fewer of them",
                    id.0
                ),
            );
        }
    }
}

/// The events of all that send MSIs with a device's id, for its VM.
fn events(device: &Given<'_>, given: &[Given<'_>]) -> u32 {
    let Some(own) = device.hardware.msi else { return 0 };
    let alike = given.iter().filter(|other| other.vm.index == device.vm.index && !other.refused);
    let alike = alike.filter_map(|other| other.hardware.msi);
    let alike = alike.filter(|msi| msi.source == own.source);
    alike.fold(0, |sum: u32, msi| sum.saturating_add(msi.messages.into()))
}

/// What a VM takes of what there is one store of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Physical LPIs of the host's choice.
    pub(super) lpis: u64,
    /// Bytes of tables, at most.
    pub(super) tables: u64,
}

/// Whether the VMs together find what they need; each is given its share.
pub(super) fn check_sums(vms: &mut [VmPlan], given: &[&Given<'_>], limits: &Limits, findings: &mut Findings) {
    let mut sum = Share::default();
    for plan in vms {
        let share = share(plan, given);
        let vm = VmRef { index: plan.id.0, name: &plan.name };
        if plan.mode == VMInterruptMode::Passthrough || plan.virtual_lpis {
            let own = lpis(plan);
            if own > u64::from(limits.guest_messages) {
                over(vm, "MSIs", own, 0, u64::from(limits.guest_messages), findings);
            }
        }
        let before = sum;
        plan.table_bytes = share.tables;
        if let (Ok(first), Ok(count)) = (u32::try_from(before.lpis), u32::try_from(share.lpis)) {
            plan.messages = first..first.saturating_add(count);
        }
        sum.lpis = sum.lpis.saturating_add(share.lpis);
        sum.tables = sum.tables.saturating_add(share.tables);
        // Said once, at the VM that is too much.
        if sum.lpis > limits.messages.into() && before.lpis <= limits.messages.into() {
            over(vm, "MSIs", share.lpis, before.lpis, limits.messages.into(), findings);
        }
        if sum.tables > limits.table_bytes && before.tables <= limits.table_bytes {
            findings.vm(
                vm,
                "memory",
                Rule::Limit,
                format_args!(
                    "its tables take up to {}, and those of the VMs before it {}: the hypervisor has {} for them",
                    Bytes(kib(share.tables)),
                    Bytes(kib(before.tables)),
                    Bytes(kib(limits.table_bytes))
                ),
            );
        }
    }
}

fn kib(bytes: u64) -> u64 {
    bytes & !0x3ff
}

fn over(vm: VmRef<'_>, what: &str, own: u64, before: u64, most: u64, findings: &mut Findings) {
    findings.vm(
        vm,
        "",
        Rule::Limit,
        format_args!(
            "its devices can send {own} {what} and those of the VMs before it {before}, but {most} can be served: give it fewer \
             devices"
        ),
    );
}

/// The device ids of a VM's MSIs, each once.
fn senders(plan: &VmPlan) -> Vec<MsiSource> {
    let mut ids: Vec<_> = plan.devices.iter().filter_map(|device| Some(device.msi?.source)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Events of each of its device ids: what the most of its devices needs, for all of them, since the guest says how many.
fn events_each(plan: &VmPlan) -> u64 {
    let most = plan.devices.iter().filter_map(|device| Some(device.msi?.messages)).max().unwrap_or(0);
    u64::from(most.max(2)).next_power_of_two()
}

fn lpis(plan: &VmPlan) -> u64 {
    (senders(plan).len() as u64).saturating_mul(events_each(plan))
}

/// What a VM takes.
pub(super) fn share(plan: &VmPlan, given: &[&Given<'_>]) -> Share {
    let injected = plan.mode == VMInterruptMode::Emulated && !plan.virtual_lpis;
    let vcpus = plan.cpus.len() as u64;
    let mut tables = PER_VM.saturating_add(vcpus.saturating_mul(PER_VCPU));
    let mut add = |bytes: u64| tables = tables.saturating_add(bytes);

    let ram = plan.ram.iter().fold(0u64, |sum, piece| sum.saturating_add(above_blocks(piece.gpa)));
    add(ROOT.saturating_add(ram));
    for block in plan.registers.iter().filter(|block| block.direct) {
        add(by_pages(block.gpa.size()));
    }
    for device in given.iter().filter(|device| device.vm.index == plan.id.0) {
        let Kind::Pci { function: Some(function), .. } = device.hardware.kind else { continue };
        for bar in function.function.bars.iter().filter(|bar| bar.kind != BarKind::Io) {
            add(by_pages(bar.size.min(2 << 20)).saturating_add((bar.size >> 30).saturating_mul(TABLE)));
        }
    }

    let sources = plan.devices.iter().flat_map(|device| &device.sources);
    let mut blocks: Vec<(IommuId, u32)> = sources.map(|source| (source.iommu, source.id.0 >> 8)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    add((blocks.len() as u64).saturating_mul(STREAMS));
    blocks.dedup_by_key(|(iommu, _)| *iommu);
    for _ in &blocks {
        add(ROOT.saturating_add(ram).saturating_add(by_pages(0)));
    }

    let table = events_each(plan).saturating_mul(EVENT).max(EVENT_TABLE);
    add((senders(plan).len() as u64).saturating_mul(table));
    if plan.virtual_lpis {
        add(vcpus.saturating_add(1).saturating_mul(PENDING));
    }
    Share { lpis: if injected { lpis(plan) } else { 0 }, tables }
}

/// The tables above blocks of 2 MiB that map a span: one for each GiB that it touches, and the one above them.
fn above_blocks<A: axvm_addr::Address>(span: Span<A>) -> u64 {
    let gib = |at: u64| at >> 30;
    let touched = gib(span.end().get().saturating_sub(1)).saturating_sub(gib(span.start().get()));
    touched.saturating_add(2).saturating_mul(TABLE)
}

/// The tables that map a span by pages, wherever it lies: those of its pages, and one on each level above.
fn by_pages(bytes: u64) -> u64 {
    (bytes >> 21).saturating_add(2 + 2).saturating_mul(TABLE)
}
