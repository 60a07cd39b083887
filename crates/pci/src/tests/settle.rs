//! What firmware has left in functions, and what a reset does to what was learnt of them.

use super::*;
use crate::spec::extended;

/// Writes what a firmware that handles errors itself sets.
fn escalate(bus: &FakeBus, address: PciAddress, registers: &[(u16, Width)]) {
    for &(offset, width) in registers {
        bus.write(address, offset, width, 0xf);
        assert_ne!(bus.read(address, offset, width), 0, "the fake has no such register: {offset:#x}");
    }
}

#[test]
fn nothing_of_a_port_goes_on_telling_errors_to_firmware() {
    let port = FakeFunction::root_port(0).loose_extended(extended::AER, 0x48);
    let mut port = port.loose_extended(extended::CONTAINMENT, 0x20);
    port.set(0x148 + extended::CONTAINMENT_CAPABILITY, Width::B2, extended::CONTAINMENT_ROOT.into());
    let express = port.find(capability::EXPRESS).unwrap();
    let (aer, containment) = (0x100, 0x148);
    let off = [
        (header::BRIDGE_CONTROL, Width::B2),
        (express + express::SLOT_CONTROL, Width::B2),
        (aer + extended::AER_ROOT_COMMAND, Width::B4),
        (aer + extended::AER_CONTROL, Width::B4),
        (containment + extended::CONTAINMENT_CONTROL, Width::B2),
        (containment + extended::CONTAINMENT_PIO_EFFECTS[0], Width::B4),
        (containment + extended::CONTAINMENT_PIO_EFFECTS[1], Width::B4),
        (containment + extended::CONTAINMENT_PIO_EFFECTS[2], Width::B4),
    ];
    let controls =
        [(express + express::DEVICE_CONTROL, Width::B2), (express + express::ROOT_CONTROL, Width::B2)];
    let bus = FakeBus::new(0, 0).with(1, 0, port).with_behind(&[1], 0, 0, FakeFunction::nvme());
    let address = at(0, 1, 0);
    escalate(&bus, address, &off);
    escalate(&bus, address, &controls);
    bus.write(address, aer + extended::AER_SEVERITY, Width::B4, 0xf);
    for effect in extended::CONTAINMENT_PIO_EFFECTS {
        bus.write(address, containment + effect, Width::B4, 0x0007_000f);
    }
    bus.write(address, header::COMMAND, Width::B2, 0x147);
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions[0].stuck, None);
    for (offset, width) in off {
        assert_eq!(bus.read(address, offset, width), 0, "{offset:#x}");
    }
    assert_eq!(bus.read(address, controls[0].0, Width::B2) & 0xf, 0, "no reports");
    assert_eq!(bus.read(address, controls[1].0, Width::B2), express::RETRY_VISIBLE.into());
    assert_eq!(bus.read(address, aer + extended::AER_UNCORRECTABLE_MASK, Width::B4), u32::MAX);
    assert_eq!(bus.read(address, aer + extended::AER_CORRECTABLE_MASK, Width::B4), u32::MAX);
    assert_eq!(bus.read(address, aer + extended::AER_SEVERITY, Width::B4), 0);
    assert_eq!(bus.read(address, containment + extended::CONTAINMENT_PIO_MASK, Width::B4), u32::MAX);
    assert!(!command(&bus, address).intersects(Command::SERR | Command::PARITY));
}

#[test]
fn an_endpoint_neither_reports_errors_nor_sends_as_functions_that_are_not_there() {
    let bus = FakeBus::new(0, 0).with(1, 0, FakeFunction::nvme());
    let address = at(0, 1, 0);
    let express = FakeFunction::nvme().find(capability::EXPRESS).unwrap();
    let (control, second) = (express + express::DEVICE_CONTROL, express + express::DEVICE_CONTROL_2);
    bus.write(address, control, Width::B2, 0x0a0f);
    bus.write(address, second, Width::B2, 0xffff);
    assert_eq!(bus.read(address, control, Width::B2) & 0x0a0f, 0x0a0f, "the fake has the bits");
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions[0].stuck, None);
    let on = express::DeviceControl::RELAXED_ORDERING | express::DeviceControl::NO_SNOOP;
    let kept = bus.read(address, control, Width::B2) as u16;
    assert_eq!(kept & (express::DeviceControl::PHANTOM.bits() | 0xf), 0);
    assert_eq!(kept & on.bits(), on.bits());
    assert_eq!(bus.read(address, second, Width::B2) as u16 & !express::CONTROL_2_KEPT, 0);
}

#[test]
fn a_control_register_that_keeps_its_own_mind_is_told() {
    let mut port = FakeFunction::root_port(0);
    port.allow(header::BRIDGE_CONTROL, Width::B2, 0);
    port.set(header::BRIDGE_CONTROL, Width::B2, 2);
    let bus = FakeBus::new(0, 0).with(1, 0, port);
    assert_eq!(enumerate(&bus, &board(), &bus)[0].stuck, Some(header::BRIDGE_CONTROL));
}

fn reporting(fake: &mut FakeFunction) {
    let control = fake.find(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    fake.set(control, Width::B2, 0x281f);
}

#[test]
fn a_reset_leaves_no_error_reports_on() {
    let bus = FakeBus::new(0, 0).with(1, 0, FakeFunction::nvme());
    let functions = enumerate(&bus, &board(), &bus);
    bus.function(at(0, 1, 0), |fake| fake.on_reset = Some(reporting));
    assert_eq!(reset(&bus, &functions[0], &[], ResetMethod::FunctionLevel, &bus), Ok(()));
    let control = functions[0].capability(capability::EXPRESS).unwrap() + express::DEVICE_CONTROL;
    assert_eq!(bus.read(at(0, 1, 0), control, Width::B2), 0x2810);
}

#[test]
fn a_resizable_bar_has_its_size_again_after_a_reset() {
    let mut function = FakeFunction::new(0x1234, 2, 0x03_00_00).express(0, true).resizable(2, 0);
    // What it has after power-on is what it has after a reset; firmware made it bigger.
    let bus = FakeBus::new(0, 0).with(1, 0, function.clone());
    let control = 0x100 + extended::RESIZABLE_CONTROL;
    bus.write(at(0, 1, 0), control, Width::B2, 8 << 8);
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions[0].bars[0].size, 256 << 20);
    assert_eq!(reset(&bus, &functions[0], &[], ResetMethod::FunctionLevel, &bus), Ok(()));
    assert_eq!(bus.read(at(0, 1, 0), control, Width::B2) as u16 & extended::RESIZABLE_SIZE, 8 << 8);
    check_bars(&bus, &board(), &functions);
    // One whose size can't be set again isn't what it was.
    function.on_reset = Some(|fake| fake.allow(0x100 + extended::RESIZABLE_CONTROL, Width::B2, 0));
    let bus = FakeBus::new(0, 0).with(1, 0, function);
    bus.write(at(0, 1, 0), control, Width::B2, 8 << 8);
    let functions = enumerate(&bus, &board(), &bus);
    let differs = ResetError::Differs { function: at(0, 1, 0) };
    assert_eq!(reset(&bus, &functions[0], &[], ResetMethod::FunctionLevel, &bus), Err(differs));
}

#[test]
fn what_was_learnt_before_a_reset_is_looked_at_again() {
    let changes: [fn(&mut FakeFunction); 3] = [
        // A BAR of another size.
        |fake| fake.allow(header::bar(0), Width::B4, 0xffff_e000),
        // The vectors at another place.
        |fake| {
            let offset = fake.find(capability::MSIX).unwrap();
            fake.set(offset + msi::MSIX_TABLE, Width::B4, 0x1000);
        },
        // Another capability where one was.
        |fake| {
            let offset = fake.find(capability::MSIX).unwrap();
            fake.set(offset, Width::B1, capability::VENDOR.into());
        },
    ];
    for change in changes {
        let bus = FakeBus::new(0, 0).with(1, 0, FakeFunction::nvme());
        let functions = enumerate(&bus, &board(), &bus);
        bus.function(at(0, 1, 0), |fake| fake.on_reset = Some(change));
        let differs = ResetError::Differs { function: at(0, 1, 0) };
        assert_eq!(reset(&bus, &functions[0], &[], ResetMethod::FunctionLevel, &bus), Err(differs));
        assert_eq!(command(&bus, at(0, 1, 0)), Command::INTX_DISABLE, "and it is quiet");
    }
}
