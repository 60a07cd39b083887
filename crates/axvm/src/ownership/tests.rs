//! One owner at a time, and after any failure the device is closed.

use alloc::collections::BTreeSet;
use alloc::vec;
use core::cell::{Cell, RefCell};

use proptest::prelude::*;

use axvm_plan::Presence;

use super::*;

/// Hardware that remembers which devices are open, and fails at one operation if it is told to.
#[derive(Default)]
struct Hardware {
    attached: RefCell<BTreeSet<String>>,
    bound: RefCell<BTreeSet<String>>,
    log: RefCell<Vec<String>>,
    operations: Cell<usize>,
    fail_at: Cell<Option<usize>>,
    /// So many closings aren't confirmed.
    unconfirmed: Cell<usize>,
}

impl Hardware {
    fn step(&self, what: &str, device: &DevicePlan) -> Result<(), &'static str> {
        let operation = self.operations.get();
        self.operations.set(operation + 1);
        if self.fail_at.get() == Some(operation) {
            return Err("broken");
        }
        self.log.borrow_mut().push(alloc::format!("{what} {}", device.name));
        Ok(())
    }
}

impl DeviceOps for Hardware {
    type Error = &'static str;

    fn unbind(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.step("unbind", device)?;
        self.bound.borrow_mut().remove(&device.name);
        Ok(())
    }

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), &'static str> {
        Ok(())
    }

    fn charge(&self, _: VmId, _: &DevicePlan) {}

    fn close(&self, device: &DevicePlan) -> Result<(), &'static str> {
        if let Some(left) = self.unconfirmed.get().checked_sub(1) {
            self.unconfirmed.set(left);
            return Err("not confirmed");
        }
        self.attached.borrow_mut().remove(&device.name);
        self.step("close", device)
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), &'static str> {
        self.step("reset", device)
    }

    fn attach(&self, _: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        if let Err(error) = self.step("attach", device) {
            // Its first stream is open, its second one couldn't be.
            self.attached.borrow_mut().insert(device.name.clone());
            return Err(error);
        }
        assert!(!self.bound.borrow().contains(&device.name), "attached while the host's driver has it");
        self.attached.borrow_mut().insert(device.name.clone());
        Ok(())
    }

    fn detach(&self, _: VmId, device: &DevicePlan) -> Result<(), &'static str> {
        assert!(!self.attached.borrow().contains(&device.name), "detached while it could master the bus");
        self.step("detach", device)
    }
}

/// A device of this name in a test: what is physical of it is its path.
fn id(name: &str) -> DeviceId {
    DeviceId::Node(alloc::format!("/soc/{name}"))
}

fn device(name: &str, group: Option<u32>) -> DevicePlan {
    DevicePlan {
        id: id(name),
        name: name.into(),
        pci: None,
        shown: None,
        group,
        reset: None,
        sources: vec![],
        msi: None,
        intx: false,
        presence: Presence::Here,
    }
}

/// Gives devices of these names to a VM.
fn give(registry: &mut Registry, vm: u16, names: &[&str], hardware: &Hardware) -> Result<(), AssignError> {
    let devices: Vec<DevicePlan> = names.iter().map(|name| device(name, None)).collect();
    registry.assign(VmId(vm), &devices.iter().collect::<Vec<_>>(), hardware)
}

fn three() -> [DevicePlan; 3] {
    [device("a", Some(1)), device("b", Some(1)), device("c", None)]
}

#[test]
fn a_device_is_unbound_closed_and_reset_before_it_is_attached_and_closed_before_it_is_detached() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&[device("a", None)]);
    give(&mut registry, 3, &["a"], &hardware).unwrap();
    assert!(matches!(registry.slot(&id("a")), Some(Slot::Assigned { vm: VmId(3), .. })));
    assert_eq!(registry.reclaim(VmId(3), &hardware), []);
    assert!(matches!(registry.slot(&id("a")), Some(Slot::Quarantined { .. })));
    assert_eq!(
        *hardware.log.borrow(),
        ["unbind a", "close a", "reset a", "attach a", "close a", "detach a", "reset a"]
    );
}

#[test]
fn only_the_owner_of_an_attached_device_may_let_it_master_the_bus() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&[device("a", None)]);
    assert!(registry.may_master(&id("a"), VmId(0)).is_none());
    give(&mut registry, 0, &["a"], &hardware).unwrap();
    assert_eq!(registry.may_master(&id("a"), VmId(0)).unwrap().vm(), VmId(0));
    assert!(registry.may_master(&id("a"), VmId(1)).is_none());
    registry.reclaim(VmId(0), &hardware);
    assert!(registry.may_master(&id("a"), VmId(0)).is_none());
}

#[test]
fn a_device_that_another_has_and_a_part_of_a_group_are_refused() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&three());
    let error = give(&mut registry, 0, &["a", "c"], &hardware).unwrap_err();
    assert_eq!(error, AssignError::GroupSplit { device: "a".into(), other: "b".into(), group: 1 });
    give(&mut registry, 0, &["a", "b"], &hardware).unwrap();
    let error = give(&mut registry, 1, &["c", "a", "b"], &hardware).unwrap_err();
    assert_eq!(error, AssignError::Taken { device: "a".into(), vm: VmId(0) });
    assert!(matches!(registry.slot(&id("c")), Some(Slot::Host { .. })), "nothing was touched");
    let error = give(&mut registry, 1, &["d"], &hardware).unwrap_err();
    assert_eq!(error, AssignError::Unknown { device: "d".into() });
}

#[test]
fn two_devices_of_one_name_are_two_devices() {
    let hardware = Hardware::default();
    let region = |at| {
        let id = DeviceId::Registers(axvm_addr::Span::new(axvm_addr::Hpa(at), 0x1000).unwrap());
        DevicePlan { id, ..device("regs", None) }
    };
    let (a, b) = (region(0x1000), region(0x2000));
    let mut registry = Registry::new([&a, &b]);
    registry.assign(VmId(0), &[&a], &hardware).unwrap();
    registry.assign(VmId(1), &[&b], &hardware).unwrap();
    assert!(registry.may_master(&a.id, VmId(0)).is_some() && registry.may_master(&b.id, VmId(1)).is_some());
    assert!(registry.may_master(&b.id, VmId(0)).is_none());
}

#[test]
fn a_device_given_back_and_given_again_is_not_unbound_twice() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&[device("a", None)]);
    for _ in 0..2 {
        give(&mut registry, 0, &["a"], &hardware).unwrap();
        registry.reclaim(VmId(0), &hardware);
    }
    assert_eq!(hardware.log.borrow().iter().filter(|step| step.as_str() == "unbind a").count(), 1);
}

#[test]
fn a_device_is_reset_as_its_new_owners_plan_says_if_the_last_ones_said_otherwise() {
    let hardware = Hardware::default();
    let with = |reset| DevicePlan { reset, ..device("a", None) };
    let (careless, careful) = (with(None), with(Some(axvm_pci::ResetMethod::FunctionLevel)));
    let mut registry = Registry::new([&careless, &careful]);
    assert_eq!(registry.iter().count(), 1);
    let steps = |registry: &mut Registry, vm, plan| {
        hardware.log.borrow_mut().clear();
        registry.assign(VmId(vm), &[plan], &hardware).unwrap();
        registry.reclaim(VmId(vm), &hardware);
        hardware.log.borrow().join(", ")
    };
    let back = "close a, detach a, reset a";
    assert_eq!(
        steps(&mut registry, 0, &careless),
        alloc::format!("unbind a, close a, reset a, attach a, {back}")
    );
    assert_eq!(steps(&mut registry, 0, &careless), alloc::format!("attach a, {back}"));
    assert_eq!(steps(&mut registry, 1, &careful), alloc::format!("close a, reset a, attach a, {back}"));
    assert_eq!(steps(&mut registry, 1, &careful), alloc::format!("attach a, {back}"));
    // What fails then leaves it with nobody.
    hardware.fail_at.set(Some(hardware.operations.get() + 1));
    let error = registry.assign(VmId(0), &[&careless], &hardware).unwrap_err();
    assert!(matches!(error, AssignError::Hardware { why, .. } if why.contains("resetting it failed")));
    assert!(matches!(registry.slot(&id("a")), Some(Slot::Failed { reaches: None, .. })));
}

#[test]
fn a_device_that_is_nobodys_goes_back_to_the_host_whose_driver_lets_go_of_it_again() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&[device("a", None)]);
    assert!(!registry.release(&id("a")), "the host has it");
    give(&mut registry, 0, &["a"], &hardware).unwrap();
    assert!(!registry.release(&id("a")) && !registry.release(&id("b")), "a VM has it, and there is none");
    registry.reclaim(VmId(0), &hardware);
    assert!(registry.release(&id("a")));
    assert!(matches!(registry.slot(&id("a")), Some(Slot::Host { .. })));
    hardware.log.borrow_mut().clear();
    give(&mut registry, 1, &["a"], &hardware).unwrap();
    assert_eq!(*hardware.log.borrow(), ["unbind a", "close a", "reset a", "attach a"]);
}

#[test]
fn a_device_that_does_not_come_back_from_its_reset_is_nobodys() {
    let hardware = Hardware::default();
    let mut registry = Registry::new(&[device("a", None)]);
    hardware.fail_at.set(Some(2));
    give(&mut registry, 0, &["a"], &hardware).unwrap_err();
    assert!(matches!(registry.slot(&id("a")), Some(Slot::Failed { reaches: None, .. })));
    let error = give(&mut registry, 0, &["a"], &hardware).unwrap_err();
    assert!(matches!(error, AssignError::Broken { why, .. } if why.contains("resetting it failed: broken")));
}

#[test]
fn a_closing_that_is_not_confirmed_is_tried_again_and_recorded_once_it_is() {
    let hardware = Hardware::default();
    let a = device("a", None);
    let mut registry = Registry::new([&a]);
    registry.assign(VmId(0), &[&a], &hardware).unwrap();
    hardware.unconfirmed.set(CLOSE_TRIES - 1);
    assert_eq!(registry.reclaim(VmId(0), &hardware), []);
    assert!(matches!(registry.slot(&a.id), Some(Slot::Quarantined { .. })));

    registry.assign(VmId(0), &[&a], &hardware).unwrap();
    hardware.unconfirmed.set(CLOSE_TRIES);
    let stuck = registry.reclaim(VmId(0), &hardware);
    assert_eq!(stuck.first().and_then(|stuck| stuck.reaches), Some(VmId(0)));
    assert!(registry.may_reach(VmId(0)));
    assert!(matches!(registry.slot(&a.id), Some(Slot::Failed { reaches: Some(VmId(0)), .. })));
}

#[test]
fn a_device_that_was_half_attached_and_cannot_be_closed_is_not_in_quarantine() {
    let hardware = Hardware::default();
    let a = device("a", None);
    let mut registry = Registry::new([&a]);
    hardware.fail_at.set(Some(3));
    registry.assign(VmId(0), &[&a], &hardware).unwrap_err();
    assert!(hardware.attached.borrow().is_empty());
    assert!(matches!(registry.slot(&a.id), Some(Slot::Quarantined { .. })));

    // In quarantine, so that attaching is the next step.
    hardware.fail_at.set(Some(hardware.operations.get()));
    hardware.unconfirmed.set(CLOSE_TRIES);
    registry.assign(VmId(0), &[&a], &hardware).unwrap_err();
    assert!(registry.may_reach(VmId(0)), "its memory is withheld");
    assert!(matches!(registry.slot(&a.id), Some(Slot::Failed { reaches: Some(VmId(0)), .. })));
}

proptest! {
    #[test]
    fn whatever_fails_a_vm_has_all_of_its_devices_or_none(fail_at in 0usize..24) {
        let hardware = Hardware::default();
        let plans = three();
        hardware.bound.borrow_mut().extend(plans.iter().map(|plan| plan.name.clone()));
        let mut registry = Registry::new(&plans);
        hardware.fail_at.set(Some(fail_at));
        let given = give(&mut registry, 0, &["a", "b", "c"], &hardware);
        let attached = hardware.attached.borrow().len();
        prop_assert_eq!(attached, if given.is_ok() { 3 } else { 0 });
        let stuck = registry.reclaim(VmId(0), &hardware);
        prop_assert!(hardware.attached.borrow().is_empty());
        for (name, slot) in registry.iter() {
            match slot {
                Slot::Assigned { .. } => prop_assert!(false, "{name:?} has an owner still"),
                Slot::Failed { why, reaches } => {
                    prop_assert!(why.contains("broken"));
                    prop_assert_eq!(reaches.is_some(), registry.may_reach(VmId(0)));
                }
                Slot::Host { .. } | Slot::Quarantined { .. } => {}
            }
        }
        prop_assert!(stuck.len() <= 1);
    }
}
