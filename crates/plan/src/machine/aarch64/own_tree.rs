//! What a VM's own device tree says of its GIC, its timer and its firmware.

use axvm_platform::model::{Platform, PsciConduit};

use crate::own_tree::{Look, here};

pub(crate) fn look(look: &mut Look<'_>, tree: &Platform) {
    firmware(look, tree);
    interrupts(look, tree);
}

fn firmware(look: &mut Look<'_>, tree: &Platform) {
    let plan = look.plan;
    let known = |mpidr: u64| plan.cpus.iter().any(|vcpu| vcpu.hardware_id == mpidr);
    let named = tree.cpus.iter().filter(|cpu| known(cpu.hardware_id)).count();
    let started = tree.cpus.iter().filter(|cpu| cpu.usable && known(cpu.hardware_id)).count();
    match tree.psci() {
        None => look.note("has no PSCI: the guest can neither start CPUs nor end its VM"),
        Some(PsciConduit::Smc | PsciConduit::Hvc) if started < named => {
            look.note("has CPUs that aren't started by PSCI, the only way here");
        }
        Some(_) => {}
    }
}

fn interrupts(look: &mut Look<'_>, tree: &Platform) {
    let Some(planned) = look.plan.aarch64().and_then(|plan| plan.gic) else { return };
    let Some(gic) = tree.gic() else {
        return look.wrong("has no GICv3, which is the VM's interrupt controller");
    };
    if here(gic.distributor).start() != planned.distributor.start() {
        look.wrong(format_args!(
            "has the GIC's distributor at {}; the VM's is at {}",
            gic.distributor.start(),
            planned.distributor.start()
        ));
    }
    let redistributors = gic.redistributors.first().map(|&span| here(span));
    if redistributors.map(|span| span.start()) != Some(planned.redistributors.start()) {
        look.wrong(format_args!(
            "doesn't have the GIC's redistributors where the VM's are, at {}",
            planned.redistributors.start()
        ));
    } else if redistributors.is_some_and(|span| span.size() < planned.redistributors.size()) {
        look.wrong(format_args!(
            "has redistributors for fewer CPUs than the VM's: they take {}",
            planned.redistributors
        ));
    }
    match (gic.its.as_slice(), planned.its) {
        ([], Some(planned)) => {
            look.note(format_args!("has no ITS: no MSIs; the VM's is at {}", planned.registers.start()))
        }
        (its, planned) => {
            for its in its.iter().map(|its| here(its.registers)) {
                if planned.is_none_or(|planned| planned.registers.start() != its.start()) {
                    look.wrong(format_args!("has an ITS at {}, where the VM has none", its.start()));
                }
            }
        }
    }
    let ours = look.plan.description.timer;
    // Of the four the guest has the non-secure physical one and the virtual one.
    for (position, name) in [(1, "physical"), (2, "virtual")] {
        let said = tree.timer.get(position).map(|line| line.irq.0);
        if let (Some(said), Some(&planned)) = (said, ours.get(position))
            && said != planned
        {
            look.wrong(format_args!("has the {name} timer at INTID {said}; it is at {planned}"));
        }
    }
    if tree.timer.is_empty() {
        look.note("has no timer");
    }
}
