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

use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::Irq;
use axvm_system::model::{InterruptChoice, System, Vm};

use super::{PPIS, SPIS};
use crate::board::Board;
use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::given::Given;
use crate::machine::Mode;
use crate::problem::Rule;

/// What a VM has that the rules are about.
struct Wants<'a> {
    vm: VmRef<'a>,
    config: &'a Vm,
    lines: bool,
    messages: bool,
    passthrough: bool,
}

impl Wants<'_> {
    fn mode(&self) -> VMInterruptMode {
        match (self.passthrough, self.config.interrupts) {
            (true, _) => VMInterruptMode::Passthrough,
            (false, InterruptChoice::None) => VMInterruptMode::NoIrq,
            (false, _) => VMInterruptMode::Emulated,
        }
    }
}

/// Decides for all VMs of the system.
pub(crate) fn choose(
    system: &System,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> Vec<Mode> {
    let mut all: Vec<Wants<'_>> = (0..)
        .zip(&system.vms)
        .map(|(index, config)| {
            let own = || given.iter().filter(move |device| device.vm.index == index);
            Wants {
                vm: VmRef::of(system, index),
                config,
                lines: own().any(|device| !device.hardware.lines.is_empty()),
                messages: own().any(|device| device.hardware.msi.is_some()),
                passthrough: false,
            }
        })
        .collect();
    let mut spare = spare_lines(given, board);
    let mut console_lines: Vec<Option<Irq>> = system.vms.iter().map(|_| None).collect();
    // What the file asks for comes before what is left to the plan.
    for asked in [InterruptChoice::Passthrough, InterruptChoice::Auto] {
        for position in 0..all.len() {
            let Some(wants) = all.get(position).filter(|wants| wants.config.interrupts == asked) else {
                continue;
            };
            let why_not = obstacle(wants, &all).or_else(|| {
                spare.is_empty().then(|| "the board has no SPI left for its console's line".into())
            });
            match (&why_not, asked) {
                (None, _) => {
                    let line = spare.pop();
                    findings.note(format_args!(
                        "{}: interrupts are passthrough: timers, SGIs, MSIs and lines reach it without the hypervisor",
                        wants.vm
                    ));
                    if wants.config.dtb.is_some()
                        && let Some(line) = line
                    {
                        findings.note(format_args!(
                            "{}: its own device tree must give the console INTID {line} (SPI {}), edge",
                            wants.vm,
                            line.0 - SPIS.start
                        ));
                    }
                    if let Some(slot) = console_lines.get_mut(position) {
                        *slot = line;
                    }
                    if let Some(wants) = all.get_mut(position) {
                        wants.passthrough = true;
                    }
                }
                (Some(why), InterruptChoice::Auto) => {
                    findings.note(format_args!("{}: interrupts are emulated: {why}", wants.vm));
                }
                (Some(why), _) => findings.vm(
                    wants.vm,
                    "interrupts",
                    Rule::InterruptMode,
                    format_args!(
                        "interrupts = \"passthrough\" isn't closed: {why}: use \"auto\" or \"emulated\""
                    ),
                ),
            }
        }
    }
    if !says_when_more_is_wanted(board) {
        for wants in all.iter().filter(|wants| !wants.passthrough) {
            findings.vm(
                wants.vm,
                "interrupts",
                Rule::InterruptMode,
                format_args!(
                    "its interrupts would be injected, but the board's device tree gives the GIC no maintenance interrupt (a PPI): \
                     nothing would tell that a line can be unmasked or that list registers are free, and interrupts would be lost: \
                     use \"passthrough\", which needs none"
                ),
            );
        }
    }
    let hardware = board.platform.gic().and_then(|gic| gic.virtual_lpis);
    for wants in all.iter().filter(|wants| wants.mode() == VMInterruptMode::Emulated) {
        note_injected(wants, hardware, findings);
    }
    all.iter()
        .zip(console_lines)
        .enumerate()
        .map(|(position, (wants, console_line))| Mode {
            mode: wants.mode(),
            console_line,
            messages_by_hardware: wants.mode() == VMInterruptMode::Emulated
                && wants.messages
                && hardware == Some(true),
            lines_exposed: all
                .iter()
                .enumerate()
                .any(|(other, it)| other != position && it.passthrough && !it.config.trusted),
        })
        .collect()
}

/// Whether the GIC has a maintenance interrupt, without which nobody hears of the end of an interrupt whose line is masked or whose level
/// is looked at again, nor of list registers that are free (IHI 0069, 6.5). It is each CPU's own.
fn says_when_more_is_wanted(board: &Board<'_>) -> bool {
    let gic = board.platform.gic();
    let maintenance = gic.and_then(|gic| gic.maintenance);
    gic.is_none() || maintenance.is_some_and(|interrupt| PPIS.contains(&interrupt.irq.0))
}

/// Says what of an emulated VM's interrupts costs exits.
fn note_injected(wants: &Wants<'_>, hardware: Option<bool>, findings: &mut Findings) {
    let vm = wants.vm;
    match hardware.filter(|_| wants.messages) {
        Some(true) => findings.note(format_args!(
            "{vm}: its MSIs reach it without the hypervisor (GICv4); its timer, SGIs and lines are injected"
        )),
        Some(false) => findings.note(format_args!(
            "{vm}: its timer, SGIs, lines and MSIs are injected: the GIC has no virtual LPIs (GICv4.0)"
        )),
        None if wants.messages => findings.note(format_args!(
            "{vm}: its timer, SGIs and lines are injected, and its MSIs unless the GIC has virtual LPIs (GICv4.0), which its \
             registers say"
        )),
        None => findings.note(format_args!("{vm}: its timer, SGIs and lines are injected")),
    }
}

/// Why a VM can't be in passthrough mode beside those that are.
fn obstacle(wants: &Wants<'_>, all: &[Wants<'_>]) -> Option<String> {
    let mut others = all.iter().filter(|other| other.passthrough && other.vm.index != wants.vm.index);
    if wants.config.interrupts == InterruptChoice::Auto && wants.config.dtb.is_some() {
        return Some(
            "its own device tree says where the console's line is, which is another one in passthrough mode"
                .into(),
        );
    }
    if wants.messages
        && let Some(other) = others.clone().find(|other| other.messages)
    {
        return Some(alloc::format!(
            "its MSIs would have the numbers of those of {}, which has them in hardware",
            other.vm
        ));
    }
    let met = others
        .find(|other| (wants.lines && !other.config.trusted) || (other.lines && !wants.config.trusted))?;
    Some(match wants.lines && !met.config.trusted {
        true => {
            alloc::format!("{} could end its lines' interrupts: it is passthrough and not `trusted`", met.vm)
        }
        false => alloc::format!("it could end the interrupts of {}'s lines, and isn't `trusted`", met.vm),
    })
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
