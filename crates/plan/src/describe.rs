//! What the guest's device tree says: the plan once more, in the words of [`axvm_guest`].

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Gpa, PciSpace, PciWindow};
use axvm_guest::{
    ClockDescription, ConsoleDescription, Description, DeviceDescription, MsiSender, NodeDescription,
    PciDescription, PinDescription, WatchdogDescription,
};
use axvm_platform::model::{ChildNode, FixedClock, PlatformDevice};

use super::board::Board;
use super::hardware::{Given, Kind};
use super::memory;
use super::model::{PciPlan, VmPlan};
use super::own_devices::own_console;
use crate::config::VMInterruptMode;

/// The device tree of a VM that is planned but for it.
pub(super) fn describe(plan: &VmPlan, cmdline: &str, given: &[&Given<'_>], board: &Board<'_>) -> Description {
    let mut description = Description {
        cpus: plan.cpus.iter().map(|vcpu| vcpu.hardware_id).collect(),
        memory: memory::banks(&plan.ram),
        cmdline: cmdline.to_string(),
        initrd: plan.load.initrd,
        console: plan.console.map(|console| ConsoleDescription { at: console.at, irq: console.irq }),
        watchdog: plan.watchdog.map(|watchdog| WatchdogDescription {
            control: watchdog.control,
            refresh: watchdog.refresh,
            irq: watchdog.irq,
        }),
        pci: plan.pci.iter().filter_map(|bridge| pci(bridge, plan, given, board)).collect(),
        devices: given
            .iter()
            .filter_map(|device| match device.hardware.kind {
                Kind::Node(node) => Some(platform_device(node, device, plan.mode, board)),
                _ => None,
            })
            .collect(),
        stdout: own_console(given, board).and_then(|own| match own.hardware.kind {
            Kind::Node(node) => Some(platform_device(node, own, plan.mode, board).name),
            _ => None,
        }),
        ..Description::default()
    };
    board.machine.describe(&plan.machine, board.platform, &mut description);
    description
}

fn pci(
    bridge: &super::model::PciPlan,
    plan: &VmPlan,
    given: &[&Given<'_>],
    board: &Board<'_>,
) -> Option<PciDescription> {
    let host = board.platform.pci_hosts.get(bridge.host)?;
    let mut msi = Vec::new();
    let mut lines = Vec::new();
    for device in given.iter().filter(|device| bridge.functions.contains(&device.index)) {
        let Kind::Pci { shown, function, .. } = device.hardware.kind else { continue };
        if let (Some(plan), true) = (device.hardware.msi, plan.machine.takes_messages()) {
            msi.push(MsiSender { requester: shown.requester_id(), id: plan.source.id });
        }
        let pin = function.map_or(0, |function| function.function.interrupt_pin);
        if let (Some(&line), 1..=4, true) =
            (device.hardware.lines.first(), pin, plan.mode != VMInterruptMode::NoIrq)
        {
            lines.push(PinDescription { function: shown, pin, line });
        }
    }
    Some(PciDescription {
        segment: board.bridges.get(bridge.host)?.segment,
        ecam: bridge.ecam,
        buses: bridge.buses,
        windows: bridge.windows.iter().copied().chain(port_window(bridge)).collect(),
        ports: bridge.ports,
        coherent: host.coherent,
        msi,
        lines,
    })
}

/// The window of ports, where they are in memory.
fn port_window(bridge: &PciPlan) -> Option<PciWindow<Gpa>> {
    let pci = bridge.ports?.first().into();
    Some(PciWindow { space: PciSpace::Io, prefetchable: false, pci, cpu: bridge.port_memory? })
}

fn platform_device(
    node: &PlatformDevice,
    given: &Given<'_>,
    mode: VMInterruptMode,
    board: &Board<'_>,
) -> DeviceDescription {
    let registers: Vec<_> = given.hardware.blocks.iter().map(|block| block.gpa).collect();
    let silent = mode == VMInterruptMode::NoIrq;
    DeviceDescription {
        name: node_name(&node.path, registers.first().map(|span| span.start().0)),
        registers,
        ports: given.hardware.ports.iter().map(|block| block.ports).collect(),
        ids: ids(node, board),
        interrupts: if silent { Vec::new() } else { given.hardware.lines.clone() },
        clocks: fixed_clocks(node),
        coherent: node.coherent,
        properties: node.properties.clone(),
        children: node.children.iter().map(child).collect(),
    }
}

/// What ACPI knows it by. A device tree says the same among its properties.
fn ids(node: &PlatformDevice, board: &Board<'_>) -> Vec<String> {
    if board.machine.has_device_tree() { Vec::new() } else { node.compatible.clone() }
}

/// Its clocks, if they are all fixed ones: the guest knows them by their order, so that one alone would be taken for another.
fn fixed_clocks(node: &PlatformDevice) -> Vec<ClockDescription> {
    let clocks = node.providers.iter().filter(|provider| provider.property == "clocks");
    let clocks = clocks.map(|provider| provider.fixed_clock.as_ref());
    let described = |clock: &FixedClock| ClockDescription {
        frequency: clock.frequency,
        output_name: clock.output_name.clone(),
    };
    clocks.map(|clock| clock.map(described)).collect::<Option<_>>().unwrap_or_default()
}

fn child(node: &ChildNode) -> NodeDescription {
    NodeDescription {
        name: node.name.clone(),
        properties: node.properties.clone(),
        children: node.children.iter().map(child).collect(),
    }
}

/// The node's own name with the unit address that its registers have now: two nodes of one name below different buses become
/// neighbours in the guest's tree.
fn node_name(path: &str, start: Option<u64>) -> String {
    let last = path.rsplit('/').next().unwrap_or(path);
    let base = last.split('@').next().unwrap_or(last);
    match start {
        Some(start) => format!("{base}@{start:x}"),
        None => last.to_string(),
    }
}
