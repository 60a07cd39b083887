//! I/O ports that the file gives to VMs, on machines that have ports. A guest sees them by the board's numbers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Interrupt, Ports, Trigger};
use axvm_pci::BarKind;
use axvm_platform::model::Platform;
use axvm_system::model::{Device, Dma, Hazard, RegisterAccess};

use super::board::Board;
use super::findings::{DeviceRef, Findings, VmRef};
use super::given::trigger_of;
use super::hardware::{Given, Hardware, Kind, PortBlock, Thing, check_line};
use super::judge::{self, Reached, Said};
use super::model::VmPlan;
use crate::problem::Rule;

/// A range of ports.
pub(super) fn range<'a>(
    reference: DeviceRef<'_>,
    device: &Device,
    board: &Board<'a>,
    findings: &mut Findings,
) -> Option<Hardware<'a>> {
    let Device::Ports { base, count, irq, access, .. } = device else { return None };
    if board.machine.has_no_ports() {
        let what = "I/O ports are x86's, aarch64 has none: name a `node` or a region of memory";
        findings.device(reference, "ports", Rule::Ports, what);
        return None;
    }
    let Some(ports) = Ports::of(*base, (*count).into()) else {
        let what = "it has one port at least, and they end at 0xffff at most";
        findings.device(reference, "ports", Rule::Alignment, what);
        return None;
    };
    if !check_place(reference, ports, "ports", board, findings) {
        return None;
    }
    let reached = reached(board.platform, usize::MAX, &[ports]);
    // What is behind ports alone has no way to memory but by the controller of ISA's DMA, which nobody is given.
    let (dma, accept): (Dma, &[Hazard]) = (Dma::None, &[]);
    let said = Said { key: "ports", dma: &dma, accept };
    let sources = judge::judge(reference, &reached, false, &said, board.platform, findings);
    let lines = irq.filter(|&irq| check_line(reference, irq, "irq", board.machine, findings)).map(|irq| {
        let trigger = trigger_of(board.platform, irq).unwrap_or(Trigger::Edge);
        Interrupt { irq, trigger }
    });
    Some(Hardware {
        kind: Kind::Ports,
        things: reached.iter().map(|&(position, _)| Thing::Device(position)).collect(),
        blocks: Vec::new(),
        ports: alloc::vec![PortBlock { ports, direct: *access == RegisterAccess::Direct }],
        lines: lines.into_iter().collect(),
        group: None,
        sources,
        msi: None,
    })
}

/// The devices that have any of these ports, but for the one at this position.
pub(super) fn reached<'a>(platform: &'a Platform, named: usize, ports: &[Ports]) -> Reached<'a> {
    let all = platform.devices.iter().enumerate();
    let has_any = |theirs: &[Ports]| theirs.iter().any(|it| ports.iter().any(|mine| mine.overlaps(it)));
    all.filter(|(position, device)| *position != named && has_any(&device.ports)).collect()
}

/// Whether ports are such as a guest may be given.
pub(super) fn check_place(
    reference: DeviceRef<'_>,
    ports: Ports,
    key: &str,
    board: &Board<'_>,
    findings: &mut Findings,
) -> bool {
    let functions = board.platform.functions.iter().flatten();
    let bars = functions.flat_map(|it| it.function.bars.iter().map(|bar| (it.function.address, bar)));
    let of_function = bars.filter(|(_, bar)| bar.kind == BarKind::Io).find_map(|(address, bar)| {
        let first = u16::try_from(bar.address?).ok()?;
        let theirs = Ports::of(first, u32::try_from(bar.size).ok()?)?;
        theirs.overlaps(&ports).then(|| (theirs, format!("a BAR of {address}")))
    });
    let taken = board.taken_ports.iter().find(|taken| taken.ports.overlaps(&ports));
    let taken = taken.map(|taken| (taken.ports, taken.what.clone()));
    let Some((theirs, what)) = taken.or(of_function) else { return true };
    findings.device(
        reference,
        key,
        Rule::RegisterPlace,
        format_args!(
            "its ports {ports} lie over {what} at {theirs}, which no guest may be given: choose others"
        ),
    );
    false
}

/// Says where devices of a VM would answer at ports that something else of it has: what is emulated, a window of ports, another device.
pub(super) fn check_places(vm: VmRef<'_>, plan: &VmPlan, given: &[&Given<'_>], findings: &mut Findings) {
    let mut taken: Vec<(Ports, String)> = Vec::new();
    let emulated = plan.machine.ports().into_iter();
    taken.extend(emulated.map(|one| (one.ports, format!("{}, which {vm} has emulated", one.what))));
    if let Some(ports) = plan.console.and_then(|console| console.at.ports()) {
        taken.push((ports, "the emulated console".into()));
    }
    let windows = plan.pci.iter().filter_map(|bridge| bridge.ports);
    taken.extend(windows.map(|ports| (ports, "the window of PCI's I/O BARs".into())));
    for device in given {
        for block in &device.hardware.ports {
            if let Some((theirs, what)) = taken.iter().find(|(theirs, _)| theirs.overlaps(&block.ports)) {
                findings.device(
                    device.reference(),
                    "",
                    Rule::RegisterOverlap,
                    format_args!(
                        "the guest would see its ports {} over {what} at {theirs}: it can't be given to this VM",
                        block.ports
                    ),
                );
            }
        }
        taken.extend(device.hardware.ports.iter().map(|block| (block.ports, device.name.clone())));
    }
}
