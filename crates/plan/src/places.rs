//! Where the machine that guests see has its host bridges and its platform devices, by the host's policy ([`GuestMachine`]).
//!
//! The mirror of the board has everything where the board has it. A machine of its own has its RAM, its registers and the slots of its
//! functions where the architecture's layout says ([`OwnLayout`]), so that they are the same on every board. What both have in common is that
//! a DMA goes by the guest's addresses: where the board's host bridges take an address for one of their own, no RAM of a guest and no
//! page for MSIs may lie, since it would never reach the IOMMU.

use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{Gpa, Hpa, PAGE_SIZE, PciBuses, PciSpace, PciWindow, Ports, Span};
use axvm_pci::BarKind;
use axvm_platform::limits::GuestMachine;
use axvm_platform::model::Platform;

use super::board::Board;
use super::findings::{Bytes, Findings};
use super::hardware::{Given, Kind};
use super::machine::OwnLayout;
use crate::problem::Rule;

/// What registers of a platform device are apart, so that a guest of any page size can map each alone.
const STEP: u64 = 64 << 10;

/// Config space of one bus (PCIe 7.2.2): on a bridge of a guest machine of its own all functions are on the root bus.
const BUS: u64 = 1 << 20;

/// Windows of a guest machine of its own are whole blocks of this.
const BLOCK: u64 = 16 << 20;

/// Windows of ports are whole blocks of this, which is what a bridge's window is a multiple of (PCI-to-PCI Bridge Architecture 1.2, 3.2.5.6).
const PORT_BLOCK: u32 = 0x1000;

/// Fewer address bits leave no room for a window above 4 GiB.
const LEAST_HIGH_BITS: u8 = 34;

/// A host bridge as guests with functions of one of the board's see it.
pub(super) struct Bridge {
    pub(super) segment: u16,
    pub(super) ecam: Span<Gpa>,
    pub(super) buses: PciBuses,
    pub(super) windows: Vec<PciWindow<Gpa>>,
    /// Where BARs of ports are.
    pub(super) ports: Option<Ports>,
    /// Where these are in memory, where no instruction reaches ports.
    pub(super) port_memory: Option<Span<Gpa>>,
}

/// The bridges that guests see, one for each of the board's.
pub(super) fn bridges(
    platform: &Platform,
    machine: GuestMachine,
    own: &OwnLayout,
    address_bits: u8,
) -> Vec<Bridge> {
    match machine {
        GuestMachine::MirrorsBoard => platform
            .pci_hosts
            .iter()
            .map(|host| Bridge {
                segment: host.segment,
                ecam: same(host.ecam),
                buses: host.buses,
                windows: host.windows.iter().map(mirrored).collect(),
                ports: None,
                port_memory: None,
            })
            .collect(),
        GuestMachine::Own => {
            let count = platform.pci_hosts.len() as u64;
            (0..)
                .take(platform.pci_hosts.len())
                .map(|number| bridge(number, count, own, address_bits))
                .collect()
        }
    }
}

fn mirrored(window: &PciWindow<Hpa>) -> PciWindow<Gpa> {
    let &PciWindow { space, prefetchable, pci, cpu } = window;
    PciWindow { space, prefetchable, pci, cpu: same(cpu) }
}

/// One of several bridges, which have equal shares of what the layout has for them.
fn bridge(number: u16, count: u64, own: &OwnLayout, address_bits: u8) -> Bridge {
    let share = |all: &Range<u64>| {
        let size = ((all.end - all.start) / count) & !(BLOCK - 1);
        (size > 0).then(|| span(all.start + u64::from(number) * size, size))
    };
    let window = |space, cpu: Span<Gpa>| PciWindow { space, prefetchable: false, pci: cpu.start().0, cpu };
    let bits = own.high_bits.min(address_bits);
    let quarter = 1u64 << (bits - 2);
    let high = (bits >= LEAST_HIGH_BITS).then(|| share(&(3 * quarter..4 * quarter))).flatten();
    let low = share(&own.low_window).map(|cpu| window(PciSpace::Memory32, cpu));
    let start = own.config_spaces.start + u64::from(number) * BUS;
    let there = start + BUS <= own.config_spaces.end;
    let ports = own.port_window.and_then(|all| {
        let share = (all.count() / u32::try_from(count).ok()?) & !(PORT_BLOCK - 1);
        let first = u32::from(all.first()).checked_add(u32::from(number).checked_mul(share)?)?;
        Ports::of(u16::try_from(first).ok()?, share)
    });
    Bridge {
        segment: number,
        ecam: if there { span(start, BUS) } else { Span::default() },
        buses: PciBuses::new(0, 0),
        windows: low.into_iter().chain(high.map(|cpu| window(PciSpace::Memory64, cpu))).collect(),
        port_memory: own
            .port_memory
            .zip(ports)
            .map(|(zero, ports)| span(zero.0 + u64::from(ports.first()), ports.count().into())),
        ports,
    }
}

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap_or_default()
}

/// The same place in the guest's terms.
pub(super) fn same(at: Span<Hpa>) -> Span<Gpa> {
    span(at.start().0, at.size())
}

/// Where the board's host bridges take what a device sends for one of their own addresses, each with its bridge's path.
pub(super) fn kept_from_dma(platform: &Platform) -> impl Iterator<Item = (Span<Gpa>, &str)> {
    platform.pci_hosts.iter().flat_map(|host| {
        let windows = host.windows.iter().filter(|window| window.space != PciSpace::Io);
        windows.map(move |window| (span(window.pci, window.cpu.size()), host.path.as_str()))
    })
}

/// Gives platform devices their places in a guest machine of its own: one after the other in the order of the file, around the raw
/// regions, whose places the file says.
pub(super) fn place_devices(given: &mut [Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    if board.guest_machine() == GuestMachine::MirrorsBoard {
        return;
    }
    let area = &board.machine.own_layout().devices;
    let regions = given.iter().filter(|device| matches!(device.hardware.kind, Kind::Region));
    let regions: Vec<(u16, Span<Gpa>)> = regions
        .flat_map(|region| region.hardware.blocks.iter().map(|block| (region.vm.index, block.gpa)))
        .collect();
    let (mut vm, mut next) = (u16::MAX, area.start);
    for device in given.iter_mut().filter(|device| matches!(device.hardware.kind, Kind::Node(_))) {
        if device.vm.index != vm {
            (vm, next) = (device.vm.index, area.start);
        }
        let mut lost = false;
        for block in &mut device.hardware.blocks {
            // Its place in its page stays, so that whole pages do.
            let offset = block.hpa.start().0 & (PAGE_SIZE - 1);
            let slot = (offset + block.hpa.size()).checked_next_multiple_of(STEP);
            let free = slot.and_then(|size| free_from(next, size, vm, &regions, area));
            lost |= free.is_none();
            if let Some(found) = free {
                block.gpa = span(found.start().0 + offset, block.hpa.size());
                next = found.end().0;
            }
        }
        if lost {
            let what = "the guest's machine has no room left for its registers: give the VM fewer devices";
            findings.device(device.reference(), "", Rule::NoRoom, what);
        }
    }
}

/// The first place from an address on that no raw region of the VM has.
fn free_from(
    mut at: u64,
    size: u64,
    vm: u16,
    regions: &[(u16, Span<Gpa>)],
    area: &Range<u64>,
) -> Option<Span<Gpa>> {
    loop {
        let place = Span::new(Gpa(at), size).ok().filter(|place| place.end().0 <= area.end)?;
        let mut mine = regions.iter().filter(|(owner, _)| *owner == vm);
        let Some((_, region)) = mine.find(|(_, region)| region.overlaps(&place)) else { return Some(place) };
        at = region.end().0.checked_next_multiple_of(STEP)?;
    }
}

/// The same of BARs of ports.
fn check_port_bars(host: usize, bridge: &Bridge, given: &[&Given<'_>], findings: &mut Findings) {
    let Some(ports) = bridge.ports else { return };
    let (mut sum, mut largest) = (0u64, 0);
    for device in given {
        let Kind::Pci { host: at, function: Some(found), .. } = device.hardware.kind else { continue };
        for bar in found.function.bars.iter().filter(|bar| at == host && bar.kind == BarKind::Io) {
            sum = sum.saturating_add(bar.size);
            largest = largest.max(bar.size);
            if sum.saturating_add(largest) > ports.count().into() {
                findings.device(
                    device.reference(),
                    "pci",
                    Rule::NoRoom,
                    format_args!(
                        "BAR {} ({} ports) and those of the functions before it don't fit into the ports {ports} of the guest's machine",
                        bar.index, bar.size
                    ),
                );
                return;
            }
        }
    }
}

/// Whether the windows of a guest machine of its own hold the BARs of a VM's functions, however its guest orders them. The board's own
/// windows do: the functions have their addresses there.
pub(super) fn check_bars(given: &[&Given<'_>], board: &Board<'_>, findings: &mut Findings) {
    if board.guest_machine() == GuestMachine::MirrorsBoard {
        return;
    }
    for (host, bridge) in board.bridges.iter().enumerate() {
        check_port_bars(host, bridge, given, findings);
        let high = bridge.windows.iter().find(|window| window.space == PciSpace::Memory64);
        for window in &bridge.windows {
            let (mut sum, mut largest) = (0u64, 0);
            for device in given {
                let Kind::Pci { host: at, function: Some(found), .. } = device.hardware.kind else {
                    continue;
                };
                let here = |kind: BarKind| match kind {
                    BarKind::Io => false,
                    BarKind::Memory64 { .. } if high.is_some() => window.space == PciSpace::Memory64,
                    _ => window.space == PciSpace::Memory32,
                };
                for bar in found.function.bars.iter().filter(|bar| at == host && here(bar.kind)) {
                    let size = bar.size.max(PAGE_SIZE);
                    sum = sum.saturating_add(size);
                    largest = largest.max(size);
                    // Each is aligned to its size, so that no more is lost than the largest takes.
                    if sum.saturating_add(largest) > window.cpu.size() {
                        findings.device(
                            device.reference(),
                            "pci",
                            Rule::NoRoom,
                            format_args!(
                                "BAR {} ({}) and those of the functions before it don't fit into the window {} of the guest's machine",
                                bar.index,
                                Bytes(bar.size),
                                window.cpu
                            ),
                        );
                        return;
                    }
                }
            }
        }
    }
}
