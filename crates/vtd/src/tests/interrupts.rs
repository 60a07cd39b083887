//! What devices' interrupts become.

use super::*;

#[test]
fn a_routed_interrupt_comes_from_its_device_only() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let to = |destination, vector| Delivery::To { destination, vector };
    unit.route(5, Some((DEVICE, fixed(0x41, 1)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(5)), to(1, 0x41));
    assert_eq!(fake.msi(OTHER.0, msi_address(5)), Delivery::Faults, "somebody else");
    assert_eq!(fake.msi(DEVICE.0, msi_address(4)), Delivery::Faults);
    assert_eq!(fake.msi(DEVICE.0, 0xfee0_1000), Delivery::Faults, "the old format");
    assert_eq!(fake.msi(DEVICE.0, msi_address(0x7fff)), Delivery::Faults, "past the table");
    // It becomes another one, and then another device's.
    unit.route(5, Some((DEVICE, fixed(0x42, 2)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(5)), to(2, 0x42));
    unit.route(5, Some((OTHER, fixed(0x43, 3)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(5)), Delivery::Faults);
    assert_eq!(fake.msi(OTHER.0, msi_address(5)), to(3, 0x43));
    unit.route(5, None).unwrap();
    assert_eq!(fake.msi(OTHER.0, msi_address(5)), Delivery::Faults);
}

#[test]
fn destinations_that_cannot_be_named_are_refused() {
    let fake = Fake::new();
    let mut wide = unit(&fake);
    wide.route(0, Some((DEVICE, fixed(0xff, 0x1234_5678)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(0)), Delivery::To { destination: 0x1234_5678, vector: 0xff });
    let logical = Interrupt {
        vector: 32,
        destination: Destination::Logical(0x1_0001),
        kind: InterruptKind::LowestPriority,
        level: true,
    };
    wide.route(1, Some((DEVICE, logical))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(1)), Delivery::To { destination: 0x1_0001, vector: 32 });
    let fake = Fake::with(CAPABILITY, EXTENDED & !(1 << 4));
    let mut narrow = unit(&fake);
    let error = Error::Destination { destination: 0x100, bits: 8 };
    assert_eq!(narrow.route(0, Some((DEVICE, fixed(0x41, 0x100)))), Err(error));
    narrow.route(0, Some((DEVICE, fixed(0x41, 0xfe)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(0)), Delivery::To { destination: 0xfe, vector: 0x41 });
}

#[test]
fn what_there_is_not_is_refused() {
    let fake = Fake::new();
    let mut small = Unit::new(&fake, &fake, Options { interrupts_log2: 0, ..Options::default() }).unwrap();
    assert_eq!(small.route(0, Some((DEVICE, fixed(31, 1)))), Err(Error::Vector { vector: 31 }));
    let error = Error::Index { index: 2, entries: 2 };
    assert_eq!(small.route(2, Some((DEVICE, fixed(0x41, 1)))), Err(error));
    small.route(1, Some((DEVICE, fixed(0x41, 1)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(1)), Delivery::To { destination: 1, vector: 0x41 });
    let fake = Fake::new();
    let mut large = Unit::new(&fake, &fake, Options { interrupts_log2: 99, ..Options::default() }).unwrap();
    large.route(0xffff, Some((DEVICE, fixed(0x41, 1)))).unwrap();
    assert_eq!(fake.msi(DEVICE.0, msi_address(0xffff)), Delivery::To { destination: 1, vector: 0x41 });
    // A unit that remaps none lets them pass, and says so.
    let fake = Fake::with(CAPABILITY, EXTENDED & !(1 << 3));
    let mut without = unit(&fake);
    assert!(!without.features().interrupts);
    assert_eq!(without.route(0, None), Err(Error::NoInterrupts));
}

#[test]
fn a_device_with_several_entries_names_each_by_its_data() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    for (index, vector) in [(40, 0x41), (41, 0x42)] {
        unit.route(index, Some((DEVICE, fixed(vector, 3)))).unwrap();
    }
    let address = msi_address_of_several(40);
    assert_eq!(fake.message(DEVICE.0, address, 0), Delivery::To { destination: 3, vector: 0x41 });
    assert_eq!(fake.message(DEVICE.0, address, 1), Delivery::To { destination: 3, vector: 0x42 });
    // Another's entries, whatever it adds.
    unit.route(42, Some((OTHER, fixed(0x43, 3)))).unwrap();
    assert_eq!(fake.message(DEVICE.0, address, 2), Delivery::Faults);
    assert_eq!(fake.message(DEVICE.0, address, 3), Delivery::Faults);
}
