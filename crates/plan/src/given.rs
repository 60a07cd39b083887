//! The devices that the file gives to VMs, each looked up on the platform and checked by itself. What they share with
//! others is [`super::sharing`]'s business.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Hpa, Irq, PAGE_SIZE, Span};
use axvm_platform::model::{BusSpan, ForeignInterrupt, Interrupt, Platform, Trigger};
use axvm_system::model::{Device, InUse, InterruptChoice, RegisterAccess, System};

use super::board::Board;
use super::findings::{DeviceRef, Findings, VmRef};
use super::hardware::{Block, Given, Hardware, Kind, PortBlock, Thing, check_line};
use super::judge::{self, Said};
use super::linux;
use super::pci::{self, check_messages};
use super::places::same;
use super::ports;
use super::suggest::nearest;
use crate::problem::Rule;

/// All devices of all VMs that can be looked up; the others are problems.
pub(super) fn resolve<'a>(system: &'a System, board: &Board<'a>, findings: &mut Findings) -> Vec<Given<'a>> {
    let mut all: Vec<Given<'a>> = Vec::new();
    for (vm, config) in (0..).zip(&system.vms) {
        let vm = VmRef::of(system, vm);
        for (index, device) in (0..).zip(&config.devices) {
            let name = name_of(device);
            let reference = DeviceRef { vm, index, name: &name };
            check_name(reference, device, &config.devices, findings);
            let before = findings.problems.len();
            let linux = linux::host(board.platform);
            let hardware = match device {
                _ if linux.is_some_and(|linux| !linux::can_be_given(reference, device, linux, findings)) => {
                    None
                }
                Device::Pci { address, without_reset, without_intx, in_use } => {
                    if linux.is_none() && *in_use != InUse::Keep {
                        findings.note(format_args!(
                            "{vm}: {name}: `in_use` means nothing on bare metal and is ignored: no Linux uses it there"
                        ));
                    }
                    let intx = match (config.interrupts, without_intx) {
                        // It is given no interrupt, so its line is turned off.
                        (InterruptChoice::None, _) => pci::Intx::Silent,
                        (_, true) => pci::Intx::None,
                        (_, false) => pci::Intx::Wanted,
                    };
                    pci::resolve(reference, *address, *without_reset, intx, board, findings)
                }
                Device::Node { path, access, dma, accept } => {
                    node(reference, path, *access, &Said { key: "node", dma, accept }, board, findings)
                }
                Device::Region { .. } => region(reference, device, board, findings),
                Device::Ports { .. } => ports::range(reference, device, board, findings),
            };
            let refused = findings.problems.iter().skip(before).any(|problem| is_final(problem.rule));
            all.extend(hardware.map(|hardware| Given { vm, index, name, hardware, refused }));
        }
    }
    all
}

/// Whether a device that breaks this rule can't be given for what it is.
fn is_final(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::DeviceDisabled
            | Rule::DeviceReserved
            | Rule::DeviceUnsupported
            | Rule::Dma
            | Rule::Hazard
            | Rule::Provider
            | Rule::RegisterPlace
    )
}

fn name_of(device: &Device) -> String {
    match device {
        Device::Pci { address, .. } => address.to_string(),
        Device::Node { path, .. } => path.clone(),
        Device::Region { name, .. } | Device::Ports { name, .. } => name.clone(),
    }
}

/// The names that a file chooses: those of raw regions. Within a VM they tell its devices apart, in reports and in its address
/// space, so that none may be another device's (`0000:00:02.0`, `/pl011@9000000`).
fn check_name(reference: DeviceRef<'_>, device: &Device, devices: &[Device], findings: &mut Findings) {
    let (Device::Region { name, .. } | Device::Ports { name, .. }) = device else { return };
    let others = (0u16..).zip(devices).filter(|&(index, _)| index != reference.index);
    let mut same = others.filter(|(_, other)| name_of(other) == *name);
    if name.is_empty() {
        findings.device(reference, "name", Rule::File, "a raw region needs a name");
    } else if same.any(|(index, other)| {
        index < reference.index || !matches!(other, Device::Region { .. } | Device::Ports { .. })
    }) {
        findings.device(reference, "name", Rule::DeviceTwice, "another device of this VM has this name");
    }
}

/// A platform device by its path.
fn node<'a>(
    reference: DeviceRef<'_>,
    path: &str,
    access: RegisterAccess,
    said: &Said<'_>,
    board: &Board<'a>,
    findings: &mut Findings,
) -> Option<Hardware<'a>> {
    let platform = board.platform;
    if let Some(what) = reserved_node(board, path) {
        let what = format!("it is {what}: the hypervisor's own");
        findings.device(reference, "node", Rule::DeviceReserved, what);
        return None;
    }
    if platform.pci_hosts.iter().any(|host| host.path == path) {
        findings.device(
            reference,
            "node",
            Rule::DeviceReserved,
            "it is a PCI host bridge: the hypervisor's own; give its functions by their addresses, as in pci = \"0000:00:02.0\"",
        );
        return None;
    }
    let Some((position, device)) =
        platform.devices.iter().enumerate().find(|(_, device)| device.path == path)
    else {
        absent(reference, path, board, findings);
        return None;
    };
    if let Some(BusSpan { start, size }) = device.lost.first() {
        findings.device(
            reference,
            "node",
            Rule::RegisterPlace,
            format_args!(
                "its registers {start:#x}, {size:#x} bytes, of its bus have no one place among the CPU's addresses (`ranges` \
                 of the buses above): the guest would take others for them"
            ),
        );
    }
    if !device.registers.iter().all(|block| check_place(reference, block, "node", board, findings))
        || !(board.machine.has_no_ports()
            || device
                .ports
                .iter()
                .all(|&block| ports::check_place(reference, block, "node", board, findings)))
    {
        return None;
    }
    let irqchip = board.machine.words().irqchip;
    for foreign in &device.foreign_interrupts {
        let why = match foreign {
            ForeignInterrupt::Elsewhere(controller) => {
                format!("its interrupt goes to {controller}, which isn't {irqchip}")
            }
            ForeignInterrupt::NoSuchLine => {
                format!("its device tree gives it an interrupt that {irqchip} doesn't have")
            }
            ForeignInterrupt::Unclear(why) => format!("where its interrupt goes can't be read ({why})"),
        };
        findings.device(reference, "node", Rule::Interrupt, format_args!("{why}: it can't be routed"));
    }
    let mut reached = judge::reached(platform, Some((position, device)), &device.registers);
    if !board.machine.has_no_ports() {
        reached.extend(ports::reached(platform, position, &device.ports));
    }
    check_messages(reference, &device.sources, board, findings);
    let sources = judge::judge(reference, &reached, true, said, platform, findings);
    let lines = device
        .interrupts
        .iter()
        .filter(|line| check_line(reference, line.irq, "node", board.machine, findings));
    // Where the board has them, until a guest machine of its own has places for them (`super::places`).
    let direct = access == RegisterAccess::Direct;
    let blocks = device.registers.iter().map(|&hpa| Block { gpa: same(hpa), hpa, direct });
    Some(Hardware {
        kind: Kind::Node(device),
        things: reached.iter().map(|&(position, _)| Thing::Device(position)).collect(),
        blocks: blocks.collect(),
        ports: device.ports.iter().map(|&ports| PortBlock { ports, direct }).collect(),
        lines: lines.copied().collect(),
        group: None,
        sources,
        msi: None,
    })
}

/// What of the hypervisor's own is at this path.
fn reserved_node(board: &Board<'_>, path: &str) -> Option<String> {
    let platform = board.platform;
    if board.is_console(path) {
        return Some("the console".into());
    }
    if let Some(iommu) = platform.iommus.iter().find(|iommu| iommu.path == path) {
        return Some(format!("the {}", iommu.name()));
    }
    if platform.cpus.iter().any(|cpu| cpu.path == path) {
        return Some("a CPU (give it by its number in `cpus`)".into());
    }
    board.machine.reserved_node(platform, path).map(String::from)
}

fn absent(reference: DeviceRef<'_>, path: &str, board: &Board<'_>, findings: &mut Findings) {
    let platform = board.platform;
    let hint = match nearest(path, platform.devices.iter().map(|device| device.path.as_str())) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "`axvm inspect` lists what there is".into(),
    };
    findings.device(
        reference,
        "node",
        Rule::DeviceAbsent,
        format_args!(
            "no device with registers is at this path of the {}: {hint}",
            board.machine.words().board_by
        ),
    );
}

/// Whether registers lie where a guest may be given any.
fn check_place(
    reference: DeviceRef<'_>,
    block: &Span<Hpa>,
    key: &str,
    board: &Board<'_>,
    findings: &mut Findings,
) -> bool {
    let limit = 1u64 << board.address_bits();
    if block.end().0 > limit {
        findings.device(
            reference,
            key,
            Rule::RegisterPlace,
            format_args!("its registers {block} pass the {} address bits of the board", board.address_bits()),
        );
        return false;
    }
    let Some(taken) = board.taken.iter().find(|taken| taken.span.overlaps(block)) else { return true };
    findings.device(
        reference,
        key,
        if taken.reserved { Rule::DeviceReserved } else { Rule::RegisterPlace },
        format_args!(
            "its registers {block} lie over {} at {}, which no guest may be given: choose others",
            taken.what, taken.span
        ),
    );
    false
}

/// A raw region.
fn region<'a>(
    reference: DeviceRef<'_>,
    device: &Device,
    board: &Board<'a>,
    findings: &mut Findings,
) -> Option<Hardware<'a>> {
    let Device::Region { base_gpa, base_hpa, length, irq, access, dma, accept, .. } = device else {
        return None;
    };
    let platform = board.platform;
    let (Ok(gpa), Ok(hpa), 1..) = (Span::new(*base_gpa, *length), Span::new(*base_hpa, *length), *length)
    else {
        findings.device(
            reference,
            "length",
            Rule::Alignment,
            "the length is 0, or passes the end of the address space",
        );
        return None;
    };
    if !check_place(reference, &hpa, "base_hpa", board, findings) {
        return None;
    }
    let direct = *access == RegisterAccess::Direct;
    let offset = |address: u64| address & (PAGE_SIZE - 1);
    // What is smaller than a page is trapped anyway.
    if direct && *length >= PAGE_SIZE && offset(base_gpa.0) != offset(base_hpa.0) {
        findings.device(
            reference,
            "base_gpa",
            Rule::Alignment,
            "base_gpa and base_hpa differ within their pages, so it can't be mapped: move one, or say `access = \"trap\"`",
        );
    }
    // A raw region over a device that the platform knows is that device, whatever the file calls it.
    let reached = judge::reached(platform, None, &[hpa]);
    let said = Said { key: "base_hpa", dma, accept };
    let sources = judge::judge(reference, &reached, false, &said, platform, findings);
    let lines = irq
        .filter(|&irq| check_line(reference, irq, "irq", board.machine, findings))
        .map(|irq| Interrupt { irq, trigger: trigger_of(platform, irq).unwrap_or(Trigger::Level) });
    Some(Hardware {
        kind: Kind::Region,
        things: reached.iter().map(|&(position, _)| Thing::Device(position)).collect(),
        blocks: alloc::vec![Block { gpa, hpa, direct }],
        ports: Vec::new(),
        lines: lines.into_iter().collect(),
        group: None,
        sources,
        msi: None,
    })
}

/// How a line signals, if the platform knows a device with it.
pub(super) fn trigger_of(platform: &Platform, irq: Irq) -> Option<Trigger> {
    let devices = platform.devices.iter().flat_map(|device| &device.interrupts);
    let pins = platform.pci_hosts.iter().flat_map(|host| host.lines.iter().map(|route| &route.line));
    devices.chain(pins).find(|line| line.irq == irq).map(|line| line.trigger)
}
