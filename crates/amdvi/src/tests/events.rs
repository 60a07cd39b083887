//! The event log.

use super::*;

#[test]
fn what_was_aborted_is_told_in_order() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    fake.dma(DEVICE.0, 0x1234, true);
    fake.dma(OTHER.0, 0x5678, false);
    fake.msi(DEVICE.0, 7);
    assert_ne!(fake.get(offset::STATUS) & 2, 0);
    let mut events = Vec::new();
    let drained = iommu.drain_events(2, |event| events.push(event));
    assert_eq!(drained, Drained { events: 2, overflowed: false, more: true });
    events.extend(drain(&mut iommu));
    let of = |event: &Event| (event.device, event.write, event.interrupt, event.address.0);
    assert_eq!(of(&events[0]), (Some(DEVICE), true, false, 0x1234));
    assert_eq!(of(&events[1]), (Some(OTHER), false, false, 0x5678));
    assert_eq!(of(&events[2]), (Some(DEVICE), true, true, 7));
    assert_eq!(fake.get(offset::STATUS) & 2, 0, "the interrupt is acknowledged");
    assert!(drain(&mut iommu).is_empty());
}

/// A log that was full says so once, and records again.
#[test]
fn an_overflow_is_told_and_the_log_goes_on() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    for _ in 0..2000 {
        fake.dma(DEVICE.0, 0, true);
    }
    let mut count = 0;
    let drained = iommu.drain_events(1000, |_| count += 1);
    assert_eq!((drained.overflowed, drained.more), (false, true), "what is there comes first");
    let drained = iommu.drain_events(1000, |_| count += 1);
    assert_eq!((drained.overflowed, drained.more, count), (true, false, 1023));
    assert_eq!(iommu.drain_events(1000, |_| ()), Drained::default());
    fake.dma(DEVICE.0, 0x42, true);
    assert_eq!(drain(&mut iommu)[0].address, Iova(0x42));
}

#[test]
fn the_log_goes_around() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    for round in 0..3000 {
        fake.dma(DEVICE.0, round, true);
        let events = drain(&mut iommu);
        assert_eq!((events.len(), events[0].address), (1, Iova(round)));
    }
}

/// The tail may be seen before what it promises. Of the place's last record nothing is taken for it.
#[test]
fn a_record_that_is_not_there_yet_is_waited_for() {
    let fake = Fake::new();
    let mut iommu = iommu(&fake);
    for round in 0..1500 {
        fake.dma(DEVICE.0, round, true);
        drain(&mut iommu);
    }
    fake.0.borrow_mut().misbehaviour.late_records = true;
    fake.dma(DEVICE.0, 0x42, true);
    assert_eq!(iommu.drain_events(16, |_| panic!()), Drained { events: 0, overflowed: false, more: true });
}
