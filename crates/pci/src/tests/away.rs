//! Functions that answer no reads but take writes: what is made up in their place is never written back.

use super::*;
use crate::fake::Away;
use crate::spec::express::DeviceControl;
use crate::spec::extended;
use crate::{Kept, Registers};

fn machine() -> (FakeBus, Vec<Function>) {
    let acs = FakeFunction::nvme().acs(ISOLATION);
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(0))
        .with_behind(&[1], 0, 0, acs)
        .with(2, 0, FakeFunction::e1000e())
        .with(3, 0, FakeFunction::edu().advanced());
    let functions = enumerate(&bus, &board(), &bus);
    bus.take_writes();
    (bus, functions)
}

fn go_away(bus: &FakeBus, address: PciAddress, reads: u32) {
    bus.function(address, |fake| fake.away = Some(Away { answer: u32::MAX, reads }));
}

#[test]
fn of_a_control_register_that_reads_all_ones_nothing_is_written_back() {
    let (bus, functions) = machine();
    let (port, nvme) = (at(0, 1, 0), at(1, 0, 0));
    let control = find(&functions, nvme).capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    go_away(&bus, nvme, 1);
    assert!(!Registers::new(&bus, nvme).update16(control, 0x10, 0x10));
    go_away(&bus, port, 1);
    Forwarding::default().open(&bus, nvme, &[port]);
    assert_eq!(bus.take_writes(), []);
    assert!(Registers::new(&bus, nvme).update16(control, 0x10, 0));
}

#[test]
fn what_a_function_did_not_tell_is_not_put_back_but_an_error() {
    let (bus, functions) = machine();
    let nvme = find(&functions, at(1, 0, 0));
    let payload = nvme.capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let acs = nvme.extended_capability(extended::ACS).unwrap() + extended::ACS_CONTROL;
    go_away(&bus, nvme.address, 2);
    let kept = Kept::save(&bus, nvme);
    assert_eq!(kept.restore(&bus, nvme), Err(ResetError::Differs { function: nvme.address }));
    assert_eq!(bus.read(nvme.address, payload, Width::B2) as u16 & DeviceControl::PAYLOAD.bits(), 0);
    assert_eq!(bus.read(nvme.address, acs, Width::B2), ISOLATION.into());
}

#[test]
fn a_reset_of_a_function_that_does_not_answer_is_not_begun_and_not_said_to_be_done() {
    let (port, methods) = (at(0, 1, 0), [ResetMethod::FunctionLevel, ResetMethod::PowerState]);
    for (address, method) in [
        (at(1, 0, 0), ResetMethod::FunctionLevel),
        (at(0, 2, 0), ResetMethod::PowerState),
        (at(0, 3, 0), ResetMethod::FunctionLevel),
        (at(1, 0, 0), ResetMethod::SecondaryBus),
    ] {
        let (bus, functions) = machine();
        let function = find(&functions, address);
        let deaf = if methods.contains(&method) { address } else { port };
        go_away(&bus, deaf, u32::MAX);
        let absent = ResetError::Absent { function: address, method };
        assert_eq!(reset(&bus, function, &[], method, &bus), Err(absent), "{address} {method:?}");
        assert_eq!(bus.function(address, |fake| fake.resets), Some(0));
        let legal = |&(_, offset, _, value): &(PciAddress, u16, Width, u32)| {
            offset == header::COMMAND && value == Command::INTX_DISABLE.bits().into()
                || deaf != address && offset != header::BRIDGE_CONTROL
        };
        let writes = bus.take_writes();
        assert!(writes.iter().all(legal), "{writes:x?}");
    }
}

#[test]
fn a_function_that_is_back_before_its_reset_begins_is_reset_and_has_what_it_had() {
    let (bus, functions) = machine();
    let nvme = find(&functions, at(1, 0, 0));
    let control = nvme.capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    let before = bus.read(nvme.address, control, Width::B2);
    // Deaf to the quarantine and the first looks at what is pending.
    go_away(&bus, nvme.address, 4);
    reset(&bus, nvme, &[], ResetMethod::FunctionLevel, &bus).unwrap();
    assert_eq!(bus.function(nvme.address, |fake| fake.resets), Some(1));
    assert_eq!(bus.read(nvme.address, control, Width::B2), before);
}

#[test]
fn a_function_that_does_not_tell_its_settings_counts_as_one_that_does_not_keep_them() {
    let (bus, functions) = machine();
    let nvme = find(&functions, at(1, 0, 0));
    let control = nvme.capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    go_away(&bus, nvme.address, 1);
    assert_eq!(crate::settle::settle(Registers::new(&bus, nvme.address), nvme), None);
    go_away(&bus, nvme.address, 2);
    assert_eq!(crate::settle::settle(Registers::new(&bus, nvme.address), nvme), Some(control));
    assert_eq!(bus.read(nvme.address, control, Width::B2) as u16 & DeviceControl::PAYLOAD.bits(), 0);
}

#[test]
fn a_bar_that_is_not_told_is_not_sized_and_not_written() {
    let (bus, functions) = machine();
    let nvme = find(&functions, at(1, 0, 0));
    assert_eq!(nvme.bars.len(), 1);
    let address = bus.read(nvme.address, header::bar(0), Width::B4);
    let sized = |reads: Option<u32>| {
        bus.function(nvme.address, |fake| fake.away = reads.map(|reads| Away { answer: u32::MAX, reads }));
        let sized = crate::bars::size(Registers::new(&bus, nvme.address), false);
        bus.function(nvme.address, |fake| fake.away = None);
        (sized.len(), bus.read(nvme.address, header::bar(0), Width::B4), bus.take_writes())
    };
    let (found, kept, writes) = sized(None);
    assert_eq!((found, kept, writes.is_empty()), (1, address, false));
    // Deaf all the while: nothing is written. Deaf for one read only: the upper half looks like a BAR of its own then, but not like
    // the one that is there, and the lower half is left alone.
    assert_eq!(sized(Some(u32::MAX)), (0, address, vec![]));
    let (_, kept, writes) = sized(Some(1));
    let lower = |&&(_, offset, ..): &&(PciAddress, u16, Width, u32)| offset == header::bar(0);
    assert_eq!((kept, writes.iter().find(lower)), (address, None));
    // No BAR ever is left with all ones.
    let all_ones = |&(_, offset, _, value): &(PciAddress, u16, Width, u32)| {
        offset == header::bar(1) && value == u32::MAX
    };
    assert!(writes.iter().rposition(all_ones) < writes.iter().rposition(|write| write.1 == header::bar(1)));
}
