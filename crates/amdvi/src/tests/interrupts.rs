//! What devices' interrupts become.

use super::*;

const TO_ONE: Delivery = Delivery::To { destination: 1, vector: 0x41 };

#[test]
fn a_routed_interrupt_comes_and_no_other() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    assert_eq!(fake.msi(DEVICE.0, 5), Delivery::Faults);
    iommu.route(DEVICE, 5, fixed(0x41, 1)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 5), TO_ONE);
    assert_eq!(fake.msi(DEVICE.0, 0x1805), TO_ONE, "only the index is looked at");
    for data in [0, 4, 6, 511, 512, 0x7ff] {
        assert_eq!(fake.msi(DEVICE.0, data), Delivery::Faults);
    }
    assert_eq!(fake.msi(OTHER.0, 5), Delivery::Faults, "its neighbour has its own");
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults, "that opens no memory");
    assert_eq!(iommu.attached(), 0, "one that has interrupts only isn't counted");
    iommu.route(DEVICE, 5, None).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 5), Delivery::Faults);
    // Of a device that never had one.
    iommu.route(OTHER, 5, None).unwrap();
    iommu.block(DEVICE).unwrap();
    assert_eq!((fake.msi(DEVICE.0, 5), iommu.attached()), (Delivery::Aborts, 0));
}

/// An entry that is held says the old until it is invalidated, and is never half of each.
#[test]
fn an_interrupt_becomes_another_one() {
    for features in [FEATURES, FEATURES & !(1 << 7)] {
        let fake = Fake::with_features(features);
        let mut iommu = iommu(&fake);
        iommu.route(DEVICE, 0, fixed(0x41, 1)).unwrap();
        iommu.route(DEVICE, 1, fixed(0x51, 2)).unwrap();
        assert_eq!(fake.msi(DEVICE.0, 0), TO_ONE);
        assert_eq!(fake.msi(DEVICE.0, 1), Delivery::To { destination: 2, vector: 0x51 });
        iommu.route(DEVICE, 0, fixed(0x42, 3)).unwrap();
        assert_eq!(fake.msi(DEVICE.0, 0), Delivery::To { destination: 3, vector: 0x42 });
        iommu.route(DEVICE, 1, None).unwrap();
        assert_eq!(fake.msi(DEVICE.0, 1), Delivery::Faults);
        assert_eq!(
            fake.msi(DEVICE.0, 0),
            Delivery::To { destination: 3, vector: 0x42 },
            "its neighbour stays"
        );
    }
}

/// Who gets the device next finds nothing of what the last one had.
#[test]
fn a_blocked_device_loses_its_routes() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    iommu.route(DEVICE, 5, fixed(0x41, 1)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 5), TO_ONE);
    iommu.block(DEVICE).unwrap();
    iommu.route(DEVICE, 6, fixed(0x42, 2)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 6), Delivery::To { destination: 2, vector: 0x42 });
    assert_eq!(fake.msi(DEVICE.0, 5), Delivery::Faults);
}

/// With x2APIC all of a destination's 32 bits are used; without it there are eight, and nothing is cut.
#[test]
fn destinations_that_cannot_be_named_are_refused() {
    let fake = Fake::new();
    let mut wide = iommu(&fake);
    wide.route(DEVICE, 0, fixed(0xff, 0x1234_5678)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 0), Delivery::To { destination: 0x1234_5678, vector: 0xff });
    let logical = Interrupt {
        vector: 32,
        destination: Destination::Logical(0x1_0001),
        kind: InterruptKind::LowestPriority,
    };
    wide.route(DEVICE, 1, Some(logical)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 1), Delivery::To { destination: 0x1_0001, vector: 32 });
    for features in [FEATURES & !(1 << 2), FEATURES & !(1 << 7)] {
        let fake = Fake::with_features(features);
        let mut narrow = iommu(&fake);
        let error = Error::Destination { destination: 0x100, bits: 8 };
        assert_eq!(narrow.route(DEVICE, 0, fixed(0x41, 0x100)), Err(error));
        assert_eq!(fake.msi(DEVICE.0, 0), Delivery::Faults);
        narrow.route(DEVICE, 0, fixed(0x41, 0xff)).unwrap();
        assert_eq!(fake.msi(DEVICE.0, 0), Delivery::To { destination: 0xff, vector: 0x41 });
    }
}

#[test]
fn vectors_and_entries_that_there_are_not_are_refused() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    assert_eq!(iommu.route(DEVICE, 0, fixed(31, 1)), Err(Error::Vector { vector: 31 }));
    assert_eq!(iommu.route(DEVICE, 512, fixed(0x41, 1)), Err(Error::Index { device: DEVICE, index: 512 }));
    iommu.route(DEVICE, 511, fixed(0x41, 1)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 511), TO_ONE);
    fake.0.borrow_mut().memory_left = Some(0);
    let error = iommu.route(OTHER, 0, fixed(0x41, 1)).unwrap_err();
    assert_eq!(error, Error::OutOfMemory { what: "interrupt table", bytes: 32768 });
    assert_eq!(fake.msi(OTHER.0, 0), Delivery::Faults);
    assert_eq!(iommu.attached(), 0);
}
