//! What keeps devices of a plan from being taken from this Linux, said as the plan's own problems are.

use std::path::Path;

use axvm_addr::PciAddress;
use axvm_plan::Plan;
use axvm_plan::problem::{Problem, Rule};
use axvm_platform::sysfs::{Files, Function};
use axvm_rebind::{Refusal, Uses, Wanted, check};
use axvm_system::model::Item;

use crate::probe::{self, Root};

/// A device of the plan's.
struct Planned {
    item: Item,
    vm: String,
    /// Its address in the plan, and in Linux.
    address: PciAddress,
    linux: PciAddress,
}

/// What keeps those of a plan for this machine. Who may not even see what there is has been told so by the plan.
pub fn here(plan: &Plan) -> Vec<Problem> {
    let functions = probe::found().map(|machine| machine.functions).unwrap_or_default();
    problems(&Root::new(Path::new("/")), &functions, plan)
}

/// All of it, of all VMs: those that start later get theirs by the same rules.
pub fn problems(files: &impl Files, functions: &[Function], plan: &Plan) -> Vec<Problem> {
    let mut planned = Vec::new();
    for (vm, of) in (0..).zip(&plan.vms) {
        for (position, device) in (0..).zip(&of.devices) {
            let Some(address) = device.pci else { continue };
            let item = Item::Device(vm, position, "pci".into());
            let found = functions.iter().find(|it| it.address == Some(address));
            let linux = found.map_or(address, |it| it.linux);
            planned.push(Planned { item, vm: of.name.clone(), address, linux });
        }
    }
    let wanted: Vec<Wanted> =
        planned.iter().map(|it| Wanted { function: it.linux, uses: Uses::Keep }).collect();
    let refusals = check(files, functions, &wanted);
    let mut problems = Vec::new();
    for refusal in refusals {
        let (function, rule) = match &refusal {
            Refusal::NoVfioPci => {
                problems.push(Problem::new(Item::Board(String::new()), Rule::Platform, refusal.to_string()));
                continue;
            }
            Refusal::Missing { function } => (*function, Rule::DeviceAbsent),
            Refusal::InUse { function, .. } => (*function, Rule::DeviceReserved),
            Refusal::NoGroup { function } => (*function, Rule::Dma),
            Refusal::GroupMember { function, .. } => (*function, Rule::Group),
        };
        let what = match &refusal {
            Refusal::InUse { .. } => format!("{refusal}: it isn't taken while that is so"),
            _ => refusal.to_string(),
        };
        for it in planned.iter().filter(|it| it.linux == function) {
            let called = if it.linux == it.address { String::new() } else { format!("{}: ", it.address) };
            let problem = Problem::new(it.item.clone(), rule, format!("vm \"{}\": {called}{what}", it.vm));
            // A function that several VMs name is theirs one after the other.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    problems
}
