//! That the host that counts refuses what real ones can't do, whatever the planner says.

use alloc::vec;

use axvm_platform::limits::{Claims, Limits};
use axvm_system::model::Vm;

use super::*;
use axvm_plan::DeviceId;
use axvm_plan::fixtures::{board, demo, for_the_whole_run, images, pci, planned, region, system, vm};

fn two() -> (Plan, Platform) {
    let file = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
    let platform = board();
    (planned(&file, &platform), platform)
}

/// What the dry run says of the last VM.
fn refused(plan: &Plan, platform: &Platform) -> alloc::string::String {
    let problems = dry_run(plan, platform).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:#?}") };
    problem.message.clone()
}

#[test]
fn a_plan_is_built_and_taken_apart_and_built_again() {
    let platform = board();
    for plan in [planned(&demo(), &platform), two().0] {
        for _ in 0..2 {
            dry_run(&plan, &platform).unwrap();
        }
    }
}

#[test]
fn what_one_vm_has_no_other_gets() {
    let (plan, platform) = two();
    let platform = for_the_whole_run(platform);
    let mut ram = plan.clone();
    ram.vms[1].ram[0].hpa = ram.vms[0].ram[0].hpa;
    assert!(refused(&ram, &platform).contains("is VM 0's already"));
    let mut stream = plan.clone();
    stream.vms[1].devices[0].sources = stream.vms[0].devices[0].sources.clone();
    assert!(refused(&stream, &platform).contains("of IOMMU 0 is VM 0's already"));
    let mut line = plan.clone();
    line.vms[1].lines = line.vms[0].lines.clone();
    assert!(refused(&line, &platform).contains("is routed already"));
    let mut lpis = plan.clone();
    (lpis.vms[0].messages, lpis.vms[1].messages) = (0..8, 8..16);
    dry_run(&lpis, &platform).unwrap();
    lpis.vms[1].messages = 7..16;
    assert!(refused(&lpis, &platform).contains("are kept for another VM"));
    lpis.vms[1].messages = 8..platform.limits.messages + 1;
    assert!(refused(&lpis, &platform).contains("aren't there"));
    let mut device = plan.clone();
    device.vms[1].devices[0].id = DeviceId::Function(axvm_plan::fixtures::address(2, 0));
    let Err(problems) = dry_run(&device, &platform) else { panic!() };
    assert!(problems[0].message.contains("belongs to VM 0"), "{problems:?}");
}

#[test]
fn nobody_gets_what_is_not_there() {
    let (plan, mut platform) = two();
    let mut reserved = plan.clone();
    reserved.vms[1].ram[0].hpa = platform.memory[0].start();
    assert!(refused(&reserved, &platform).contains("isn't free memory"));
    let mut doorbell = plan.clone();
    doorbell.vms[1].doorbells[0].hpa = Hpa(0x1000);
    assert!(refused(&doorbell, &platform).contains("isn't a page to which MSIs"));
    platform.limits.source_bits = vec![4];
    let problems = dry_run(&plan, &platform).unwrap_err();
    assert!(problems[0].message.contains("above those of IOMMU 0"), "{problems:?}");
    platform.limits = Limits { vms: 1, ..Limits::default() };
    assert!(refused(&plan, &platform).contains("more VMs than tags for their translations: 1"));
    platform.limits = Limits { table_bytes: 16 << 10, ..Limits::default() };
    assert!(dry_run(&plan, &platform).is_err());
}

#[test]
fn two_vms_regions_of_one_name_are_built() {
    let file = system(vec![
        vm("a", &[1], vec![region("regs", 0x0a10_0000, 0x0a30_0000, 0x1000)]),
        vm("b", &[2], vec![region("regs", 0x0a10_0000, 0x0a40_0000, 0x1000)]),
    ]);
    dry_run(&planned(&file, &board()), &board()).unwrap();
}

#[test]
fn the_tables_that_are_counted_are_no_more_than_the_planner_reckons_with() {
    let (plan, mut platform) = two();
    // The least with which the planner says yes, and what the host takes then.
    let least = (1..4096u64).map(|kib| kib << 10).find(|&bytes| {
        platform.limits.table_bytes = bytes;
        let file = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
        axvm_plan::plan(&file, &platform, &images(2)).is_ok()
    });
    assert!(least.is_some());
    dry_run(&plan, &platform).unwrap();
}

#[test]
fn vms_that_take_turns_are_built_one_after_the_other() {
    let mut platform = board();
    platform.limits.claims = Claims::ByTime;
    let waiting = |name: &str, cpu: u16, devices| Vm { autostart: false, ..vm(name, &[cpu], devices) };
    let mut file = system(vec![
        vm("a", &[1], vec![pci(2, 0)]),
        waiting("b", 1, vec![pci(2, 0)]),
        waiting("c", 2, vec![pci(2, 0)]),
        waiting("d", 3, vec![pci(3, 0)]),
    ]);
    file.vms.iter_mut().for_each(|vm| vm.memory = 256 << 20);
    let plan = planned(&file, &platform);
    assert_eq!(dry_run(&plan, &platform), Ok(()));
    // Built all at a time they don't fit, which is how a host is that holds things for the whole run.
    platform.limits.claims = Claims::Once;
    assert!(dry_run(&plan, &platform).is_err());
}
