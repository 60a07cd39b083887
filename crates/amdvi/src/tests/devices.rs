//! Devices and what memory they reach.

use super::*;

#[test]
fn a_device_reaches_its_tables_and_a_blocked_one_nothing() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    // It is held that there is nothing, before.
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    iommu.attach(DEVICE, &one.domain(1)).unwrap();
    assert_eq!(iommu.domain(DEVICE), Some(&one.domain(1)));
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x8000_0004));
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Faults);
    assert_eq!(fake.dma(OTHER.0, 4, true), Outcome::Faults, "its neighbour");
    assert_eq!(fake.msi(DEVICE.0, 0), Delivery::Faults, "no interrupt was routed");
    // Another domain in its place. The fake sees to it that no mixture of both is ever there.
    iommu.attach(DEVICE, &two.domain(2)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x9000_0004));
    iommu.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Aborts);
    assert_eq!(iommu.domain(DEVICE), None);
    assert_eq!(iommu.attached(), 0);
    // Again, and open again.
    iommu.block(DEVICE).unwrap();
    iommu.attach(DEVICE, &one.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x8000_0004));
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Faults, "and it is recorded again");
    assert_eq!(fake.msi(DEVICE.0, 0), Delivery::Faults);
}

#[test]
fn rights_are_those_of_the_tables() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let tables = Tables::new(&fake);
    tables.map(0, 0x8000_0000, true, false);
    tables.map(PAGE, 0x9000_0000, false, true);
    iommu.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, false), Outcome::Reaches(0x8000_0000));
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Reaches(0x9000_0000));
    assert_eq!(fake.dma(DEVICE.0, PAGE, false), Outcome::Faults);
}

/// The tables go to somebody else when the last device of a domain is gone, and the id to other tables. While there are others, what was
/// translated for the one that goes is completed by the invalidation.
#[test]
fn a_blocked_device_takes_its_domain_s_translations_along() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let old = tables(&fake, 0, 0x8000_0000);
    for device in [DEVICE, OTHER] {
        iommu.attach(device, &old.domain(1)).unwrap();
        assert_eq!(fake.dma(device.0, 0, true), Outcome::Reaches(0x8000_0000));
    }
    fake.take_log();
    iommu.block(DEVICE).unwrap();
    assert!(opcodes(&fake.take_log()).contains(&command::INVALIDATE_IOMMU_PAGES));
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Reaches(0x8000_0000), "another one still has them");
    iommu.block(OTHER).unwrap();
    iommu.attach(DEVICE, &Tables::new(&fake).domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults, "of the old tables nothing is left");
}

#[test]
fn invalidations_forget_what_they_say() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let tables = Tables::new(&fake);
    (0..200).for_each(|page| tables.map(page * PAGE, 0x8000_0000 + page * PAGE, true, true));
    iommu.attach(DEVICE, &tables.domain(1)).unwrap();
    (0..200).for_each(|page| {
        assert!(matches!(fake.dma(DEVICE.0, page * PAGE, true), Outcome::Reaches(_)));
    });
    fake.take_log();
    tables.unmap(5 * PAGE);
    assert!(matches!(fake.dma(DEVICE.0, 5 * PAGE, true), Outcome::Reaches(_)), "it is still held");
    iommu.invalidate_range(1, Span::new(Iova(5 * PAGE + 8), 8).unwrap()).unwrap();
    assert_eq!(fake.take_log(), [command::invalidate_page(1, Iova(5 * PAGE))]);
    assert_eq!(fake.dma(DEVICE.0, 5 * PAGE, true), Outcome::Faults);
    (0..200).for_each(|page| tables.unmap(page * PAGE));
    iommu.invalidate_range(1, Span::new(Iova(0), 64 * PAGE).unwrap()).unwrap();
    assert_eq!(fake.take_log().len(), 64);
    assert_eq!(fake.dma(DEVICE.0, 63 * PAGE, true), Outcome::Faults);
    assert!(matches!(fake.dma(DEVICE.0, 64 * PAGE, true), Outcome::Reaches(_)), "it was not named");
    iommu.invalidate_range(1, Span::new(Iova(0), 65 * PAGE).unwrap()).unwrap();
    assert_eq!(fake.take_log(), [command::invalidate_domain(1)]);
    assert_eq!(fake.dma(DEVICE.0, 199 * PAGE, true), Outcome::Faults);
}

#[test]
fn what_the_iommu_cannot_do_is_refused_before() {
    // Four levels.
    let fake = Fake::with_features(FEATURES & !(3 << 10));
    let mut iommu = Iommu::new(&fake, &fake, Options::new(DeviceId(0x7f))).unwrap();
    let good = tables(&fake, 0, 0x8000_0000).domain(1);
    let mut refused = |device, domain: Domain| iommu.attach(device, &domain).unwrap_err();
    assert_eq!(refused(DEVICE, Domain { levels: 5, ..good }), Error::Levels { levels: 5, most: 4 });
    assert_eq!(refused(DEVICE, Domain { levels: 0, ..good }), Error::Levels { levels: 0, most: 4 });
    let root = Hpa(good.root.0 + 8);
    assert_eq!(refused(DEVICE, Domain { root, ..good }), Error::Root { root });
    let root = Hpa(1 << 52);
    assert_eq!(refused(DEVICE, Domain { root, ..good }), Error::Root { root });
    let out = Error::OutOfRange { device: DeviceId(0x80), last: DeviceId(0x7f) };
    assert_eq!(refused(DeviceId(0x80), good), out);
    assert_eq!(fake.dma(0x80, 0, true), Outcome::Aborts, "what has no entry is aborted");
    assert_eq!(iommu.silence(DeviceId(0x80)), Err(out));
    assert_eq!(iommu.attached(), 0);
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    let fake = Fake::with_features(FEATURES | 3 << 10);
    assert_eq!(super::iommu(&fake).features().levels, 4, "a reserved encoding promises nothing");
}

#[test]
fn a_domain_has_one_set_of_tables() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    iommu.attach(DEVICE, &one.domain(1)).unwrap();
    let error = iommu.attach(OTHER, &two.domain(1)).unwrap_err();
    let clash = Error::DomainInUse {
        domain: 1,
        device: OTHER,
        root: two.domain(1).root,
        other: DEVICE,
        other_root: one.domain(1).root,
    };
    assert_eq!(error, clash);
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Faults);
    // The device that has it may change it.
    iommu.attach(DEVICE, &two.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x9000_0000));
}

#[test]
fn a_device_that_cannot_be_confirmed_as_blocked_is_still_named() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let tables = tables(&fake, 0, 0x8000_0000);
    iommu.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert_eq!(iommu.block(DEVICE), Err(Error::Timeout(Wait::Completion)));
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000), "it holds the old entry");
    assert_eq!(iommu.domain(DEVICE), Some(&tables.domain(1)));
    fake.0.borrow_mut().misbehaviour.deaf = false;
    iommu.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Aborts);
    assert_eq!(iommu.domain(DEVICE), None);
}

/// A device that never rests has the IOMMU hold each step between closed and open.
#[test]
fn of_what_was_held_between_the_steps_nothing_stays() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    fake.0.borrow_mut().misbehaviour.restless = Some(DEVICE.0);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    for (id, tables, to) in [(1, &one, 0x8000_0000), (2, &two, 0x9000_0000)] {
        iommu.attach(DEVICE, &tables.domain(id)).unwrap();
        iommu.route(DEVICE, 0, fixed(0x41, 1)).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(to));
    }
    iommu.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Aborts);
}
