//! Plans for a Linux host.

use alloc::format;

use axvm_platform::limits::{LinuxHost, Serves};

use super::*;
use crate::config::VMInterruptMode;
use crate::problem::{Problem, Rule};

/// The board of the fixtures, with a Linux that offers this.
fn with_linux(guests: Serves, functions: Serves) -> Platform {
    let board = board();
    Platform { limits: board.limits.of_linux(LinuxHost { guests, functions }), ..board }
}

#[test]
fn a_linux_keeps_no_cpu_for_axvm_and_its_guests_see_a_machine_of_their_own() {
    let system = system(vec![vm("a", &[0, 1], vec![])]);
    let plan = plan_of(&system, &with_linux(Serves::Yes, Serves::No)).unwrap();
    assert_eq!((plan.hypervisor_cpu, &plan.console), (None, &None));
    let vm = &plan.vms[0];
    assert_eq!(vm.ram[0].gpa.start().0, 0x8000_0000);
    assert_eq!(vm.mode, VMInterruptMode::Emulated);
    // What KVM's vCPUs have, whatever the board has.
    assert_eq!(vm.description.timer, [29, 30, 27, 26]);
    assert_eq!(vm.aarch64().unwrap().gic.unwrap().its, None);
    let shown = format!("{plan}");
    assert!(shown.starts_with("host: Linux\n") && !shown.contains(" at 0x4"), "{shown}");
    // On bare metal CPU 0 is the hypervisor's.
    assert!(plan_of(&system, &board()).is_err());
}

fn plan_of(system: &System, platform: &Platform) -> Result<Plan, Vec<Problem>> {
    plan(system, platform, &images(system.vms.len()))
}

#[test]
fn what_means_nothing_there_is_a_note() {
    let mut system = system(vec![vm("a", &[1], vec![])]);
    system.hypervisor = Hypervisor { cpu: Some(CpuId(1)), console: Some("/nowhere".into()) };
    system.board.qemu = Some(vec!["-M".into(), "virt".into()]);
    let plan = plan_of(&system, &with_linux(Serves::Yes, Serves::No)).unwrap();
    for what in ["`[hypervisor] cpu`", "`[hypervisor] console`", "`[board] qemu`"] {
        let said = |note: &&String| note.starts_with(what) && note.contains("ignored");
        assert_eq!(plan.notes.iter().filter(said).count(), 1, "{what}: {:?}", plan.notes);
    }
    assert!(plan.notes.iter().any(|note| note.contains("interrupts are emulated")), "{:?}", plan.notes);
}

#[test]
fn what_cant_be_had_there_is_a_problem() {
    let mut one = vm("a", &[1], vec![]);
    one.devices = vec![pci(2, 0), node("/pl031@9010000"), region("gpio", 0x1000_0000, 0x0903_0000, 0x1000)];
    one.interrupts = InterruptChoice::Passthrough;
    let system = system(vec![one]);
    let problems = plan_of(&system, &with_linux(Serves::No, Serves::No)).unwrap_err();
    let rules: Vec<Rule> = problems.iter().map(|problem| problem.rule).collect();
    let unsupported = Rule::DeviceUnsupported;
    assert_eq!(
        rules,
        [Rule::Platform, Rule::InterruptMode, unsupported, unsupported, unsupported],
        "{problems:?}"
    );
    assert!(problems[0].message.contains("/dev/kvm"), "{}", problems[0]);
}

#[test]
fn a_cpu_that_linux_has_offline_isnt_given() {
    let mut platform = with_linux(Serves::Yes, Serves::No);
    platform.cpus[2].usable = false;
    let problems = plan_of(&system(vec![vm("a", &[2], vec![])]), &platform).unwrap_err();
    assert_eq!(problems[0].rule, Rule::CpuAbsent);
    assert!(problems[0].message.contains("Linux has it offline"), "{}", problems[0]);
}
