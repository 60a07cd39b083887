//! That what is emulated for a VM can be built: its devices don't answer at one address, and its host bridges' windows are such as a
//! bridge has. They keep the board's places, so that it is the board's description that is wrong where they can't.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Gpa, PAGE_SIZE, Span};

use super::findings::{Findings, VmRef};
use super::model::{PciPlan, VmPlan};
use crate::problem::Rule;

/// Checks a VM that is planned.
pub(super) fn check(vm: VmRef<'_>, plan: &VmPlan, findings: &mut Findings) {
    let own = plan.machine.registers().into_iter();
    let mut spans: Vec<(Span<Gpa>, String)> = own.map(|one| (one.span, one.what.into())).collect();
    let console = plan.console.and_then(|console| console.at.registers());
    spans.extend(console.map(|registers| (registers, "the console".into())));
    spans.extend(plan.watchdog.into_iter().flat_map(|watchdog| {
        [(watchdog.control, "the watchdog".into()), (watchdog.refresh, "the watchdog's refresh page".into())]
    }));
    spans.extend(plan.pci.iter().map(|bridge| (bridge.ecam, format!("config space {}", bridge.host))));
    let ports = plan.pci.iter().filter_map(|bridge| Some((bridge.port_memory?, bridge.host)));
    spans.extend(ports.map(|(span, host)| (span, format!("the ports of PCI {host}"))));
    for (position, (span, what)) in spans.iter().enumerate() {
        if span.is_empty() {
            findings.vm(vm, "", Rule::Platform, format_args!("on this board {what} has no registers"));
        }
        let earlier = spans.iter().take(position);
        for (other, whose) in earlier.filter(|(other, _)| other.overlaps(span)) {
            findings.vm(
                vm,
                "",
                Rule::Platform,
                format_args!(
                    "on this board {what} ({span}) lies over {whose} ({other}): both would answer there"
                ),
            );
        }
    }
    for bridge in &plan.pci {
        windows(vm, bridge, findings);
    }
}

/// Windows are whole pages, and apart on both sides of the bridge.
fn windows(vm: VmRef<'_>, bridge: &PciPlan, findings: &mut Findings) {
    for (position, window) in bridge.windows.iter().enumerate() {
        if !window.cpu.is_aligned(PAGE_SIZE) || !window.pci.is_multiple_of(PAGE_SIZE) {
            findings.vm(
                vm,
                "",
                Rule::Platform,
                format_args!(
                    "the PCI window {} ({:#x} on the bus) isn't whole pages",
                    window.cpu, window.pci
                ),
            );
        }
        for other in bridge.windows.iter().take(position) {
            let (low, high) = if window.pci < other.pci { (window, other) } else { (other, window) };
            let apart = high.pci.abs_diff(low.pci) >= low.cpu.size();
            if window.cpu.overlaps(&other.cpu) || !apart {
                findings.vm(
                    vm,
                    "",
                    Rule::Platform,
                    format_args!("the PCI windows {} and {} lie over each other", other.cpu, window.cpu),
                );
            }
        }
    }
}
