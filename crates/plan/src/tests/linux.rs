//! Plans for a Linux host.

use alloc::format;

use axvm_platform::limits::{Limits, LinuxHost, Serves};

use super::*;
use crate::config::VMInterruptMode;
use crate::fixtures::x86_64 as pc;
use crate::problem::{Problem, Rule};
use crate::{Thing, stands_alone, things_of_devices, things_of_vm};

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

/// A PC with functions in so many slots, from 2 on, all of which raise a line that no guest's I/O APIC has; and a Linux on it.
fn pc_with_linux(functions: u8) -> Platform {
    let mut platform = pc::with((2..2 + functions).map(|slot| endpoint(slot, 0)).collect());
    for device in platform.functions.iter_mut().flatten() {
        device.line = Some(Interrupt { irq: Irq(40), trigger: Trigger::Level });
    }
    let linux = LinuxHost { guests: Serves::Yes, functions: Serves::Yes };
    platform.limits = platform.limits.of_linux(linux);
    platform
}

#[test]
fn lines_of_functions_are_the_guests_own_whatever_they_are_on_the_board() {
    let vms = vec![vm("a", &[1], vec![pci(2, 0), pci(3, 0)]), vm("b", &[2], vec![pci(4, 0)])];
    let (system, linux) = (pc::system(vms), pc_with_linux(3));
    let plan = pc::planned(&system, &linux);
    let lines = |vm: usize| -> Vec<u32> { plan.vms[vm].lines.iter().map(|line| line.irq.0).collect() };
    assert_eq!((lines(0), lines(1)), (vec![16, 17], vec![16]));
    assert_eq!(plan.vms[0].lines.iter().map(|line| line.device).collect::<Vec<u16>>(), [0, 1]);
    // So each may have its own at the same time, and nothing of a line is kept from others.
    assert!([VmId(0), VmId(1)].iter().all(|id| stands_alone(&plan.vms, *id)));
    let things = |vm: &VmPlan| [things_of_vm(vm), things_of_devices(vm, &[0, 1])].concat();
    assert!(!plan.vms.iter().flat_map(things).any(|thing| matches!(thing, Thing::Line(_))));
    // On bare metal it is the board's, which no guest's has, and who shares it can raise it for another.
    let bare = Platform { limits: Limits { lines: 0..24, ..Limits::default() }, ..linux };
    assert!(pc::refusals(&system, &bare).iter().all(|(rule, _)| *rule == Rule::Interrupt));
}

#[test]
fn a_guest_has_lines_for_so_many_functions() {
    let devices: Vec<Device> = (2..11).map(|slot| pci(slot, 0)).collect();
    let mut system = pc::system(vec![vm("a", &[1], devices)]);
    let refused = pc::refusals(&system, &pc_with_linux(9));
    assert_eq!(refused, [(Rule::NoRoom, Item::Device(0, 8, "intx".into()))]);
    if let Some(Device::Pci { without_intx, .. }) = system.vms[0].devices.last_mut() {
        *without_intx = true;
    }
    assert_eq!(pc::planned(&system, &pc_with_linux(9)).vms[0].lines.len(), 8);
}

#[test]
fn a_key_for_what_linux_uses_is_ignored_where_there_is_no_linux() {
    let mut device = pci(2, 0);
    if let Device::Pci { in_use, .. } = &mut device {
        *in_use = InUse::Take;
    }
    let system = system(vec![vm("a", &[1], vec![device])]);
    let said = |platform: &Platform| {
        let notes = plan_of(&system, platform).unwrap().notes;
        notes
            .iter()
            .any(|it| it.contains("0000:00:02.0: `in_use` means nothing on bare metal and is ignored"))
    };
    assert!(said(&board()) && !said(&with_linux(Serves::Yes, Serves::Yes)));
}
