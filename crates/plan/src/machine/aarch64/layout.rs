//! Where a VM sees its GIC and its ITS.

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{Gpa, Irq, MsiControllerId, Ports, Span};
use axvm_platform::limits::GuestMachine;
use axvm_platform::model::Platform;
use axvm_system::model::{InterruptChoice, Vm};

use super::{Aarch64Plan, GicPlan, ItsPlan, SPIS, Served};
use crate::board::Board;
use crate::findings::{Findings, VmRef};
use crate::hardware::Given;
use crate::machine::{Emulated, MachinePlan, Mode, OwnLayout};
use crate::places::same;
use crate::problem::Rule;

/// A redistributor's two frames (Arm IHI 0069, 12.10).
const REDISTRIBUTOR: u64 = 128 << 10;

pub(crate) fn plan(
    vm: VmRef<'_>,
    served: Served,
    config: &Vm,
    mode: Mode,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> MachinePlan {
    let gic = gic(vm, config, given, board, findings);
    MachinePlan::Aarch64(Aarch64Plan { served, gic, virtual_lpis: mode.messages_by_hardware })
}

/// A guest machine of its own: interrupt controller, console and PCI's ports below 96 MiB, then platform devices, PCI up to 2 GiB, and RAM from there
/// on.
pub(crate) const OWN: OwnLayout = OwnLayout {
    ram: Gpa(0x8000_0000),
    emulated: Gpa(0x0100_0000),
    devices: 0x0600_0000..0x1800_0000,
    config_spaces: 0x1800_0000..0x2000_0000,
    low_window: 0x2000_0000..0x8000_0000,
    high_bits: 39,
    port_window: Ports::new(0, 0xffff),
    // As many bytes as the largest page, so that a guest maps them alone.
    port_memory: Some(Gpa(0x0500_0000)),
};

/// Its GIC: room for 256 redistributors, and the two frames of an ITS.
const OWN_DISTRIBUTOR: (u64, u64) = (0x0200_0000, 64 << 10);
const OWN_ITS: (u64, u64) = (0x0208_0000, 128 << 10);
const OWN_REDISTRIBUTORS: (u64, u64) = (0x0300_0000, 256 * REDISTRIBUTOR);

/// Where guests see a GIC.
struct Places {
    distributor: Span<Gpa>,
    redistributors: Vec<Span<Gpa>>,
    /// By the board's ITS that is behind it.
    its: Vec<Span<Gpa>>,
}

impl Places {
    fn of(platform: &Platform) -> Option<Self> {
        let gic = platform.gic()?;
        Some(match platform.limits.guest_machine {
            GuestMachine::MirrorsBoard => Self {
                distributor: same(gic.distributor),
                redistributors: gic.redistributors.iter().map(|&span| same(span)).collect(),
                its: gic.its.iter().map(|its| same(its.registers)).collect(),
            },
            GuestMachine::Own => {
                let span = |(start, size)| Span::new(Gpa(start), size).unwrap_or_default();
                Self {
                    distributor: span(OWN_DISTRIBUTOR),
                    redistributors: vec![span(OWN_REDISTRIBUTORS)],
                    // A VM has one, whichever of the board's is behind it.
                    its: gic.its.iter().map(|_| span(OWN_ITS)).collect(),
                }
            }
        })
    }

    fn its(&self, host: MsiControllerId) -> Option<Span<Gpa>> {
        self.its.get(usize::from(host.0)).copied()
    }
}

/// Where guests see what there can be of a GIC.
pub(crate) fn fixed(platform: &Platform) -> Vec<Emulated> {
    let Some(places) = Places::of(platform) else { return Vec::new() };
    let emulated = |span, what| Emulated { span, what };
    let mut fixed = vec![emulated(places.distributor, "the emulated GIC's distributor")];
    let redistributors = places.redistributors.into_iter();
    fixed.extend(redistributors.map(|span| emulated(span, "the emulated GIC's redistributors")));
    let its = places.its.into_iter();
    fixed.extend(its.map(|span| emulated(span, "the ITS with the page that MSIs are sent to")));
    fixed
}

/// SPI lines: as many groups of 32 as it takes to include the highest.
pub(crate) fn set_spis(plan: &mut Aarch64Plan, given: &[&Given<'_>], own: impl Iterator<Item = Irq>) {
    let lines = given.iter().flat_map(|device| device.hardware.lines.iter().map(|line| line.irq));
    let highest = lines.chain(own).map(|line| line.0).max().unwrap_or(0);
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
    let places = Places::of(board.platform)?;
    let size = (config.cpus.len() as u64).checked_mul(REDISTRIBUTOR)?;
    let Some(region) = places.redistributors.iter().find(|region| region.size() >= size) else {
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
        distributor: places.distributor,
        redistributors: Span::new(region.start(), size).ok()?,
        its: if config.interrupts == InterruptChoice::None { None } else { its(given, &places, findings) },
        spis: 0,
    })
}

/// The ITS that the VM's devices send their MSIs to: one for all.
fn its(given: &[&Given<'_>], places: &Places, findings: &mut Findings) -> Option<ItsPlan> {
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
    Some(ItsPlan { registers: places.its(host)?, host })
}
