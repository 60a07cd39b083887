//! PCI functions that the file gives to VMs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{DmaSource, PciAddress, PciBuses};
use axvm_pci::quirks::{self, Word};
use axvm_pci::spec::extended;
use axvm_pci::{BarKind, Function, Virtio, aliases};
use axvm_platform::model::{Interrupt, PciDevice, PciHost};

use super::board::Board;
use super::findings::{Bytes, DeviceRef, Findings};
use super::hardware::{Hardware, Kind, Thing, check_line};
use super::linux;
use super::machine::Words;
use super::model::MsiPlan;
use crate::problem::Rule;

/// The base class of bridges (PCI Code and ID Assignment 1.11, 1.7).
const BRIDGES: u32 = 0x06;

/// What becomes of the line of a function's pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intx {
    /// The VM gets it, if there is one.
    Wanted,
    /// `intx = "none"`.
    None,
    /// The VM has no device interrupts.
    Silent,
}

/// A PCI function by its address.
pub(super) fn resolve<'a>(
    reference: DeviceRef<'_>,
    address: PciAddress,
    without_reset: bool,
    intx: Intx,
    board: &Board<'a>,
    findings: &mut Findings,
) -> Option<Hardware<'a>> {
    let (platform, words) = (board.platform, board.machine.words());
    let host = platform.pci_host_of(address);
    let Some((position, host)) = host.and_then(|at| Some((at, platform.pci_hosts.get(at)?))) else {
        let what = if platform.pci_hosts.is_empty() {
            "the board has no PCI host bridge with a generic config space (ECAM)".into()
        } else {
            format!(
                "no host bridge of the board has this segment and bus: there {}",
                buses(&platform.pci_hosts)
            )
        };
        findings.device(reference, "pci", Rule::DeviceAbsent, what);
        return None;
    };
    let Some(functions) = &platform.functions else {
        return Some(unseen(reference, address, position, host, words, findings));
    };
    let Some(device) = functions.iter().find(|device| device.function.address == address) else {
        findings.device(reference, "pci", Rule::DeviceAbsent, absent(address, functions));
        return None;
    };
    let function = &device.function;
    let kind = Kind::Pci {
        address,
        host: position,
        shown: address,
        function: Some(device),
        reset: if without_reset { None } else { function.resets.first().copied() },
    };
    let things = alloc::vec![Thing::Function(address)];
    let iommu = board.machine.iommu_at(platform, address);
    if let Some(what) = iommu {
        let what = format_args!("it is {what}: the hypervisor's own");
        findings.device(reference, "pci", Rule::DeviceReserved, what);
    }
    if iommu.is_some() || !check_kind(reference, function, findings) {
        // It can't be given at all: what else is wrong with it isn't worth a line.
        let group = Some(device.group);
        return Some(Hardware {
            kind,
            things,
            blocks: Vec::new(),
            ports: Vec::new(),
            lines: Vec::new(),
            group,
            sources: Vec::new(),
            msi: None,
        });
    }
    check_bars(reference, function, findings);
    if device.sources.is_empty() || device.sources.iter().any(|source| platform.iommu(source.iommu).is_none())
    {
        outside(reference, words, findings);
    }
    check_messages(reference, &device.sources, board, findings);
    if board.machine.firmware_masters() {
        check_firmware(reference, device, findings);
    }
    check_ports(reference, device, functions, findings);
    note_quirks(reference, device, functions, findings);
    if function.resets.is_empty() && !without_reset {
        findings.device(
            reference,
            "reset",
            Rule::Reset,
            "it can't be reset (neither FLR, D3hot nor its bus), so what one owner left in it reaches the next: \
             say `reset = \"none\"` to give it all the same",
        );
    }
    let line = line(reference, device, intx, board, findings);
    let msi = messages(reference, device, board, line.is_some(), findings);
    Some(Hardware {
        kind,
        things,
        blocks: Vec::new(),
        ports: Vec::new(),
        lines: line.into_iter().collect(),
        group: Some(device.group),
        sources: device.sources.clone(),
        msi,
    })
}

/// Where nothing has enumerated the functions: as far as the host bridge's maps tell.
fn unseen<'a>(
    reference: DeviceRef<'_>,
    address: PciAddress,
    position: usize,
    host: &PciHost,
    words: &Words,
    findings: &mut Findings,
) -> Hardware<'a> {
    let requester = u32::from(address.requester_id());
    let source = host.dma_source(requester);
    if source.is_none() {
        outside(reference, words, findings);
    }
    Hardware {
        kind: Kind::Pci { address, host: position, shown: address, function: None, reset: None },
        things: alloc::vec![Thing::Function(address)],
        blocks: Vec::new(),
        ports: Vec::new(),
        lines: Vec::new(),
        group: None,
        sources: source.into_iter().collect(),
        msi: host.msi_source(requester).map(|source| MsiPlan { source, messages: 1 }),
    }
}

fn outside(reference: DeviceRef<'_>, words: &Words, findings: &mut Findings) {
    findings.device(
        reference,
        "pci",
        Rule::Dma,
        format_args!(
            "it masters the bus outside every IOMMU: its DMA can't be confined (QEMU: {})",
            words.qemu_iommu
        ),
    );
}

fn buses(hosts: &[PciHost]) -> String {
    let each = hosts.iter().map(|host| {
        let PciBuses { first, last } = host.buses;
        format!("{} has {:04x}:{first:02x} to {:04x}:{last:02x}", host.path, host.segment, host.segment)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What to say of a function that isn't there: the nearest by address, and by number of functions whether to list all.
fn absent(address: PciAddress, functions: &[PciDevice]) -> String {
    let describe = |device: &PciDevice| {
        let Function { address, vendor, device, .. } = device.function;
        format!("{address} ({vendor:04x}:{device:04x})")
    };
    let distance = |device: &&PciDevice| {
        let other = device.function.address;
        (other.segment.abs_diff(address.segment), other.requester_id().abs_diff(address.requester_id()))
    };
    let endpoints = || functions.iter().filter(|device| !is_bridge(&device.function));
    match (endpoints().count(), endpoints().min_by_key(distance)) {
        (1..=8, _) => {
            let all: Vec<String> = endpoints().map(describe).collect();
            format!("no function is at this address; there are {}", all.join(", "))
        }
        (_, Some(near)) => format!("no function is at this address; the nearest is {}", describe(near)),
        (_, None) => "no function is at this address, and the board has none but bridges".into(),
    }
}

pub(super) fn is_bridge(function: &Function) -> bool {
    function.bridge || function.class >> 16 == BRIDGES
}

/// Whether it is of a kind that can be given.
fn check_kind(reference: DeviceRef<'_>, function: &Function, findings: &mut Findings) -> bool {
    let mut unsupported = |what: fmt::Arguments<'_>| {
        findings.device(reference, "pci", Rule::DeviceUnsupported, what);
        false
    };
    if is_bridge(function) {
        return unsupported(format_args!(
            "it is a bridge: bridges stay the hypervisor's; give the functions behind it"
        ));
    }
    check_virtio(reference, function, findings)
}

/// A virtio device may be software that reaches memory past the IOMMU: it must say that it doesn't.
fn check_virtio(reference: DeviceRef<'_>, function: &Function, findings: &mut Findings) -> bool {
    let what = match function.virtio {
        None | Some(Virtio::Platform) => return true,
        Some(Virtio::Past) => "doesn't offer VIRTIO_F_ACCESS_PLATFORM",
        Some(Virtio::Legacy) => {
            "has the legacy interface (it is legacy or transitional), which knows nothing of IOMMUs"
        }
        Some(Virtio::Unknown) => "doesn't say whether it offers VIRTIO_F_ACCESS_PLATFORM",
    };
    findings.device(
        reference,
        "pci",
        Rule::Dma,
        format_args!(
            "it is a virtio device that {what}: its DMA may pass the IOMMU by, so it can't be confined (QEMU: add \
             `iommu_platform=on,disable-legacy=on` to its -device)"
        ),
    );
    false
}

/// What a device sends must be bounded where interrupts are messages that anybody could send.
pub(super) fn check_messages(
    reference: DeviceRef<'_>,
    sources: &[DmaSource],
    board: &Board<'_>,
    findings: &mut Findings,
) {
    let free = |source: &&DmaSource| !board.machine.bounds_messages(board.platform, source.iommu);
    if let Some(source) = sources.iter().find(free) {
        let words = board.machine.words();
        findings.device(
            reference,
            "",
            Rule::Dma,
            format_args!(
                "{} {} doesn't remap interrupts, so that it could send any interrupt to any processor (QEMU: {})",
                words.iommu, source.iommu, words.qemu_msi
            ),
        );
    }
}

/// Memory that firmware has it reach is the firmware's: it stays mapped for it, whoever has the function, or what rests on it breaks.
fn check_firmware(reference: DeviceRef<'_>, device: &PciDevice, findings: &mut Findings) {
    if let Some(span) = device.firmware_memory.first() {
        findings.device(
            reference,
            "pci",
            Rule::Dma,
            format_args!(
                "firmware has it reach memory at {span}, so that it can't be confined to its VM's: it can't be given"
            ),
        );
    }
}

/// Every memory BAR must have found room when the host assigned addresses.
fn check_bars(reference: DeviceRef<'_>, function: &Function, findings: &mut Findings) {
    for bar in function.bars.iter().filter(|bar| bar.kind != BarKind::Io && bar.address.is_none()) {
        findings.device(
            reference,
            "pci",
            Rule::NoRoom,
            format_args!("no window of its host bridge has room for BAR {} ({})", bar.index, Bytes(bar.size)),
        );
    }
}

/// What the function does wrong must stay between it and the hypervisor: neither it nor a bridge above it may go on telling errors
/// to firmware.
fn check_ports(reference: DeviceRef<'_>, device: &PciDevice, all: &[PciDevice], findings: &mut Findings) {
    let above = |it: &&PciDevice| device.bridges.contains(&it.function.address);
    for function in core::iter::once(device).chain(all.iter().filter(above)).map(|it| &it.function) {
        if let Some(offset) = function.stuck {
            findings.device(
                reference,
                "pci",
                Rule::DeviceUnsupported,
                format_args!(
                    "register {offset:#x} of {} doesn't keep what it is set to, so that the device's errors may \
                     reach the firmware and end the machine",
                    function.address
                ),
            );
        }
    }
}

/// Says where the function's isolation group, or its ids, rest on somebody's word.
fn note_quirks(reference: DeviceRef<'_>, device: &PciDevice, all: &[PciDevice], findings: &mut Findings) {
    if let Some(alias) = aliases::of(&device.function).next() {
        let DeviceRef { vm, name, .. } = reference;
        findings.note(format_args!(
            "{vm}: {name}: it sends with other requester ids than its own, too ({}): the VM has them all",
            alias.source
        ));
    }
    let above = |it: &&PciDevice| device.bridges.contains(&it.function.address);
    for function in core::iter::once(device).chain(all.iter().filter(above)).map(|it| &it.function) {
        let Some(quirk) = quirks::of(function) else { continue };
        let what = match quirk.word {
            Word::Wrong => "has an ACS capability that can't be believed, and counts as one without",
            Word::PortIsolates | Word::FunctionIsolates
                if function.extended_capability(extended::ACS).is_none() =>
            {
                "is taken to keep peers apart on its maker's word, without ACS"
            }
            Word::PortIsolates | Word::FunctionIsolates => continue,
        };
        let DeviceRef { vm, name, .. } = reference;
        let address = function.address;
        findings.note(format_args!("{vm}: {name}: {address} {what} ({})", quirk.source));
    }
}

/// Its line, unless that is turned off: at the function itself, so that nothing of it reaches whoever else has the line.
fn line(
    reference: DeviceRef<'_>,
    device: &PciDevice,
    intx: Intx,
    board: &Board<'_>,
    findings: &mut Findings,
) -> Option<Interrupt> {
    if intx == Intx::Wanted && linux::host(board.platform).is_some() {
        // The kernel takes it, whichever it is.
        return device.line;
    }
    if intx == Intx::Wanted {
        return device.line.filter(|line| check_line(reference, line.irq, "pci", board.machine, findings));
    }
    if device.function.intx_disable {
        return None;
    }
    if intx == Intx::None && device.line.is_some() {
        findings.device(
            reference,
            "intx",
            Rule::Interrupt,
            "its line can't be turned off: it has no Interrupt Disable bit (PCI 2.3)",
        );
    }
    // It counts as one of those that can raise the line.
    device.line
}

/// Its MSIs: as many as it can send.
fn messages(
    reference: DeviceRef<'_>,
    device: &PciDevice,
    board: &Board<'_>,
    has_line: bool,
    findings: &mut Findings,
) -> Option<MsiPlan> {
    let msix = device.function.msix.map(|msix| msix.vectors);
    let messages = msix.max(device.function.msi_vectors.map(u16::from))?.max(1);
    let known = board.machine.msi_controllers(board.platform);
    let words = board.machine.words();
    match device.msi.filter(|source| usize::from(source.controller.0) < known) {
        Some(source) => Some(MsiPlan { source, messages }),
        None if has_line => {
            findings.note(format_args!(
                "{}: {}: no {} takes its MSIs: it has its interrupt line only",
                reference.vm, reference.name, words.msi
            ));
            None
        }
        None => {
            findings.device(
                reference,
                "pci",
                Rule::Interrupt,
                format_args!(
                    "no {} takes its MSIs and it has no interrupt line (QEMU: {})",
                    words.msi, words.qemu_msi
                ),
            );
            None
        }
    }
}
