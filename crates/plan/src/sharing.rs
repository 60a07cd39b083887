//! What devices share: itself, its group, its line, its page. Whatever is shared belongs to one VM or to none: for the whole run, or, where a
//! host holds devices while a VM runs, at a time. A VM must still have all of what can't be told apart: several VMs may name a group, each of
//! them as a whole.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{DmaSource, Hpa, Irq, PciAddress, Span};
use axvm_pci::{Reach, ResetMethod};
use axvm_platform::model::{PciDevice, Platform};
use axvm_system::model::System;

use super::apart::{Apart, Bond};
use super::board::Board;
use super::findings::{And, Findings};
use super::hardware::{Given, Hardware, Kind, Thing};
use super::linux;
use super::machine::Words;
use super::pci;
use crate::problem::Rule;

/// Checks every device against the hypervisor, against those before it and against those that nobody is given. What two
/// devices share is said once, at the later one.
pub(super) fn check(
    given: &mut [Given<'_>],
    system: &System,
    board: &Board<'_>,
    apart: &mut Apart,
    findings: &mut Findings,
) {
    for position in 0..given.len() {
        let (before, rest) = given.split_at_mut(position);
        if let Some(device) = rest.first_mut().filter(|device| !device.refused) {
            device.refused = given_twice(device, before, system, apart, findings);
        }
    }
    for (position, device) in given.iter().enumerate().filter(|(_, device)| !device.refused) {
        let before = given.get(..position).unwrap_or(&[]);
        group(device, before, given, board.platform, findings);
        bus(device, given, board.platform, findings);
        ids(device, before, given, board.machine.words(), findings);
        sources_of_nobody(device, given, board, findings);
        // A Linux takes lines itself, shared ones too, and raises the guest's.
        if linux::host(board.platform).is_none() {
            lines(device, before, given, system, board, apart, findings);
        }
        pages(device, before, given, board, findings);
    }
}

/// Whether two are the same physical thing, or registers of one: two raw regions may lie over registers that the platform doesn't know.
fn is_same(device: &Given<'_>, other: &Given<'_>) -> bool {
    let (mine, theirs) = (&device.hardware, &other.hardware);
    mine.things.iter().any(|thing| theirs.things.contains(thing))
        || mine.blocks.iter().any(|block| theirs.blocks.iter().any(|other| other.hpa.overlaps(&block.hpa)))
        || mine.ports.iter().any(|block| theirs.ports.iter().any(|other| other.ports.overlaps(&block.ports)))
}

/// Whether the VMs of two devices have both of them: so each of the two has all that can't be told apart, and they take turns.
fn have_both(device: &Given<'_>, other: &Given<'_>, given: &[Given<'_>]) -> bool {
    let has = |vm: u16, it: &Given<'_>| {
        given.iter().any(|own| own.vm.index == vm && !own.refused && is_same(own, it))
    };
    has(device.vm.index, other) && has(other.vm.index, device)
}

fn given_twice(
    device: &Given<'_>,
    before: &[Given<'_>],
    system: &System,
    apart: &mut Apart,
    findings: &mut Findings,
) -> bool {
    let mut twice = before.iter().filter(|other| is_same(device, other));
    if apart.allows_sharing() {
        let own = twice.clone().find(|other| other.vm.index == device.vm.index);
        if own.is_none() {
            for other in twice.filter(|other| !other.refused) {
                // A running guest can be told of a PCI function that goes, and of nothing else.
                let bond = if device.is_pci() && other.is_pci() { Bond::Movable } else { Bond::Lasting };
                apart.note(system, (other.vm.index, device.vm.index), bond, &device.name, findings);
            }
            return false;
        }
        return own.is_some_and(|first| say_twice(device, first, findings));
    }
    twice.next().is_some_and(|first| say_twice(device, first, findings))
}

fn say_twice(device: &Given<'_>, first: &Given<'_>, findings: &mut Findings) -> bool {
    let alias = if first.name == device.name { String::new() } else { alloc::format!(", as {}", first.name) };
    let what = if first.vm.index == device.vm.index {
        alloc::format!("this VM has it already{alias}: take one of the two out")
    } else {
        alloc::format!("{} has it already{alias}: a device has one owner", first.vm)
    };
    findings.device(device.reference(), "", Rule::DeviceTwice, what);
    true
}

/// All functions of an isolation group go to one VM. A bridge among them does nothing by itself and stays the
/// hypervisor's.
fn group(
    device: &Given<'_>,
    before: &[Given<'_>],
    given: &[Given<'_>],
    platform: &Platform,
    findings: &mut Findings,
) {
    let Some(group) = device.hardware.group else { return };
    let members = || platform.functions.iter().flatten().filter(move |member| member.group == group);
    let mut others: Vec<String> = Vec::new();
    for member in members().filter(|member| !pci::is_bridge(&member.function)) {
        let address = member.function.address;
        let thing = Thing::Function(address);
        let is_it = |own: &Given<'_>| own.hardware.things.contains(&thing);
        if given.iter().any(|own| own.vm.index == device.vm.index && !own.refused && is_it(own)) {
            continue;
        }
        let owner = |all: &[Given<'_>]| {
            let owner = all.iter().find(|other| other.hardware.things.contains(&thing))?;
            Some((owner.vm.index, alloc::format!("{address} ({})", owner.vm)))
        };
        match (owner(before), owner(given)) {
            (Some((vm, named)), _) if vm != device.vm.index => others.push(named),
            (None, None) => others.push(alloc::format!("{address} (not given to a VM)")),
            // A later VM has it. That one is told, unless it has this device, too.
            (None, Some((vm, named)))
                if given.iter().any(|own| own.vm.index == vm && !own.refused && is_same(own, device)) =>
            {
                others.push(named);
            }
            _ => {}
        }
    }
    if !others.is_empty() {
        findings.device(
            device.reference(),
            "pci",
            Rule::Group,
            format_args!(
                "it shares isolation group {group} with {}: they can reach each other without the IOMMU{}, \
                 so give all of them to this VM or none",
                And(&others),
                Why(members().find_map(|member| Some((member.function.address, member.reaches.first()?))))
            ),
        );
    }
}

/// One way between functions of a group.
struct Why<'a>(Option<(PciAddress, &'a Reach)>);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((from, reach)) => write!(f, " ({from} reaches {reach})"),
            None => Ok(()),
        }
    }
}

/// A function that is reset with its bus has a VM that has all that is on it.
fn bus(device: &Given<'_>, given: &[Given<'_>], platform: &Platform, findings: &mut Findings) {
    let Kind::Pci { function: Some(found), reset: Some(ResetMethod::SecondaryBus), .. } =
        device.hardware.kind
    else {
        return;
    };
    let Some(bridge) = found.function.parent else { return };
    let mut others: Vec<String> = Vec::new();
    let on_bus = |other: &&PciDevice| {
        // What one group shares is said already.
        other.function.parent == Some(bridge) && other.group != found.group
    };
    for other in platform.functions.iter().flatten().filter(on_bus) {
        let address = other.function.address;
        let mut owners =
            given.iter().filter(|owner| owner.hardware.things.contains(&Thing::Function(address)));
        match owners.clone().find(|owner| owner.vm.index == device.vm.index).or_else(|| owners.next()) {
            Some(owner) if owner.vm.index == device.vm.index => {}
            Some(owner) => others.push(alloc::format!("{address} ({})", owner.vm)),
            None => others.push(alloc::format!("{address} (not given to a VM)")),
        }
    }
    if !others.is_empty() {
        findings.device(
            device.reference(),
            "reset",
            Rule::Reset,
            format_args!(
                "it can be reset only together with all that is behind the bridge {bridge}, so with {}: give all of \
                 them to this VM, or say `reset = \"none\"`",
                And(&others)
            ),
        );
    }
}

/// Whether another device is another VM's, and not one whose group says so already.
fn is_stranger(device: &Given<'_>, other: &Given<'_>) -> bool {
    let same_group = device.hardware.group.is_some() && device.hardware.group == other.hardware.group;
    other.vm.index != device.vm.index && !other.refused && !same_group
}

/// Two devices that the IOMMU, or the controller of message interrupts, can't tell apart.
fn ids(
    device: &Given<'_>,
    before: &[Given<'_>],
    given: &[Given<'_>],
    words: &Words,
    findings: &mut Findings,
) {
    let strangers = before.iter().filter(|other| is_stranger(device, other));
    for other in strangers.filter(|other| !have_both(device, other, given)) {
        let (mine, theirs) = (&device.hardware, &other.hardware);
        let what = if mine.sources.iter().any(|source| theirs.sources.contains(source)) {
            alloc::format!("DMA {}: the {}", words.source, words.iommu)
        } else if mine.msi.zip(theirs.msi).is_some_and(|(a, b)| a.source == b.source) {
            alloc::format!("{} id for MSIs: the {}", words.sender, words.msi)
        } else {
            continue;
        };
        findings.device(
            device.reference(),
            "",
            Rule::Group,
            format_args!(
                "it has the same {what} can't tell it from {} of {}: give both to one VM",
                other.name, other.vm
            ),
        );
    }
}

/// An id that is also that of a device which nobody is given, so that the IOMMU can't tell the two apart: a group that isn't
/// whole. One of another VM's is found by comparing the two, one in the same isolation group is named with that.
fn sources_of_nobody(device: &Given<'_>, given: &[Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    let (platform, words) = (board.platform, board.machine.words());
    let Hardware { sources, group, .. } = &device.hardware;
    let shares = |theirs: &[DmaSource]| theirs.iter().any(|source| sources.contains(source));
    let is_given = |thing: Thing| given.iter().any(|owner| owner.hardware.things.contains(&thing));
    let devices = platform.devices.iter().enumerate();
    let devices =
        devices.filter(|(position, other)| shares(&other.sources) && !is_given(Thing::Device(*position)));
    let functions = platform.functions.iter().flatten().filter(|other| {
        !other.function.bridge
            && *group != Some(other.group)
            && shares(&other.sources)
            && !is_given(Thing::Function(other.function.address))
    });
    let mut others: Vec<String> = devices.map(|(_, other)| other.path.clone()).collect();
    others.extend(functions.map(|other| alloc::format!("{}", other.function.address)));
    if !others.is_empty() {
        findings.device(
            device.reference(),
            "",
            Rule::Group,
            format_args!(
                "its DMA arrives with the same {} as that of {}, so the {} can't tell them apart: give all of them to \
                 this VM or none",
                words.source,
                And(&others),
                words.iommu
            ),
        );
    }
}

/// A line that a device of another owner can raise. PCI functions that nobody is given, or whose line isn't, have theirs turned
/// off (command register, bit 10), so they don't count, if they have that bit; a platform device can't be silenced that way.
fn lines(
    device: &Given<'_>,
    before: &[Given<'_>],
    given: &[Given<'_>],
    system: &System,
    board: &Board<'_>,
    apart: &mut Apart,
    findings: &mut Findings,
) {
    let key = if matches!(device.hardware.kind, Kind::Region | Kind::Ports) { "irq" } else { "" };
    for line in &device.hardware.lines {
        if let Some(held) = board.lines.iter().find(|held| held.irq == line.irq) {
            findings.device(
                device.reference(),
                key,
                Rule::InterruptShared,
                format_args!("its interrupt {} is that of {}: the hypervisor's own", line.irq, held.whose),
            );
        }
        let has_line = |other: &&Given<'_>| {
            is_stranger(device, other) && other.hardware.lines.iter().any(|l| l.irq == line.irq)
        };
        let starts = |vm: u16| system.vms.get(usize::from(vm)).is_some_and(|vm| vm.autostart);
        let take_turns = |other: &&Given<'_>| {
            let both = have_both(device, other, given);
            // Whichever of the two isn't given has its line turned off. Where both would be from the start there are better ways out than
            // to take turns.
            let silent = is_silent_alone(device) && is_silent_alone(other);
            both || (silent && !(starts(device.vm.index) && starts(other.vm.index)))
        };
        if apart.allows_sharing() {
            // What both have says it for its line, too.
            let only_line = |other: &&Given<'_>| !have_both(device, other, given);
            for other in before.iter().filter(has_line).filter(only_line).filter(take_turns) {
                let what = alloc::format!("interrupt {} ({} and {})", line.irq, other.name, device.name);
                apart.note(system, (other.vm.index, device.vm.index), Bond::Movable, what, findings);
            }
        }
        let shares = |other: &&Given<'_>| has_line(other) && !(apart.allows_sharing() && take_turns(other));
        if let Some(other) = before.iter().find(shares) {
            let or_else = match (can_do_without(device), can_do_without(other)) {
                (true, _) => ", or say `intx = \"none\"` here: it has MSIs",
                (false, true) => ", or say `intx = \"none\"` there: that one has MSIs",
                (false, false) => "",
            };
            findings.device(
                device.reference(),
                key,
                Rule::InterruptShared,
                format_args!(
                    "it shares interrupt {} with {} of {}: give both to one VM{or_else}",
                    line.irq, other.name, other.vm
                ),
            );
        }
        for path in strangers_with(line.irq, device, given, board) {
            findings.device(
                device.reference(),
                key,
                Rule::InterruptShared,
                format_args!(
                    "it shares interrupt {} with {path}, which isn't given to this VM: give both to it or none",
                    line.irq
                ),
            );
        }
    }
}

/// Whether it is a function that has MSIs and whose line can be turned off.
fn can_do_without(device: &Given<'_>) -> bool {
    device.hardware.msi.is_some() && is_silent_alone(device)
}

/// Whether it is a function whose line can be turned off, as it is while nobody has the function.
fn is_silent_alone(device: &Given<'_>) -> bool {
    let function = match device.hardware.kind {
        Kind::Pci { function, .. } => function,
        _ => None,
    };
    function.is_some_and(|function| function.function.intx_disable)
}

/// Devices that can raise this line and that this VM isn't given, but for those that another VM has together with
/// the line: those are found by comparing the two.
fn strangers_with(irq: Irq, device: &Given<'_>, given: &[Given<'_>], board: &Board<'_>) -> Vec<String> {
    let devices = board.platform.devices.iter().enumerate().filter(|(position, stranger)| {
        let explained = |owner: &Given<'_>| {
            owner.hardware.things.contains(&Thing::Device(*position))
                && (owner.vm.index == device.vm.index
                    || owner.hardware.lines.iter().any(|line| line.irq == irq))
        };
        stranger.enabled
            && !board.is_console(&stranger.path)
            && stranger.interrupts.iter().any(|line| line.irq == irq)
            && !given.iter().any(explained)
    });
    let mut strangers: Vec<String> = devices.map(|(_, device)| device.path.clone()).collect();
    let is_given = |thing: Thing| given.iter().any(|owner| owner.hardware.things.contains(&thing));
    for stranger in board.platform.functions.iter().flatten() {
        let function = &stranger.function;
        if !function.intx_disable
            && stranger.line.is_some_and(|line| line.irq == irq)
            && !is_given(Thing::Function(function.address))
        {
            strangers.push(alloc::format!("{} (whose line can't be turned off)", function.address));
        }
    }
    strangers
}

/// A page that would be mapped and holds something of another owner.
fn pages(
    device: &Given<'_>,
    before: &[Given<'_>],
    given: &[Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) {
    for block in device.hardware.blocks.iter().filter(|block| block.direct) {
        let pages = block.hpa.to_pages();
        let mut others: Vec<String> = Vec::new();
        let beside = |span: &Span<Hpa>| span.overlaps(&pages) && !span.overlaps(&block.hpa);
        for (position, other) in board.platform.devices.iter().enumerate() {
            let same_vm = given.iter().any(|owner| {
                owner.vm.index == device.vm.index && owner.hardware.things.contains(&Thing::Device(position))
            });
            let listed = before.iter().any(|owner| owner.hardware.things.contains(&Thing::Device(position)));
            if !same_vm && !listed && other.registers.iter().any(beside) {
                others.push(other.path.clone());
            }
        }
        let strangers = before.iter().filter(|other| is_stranger(device, other));
        for other in strangers.filter(|other| !have_both(device, other, given)) {
            if other.hardware.blocks.iter().any(|theirs| beside(&theirs.hpa)) {
                others.push(alloc::format!("{} of {}", other.name, other.vm));
            }
        }
        for taken in board.taken.iter().filter(|taken| beside(&taken.span)) {
            others.push(taken.what.clone());
        }
        if !others.is_empty() {
            let shown = others.len().min(4);
            let more = others.len() - shown;
            if more > 0 {
                others.truncate(shown);
                others.push(alloc::format!("{more} more"));
            }
            findings.device(
                device.reference(),
                "",
                Rule::PageShared,
                format_args!(
                    "the page at {:#x} holds {} too: mapping it would hand those over; say `access = \"trap\"`",
                    pages.start(),
                    And(&others)
                ),
            );
        }
    }
}
