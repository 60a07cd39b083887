//! What [`super::mode`] has decided, for people.

use core::fmt;

use axvm_system::model::{InterruptChoice, Vm};

use super::SPIS;
use super::mode::{Decision, Messages, Obstacle};
use crate::findings::{Findings, VmRef};
use crate::problem::Rule;

/// Says which mode a VM has that may be in passthrough mode; `name` knows the others.
pub(super) fn say_decision<'a>(
    vm: VmRef<'_>,
    config: &Vm,
    decision: Decision,
    name: impl Fn(usize) -> VmRef<'a>,
    findings: &mut Findings,
) {
    match decision {
        Decision::Passthrough(line) => {
            findings.note(format_args!(
                "{vm}: interrupts are passthrough: timers, SGIs, MSIs and lines reach it without the hypervisor"
            ));
            if config.dtb.is_some() {
                findings.note(format_args!(
                    "{vm}: its own device tree must give the console INTID {line} (SPI {}), edge",
                    line.0 - SPIS.start
                ));
            }
        }
        Decision::Injected(None) => {}
        Decision::Injected(Some(obstacle)) => {
            let why = Why(obstacle, name);
            if config.interrupts == InterruptChoice::Auto {
                return findings.note(format_args!("{vm}: interrupts are emulated: {why}"));
            }
            findings.vm(
                vm,
                "interrupts",
                Rule::InterruptMode,
                format_args!(
                    "interrupts = \"passthrough\" isn't closed: {why}: use \"auto\" or \"emulated\""
                ),
            );
        }
    }
}

/// An obstacle, with who knows the other VM's name.
struct Why<F>(Obstacle, F);

impl<'a, F: Fn(usize) -> VmRef<'a>> fmt::Display for Why<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(obstacle, name) = self;
        match *obstacle {
            Obstacle::OwnTree => f.write_str(
                "its own device tree says where the console's line is, which is another one in passthrough mode",
            ),
            Obstacle::SameNumbers(other) => write!(
                f,
                "its MSIs would have the numbers of those of {}, which has them in hardware",
                name(other)
            ),
            Obstacle::LinesExposed(other) => write!(
                f,
                "{} could end its lines' interrupts: it is passthrough and not `trusted`",
                name(other)
            ),
            Obstacle::ExposesLines(other) => {
                write!(f, "it could end the interrupts of {}'s lines, and isn't `trusted`", name(other))
            }
            Obstacle::NoConsoleLine => f.write_str("the board has no SPI left for its console's line"),
        }
    }
}

/// Says that a VM's interrupts can't be injected on this board.
pub(super) fn say_no_maintenance(vm: VmRef<'_>, findings: &mut Findings) {
    findings.vm(
        vm,
        "interrupts",
        Rule::InterruptMode,
        "its interrupts would be injected, but the board's device tree gives the GIC no maintenance interrupt (a PPI): \
         nothing would tell that a line can be unmasked or that list registers are free, and interrupts would be lost: \
         use \"passthrough\", which needs none",
    );
}

/// Says what of an emulated VM's interrupts costs exits.
pub(super) fn say_injected(vm: VmRef<'_>, messages: Messages, findings: &mut Findings) {
    match messages {
        Messages::Hardware => findings.note(format_args!(
            "{vm}: its MSIs reach it without the hypervisor (GICv4); its timer, SGIs and lines are injected"
        )),
        Messages::Injected => findings.note(format_args!(
            "{vm}: its timer, SGIs, lines and MSIs are injected: the GIC has no virtual LPIs (GICv4.0)"
        )),
        Messages::Unknown => findings.note(format_args!(
            "{vm}: its timer, SGIs and lines are injected, and its MSIs unless the GIC has virtual LPIs (GICv4.0), which its \
             registers say"
        )),
        Messages::None => findings.note(format_args!("{vm}: its timer, SGIs and lines are injected")),
    }
}
