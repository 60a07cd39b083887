//! The command buffer.

use super::*;

#[test]
fn a_long_list_goes_around_the_buffer() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    fake.take_log();
    for round in 0..300 {
        iommu.invalidate_range(1, Span::new(Iova(0), 3 * PAGE).unwrap()).unwrap();
        assert_eq!(fake.take_log().len(), 3, "round {round}");
    }
}

#[test]
fn after_a_refused_command_the_buffer_works_again() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    let tables = tables(&fake, 0, 0x8000_0000);
    fake.0.borrow_mut().misbehaviour.refuses = Some((command::INVALIDATE_DEVTAB_ENTRY, 1));
    assert_eq!(iommu.attach(DEVICE, &tables.domain(1)), Err(Error::CommandRefused));
    assert_eq!(iommu.domain(DEVICE), None);
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    iommu.attach(DEVICE, &tables.domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
    // Also one that was refused when the device is open already.
    fake.0.borrow_mut().misbehaviour.refuses = Some((command::INVALIDATE_IOMMU_PAGES, 1));
    assert_eq!(iommu.block(DEVICE), Err(Error::CommandRefused));
    assert_eq!(iommu.domain(DEVICE), Some(&tables.domain(1)));
    iommu.block(DEVICE).unwrap();
    let illegal: Vec<_> =
        drain(&mut iommu).into_iter().filter(|event| event.kind == Kind::IllegalCommand).collect();
    assert_eq!(illegal.len(), 2);
    assert_eq!(illegal[0].device, None);
}

/// Of one that doesn't answer the first wait is long, and the others are short until it answers.
#[test]
fn waits_are_bounded_and_short_for_the_deaf() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let mut took = || {
        let before = fake.clock();
        let error = iommu.invalidate_domain(1).unwrap_err();
        (error, fake.clock() - before)
    };
    let (error, long) = took();
    assert_eq!(error, Error::Timeout(Wait::Completion));
    assert!((1_000_000..1_100_000).contains(&long), "{long}");
    for _ in 0..300 {
        let (error, short) = took();
        assert_eq!(error, Error::Timeout(Wait::Completion));
        assert!(short < 10_000, "{short}");
    }
    fake.0.borrow_mut().misbehaviour = Default::default();
    iommu.invalidate_domain(1).unwrap();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let before = fake.clock();
    iommu.invalidate_domain(1).unwrap_err();
    assert!(fake.clock() - before >= 1_000_000, "it had answered");
}

#[test]
fn one_that_does_not_stop_is_given_up_in_time() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    fake.0.borrow_mut().misbehaviour.deaf = true;
    fake.0.borrow_mut().misbehaviour.runs_on = true;
    assert_eq!(iommu.invalidate_domain(1), Err(Error::Timeout(Wait::Completion)));
    assert_eq!(iommu.invalidate_domain(1), Err(Error::Timeout(Wait::Stop)));
}
