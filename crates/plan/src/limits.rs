//! What whoever carries the plan out can't go beyond ([`Limits`]): tags for VMs, ids of DMA masters and senders of MSIs, message
//! interrupts, memory for tables. What several VMs have a share of is checked in sum.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{IommuId, MsiSource, Span};
use axvm_pci::BarKind;
use axvm_platform::limits::{Limits, Serves};
use axvm_system::model::{AfterEnd, System};

use super::apart::Apart;
use super::board::Board;
use super::findings::{And, Bytes, Findings, VmRef};
use super::hardware::{Given, Kind};
use super::machine::Tables;
use super::model::VmPlan;
use crate::config::VMInterruptMode;
use crate::problem::Rule;

/// Events that a device can have: MSI-X's vectors (PCIe 7.7.2.2).
const EVENTS: u32 = 2048;

/// What else a host holds for a VM, its emulated devices for instance, and for each vCPU of it.
const PER_VM: u64 = 64 << 10;
const PER_VCPU: u64 = 16 << 10;

/// Whether each device's ids are such that IOMMU and interrupt controller can tell it apart.
pub(super) fn check_devices(given: &[Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    let (limits, words) = (&board.platform.limits, board.machine.words());
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
                        "its {} {:#x} is above those that {} {} can serve: its ids have {bits} bits",
                        words.source, source.id.0, words.iommu, source.iommu
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
                    "its interrupt {} is above the lines that can be served: they end before {} {}",
                    line.irq, words.irq, limits.lines.end
                ),
            );
        }
        let Some(msi) = device.hardware.msi else { continue };
        let MsiSource { controller, id } = msi.source;
        let found = limits.msi.get(usize::from(controller.0));
        if let Some(found) = found.filter(|found| u64::from(id.0) >> found.source_bits != 0) {
            findings.device(
                device.reference(),
                "",
                Rule::Limit,
                format_args!(
                    "its {} id {:#x} is above those that {} {controller} can serve: its ids have {} bits",
                    words.sender, id.0, words.msi, found.source_bits
                ),
            );
        }
        let events = events(device, given);
        let most = found.map_or(EVENTS, |found| EVENTS.min(1 << found.message_bits.min(31)));
        if events > most {
            findings.device(
                device.reference(),
                "",
                Rule::Limit,
                format_args!(
                    "what sends MSIs with its {} id ({:#x}) can send {events}, but {} {controller} tells {most} apart: give it \
                     fewer of them",
                    words.sender, id.0, words.msi
                ),
            );
        }
    }
}

/// Whether what is to follow a VM's end, and its watchdog, are such as the host has. That a guest which resets itself starts again is so
/// unless the file says otherwise: that it doesn't here is no reason not to run it.
pub(super) fn check_life(system: &System, board: &Board<'_>, findings: &mut Findings) {
    let limits = &board.platform.limits;
    let mut stay: Vec<String> = Vec::new();
    for (index, config) in (0..).zip(&system.vms) {
        let vm = VmRef::of(system, index);
        if limits.restarts == Serves::No {
            if config.on_reset == AfterEnd::Restart {
                stay.push(format!("{vm}"));
            }
            if config.on_crash == AfterEnd::Restart {
                findings.vm(
                    vm,
                    "on_crash",
                    Rule::Limit,
                    "on_crash = \"restart\" isn't served yet: a VM that has ended stays stopped; say \"stop\"",
                );
            }
        }
        if config.watchdog.is_some() && limits.watchdogs == Serves::No {
            findings.vm(
                vm,
                "watchdog",
                Rule::Limit,
                "an emulated watchdog isn't served yet: leave `watchdog` out",
            );
        }
    }
    if !stay.is_empty() {
        let what =
            if stay.len() == 1 { "a guest that resets itself" } else { "guests that reset themselves" };
        findings.note(format_args!(
            "{}: on_reset = \"restart\", the default, isn't served yet: {what} stay{} stopped",
            And(&stay),
            if stay.len() == 1 { "s" } else { "" }
        ));
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
    /// Message interrupts of the host's choice.
    pub(super) messages: u64,
    /// Bytes of tables, at most.
    pub(super) tables: u64,
}

/// Whether the VMs together find what they need; each is given its share. Of VMs that take turns the most that one needs counts.
pub(super) fn check_sums(
    vms: &mut [VmPlan],
    given: &[&Given<'_>],
    apart: &Apart,
    limits: &Limits,
    findings: &mut Findings,
) {
    let last = vms.iter().map(|plan| plan.id.0.saturating_add(1)).max().unwrap_or(0);
    let turns = apart.turns(last);
    let turn_of = |vm: u16| turns.iter().position(|turn| turn.contains(&vm));
    // Of each turn, the most that one of its VMs needs so far.
    let mut most: Vec<Share> = turns.iter().map(|_| Share::default()).collect();
    for plan in vms.iter_mut() {
        let share = share(plan, given);
        let vm = VmRef { index: plan.id.0, name: &plan.name };
        if plan.machine.delivers_messages(plan.mode) {
            let own = messages(plan);
            if own > u64::from(limits.guest_messages) {
                over(vm, "MSIs", own, 0, u64::from(limits.guest_messages), findings);
            }
        }
        plan.table_bytes = share.tables;
        let before = sum(&most);
        let Some(turn) = turn_of(plan.id.0).and_then(|turn| most.get_mut(turn)) else { continue };
        let theirs = *turn;
        *turn =
            Share { messages: theirs.messages.max(share.messages), tables: theirs.tables.max(share.tables) };
        let after = sum(&most);
        // Said once, at the VM that is too much.
        if after.messages > limits.messages.into() && before.messages <= limits.messages.into() {
            let others = before.messages.saturating_sub(theirs.messages);
            over(vm, "MSIs", share.messages, others, limits.messages.into(), findings);
        }
        if after.tables > limits.table_bytes && before.tables <= limits.table_bytes {
            findings.vm(
                vm,
                "memory",
                Rule::Limit,
                format_args!(
                    "its tables take up to {}, and those of the VMs before it {}: the hypervisor has {} for them",
                    Bytes(kib(share.tables)),
                    Bytes(kib(before.tables.saturating_sub(theirs.tables))),
                    Bytes(kib(limits.table_bytes))
                ),
            );
        }
    }
    for plan in vms {
        let Some(turn) = turn_of(plan.id.0) else { continue };
        let first = sum(most.get(..turn).unwrap_or_default()).messages;
        let own = share(plan, given).messages;
        if let (Ok(first), Ok(count)) = (u32::try_from(first), u32::try_from(own)) {
            plan.messages = first..first.saturating_add(count);
        }
    }
}

/// What all of them take together.
fn sum(shares: &[Share]) -> Share {
    shares.iter().fold(Share::default(), |sum, share| Share {
        messages: sum.messages.saturating_add(share.messages),
        tables: sum.tables.saturating_add(share.tables),
    })
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

/// The message interrupts of all its devices.
fn messages(plan: &VmPlan) -> u64 {
    if plan.machine.machine().guests_size_tables() {
        return (senders(plan).len() as u64).saturating_mul(events_each(plan));
    }
    let of = |sender: MsiSource| {
        let all = plan.devices.iter().filter_map(|device| device.msi);
        all.filter(|msi| msi.source == sender).map(|msi| u64::from(msi.messages)).max().unwrap_or(0)
    };
    senders(plan).into_iter().fold(0, |sum: u64, sender| sum.saturating_add(of(sender)))
}

/// What a VM takes.
pub(super) fn share(plan: &VmPlan, given: &[&Given<'_>]) -> Share {
    let emulated = plan.mode == VMInterruptMode::Emulated;
    let by_hardware = plan.machine.delivers_messages(plan.mode);
    let sizes = plan.machine.machine().tables();
    let vcpus = plan.cpus.len() as u64;
    let mut tables = PER_VM.saturating_add(vcpus.saturating_mul(PER_VCPU));
    let mut add = |bytes: u64| tables = tables.saturating_add(bytes);

    let ram = plan.ram.iter().fold(0u64, |sum, piece| sum.saturating_add(above_blocks(piece.gpa, sizes)));
    add(sizes.root.saturating_add(ram));
    for block in plan.registers.iter().filter(|block| block.direct) {
        add(by_pages(block.gpa.size(), sizes));
    }
    for device in given.iter().filter(|device| device.vm.index == plan.id.0) {
        let Kind::Pci { function: Some(function), .. } = device.hardware.kind else { continue };
        for bar in function.function.bars.iter().filter(|bar| bar.kind != BarKind::Io) {
            add(by_pages(bar.size.min(2 << 20), sizes)
                .saturating_add((bar.size >> 30).saturating_mul(sizes.table)));
        }
    }

    let sources = plan.devices.iter().flat_map(|device| &device.sources);
    let mut blocks: Vec<(IommuId, u32)> =
        sources.map(|source| (source.iommu, source.id.0 >> sizes.source_bits)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    add((blocks.len() as u64).saturating_mul(sizes.sources));
    blocks.dedup_by_key(|(iommu, _)| *iommu);
    for _ in &blocks {
        add(sizes.root.saturating_add(ram).saturating_add(by_pages(0, sizes)));
    }

    let table = events_each(plan).saturating_mul(sizes.message).max(sizes.messages);
    add((senders(plan).len() as u64).saturating_mul(table));
    if emulated && by_hardware {
        add(vcpus.saturating_add(1).saturating_mul(sizes.receiver));
    }
    Share { messages: if emulated && !by_hardware { messages(plan) } else { 0 }, tables }
}

/// The tables above blocks of 2 MiB that map a span: one for each GiB that it touches, and the one above them.
fn above_blocks<A: axvm_addr::Address>(span: Span<A>, sizes: &Tables) -> u64 {
    let gib = |at: u64| at >> 30;
    let touched = gib(span.end().get().saturating_sub(1)).saturating_sub(gib(span.start().get()));
    touched.saturating_add(2).saturating_mul(sizes.table)
}

/// The tables that map a span by pages, wherever it lies: those of its pages, and one on each level above.
fn by_pages(bytes: u64, sizes: &Tables) -> u64 {
    (bytes >> 21).saturating_add(2 + 2).saturating_mul(sizes.table)
}
