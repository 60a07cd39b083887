//! The invalidation queue.

use super::*;

#[test]
fn a_long_list_goes_around_the_queue() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    fake.take_log();
    for round in 0..300 {
        unit.invalidate_range(1, Span::new(Iova(0), 3 * PAGE).unwrap()).unwrap();
        assert_eq!(fake.take_log().len(), 3, "round {round}");
    }
}

#[test]
fn after_a_refusal_the_queue_works_again() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    let tables = tables(&fake, 0, 0x8000_0000);
    unit.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
    for kind in [commands::CONTEXT, commands::IOTLB] {
        fake.0.borrow_mut().misbehaviour.refuses = Some((kind, 1));
        assert_eq!(unit.block(DEVICE), Err(Error::InvalidationRefused));
        assert_eq!(unit.domain(DEVICE), Some(&tables.domain(1)));
    }
    unit.block(DEVICE).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Blocked);
}

/// Of one that doesn't answer the first wait is long, and the others are short until it answers.
#[test]
fn waits_are_bounded_and_short_for_the_deaf() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let mut took = || {
        let before = fake.clock();
        assert_eq!(unit.invalidate_domain(1), Err(Error::Timeout(Wait::Invalidation)));
        fake.clock() - before
    };
    assert!((1_000_000..1_100_000).contains(&took()));
    for _ in 0..300 {
        assert!(took() < 10_000);
    }
    fake.0.borrow_mut().misbehaviour.deaf = false;
    unit.invalidate_domain(1).unwrap();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let before = fake.clock();
    unit.invalidate_domain(1).unwrap_err();
    assert!(fake.clock() - before >= 1_000_000, "it had answered");
}
