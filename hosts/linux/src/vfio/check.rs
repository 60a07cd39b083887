//! What keeps devices of a plan from being taken from this Linux, said as the plan's own problems are.

use std::path::Path;

use axvm_addr::PciAddress;
use axvm_plan::Plan;
use axvm_plan::problem::{Problem, Rule};
use axvm_platform::sysfs::{Files, Function};
use axvm_rebind::{Refusal, Uses, VFIO_PCI, Wanted, check};
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

/// Why a function isn't taken from its driver by who doesn't see what it is used for.
const UNSEEN: &str = "what Linux uses it for isn't seen from here, as this process has namespaces of its own (a container's): have vfio-pci take it before, \
                      outside, or let this process see the machine's processes and networks (hostPID and hostNetwork in Kubernetes, \
                      --pid=host --network=host elsewhere)";

/// The PID namespace that every machine begins with (Linux, include/uapi/linux/nsfs.h: `PID_NS_INIT_INO`).
const FIRST_PIDS: &str = "pid:[4026531836]";

/// Whether this process sees what Linux uses: the machine's first process by its number, and its network interfaces.
fn sees_machine(files: &impl Files) -> bool {
    let network = |process| files.link(&format!("proc/{process}/ns/net"));
    let own = network("self");
    files.link("proc/self/ns/pid").as_deref() == Some(FIRST_PIDS) && own.is_some() && own == network("1")
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
    let sees = sees_machine(files);
    let mut problems = Vec::new();
    for it in planned.iter().filter(|_| !sees) {
        let found = functions.iter().find(|function| function.linux == it.linux);
        if found.is_some_and(|function| function.driver.as_deref() != Some(VFIO_PCI)) {
            let what = format!("vm \"{}\": {}: {UNSEEN}", it.vm, it.address);
            problems.push(Problem::new(it.item.clone(), Rule::DeviceReserved, what));
        }
    }
    let wanted: Vec<Wanted> =
        planned.iter().map(|it| Wanted { function: it.linux, uses: Uses::Keep }).collect();
    let refusals = check(files, functions, &wanted);
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

#[cfg(test)]
mod tests {
    use super::{FIRST_PIDS, sees_machine};
    use axvm_rebind::fake::Linux;

    #[test]
    fn a_process_in_namespaces_of_its_own_does_not_see_the_machine() {
        let with = |pid: &str, own: &str, first: &str| {
            let linux = Linux::new().link_to("proc/self/ns/pid", pid).link_to("proc/self/ns/net", own);
            sees_machine(&linux.link_to("proc/1/ns/net", first))
        };
        assert!(with(FIRST_PIDS, "net:[4026531840]", "net:[4026531840]"));
        assert!(!with(FIRST_PIDS, "net:[4026532000]", "net:[4026531840]"));
        assert!(!with("pid:[4026532001]", "net:[4026532000]", "net:[4026532000]"));
        // Who may not ask doesn't know.
        let unknown = Linux::new().link_to("proc/self/ns/pid", FIRST_PIDS);
        assert!(!sees_machine(&unknown) && !sees_machine(&Linux::new()));
    }
}
