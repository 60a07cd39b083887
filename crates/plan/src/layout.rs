//! A VM's guest-physical map: what is emulated, what is given, and that nothing lies over anything else.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::{Gpa, Span};
use axvm_guest::image::VmImages;
use axvm_platform::limits::GuestMachine;
use axvm_system::model::Vm;

use super::board::Board;
use super::findings::{Findings, VmRef};
use super::hardware::{Given, Kind};
use super::machine::{Emulated, MachinePlan, Mode};
use super::model::{ConsolePlan, WatchdogPlan};
use super::own_devices::Left;
use super::places::{self, kept_from_dma};
use super::windows;
use crate::problem::Rule;

/// Whose a span of the guest's address space is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Ram,
    /// The position among the VM's devices as resolved.
    Device(usize),
    /// What the machine that guests see has at a fixed place.
    Machine,
    /// A window of a host bridge, which a raw region may lie in.
    Window,
    /// Nobody's, but the board's host bridges take it for theirs: a device's DMA doesn't come through.
    Bus,
}

impl Owner {
    fn is_fixed(self) -> bool {
        matches!(self, Self::Machine | Self::Window | Self::Bus)
    }
}

/// A span of the guest's address space that something has.
pub(super) struct Claim {
    pub(super) span: Span<Gpa>,
    owner: Owner,
    what: String,
}

/// What of a VM's map is emulated.
pub(super) struct Layout {
    /// What only this machine has.
    pub(super) machine: MachinePlan,
    pub(super) console: Option<ConsolePlan>,
    pub(super) watchdog: Option<WatchdogPlan>,
    /// Of each host bridge's windows, in their order, what raw regions leave.
    pub(super) windows: Vec<Vec<Span<Gpa>>>,
    /// The most address bits that anything needs.
    pub(super) address_bits: u8,
}

/// What is laid out around.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) mode: Mode,
    /// RAM, in pieces that aren't neighbours.
    pub(super) ram: &'a [Span<Gpa>],
    pub(super) images: Option<&'a VmImages>,
}

/// Lays out the map of a VM with this RAM, and says what collides in it.
pub(super) fn lay_out(
    vm: VmRef<'_>,
    config: &Vm,
    room: Room<'_>,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> Layout {
    let Room { mode, ram, .. } = room;
    let mut claims = Vec::new();
    let mut claim = |span: Span<Gpa>, owner, what: String| claims.push(Claim { span, owner, what });
    for &bank in ram {
        claim(bank, Owner::Ram, "RAM".into());
    }
    for (position, device) in given.iter().enumerate() {
        for block in &device.hardware.blocks {
            claim(block.gpa, Owner::Device(position), device.name.clone());
        }
    }
    claims.extend(fixed(board));
    let mut machine = board.machine.plan(vm, config, room, given, board, findings);
    let left = Left { vm, mode, given, board, claims: &claims };
    let console = left.console(findings);
    let watchdog = left.watchdog(config, console, findings);
    let mut claim = |span, what: &str| claims.push(Claim { span, owner: Owner::Machine, what: what.into() });
    if let Some(registers) = console.and_then(|console| console.at.registers()) {
        claim(registers, "the emulated console");
    }
    if let Some(watchdog) = watchdog {
        claim(watchdog.control, "the emulated watchdog");
        claim(watchdog.refresh, "the emulated watchdog's refresh page");
    }
    let windows = windows(given, board, findings);
    places::check_bars(given, board, findings);
    check_doorbells(vm, &machine, given, board, findings);
    report_overlaps(vm, config, &claims, given, findings);
    let address_bits = report_reach(vm, config, &claims, given, board, findings);
    let lines = console.map(|console| console.irq).into_iter().chain(watchdog.and_then(|it| it.irq));
    board.machine.set_lines(&mut machine, given, lines);
    Layout { machine, console, watchdog, windows, address_bits }
}

/// What no RAM may lie over: what guests see at a fixed place, and where a device's DMA doesn't come through.
pub(super) fn fixed(board: &Board<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut claim = |span: Span<Gpa>, owner, what: String| claims.push(Claim { span, owner, what });
    // The interrupt controller and the windows of all host bridges are kept free of RAM whether or not the VM has functions: a
    // device's DMA to a window's address doesn't reach the IOMMU, nor where MSIs go. Registers are only the CPUs' business.
    for Emulated { span, what } in board.machine.fixed(board.platform) {
        claim(span, Owner::Machine, what.into());
    }
    for (host, bridge) in board.platform.pci_hosts.iter().zip(&board.bridges) {
        claim(bridge.ecam, Owner::Machine, format!("the PCI config space of {}", host.path));
        for window in &bridge.windows {
            claim(window.cpu, Owner::Window, format!("a PCI window of {}", host.path));
        }
    }
    let own = board.guest_machine() == GuestMachine::Own;
    let kept = kept_from_dma(board.platform).filter(|_| board.machine.windows_take_dma());
    for (span, path) in kept {
        let shown = |bridge: &places::Bridge| bridge.windows.iter().any(|window| window.cpu == span);
        if own || !board.bridges.iter().any(shown) {
            let owner = if own { Owner::Bus } else { Owner::Window };
            claim(span, owner, format!("a PCI window of {path} as devices see it"));
        }
    }
    claims
}

/// Whether the pages that a VM's devices send MSIs to are such as their writes come through to. In the board's mirror they are the
/// board's own.
fn check_doorbells(
    vm: VmRef<'_>,
    machine: &MachinePlan,
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) {
    if board.guest_machine() == GuestMachine::MirrorsBoard {
        return;
    }
    let pages = given.iter().filter_map(|device| machine.doorbell(device.hardware.msi?.source.controller));
    let Some(page) = pages.max() else { return };
    if let Some((span, path)) = kept_from_dma(board.platform).find(|(span, _)| span.contains(page)) {
        findings.vm(
            vm,
            "",
            Rule::Platform,
            format_args!(
                "its devices would send their MSIs to {page}, which lies in a PCI window of {path} as devices see it ({span})"
            ),
        );
    }
}

/// What raw regions leave of the windows; a problem where that isn't enough for a VM with functions there.
fn windows(given: &[&Given<'_>], board: &Board<'_>, findings: &mut Findings) -> Vec<Vec<Span<Gpa>>> {
    let raw = || given.iter().filter(|device| is_raw(device));
    let mut rest = |position: usize, path: &str, window: Span<Gpa>| {
        let blocks = raw().flat_map(|device| device.hardware.blocks.iter().map(|block| block.gpa));
        let rest = windows::rest(window, blocks);
        let used = given
            .iter()
            .any(|device| matches!(device.hardware.kind, Kind::Pci { host, .. } if host == position));
        if used && !windows::is_enough(window, rest) {
            let inside =
                |device: &&&Given<'_>| device.hardware.blocks.iter().any(|b| b.gpa.overlaps(&window));
            for device in raw().filter(inside) {
                findings.device(
                    device.reference(),
                    "base_gpa",
                    Rule::RegisterOverlap,
                    format_args!(
                        "it splits the PCI window {window} of {path}, in which this VM has functions: choose another `base_gpa`, best outside, or near an end of it"
                    ),
                );
            }
        }
        rest
    };
    let hosts = board.platform.pci_hosts.iter().zip(&board.bridges).enumerate();
    hosts
        .map(|(position, (host, bridge))| {
            bridge.windows.iter().map(|window| rest(position, &host.path, window.cpu)).collect()
        })
        .collect()
}

fn report_overlaps(
    vm: VmRef<'_>,
    config: &Vm,
    claims: &[Claim],
    given: &[&Given<'_>],
    findings: &mut Findings,
) {
    for (position, later) in claims.iter().enumerate() {
        for earlier in claims.iter().take(position).filter(|earlier| earlier.span.overlaps(&later.span)) {
            match (earlier.owner, later.owner) {
                // Two spans of the machine that overlap are the board's business.
                (earlier, later) if earlier.is_fixed() && later.is_fixed() => {}
                // What only CPUs reach may lie there.
                (Owner::Device(_), Owner::Bus) => {}
                // What it leaves of the window is looked at elsewhere.
                (Owner::Device(device), Owner::Window) if given.get(device).is_some_and(|it| is_raw(it)) => {}
                (Owner::Ram, Owner::Machine | Owner::Window | Owner::Bus) => findings.vm(
                    vm,
                    if config.memory_base.is_some() { "memory_base" } else { "memory" },
                    Rule::MemoryPlace,
                    format_args!(
                        "its RAM {} lies over {} at {}: choose another `memory_base` or less memory",
                        earlier.span, later.what, later.span
                    ),
                ),
                (Owner::Device(a), Owner::Device(b)) if a == b => {}
                (_, Owner::Device(device)) | (Owner::Device(device), Owner::Machine | Owner::Window) => {
                    let (mine, other) = match later.owner {
                        Owner::Device(_) => (later, earlier),
                        _ => (earlier, later),
                    };
                    if let Some(device) = given.get(device) {
                        overlap(device, mine, other, findings);
                    }
                }
                (_, Owner::Ram | Owner::Machine | Owner::Window | Owner::Bus) => {}
            }
        }
    }
}

fn is_raw(device: &Given<'_>) -> bool {
    matches!(device.hardware.kind, Kind::Region)
}

fn overlap(device: &Given<'_>, mine: &Claim, other: &Claim, findings: &mut Findings) {
    let raw = is_raw(device);
    findings.device(
        device.reference(),
        if raw { "base_gpa" } else { "" },
        Rule::RegisterOverlap,
        format_args!(
            "the guest would see its registers {} over {} at {}: {}",
            mine.span,
            other.what,
            other.span,
            if raw {
                "choose another `base_gpa`"
            } else {
                "choose another `memory_base` or give it to another VM"
            }
        ),
    );
}

/// The address bits that the map needs, and what of it lies past those that there are. PCI windows may reach further: what
/// lies past isn't offered.
fn report_reach(
    vm: VmRef<'_>,
    config: &Vm,
    claims: &[Claim],
    given: &[&Given<'_>],
    board: &Board<'_>,
    findings: &mut Findings,
) -> u8 {
    let bits = board.address_bits();
    let limit = 1u64 << bits;
    for claim in claims.iter().filter(|claim| claim.span.end().0 > limit) {
        match claim.owner {
            Owner::Machine | Owner::Window | Owner::Bus => {}
            Owner::Ram => findings.vm(
                vm,
                if config.memory_base.is_some() { "memory_base" } else { "memory" },
                Rule::MemoryPlace,
                format_args!(
                    "its RAM {} passes the {bits} address bits that CPUs and IOMMUs reach",
                    claim.span
                ),
            ),
            Owner::Device(device) => {
                if let Some(device) = given.get(device) {
                    findings.device(
                        device.reference(),
                        "base_gpa",
                        Rule::RegisterPlace,
                        format_args!(
                            "its registers {} pass the {bits} address bits that CPUs reach",
                            claim.span
                        ),
                    );
                }
            }
        }
    }
    let there = claims.iter().filter(|claim| claim.owner != Owner::Bus);
    let highest = there.map(|claim| claim.span.end().0).filter(|&end| end <= limit).max().unwrap_or(0);
    let needed = u64::BITS - highest.saturating_sub(1).leading_zeros();
    needed.clamp(32, u32::from(bits)) as u8
}
