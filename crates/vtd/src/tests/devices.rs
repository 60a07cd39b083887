//! Devices and what memory they reach.

use super::*;

#[test]
fn a_device_reaches_its_tables_and_a_blocked_one_nothing() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    unit.attach(DEVICE, &one.domain(1)).unwrap();
    assert_eq!(unit.domain(DEVICE), Some(&one.domain(1)));
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x8000_0004));
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Faults);
    assert_eq!(fake.dma(OTHER.0, 4, true), Outcome::Faults, "its neighbour");
    // Another domain in its place. The fake sees to it that no mixture of both is ever there.
    unit.attach(DEVICE, &two.domain(2)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x9000_0004));
    unit.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Blocked);
    assert_eq!(fake.dma(OTHER.0, 4, true), Outcome::Faults, "a neighbour isn't silenced");
    assert_eq!((unit.domain(DEVICE), unit.attached()), (None, 0));
    unit.block(DEVICE).unwrap();
    unit.attach(DEVICE, &one.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 4, true), Outcome::Reaches(0x8000_0004));
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Faults, "and it is recorded again");
}

#[test]
fn rights_are_those_of_the_tables() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let tables = Tables::new(&fake);
    tables.map(0, 0x8000_0000, true, false);
    tables.map(PAGE, 0x9000_0000, false, true);
    unit.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, false), Outcome::Reaches(0x8000_0000));
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    assert_eq!(fake.dma(DEVICE.0, PAGE, true), Outcome::Reaches(0x9000_0000));
    assert_eq!(fake.dma(DEVICE.0, PAGE, false), Outcome::Faults);
}

/// The tables go to somebody else when the last device of a domain is gone, and the id to other tables. While there are others, what was
/// translated for the one that goes is done with the invalidation.
#[test]
fn a_blocked_device_takes_its_domain_s_translations_along() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let old = tables(&fake, 0, 0x8000_0000);
    for device in [DEVICE, OTHER] {
        unit.attach(device, &old.domain(1)).unwrap();
        assert_eq!(fake.dma(device.0, 0, true), Outcome::Reaches(0x8000_0000));
    }
    fake.take_log();
    unit.block(DEVICE).unwrap();
    assert_eq!(kinds(&fake.take_log()), [commands::CONTEXT, commands::IOTLB]);
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Reaches(0x8000_0000), "another one still has them");
    unit.block(OTHER).unwrap();
    unit.attach(DEVICE, &Tables::new(&fake).domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults, "of the old tables nothing is left");
}

#[test]
fn invalidations_forget_what_they_say() {
    for pages in [true, false] {
        let capability = if pages { CAPABILITY } else { CAPABILITY & !(1 << 39) };
        let fake = Fake::with(capability, EXTENDED);
        let mut unit = unit(&fake);
        let tables = Tables::new(&fake);
        (0..100).for_each(|page| tables.map(page * PAGE, 0x8000_0000 + page * PAGE, true, true));
        unit.attach(DEVICE, &tables.domain(1)).unwrap();
        let reaches = |page| matches!(fake.dma(DEVICE.0, page * PAGE, true), Outcome::Reaches(_));
        assert!((0..100).all(reaches));
        fake.take_log();
        tables.unmap(5 * PAGE);
        assert!(reaches(5), "it is still held");
        unit.invalidate_range(1, Span::new(Iova(5 * PAGE + 8), 8).unwrap()).unwrap();
        let expected = if pages { commands::page(1, Iova(5 * PAGE)) } else { commands::domain(1) };
        assert_eq!(fake.take_log(), [expected]);
        assert!(!reaches(5));
        (0..100).for_each(|page| tables.unmap(page * PAGE));
        unit.invalidate_range(1, Span::new(Iova(0), 64 * PAGE).unwrap()).unwrap();
        assert!((0..64).all(|page| !reaches(page)));
        assert_eq!(fake.take_log().len(), if pages { 64 } else { 1 });
        unit.invalidate_range(1, Span::new(Iova(0), 65 * PAGE).unwrap()).unwrap();
        assert_eq!(fake.take_log(), [commands::domain(1)]);
        assert!((0..100).all(|page| !reaches(page)));
    }
}

#[test]
fn what_the_unit_cannot_do_is_refused_before() {
    // Three levels, 8 bits of domains.
    let fake = Fake::with(CAPABILITY & !(0x1f << 8) & !7 | 2 << 8 | 2, EXTENDED);
    let mut unit = unit(&fake);
    let good = Domain { levels: 3, ..tables(&fake, 0, 0x8000_0000).domain(1) };
    let mut refused = |domain: Domain| unit.attach(DEVICE, &domain).unwrap_err();
    for levels in [0, 2, 4, 5] {
        assert_eq!(refused(Domain { levels, ..good }), Error::Levels { levels });
    }
    let root = Hpa(good.root.0 + 8);
    assert_eq!(refused(Domain { root, ..good }), Error::Root { root });
    assert_eq!(refused(Domain { id: 0x100, ..good }), Error::DomainOutOfRange { domain: 0x100, bits: 8 });
    fake.0.borrow_mut().memory_left = Some(0);
    assert!(matches!(refused(good), Error::OutOfMemory { what: "context table", .. }));
    assert_eq!(unit.attached(), 0);
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
}

#[test]
fn a_domain_has_one_set_of_tables() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    unit.attach(DEVICE, &one.domain(1)).unwrap();
    let clash = Error::DomainInUse {
        domain: 1,
        device: OTHER,
        root: two.domain(1).root,
        other: DEVICE,
        other_root: one.domain(1).root,
    };
    assert_eq!(unit.attach(OTHER, &two.domain(1)), Err(clash));
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Faults);
    // The device that has it may change it.
    unit.attach(DEVICE, &two.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x9000_0000));
}

#[test]
fn a_device_that_cannot_be_confirmed_as_blocked_is_still_named() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let tables = tables(&fake, 0, 0x8000_0000);
    unit.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert_eq!(unit.block(DEVICE), Err(Error::Timeout(Wait::Invalidation)));
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000), "it holds the old entry");
    assert_eq!(unit.domain(DEVICE), Some(&tables.domain(1)));
    fake.0.borrow_mut().misbehaviour.deaf = false;
    unit.block(DEVICE).unwrap();
    assert_eq!((fake.dma(DEVICE.0, 0, true), unit.domain(DEVICE)), (Outcome::Blocked, None));
}

/// A device that never rests has the unit hold each step between closed and open.
#[test]
fn of_what_was_held_between_the_steps_nothing_stays() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    fake.0.borrow_mut().misbehaviour.restless = Some(DEVICE.0);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    for (id, tables, to) in [(1, &one, 0x8000_0000), (2, &two, 0x9000_0000)] {
        unit.attach(DEVICE, &tables.domain(id)).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(to));
    }
    unit.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Blocked);
}

/// Of nobody's devices: without memory, with the whole bus where that has no table, and without opening anything.
#[test]
fn what_nobody_has_is_silenced() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    fake.0.borrow_mut().memory_left = Some(0);
    unit.silence(DeviceId(0x310)).unwrap();
    assert_eq!(fake.dma(0x310, 0, true), Outcome::Blocked);
    assert_eq!(fake.dma(0x3ff, 0, true), Outcome::Blocked, "its bus");
    assert_eq!(fake.dma(0x410, 0, true), Outcome::Faults);
    unit.silence(DeviceId(0x311)).unwrap();
    fake.0.borrow_mut().memory_left = None;
    // One of them is given to somebody: the others stay silent.
    unit.attach(DeviceId(0x310), &tables(&fake, 0, 0x8000_0000).domain(1)).unwrap();
    assert_eq!(fake.dma(0x310, 0, true), Outcome::Reaches(0x8000_0000));
    assert_eq!(fake.dma(0x3ff, 0, true), Outcome::Blocked);
    unit.attach(DEVICE, &tables(&fake, 0, 0x9000_0000).domain(2)).unwrap();
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Faults);
    unit.silence(OTHER).unwrap();
    assert_eq!(fake.dma(OTHER.0, 0, true), Outcome::Blocked);
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x9000_0000));
}
