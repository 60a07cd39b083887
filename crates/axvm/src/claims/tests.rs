//! VMs take turns, and what one didn't give back is named to whoever needs it.

use alloc::string::String;
use alloc::vec;

use axvm_addr::Span;
use axvm_plan::DevicePlan;
use axvm_plan::fixtures::{board, node, pci, planned, system, vm};
use axvm_system::model::Vm;

use super::*;
use crate::ownership::DeviceOps;

const FIRST: VmId = VmId(0);
const SECOND: VmId = VmId(1);
const APART: VmId = VmId(2);

/// Two VMs on CPU 1 with one disk and one clock, and one that shares nothing with them.
fn claims() -> Claims {
    let waiting = |vm: Vm| Vm { autostart: false, ..vm };
    let both = || vec![pci(2, 0), node("/pl031@9010000")];
    let mut vms =
        vec![vm("first", &[1], both()), waiting(vm("second", &[1], both())), vm("apart", &[2], vec![])];
    // Not enough for two of them.
    vms.iter_mut().take(2).for_each(|vm| vm.memory = 1200 << 20);
    let plan = planned(&system(vms), &board());
    Claims::new(plan.vms.into_iter().map(Arc::new).collect())
}

fn registry(claims: &Claims) -> Registry {
    Registry::new(claims.vms.iter().flat_map(|vm| &vm.devices))
}

fn said(claims: &Claims, refusal: Refusal) -> String {
    refusal.say(&claims.vms)
}

/// Hardware of which nothing can be reset.
struct Broken;

impl DeviceOps for Broken {
    type Error = &'static str;

    fn unbind(&self, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }

    fn charge(&self, _: VmId, _: &DevicePlan) {}

    fn close(&self, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), &'static str> {
        if device.pci.is_some() { Err("it doesn't come back") } else { Ok(()) }
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }

    fn attach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }
}

#[test]
fn vms_take_turns_and_who_has_what_is_said() {
    let mut claims = claims();
    assert_eq!([FIRST, SECOND, APART].map(|vm| claims.stands_alone(vm)), [false, false, true]);
    claims.take(FIRST).unwrap();
    claims.take(APART).unwrap();
    let before = claims.running.clone();
    let refused = claims.take(SECOND).unwrap_err();
    let ram = &claims.vms[0].ram[0];
    let ram = Span::new(ram.hpa, ram.gpa.size()).unwrap();
    assert_eq!(
        said(&claims, refused),
        alloc::format!("vm \"first\" has CPU 1, RAM {ram}, 0000:00:02.0 and /pl031@9010000")
    );
    assert_eq!(claims.take(FIRST), Err(Refusal::Runs(FIRST)));
    assert_eq!(claims.running, before, "what is refused changes nothing");
    claims.give_back(FIRST);
    claims.take(SECOND).unwrap();
    assert!(matches!(claims.take(FIRST), Err(Refusal::Held(SECOND, _))));
    claims.give_back(SECOND);
    claims.take(FIRST).unwrap();
    assert_eq!(claims.running, before);
}

#[test]
fn what_a_device_does_is_held_against_the_vm_that_has_it_now() {
    let mut claims = claims();
    let source = claims.vms[0].devices[0].sources[0];
    assert_eq!(claims.owner_of(source), None);
    for vm in [FIRST, SECOND] {
        claims.take(vm).unwrap();
        assert_eq!(claims.owner_of(source), Some((vm, 0)));
        claims.give_back(vm);
        assert_eq!(claims.owner_of(source), None);
    }
}

#[test]
fn a_device_that_cannot_be_reset_is_with_nobody_and_the_rest_comes_back() {
    let mut claims = claims();
    let mut registry = registry(&claims);
    claims.take(FIRST).unwrap();
    let plan = claims.vms[0].clone();
    let devices: Vec<&DevicePlan> = plan.devices.iter().collect();
    registry.assign(FIRST, &devices, &Broken).unwrap_err();
    claims.note_failed(FIRST, &registry);
    claims.give_back(FIRST);
    let line = "vm \"first\" hasn't given back 0000:00:02.0: nobody gets it until the machine is reset";
    for vm in [FIRST, SECOND] {
        let refused = claims.take(vm).unwrap_err();
        assert_eq!(said(&claims, refused), line);
    }
    assert!(!claims.running.withheld.iter().any(|it| matches!(it.thing, Thing::Ram(_) | Thing::Cpu(_))));
    claims.take(APART).unwrap();
}

#[test]
fn ram_that_something_may_reach_still_is_with_nobody() {
    let mut claims = claims();
    claims.take(FIRST).unwrap();
    claims.withhold_ram(FIRST);
    claims.give_back(FIRST);
    for vm in [FIRST, SECOND] {
        let refused = claims.take(vm).unwrap_err();
        assert!(
            matches!(refused, Refusal::Withheld(Withheld { vm: FIRST, thing: Thing::Ram(_) })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_vm_with_a_lost_cpu_keeps_all_but_its_other_cpus() {
    let devices = || vec![pci(2, 0)];
    let waiting = |name, cpus: &[u16], devices| Vm { autostart: false, ..vm(name, cpus, devices) };
    let vms = vec![
        vm("first", &[1, 2], devices()),
        waiting("same cpu", &[1], vec![]),
        waiting("other cpu", &[2], vec![]),
        waiting("same disk", &[3], devices()),
    ];
    let mut file = system(vms);
    file.vms.iter_mut().for_each(|vm| vm.memory = 256 << 20);
    let plan = planned(&file, &board());
    let mut claims = Claims::new(plan.vms.into_iter().map(Arc::new).collect());
    claims.take(FIRST).unwrap();
    claims.withhold_all(FIRST, &[CpuId(1)]);
    let lost = |thing| Err(Refusal::Withheld(Withheld { vm: FIRST, thing }));
    assert_eq!(claims.take(FIRST), lost(Thing::Cpu(CpuId(1))));
    assert_eq!(claims.take(VmId(1)), lost(Thing::Cpu(CpuId(1))));
    assert!(claims.take(VmId(2)).is_ok());
    let disk = claims.vms[0].devices[0].id.clone();
    assert_eq!(claims.take(VmId(3)), lost(Thing::Device(disk)));
}
