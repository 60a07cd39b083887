//! How interrupts reach each VM: passthrough where that is closed, else emulated.
//!
//! A guest in passthrough mode takes physical interrupts, so it sees physical numbers, and its ends of interrupt go to the physical
//! CPU interface. From that follow the rules here (docs/security.md has them with their sources):
//!
//! - LPIs have the guest's own numbers in hardware, and there is one table of them: one VM with MSIs can have that.
//! - A CPU interface ends the active state of any SPI, whoever took it. So direct lines are for a VM that is alone in passthrough
//!   mode, or beside others that the file calls trusted; a VM in emulated mode beside an untrusted one has its lines masked while it
//!   serves them, in place of active.
//! - The line of the emulated console is a physical SPI that no device has.
//!
//! List registers need the GIC's maintenance interrupt, so that on a board without one only VMs in passthrough mode are served.
//!
//! In emulated mode the hypervisor takes timers and lines and injects them, and MSIs too where the GIC can't deliver them to a
//! virtual processor itself. GICv4.0 can: each vCPU has its own CPU, so that its virtual processor is always the one that runs there.

use alloc::vec::Vec;

use axvm_addr::Irq;
use axvm_system::model::{InterruptChoice, System, Vm};

use super::{PPIS, SPIS, mode_words as words};
use crate::apart::Apart;
use crate::board::Board;
use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::hardware::Given;
use crate::machine::Mode;

/// What a VM has that the rules are about.
struct Wants<'a> {
    vm: VmRef<'a>,
    config: &'a Vm,
    lines: bool,
    messages: bool,
}

/// How interrupts reach a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Passthrough, with this line for its console.
    Passthrough(Irq),
    /// Emulated, or none: passthrough wasn't asked for, or this is in the way.
    Injected(Option<Obstacle>),
}

impl Decision {
    fn is_passthrough(self) -> bool {
        matches!(self, Self::Passthrough(_))
    }
}

/// Why a VM can't be in passthrough mode. Others are named by their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Its own device tree says where the console's line is.
    OwnTree,
    /// The other one has its LPIs in hardware.
    SameNumbers(usize),
    /// The other one could end its lines' interrupts.
    LinesExposed(usize),
    /// It could end those of the other one.
    ExposesLines(usize),
    /// No SPI is left for the console.
    NoConsoleLine,
}

/// Who delivers the MSIs of a VM in emulated mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    /// It has none.
    None,
    /// The hardware (GICv4).
    Hardware,
    /// The hypervisor.
    Injected,
    /// The one or the other: the platform doesn't know the GIC's registers.
    Unknown,
}

/// Decides for all VMs of the system, and says it.
pub(crate) fn choose(
    system: &System,
    given: &[&Given<'_>],
    board: &Board<'_>,
    apart: &Apart,
    findings: &mut Findings,
) -> Vec<Mode> {
    let all: Vec<Wants<'_>> = (0..)
        .zip(&system.vms)
        .map(|(index, config)| {
            let own = || given.iter().filter(move |device| device.vm.index == index);
            Wants {
                vm: VmRef::of(system, index),
                config,
                lines: own().any(|device| !device.hardware.lines.is_empty()),
                messages: own().any(|device| device.hardware.msi.is_some()),
            }
        })
        .collect();
    let order = order(&all);
    let decided = decide(&all, &order, apart, spare_lines(given, board));
    let name = |position: usize| VmRef::of(system, position as u16);
    for &position in &order {
        if let (Some(wants), Some(&decision)) = (all.get(position), decided.get(position)) {
            words::say_decision(wants.vm, wants.config, decision, name, findings);
        }
    }
    let hears_of_ends = hears_of_ends(board);
    let hardware = board.platform.gic().and_then(|gic| gic.virtual_lpis);
    let mut modes = Vec::new();
    for (wants, &decision) in all.iter().zip(&decided) {
        if !hears_of_ends && !decision.is_passthrough() {
            words::say_no_maintenance(wants.vm, findings);
        }
        let mode = mode(wants, decision);
        let messages = messages(wants, hardware);
        if mode == VMInterruptMode::Emulated {
            words::say_injected(wants.vm, messages, findings);
        }
        modes.push(Mode {
            mode,
            console_line: match decision {
                Decision::Passthrough(line) => Some(line),
                Decision::Injected(_) => None,
            },
            messages_by_hardware: mode == VMInterruptMode::Emulated && messages == Messages::Hardware,
            lines_exposed: beside(wants, apart, passthrough(&all, &decided))
                .any(|(_, it)| !it.config.trusted),
        });
    }
    modes
}

/// The VMs that may be in passthrough mode: what the file asks for comes before what is left to the plan.
fn order(all: &[Wants<'_>]) -> Vec<usize> {
    let asking = |asked| {
        let all = all.iter().enumerate();
        all.filter(move |(_, wants)| wants.config.interrupts == asked).map(|(position, _)| position)
    };
    asking(InterruptChoice::Passthrough).chain(asking(InterruptChoice::Auto)).collect()
}

/// One decision for each VM: those of `order` one after the other, each beside those that are in passthrough mode already.
fn decide(all: &[Wants<'_>], order: &[usize], apart: &Apart, mut spare: Vec<Irq>) -> Vec<Decision> {
    let mut decided: Vec<Decision> = all.iter().map(|_| Decision::Injected(None)).collect();
    for &position in order {
        let Some(wants) = all.get(position) else { continue };
        let decision = match obstacle(wants, apart, passthrough(all, &decided)) {
            Some(obstacle) => Decision::Injected(Some(obstacle)),
            None => match spare.pop() {
                Some(line) => Decision::Passthrough(line),
                None => Decision::Injected(Some(Obstacle::NoConsoleLine)),
            },
        };
        if let Some(slot) = decided.get_mut(position) {
            *slot = decision;
        }
    }
    decided
}

/// The VMs that are in passthrough mode so far.
fn passthrough<'w, 'a>(
    all: &'w [Wants<'a>],
    decided: &'w [Decision],
) -> impl Iterator<Item = (usize, &'w Wants<'a>)> + Clone {
    let all = all.iter().zip(decided).enumerate();
    all.filter(|(_, (_, decision))| decision.is_passthrough()).map(|(position, (wants, _))| (position, wants))
}

/// Those of several VMs that may run at the same time as this one.
fn beside<'w, 'a: 'w>(
    wants: &'w Wants<'a>,
    apart: &'w Apart,
    others: impl Iterator<Item = (usize, &'w Wants<'a>)> + Clone + 'w,
) -> impl Iterator<Item = (usize, &'w Wants<'a>)> + Clone + 'w {
    others.filter(move |(_, other)| apart.may_meet(wants.vm.index, other.vm.index))
}

/// What keeps a VM from passthrough mode beside those that are in it.
fn obstacle<'w, 'a: 'w>(
    wants: &'w Wants<'a>,
    apart: &'w Apart,
    passthrough: impl Iterator<Item = (usize, &'w Wants<'a>)> + Clone + 'w,
) -> Option<Obstacle> {
    if wants.config.interrupts == InterruptChoice::Auto && wants.config.dtb.is_some() {
        return Some(Obstacle::OwnTree);
    }
    let mut others = beside(wants, apart, passthrough);
    if wants.messages
        && let Some((other, _)) = others.clone().find(|(_, other)| other.messages)
    {
        return Some(Obstacle::SameNumbers(other));
    }
    others.find_map(|(other, it)| {
        match (wants.lines && !it.config.trusted, it.lines && !wants.config.trusted) {
            (true, _) => Some(Obstacle::LinesExposed(other)),
            (false, true) => Some(Obstacle::ExposesLines(other)),
            (false, false) => None,
        }
    })
}

fn mode(wants: &Wants<'_>, decision: Decision) -> VMInterruptMode {
    match (decision, wants.config.interrupts) {
        (Decision::Passthrough(_), _) => VMInterruptMode::Passthrough,
        (Decision::Injected(_), InterruptChoice::None) => VMInterruptMode::NoIrq,
        (Decision::Injected(_), _) => VMInterruptMode::Emulated,
    }
}

/// `hardware`: whether the GIC delivers to virtual processors, if that is known.
fn messages(wants: &Wants<'_>, hardware: Option<bool>) -> Messages {
    match hardware.filter(|_| wants.messages) {
        Some(true) => Messages::Hardware,
        Some(false) => Messages::Injected,
        None if wants.messages => Messages::Unknown,
        None => Messages::None,
    }
}

/// Whether the GIC has a maintenance interrupt, without which nobody hears of the end of an interrupt whose line is masked or whose level
/// is looked at again, nor of list registers that are free (IHI 0069, 6.5). It is each CPU's own.
fn hears_of_ends(board: &Board<'_>) -> bool {
    let gic = board.platform.gic();
    let maintenance = gic.and_then(|gic| gic.maintenance);
    gic.is_none() || maintenance.is_some_and(|interrupt| PPIS.contains(&interrupt.irq.0))
}

/// SPIs that nothing on the board or in the file has, the best last: below the highest that something has, so that the
/// distributor has them.
fn spare_lines(given: &[&Given<'_>], board: &Board<'_>) -> Vec<Irq> {
    let platform = board.platform;
    // By their distance from the first SPI.
    let mut used = [false; (SPIS.end - SPIS.start) as usize];
    let mut highest = 0;
    let mut take = |line: Irq| {
        let position = line.0.wrapping_sub(SPIS.start) as usize;
        if let Some(used) = used.get_mut(position) {
            *used = true;
            highest = highest.max(position);
        }
    };
    board.lines.iter().for_each(|held| take(held.irq));
    platform.devices.iter().flat_map(|device| &device.interrupts).for_each(|line| take(line.irq));
    let functions = platform.functions.iter().flatten();
    functions.filter_map(|device| device.line.as_ref()).for_each(|line| take(line.irq));
    platform.pci_hosts.iter().flat_map(|host| &host.lines).for_each(|route| take(route.line.irq));
    given.iter().flat_map(|device| &device.hardware.lines).for_each(|line| take(line.irq));
    let most = (platform.limits.lines.end as usize).saturating_sub(SPIS.start as usize);
    let free = used.iter().zip(SPIS).take(highest.min(most)).filter(|(used, _)| !**used);
    free.map(|(_, line)| Irq(line)).collect()
}
