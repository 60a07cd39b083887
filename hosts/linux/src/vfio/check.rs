//! What keeps devices of a plan from being taken from this Linux, said as the plan's own problems are.

use std::collections::BTreeSet;
use std::path::Path;

use axvm_addr::PciAddress;
use axvm_plan::Plan;
use axvm_plan::problem::{Problem, Rule};
use axvm_platform::sysfs::{Files, Function, Use};
use axvm_rebind::{Refusal, Uses, VFIO_PCI, Wanted, fate};
use axvm_system::model::{Device, InUse, Item, System};

use super::way::Way;
use crate::probe::Root;

/// A device of the plan's.
struct Planned {
    item: Item,
    vm: String,
    /// Its address in the plan, and in Linux.
    address: PciAddress,
    linux: PciAddress,
    uses: Uses,
}

/// What was found of a plan's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What keeps them.
    pub problems: Vec<Problem>,
    /// By which way they are given, and what becomes of those that are taken though Linux uses them, for people.
    pub notes: Vec<String>,
    /// Those that may be taken though Linux uses them, now or when a VM starts later, as Linux calls them: all VMs that name them say so.
    pub in_use: BTreeSet<PciAddress>,
}

/// What the file says of a device that Linux uses.
fn uses(system: &System, vm: u16, position: u16) -> Uses {
    let vm = system.vms.get(usize::from(vm));
    match vm.and_then(|vm| vm.devices.get(usize::from(position))) {
        Some(Device::Pci { in_use: InUse::Take, .. }) => Uses::End,
        _ => Uses::Keep,
    }
}

/// Why a function isn't taken from its driver by who doesn't see what it is used for.
const UNSEEN: &str = "what Linux uses it for isn't seen from here, as this process has namespaces of its own (a container's): have vfio-pci take it before, \
                      outside, or let this process see the machine's processes and networks (hostPID and hostNetwork in Kubernetes, \
                      --pid=host --network=host elsewhere)";

/// Why none is given at all.
const NO_WAY: &str = "no PCI function can be given to a VM here: there is neither VFIO's container for groups (/dev/vfio/vfio) nor iommufd with nodes of \
                      functions (/dev/iommu, /dev/vfio/devices); a container has to be handed them";

/// The PID namespace that every machine begins with (Linux, include/uapi/linux/nsfs.h: `PID_NS_INIT_INO`).
const FIRST_PIDS: &str = "pid:[4026531836]";

/// The same of who may not even ask.
const UNKNOWN: &str = "what Linux uses it for isn't known here, as this process may not ask whether it has the machine's networks: run it as root, or grant \
                       it CAP_SYS_PTRACE, by which /proc/1/ns is read; or have vfio-pci take it before";

/// Why this process doesn't see what Linux uses: it has to be among the machine's processes, and have its network interfaces. `None`: it does.
fn unseen(files: &impl Files) -> Option<&'static str> {
    let network = |process| files.link(&format!("proc/{process}/ns/net"));
    if files.link("proc/self/ns/pid").as_deref() != Some(FIRST_PIDS) {
        return Some(UNSEEN);
    }
    match (network("self"), network("1")) {
        (Some(own), Some(first)) => (own != first).then_some(UNSEEN),
        _ => Some(UNKNOWN),
    }
}

/// What keeps those of a plan for this machine, whose functions these are ([`crate::probe::found`]). Who may not even see what there is has been told so by
/// the plan.
pub fn here(functions: &[Function], system: &System, plan: &Plan) -> Found {
    check(&Root::new(Path::new("/")), functions, system, plan)
}

/// All of it, of all VMs: those that start later get theirs by the same rules.
pub fn check(files: &impl Files, functions: &[Function], system: &System, plan: &Plan) -> Found {
    let mut planned = Vec::new();
    for (vm, of) in (0..).zip(&plan.vms) {
        for (position, device) in (0..).zip(&of.devices) {
            let Some(address) = device.pci else { continue };
            let item = Item::Device(vm, position, "pci".into());
            let found = functions.iter().find(|it| it.address == Some(address));
            let linux = found.map_or(address, |it| it.linux);
            let uses = uses(system, vm, position);
            planned.push(Planned { item, vm: of.name.clone(), address, linux, uses });
        }
    }
    let unseen = unseen(files);
    let mut problems = Vec::new();
    for (it, why) in planned.iter().flat_map(|it| unseen.map(|why| (it, why))) {
        let found = functions.iter().find(|function| function.linux == it.linux);
        if found.is_some_and(|function| function.driver.as_deref() != Some(VFIO_PCI)) {
            let what = format!("vm \"{}\": {}: {why}", it.vm, it.address);
            problems.push(Problem::new(it.item.clone(), Rule::DeviceReserved, what));
        }
    }
    let wanted: Vec<Wanted> = planned.iter().map(|it| Wanted { function: it.linux, uses: it.uses }).collect();
    let refusals = axvm_rebind::check(files, functions, &wanted);
    let mut notes = Vec::new();
    // Without vfio-pci, which is said, there may be no way yet either.
    if !wanted.is_empty() && !refusals.contains(&Refusal::NoVfioPci) {
        match Way::of(files) {
            Some(way) => notes.push(way.note().to_owned()),
            None => problems.push(Problem::new(Item::Board(String::new()), Rule::Platform, NO_WAY)),
        }
    }
    for refusal in refusals {
        let (function, rule) = match &refusal {
            Refusal::NoVfioPci => {
                problems.push(Problem::new(Item::Board(String::new()), Rule::Platform, refusal.to_string()));
                continue;
            }
            Refusal::Missing { function } => (*function, Rule::DeviceAbsent),
            Refusal::InUse { function, .. } | Refusal::Stays { function, .. } => {
                (*function, Rule::DeviceReserved)
            }
            Refusal::NoGroup { function } => (*function, Rule::Dma),
            Refusal::GroupMember { function, .. } => (*function, Rule::Group),
        };
        let what = match &refusal {
            Refusal::InUse { .. } => format!(
                "{refusal}: it isn't taken while that is so, unless the file says so: `in_use = \"take\"` in its [[vm.device]]"
            ),
            Refusal::Stays { .. } => {
                format!("{refusal}: it isn't taken while that is so, whatever `in_use` says: end that first")
            }
            _ => refusal.to_string(),
        };
        // Of those that name it, who doesn't say that its uses end.
        let is_of = |it: &&Planned| match &refusal {
            Refusal::InUse { .. } => it.uses == Uses::Keep,
            _ => true,
        };
        for it in planned.iter().filter(|it| it.linux == function).filter(is_of) {
            let called = if it.linux == it.address { String::new() } else { format!("{}: ", it.address) };
            let problem = Problem::new(it.item.clone(), rule, format!("vm \"{}\": {called}{what}", it.vm));
            // A function that several VMs name is theirs one after the other.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    let keeps = |linux| planned.iter().any(|it| it.linux == linux && it.uses == Uses::Keep);
    let in_use: BTreeSet<PciAddress> = planned.iter().map(|it| it.linux).filter(|it| !keeps(*it)).collect();
    for it in planned.iter().filter(|it| in_use.contains(&it.linux)) {
        let function = functions.iter().find(|function| function.linux == it.linux);
        let uses = function.into_iter().flat_map(|function| &function.uses).filter(|it| it.is_in_use());
        let fates: Vec<String> = uses.map(|it: &Use| fate(it)).collect();
        if !fates.is_empty() {
            let fates = fates.join("; ");
            notes.push(format!(
                "vm \"{}\": {}: it is in use, and taken all the same: {fates}",
                it.vm, it.address
            ));
        }
    }
    Found { problems, notes, in_use }
}

#[cfg(test)]
mod tests;
