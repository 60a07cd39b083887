//! Where a VM sees its GIC and its ITS.

use alloc::vec::Vec;

use axvm_addr::{Gpa, Span};
use axvm_platform::model::Platform;
use axvm_system::model::{InterruptChoice, Vm};

use super::{Aarch64Plan, GicPlan, ItsPlan, SPIS};
use crate::board::Board;
use crate::findings::{Findings, VmRef};
use crate::given::Given;
use crate::layout::same;
use crate::machine::{Emulated, Mode};
use crate::model::ConsolePlan;
use crate::problem::Rule;

/// A redistributor's two frames (Arm IHI 0069, 12.10).
const REDISTRIBUTOR: u64 = 128 << 10;

pub(crate) fn plan(
    vm: VmRef<'_>,
    config: &Vm,
    mode: Mode,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> Aarch64Plan {
    Aarch64Plan { gic: gic(vm, config, given, board, findings), virtual_lpis: mode.messages_by_hardware }
}

/// The board's own places: guests see theirs there.
pub(crate) fn fixed(platform: &Platform) -> Vec<Emulated> {
    let mut fixed = Vec::new();
    let mut claim = |span, what| fixed.push(Emulated { span: same(span), what });
    if let Some(gic) = platform.gic() {
        claim(gic.distributor, "the emulated GIC's distributor");
        for &span in &gic.redistributors {
            claim(span, "the emulated GIC's redistributors");
        }
        for its in &gic.its {
            claim(its.registers, "the ITS with the page that MSIs are sent to");
        }
    }
    fixed
}

/// SPI lines: as many groups of 32 as it takes to include the highest.
pub(crate) fn set_spis(plan: &mut Aarch64Plan, given: &[&Given<'_>], console: Option<ConsolePlan>) {
    let lines = given.iter().flat_map(|device| device.hardware.lines.iter().map(|line| line.irq));
    let highest = lines.chain(console.map(|console| console.irq)).map(|line| line.0).max().unwrap_or(0);
    let groups = (highest.saturating_sub(SPIS.start) / 32 + 1).min(31);
    if let Some(gic) = &mut plan.gic {
        gic.spis = (groups * 32) as u16;
    }
}

fn gic(
    vm: VmRef<'_>,
    config: &Vm,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> Option<GicPlan> {
    let gic = board.platform.gic()?;
    let size = (config.cpus.len() as u64).checked_mul(REDISTRIBUTOR)?;
    let Some(region) = gic.redistributors.iter().find(|region| region.size() >= size) else {
        findings.vm(
            vm,
            "cpus",
            Rule::NoRoom,
            format_args!(
                "no redistributor region of the GIC holds {} vCPUs: give it fewer",
                config.cpus.len()
            ),
        );
        return None;
    };
    Some(GicPlan {
        distributor: same(gic.distributor),
        redistributors: Span::new(Gpa(region.start().0), size).ok()?,
        its: if config.interrupts == InterruptChoice::None { None } else { its(given, board, findings) },
        spis: 0,
    })
}

/// The ITS that the VM's devices send their MSIs to: one for all.
fn its(given: &[&Given<'_>], board: &Board<'_>, findings: &mut Findings) -> Option<ItsPlan> {
    let gic = board.platform.gic()?;
    let senders = || given.iter().filter_map(|device| Some((device, device.hardware.msi?)));
    let (first, host) = senders().next().map(|(device, msi)| (device, msi.source.controller))?;
    for (device, msi) in senders().filter(|(_, msi)| msi.source.controller != host) {
        findings.device(
            device.reference(),
            "",
            Rule::Interrupt,
            format_args!(
                "its MSIs go to ITS {} and those of {} to ITS {host}: a VM has one, so give them to two VMs",
                msi.source.controller, first.name
            ),
        );
    }
    Some(ItsPlan { registers: same(gic.its.get(usize::from(host.0))?.registers), host })
}
