//! One VM's plan, put together from what the other stages found.

use alloc::vec::Vec;

use axvm_addr::{Iova, MsiControllerId, PciSpace, PciWindow, VcpuId, VmId};
use axvm_pci::BarKind;
use axvm_system::model::Vm;

use super::board::Board;
use super::describe;
use super::findings::{Findings, VmRef};
use super::hardware::{Given, Kind};
use super::layout::Layout;
use super::linux;
use super::load;
use super::machine::{self, Mode};
use super::model::{
    Blob, DevicePlan, Doorbell, LineRoute, LoadPlan, MsiPlan, PciPlan, PortPlan, Presence, RamPiece,
    RegisterPlan, VcpuPlan, VmPlan,
};
use crate::config::{MappingFlags, VMInterruptMode};
use crate::problem::Rule;

/// What the other stages have found for one VM.
pub(super) struct Parts<'a> {
    /// The VM, for what is said of it.
    pub(super) vm: VmRef<'a>,
    /// Its section of the file.
    pub(super) config: &'a Vm,
    /// How its interrupts are delivered.
    pub(super) mode: Mode,
    /// Its RAM, and where in the machine that is.
    pub(super) ram: Vec<RamPiece>,
    /// Where its images go.
    pub(super) load: LoadPlan,
    /// Where everything else is that it sees.
    pub(super) layout: &'a Layout,
    /// Its devices.
    pub(super) given: &'a [&'a Given<'a>],
}

/// The plan of one VM.
pub(super) fn assemble(parts: Parts<'_>, board: &Board<'_>, findings: &mut Findings) -> VmPlan {
    let Parts { vm, config, mode, ram, load, layout, given } = parts;
    let silent = mode.mode == VMInterruptMode::NoIrq;
    let mut plan = VmPlan {
        id: VmId(vm.index),
        name: config.name.clone(),
        autostart: config.autostart,
        on_violation: config.on_violation,
        on_reset: config.on_reset,
        on_crash: config.on_crash,
        watchdog: layout.watchdog,
        mode: mode.mode,
        messages: 0..0,
        table_bytes: 0,
        cpus: (0..)
            .zip(&config.cpus)
            .map(|(vcpu, &cpu)| VcpuPlan { cpu, hardware_id: board.machine.vcpu_id(vcpu) })
            .collect(),
        address_bits: layout.address_bits,
        ram,
        registers: registers(given, findings),
        ports: ports(given),
        devices: given.iter().map(|device| device_plan(device, given, silent, findings)).collect(),
        doorbells: if silent { Vec::new() } else { doorbells(given, layout, board) },
        lines: if silent { Vec::new() } else { lines(given, mode) },
        line_numbers: linux::line_numbers(board.platform),
        machine: layout.machine.clone(),
        console: layout.console,
        pci: bridges(given, board, layout),
        load,
        description: axvm_guest::Description::default(),
        blobs: Vec::new(),
    };
    plan.description = describe::describe(&plan, &config.cmdline, given, board);
    if config.dtb.is_none() {
        plan.blobs = blobs(vm, config, &plan, findings);
    }
    plan
}

/// What the guest is told of its machine, written here so that what can't be written is a problem of the plan.
fn blobs(vm: VmRef<'_>, config: &Vm, plan: &VmPlan, findings: &mut Findings) -> Vec<Blob> {
    // That its command line can't be said has been.
    if !load::is_command_line(&plan.description.cmdline) {
        return Vec::new();
    }
    let by = plan.machine.words().guest_by;
    let blobs = machine::write(plan).unwrap_or_else(|error| {
        findings.vm(vm, "", Rule::Description, format_args!("its {by} can't be written: {error}"));
        Vec::new()
    });
    let room = plan.load.description.size();
    let written = blobs.first().map_or(0, |first| first.bytes.len());
    if written as u64 > room {
        findings.vm(
            vm,
            if config.device_tree.is_some() { "device_tree" } else { "memory" },
            Rule::ImageFit,
            format_args!(
                "its {by} has {written} bytes, but there is room for {room} at {}: {}",
                plan.load.description.start(),
                if config.device_tree.is_some() {
                    "choose another `device_tree`"
                } else {
                    "give it more memory"
                }
            ),
        );
    }
    blobs
}

fn ports(given: &[&Given<'_>]) -> Vec<PortPlan> {
    let of = |(device, at): (u16, &&Given<'_>)| {
        let blocks: Vec<PortPlan> = at
            .hardware
            .ports
            .iter()
            .map(|block| PortPlan { device, ports: block.ports, direct: block.direct })
            .collect();
        blocks
    };
    (0..).zip(given).flat_map(of).collect()
}

fn registers(given: &[&Given<'_>], findings: &mut Findings) -> Vec<RegisterPlan> {
    let mut registers = Vec::new();
    for (device, at) in (0..).zip(given) {
        for block in &at.hardware.blocks {
            let direct = block.direct && block.mappable();
            if block.direct && !direct {
                findings.note(format_args!(
                    "{}: {}: registers {} aren't whole pages: each access exits and is forwarded",
                    at.vm, at.name, block.hpa
                ));
            }
            let flags = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::USER | MappingFlags::DEVICE;
            registers.push(RegisterPlan { device, gpa: block.gpa, hpa: block.hpa.start(), direct, flags });
        }
    }
    registers
}

fn device_plan(
    device: &Given<'_>,
    given: &[&Given<'_>],
    silent: bool,
    findings: &mut Findings,
) -> DevicePlan {
    let (pci, shown, reset) = match device.hardware.kind {
        Kind::Pci { address, shown, reset, function, .. } => {
            if function.is_some() && reset.is_none() {
                findings.note(format_args!(
                    "{}: {}: it is given without a reset, as the file says: what one owner leaves in it reaches the next",
                    device.vm, device.name
                ));
            }
            (Some(address), Some(shown), reset)
        }
        Kind::Node(_) | Kind::Region | Kind::Ports => (None, None, None),
    };
    DevicePlan {
        id: device.id(),
        name: device.name.clone(),
        pci,
        shown,
        group: device.hardware.group,
        reset,
        sources: device.hardware.sources.clone(),
        msi: if silent { None } else { device.hardware.msi.map(|msi| with_alike(msi, given)) },
        intx: pci.is_some() && !silent && !device.hardware.lines.is_empty(),
        presence: Presence::Here,
    }
}

/// The MSIs of all devices that send theirs with the same id, as those behind a bridge to conventional PCI do: their events
/// are one space, from which the guest gives each its own.
fn with_alike(msi: MsiPlan, given: &[&Given<'_>]) -> MsiPlan {
    let alike = given.iter().filter_map(|other| other.hardware.msi);
    let alike = alike.filter(|other| other.source == msi.source);
    MsiPlan { messages: alike.fold(0, |sum: u16, other| sum.saturating_add(other.messages)), ..msi }
}

/// The doorbell page of every controller that a device's MSIs go to.
fn doorbells(given: &[&Given<'_>], layout: &Layout, board: &Board<'_>) -> Vec<Doorbell> {
    let mut controllers: Vec<MsiControllerId> =
        given.iter().filter_map(|device| Some(device.hardware.msi?.source.controller)).collect();
    controllers.sort_unstable();
    controllers.dedup();
    let page = |controller| {
        let iova = Iova(layout.machine.doorbell(controller)?.0);
        Some(Doorbell { iova, hpa: board.machine.doorbell(board.platform, controller)? })
    };
    controllers.into_iter().filter_map(page).collect()
}

/// Every line once: functions of one VM may share theirs.
fn lines(given: &[&Given<'_>], mode: Mode) -> Vec<LineRoute> {
    let mut lines: Vec<LineRoute> = Vec::new();
    for (device, at) in (0..).zip(given) {
        for line in &at.hardware.lines {
            if !lines.iter().any(|route| route.irq == line.irq) {
                lines.push(LineRoute {
                    device,
                    irq: line.irq,
                    trigger: line.trigger,
                    vcpu: VcpuId(0),
                    masked: mode.lines_exposed && mode.mode == VMInterruptMode::Emulated,
                });
            }
        }
    }
    lines
}

/// A bridge for each host bridge with functions of the VM.
fn bridges(given: &[&Given<'_>], board: &Board<'_>, layout: &Layout) -> Vec<PciPlan> {
    let limit = 1u64 << layout.address_bits.min(63);
    let rests = |host: usize| layout.windows.get(host).into_iter().flatten();
    let of_host = |wanted: usize| {
        let functions = (0..).zip(given).filter_map(move |(index, device)| match device.hardware.kind {
            Kind::Pci { host, .. } if host == wanted => Some(index),
            _ => None,
        });
        functions.collect::<Vec<u16>>()
    };
    board
        .bridges
        .iter()
        .enumerate()
        .map(|(host, bridge)| (host, bridge, of_host(host)))
        .filter(|(_, _, functions)| !functions.is_empty())
        .map(|(host, bridge, functions)| PciPlan {
            host,
            ecam: bridge.ecam,
            buses: bridge.buses,
            windows: bridge
                .windows
                .iter()
                .zip(rests(host))
                .filter(|(window, _)| window.space != PciSpace::Io && window.cpu.end().0 <= limit)
                .filter_map(|(window, &rest)| {
                    // Nothing may be left of it.
                    let offset =
                        rest.start().0.checked_sub(window.cpu.start().0).filter(|_| !rest.is_empty())?;
                    Some(PciWindow {
                        pci: window.pci.checked_add(offset)?,
                        cpu: rest,
                        space: window.space,
                        prefetchable: window.prefetchable,
                    })
                })
                .collect(),
            ports: bridge.ports.filter(|_| has_ports(host, given)),
            port_memory: bridge.port_memory.filter(|_| has_ports(host, given)),
            functions,
        })
        .collect()
}

/// Whether a function of the VM's behind a bridge has BARs of ports.
fn has_ports(host: usize, given: &[&Given<'_>]) -> bool {
    given.iter().any(|device| match device.hardware.kind {
        Kind::Pci { host: at, function: Some(found), .. } => {
            at == host && found.function.bars.iter().any(|bar| bar.kind == BarKind::Io)
        }
        _ => false,
    })
}
