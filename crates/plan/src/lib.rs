#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod config;
pub mod files;
#[cfg(any(test, feature = "fake"))]
pub mod fixtures;
mod own_devices;
pub mod own_tree;
pub mod problem;

mod apart;
mod assemble;
mod base;
mod board;
mod console;
mod describe;
mod emulated;
mod findings;
mod given;
mod hardware;
mod judge;
mod layout;
mod limits;
mod linux;
mod load;
pub mod machine;
mod memory;
mod model;
mod pci;
mod places;
mod ports;
mod replan;
mod sharing;
mod show;
mod slots;
mod suggest;
mod things;
mod windows;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use axvm_addr::{CpuId, Gpa, Hpa, Span};
use axvm_guest::image::Images;
use axvm_platform::model::Platform;
use axvm_system::model::{Item, System, Vm};

pub use console::Console;
pub use machine::MachinePlan;
pub use machine::aarch64::{Aarch64Plan, GicPlan, ItsPlan};
pub use machine::x86_64::{EntryPlan, IoApicPlan, PowerPlan, X86_64Plan};
pub use model::*;
pub use problem::{Problem, Rule};
pub use replan::{
    Assignment, Change, Holder, Refusal, Replanned, Running, Withheld, in_force, plan_with, replan,
    stands_alone,
};
pub use show::reset_name;
pub use things::{Thing, things_of_devices, things_of_vm};

use apart::{Apart, Bond};
use assemble::Parts;
use board::Board;
use findings::{Bytes, Findings, VmRef};
use hardware::Given;
use layout::Room;
use memory::{BLOCK, Memory};

/// Plans all VMs of a system at once.
///
/// # Errors
///
/// Every problem that there is, in the order of the file: board, hypervisor, VMs, their CPUs, their devices.
pub fn plan(system: &System, platform: &Platform, images: &Images) -> Result<Plan, Vec<Problem>> {
    let mut findings = Findings::default();
    let linux = linux::host(platform);
    let board = Board::new(system, platform, &mut findings);
    if let Some(linux) = linux {
        linux::check(system, linux, &mut findings);
    }
    check_vms(system, &board, &mut findings);
    limits::check_life(system, &board, &mut findings);
    for unclear in &platform.unclear {
        findings.note(format_args!("the board: {unclear}"));
    }
    let mut apart = Apart::new(&board);
    check_cpus(system, &board, &mut apart, &mut findings);
    let mut given = given::resolve(system, &board, &mut findings);
    sharing::check(&mut given, system, &board, &mut apart, &mut findings);
    if linux.is_some() {
        linux::number_lines(&mut given, board.machine, &mut findings);
    }
    apart.say(system, &mut findings);
    limits::check_devices(&given, &board, &mut findings);
    slots::place(&mut given, &board, &mut findings);
    places::place_devices(&mut given, &board, &mut findings);

    let kept: Vec<&Given<'_>> = given.iter().filter(|device| !device.refused).collect();
    let modes = match linux {
        Some(_) => linux::modes(system, &mut findings),
        None => board.machine.modes(system, &kept, &board, &apart, &mut findings),
    };
    let mut memory = Memory::new(platform);
    let mut vms = Vec::new();
    for ((index, config), mode) in (0..).zip(&system.vms).zip(modes).take(platform.limits.vms.into()) {
        let vm = VmRef::of(system, index);
        let ram = ram(vm, config, &board, &apart, &mut memory, &mut findings);
        let devices: Vec<&Given<'_>> =
            given.iter().filter(|device| device.vm.index == index && !device.refused).collect();
        // Where RAM is short the rest is checked with the RAM that was asked for.
        let seen = ram.as_ref().map(|ram| memory::banks(ram)).or_else(|| wanted(config, &board));
        let seen = seen.unwrap_or_default();
        let images = images.vms.get(usize::from(index));
        let room = Room { mode, ram: &seen, images };
        let layout = layout::lay_out(vm, config, room, &devices, &board, &mut findings);
        let first = seen.first().copied();
        if let Some(first) = first {
            base::note_high(vm, config, first, &devices, &board, &mut findings);
        }
        let images = load::check(vm, config, images, &board, &mut findings);
        let load = first
            .zip(images)
            .and_then(|(first, images)| board.machine.place(vm, config, images, first, &mut findings));
        if let (Some(ram), Some(load)) = (ram, load) {
            let parts = Parts { vm, config, mode, ram, load, layout: &layout, given: &devices };
            let plan = assemble::assemble(parts, &board, &mut findings);
            emulated::check(vm, &plan, &mut findings);
            if !board.machine.has_no_ports() {
                ports::check_places(vm, &plan, &devices, &mut findings);
            }
            vms.push(plan);
        }
    }
    limits::check_sums(&mut vms, &kept, &apart, &platform.limits, &mut findings);
    if linux.is_none() {
        board.machine.note_unused(platform, &mut findings);
    }
    let Findings { mut problems, mut notes } = findings;
    if problems.is_empty() {
        let incomplete = platform.functions.is_none() && given.iter().any(|device| device.is_pci());
        if incomplete {
            notes.push(
                "incomplete: the platform lists no PCI functions, so those of the file are planned unseen"
                    .into(),
            );
        }
        return Ok(Plan {
            hypervisor_cpu: board.hypervisor_cpu,
            console: board.console,
            console_lent: board
                .lent
                .map(|lent| ConsoleLent { aside: lent.aside.map(|device| device.path.clone()) }),
            vms,
            notes,
            incomplete,
        });
    }
    problems.sort_by(|a, b| a.item.cmp(&b.item));
    problems.dedup();
    Err(problems)
}

fn check_vms(system: &System, board: &Board<'_>, findings: &mut Findings) {
    if system.vms.is_empty() {
        findings.general(Item::File, Rule::VmName, "the file has no [[vm]]: there is nothing to run");
    }
    let most = board.platform.limits.vms;
    if system.vms.len() > usize::from(most) {
        findings.vm(
            VmRef::of(system, most),
            "",
            Rule::Limit,
            format_args!(
                "it is one too many: at most {most} VMs are served, since each has a {} of its own",
                board.machine.words().tag
            ),
        );
    }
    for (index, config) in (0..).zip(&system.vms) {
        let vm = VmRef::of(system, index);
        if config.name.is_empty() {
            findings.vm(vm, "name", Rule::VmName, "it needs a name");
        } else if let Some(first) = system.vms.iter().position(|other| other.name == config.name)
            && first < usize::from(index)
        {
            findings.vm(
                vm,
                "name",
                Rule::VmName,
                format_args!(
                    "the VMs at positions {} and {} have one name: rename one",
                    first + 1,
                    u32::from(index) + 1
                ),
            );
        }
    }
}

fn check_cpus(system: &System, board: &Board<'_>, apart: &mut Apart, findings: &mut Findings) {
    let mut owners: Vec<(CpuId, u16)> = Vec::new();
    for (index, config) in (0..).zip(&system.vms) {
        let vm = VmRef::of(system, index);
        if config.cpus.is_empty() {
            findings.vm(
                vm,
                "cpus",
                Rule::CpuAbsent,
                "it has no CPU: a VM needs one at least, as in `cpus = [1]`",
            );
        }
        let most = board.platform.limits.vcpus;
        if config.cpus.len() > usize::from(most) {
            findings.vm(
                vm,
                "cpus",
                Rule::Limit,
                format_args!(
                    "it has {} CPUs: a virtual interrupt controller serves {most}",
                    config.cpus.len()
                ),
            );
        }
        for (position, &cpu) in (0..).zip(&config.cpus) {
            check_cpu(vm, position, cpu, board, findings);
            let before: Vec<u16> =
                owners.iter().filter(|(taken, _)| *taken == cpu).map(|&(_, owner)| owner).collect();
            if apart.allows_sharing() && !before.contains(&index) {
                for &owner in &before {
                    apart.note(system, (owner, index), Bond::Lasting, format_args!("CPU {cpu}"), findings);
                }
            } else if let Some(&owner) = before.first() {
                // Where VMs may share, it is its own.
                let owner = VmRef::of(system, if apart.allows_sharing() { index } else { owner });
                if owner.index == index {
                    findings.cpu(
                        vm,
                        position,
                        Rule::CpuTwice,
                        format_args!("CPU {cpu} is given to it twice"),
                    );
                } else {
                    findings.cpu(
                        vm,
                        position,
                        Rule::CpuTwice,
                        format_args!("CPU {cpu} is given to {owner} already: a CPU runs one vCPU"),
                    );
                }
            }
            owners.push((cpu, index));
        }
    }
}

fn check_cpu(vm: VmRef<'_>, position: u16, cpu: CpuId, board: &Board<'_>, findings: &mut Findings) {
    let cpus = &board.platform.cpus;
    match cpus.get(usize::from(cpu.0)) {
        None if cpus.is_empty() => {}
        None => findings.cpu(
            vm,
            position,
            Rule::CpuAbsent,
            format_args!("CPU {cpu} isn't there: the board has CPUs 0 to {}", cpus.len() - 1),
        ),
        Some(_) if Some(cpu) == board.hypervisor_cpu => findings.cpu(
            vm,
            position,
            Rule::CpuReserved,
            format_args!("CPU {cpu} is the hypervisor's own: give another, or say `[hypervisor] cpu = ..`"),
        ),
        Some(found) if !found.usable => findings.cpu(
            vm,
            position,
            Rule::CpuAbsent,
            format_args!("CPU {cpu} ({}) can't be started: {}", found.path, cant_start(board)),
        ),
        Some(_) => {}
    }
}

fn cant_start(board: &Board<'_>) -> &'static str {
    match linux::host(board.platform) {
        Some(_) => "Linux has it offline",
        None => board.machine.words().cant_start,
    }
}

/// The RAM that was asked for, wherever on the board it would be.
fn wanted(config: &Vm, board: &Board<'_>) -> Option<Vec<Span<Gpa>>> {
    (config.memory > 0).then_some(())?;
    let pieces = [(Hpa(0), config.memory)];
    let ram = memory::lay_out(base::of(config, board)?, board.machine.ram_areas(), &pieces)?;
    Some(memory::banks(&ram))
}

fn ram(
    vm: VmRef<'_>,
    config: &Vm,
    board: &Board<'_>,
    apart: &Apart,
    memory: &mut Memory,
    findings: &mut Findings,
) -> Option<Vec<RamPiece>> {
    let mut sound = true;
    if config.memory == 0 || !config.memory.is_multiple_of(BLOCK) {
        findings.vm(
            vm,
            "memory",
            Rule::Alignment,
            format_args!(
                "memory is {}, but RAM comes in blocks of 2M: say \"{}\"",
                Bytes(config.memory),
                Bytes(config.memory.checked_next_multiple_of(BLOCK).unwrap_or(BLOCK).max(BLOCK))
            ),
        );
        sound = false;
    }
    let base = base::of(config, board)?;
    if !base.0.is_multiple_of(BLOCK) {
        findings.vm(
            vm,
            "memory_base",
            Rule::Alignment,
            format_args!("memory_base {base} isn't a multiple of 2M (0x200000)"),
        );
        sound = false;
    }
    if config.memory_base.is_some() && !board.machine.ram_areas().is_empty() {
        findings.vm(
            vm,
            "memory_base",
            Rule::MemoryPlace,
            "guests of this board have their RAM from 0 on, as their kernels take for granted: leave `memory_base` out",
        );
        sound = false;
    }
    if !sound {
        return None;
    }
    // Of VMs that never run together one may have what the other has, if there isn't enough for both.
    let near = memory::near(board.platform, &config.cpus);
    let own = memory.left(|_| true).take_near(config.memory, &near);
    let mut left = memory.left(|other| apart.may_meet(vm.index, other));
    let available = left.available();
    let Some(pieces) = own.or_else(|| left.take_near(config.memory, &near)) else {
        findings.vm(
            vm,
            "memory",
            Rule::MemoryFit,
            format_args!(
                "memory is {}, but {} of the board's {} are left: the hypervisor, reservations and the VMs before it \
                 have the rest",
                Bytes(config.memory),
                Bytes(available),
                Bytes(board.platform.memory.iter().fold(0, |sum, bank| sum.saturating_add(bank.size())))
            ),
        );
        return None;
    };
    memory.give(vm.index, &pieces);
    if !memory::is_near(&pieces, &near) {
        findings.note(format_args!(
            "{vm}: not all of its RAM is near its CPUs: of the memory of their proximity domain too little is left"
        ));
    }
    let ram = memory::lay_out(base, board.machine.ram_areas(), &pieces);
    if ram.is_none() {
        let (key, what) = match board.machine.ram_areas() {
            [] => ("memory_base", "the end of the address space: choose another `memory_base`"),
            _ => ("memory", "what there is room for: give it less memory"),
        };
        findings.vm(vm, key, Rule::MemoryPlace, format_args!("its RAM passes {what}"));
    }
    ram
}
