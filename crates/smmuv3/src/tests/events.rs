//! The event queue.

use super::*;

#[test]
fn events_come_in_order_within_the_limit_and_across_the_end_of_the_queue() {
    let fake = Fake::new();
    let options = Options { event_queue_log2: 3, ..Options::new(StreamId(0xff)) };
    let mut smmu = Smmu::new(&fake, &fake, options).unwrap();
    let mut next = 0;
    let mut expected = 0;
    for round in 0..40 {
        for _ in 0..round % 8 {
            fake.record([next << 32 | 0x10, 0, next, 0]);
            next += 1;
        }
        let mut seen = 0;
        while smmu
            .drain_events(3, |event| {
                assert_eq!((event.stream, event.iova), (StreamId(expected), Some(Iova(expected.into()))));
                expected += 1;
                seen += 1;
            })
            .more
        {}
        assert_eq!(seen, round % 8);
    }
    assert_eq!(smmu.take_gerror(), GlobalErrors::empty());
}

#[test]
fn lost_events_are_said_and_recording_goes_on() {
    let fake = Fake::new();
    let options = Options { event_queue_log2: 3, ..Options::new(StreamId(0xff)) };
    let mut smmu = Smmu::new(&fake, &fake, options).unwrap();
    for _ in 0..20 {
        assert_eq!(fake.dma(8, 0, true), Outcome::Faults(0x02));
    }
    let drained = smmu.drain_events(100, |_| {});
    assert_eq!(drained, Drained { events: 8, overflowed: false, more: false });
    assert_eq!(smmu.take_gerror(), GlobalErrors::EVENTS_LOST);
    assert_eq!(smmu.take_gerror(), GlobalErrors::empty());
    fake.dma(8, 0, true);
    assert_eq!(smmu.drain_events(100, |_| {}).events, 1);

    // As the architecture has it: the overflow flag.
    fake.0.borrow_mut().overflow();
    assert!(smmu.drain_events(100, |_| {}).overflowed);
    assert_eq!(smmu.drain_events(100, |_| {}), Drained::default());
    assert_eq!(fake.get(eventq::CONS_OFFSET) >> 31, 1);
}

#[test]
fn an_index_that_makes_no_sense_hands_over_no_more_than_the_queue_has() {
    let fake = Fake::new();
    let options = Options { event_queue_log2: 3, ..Options::new(StreamId(0xff)) };
    let mut smmu = Smmu::new(&fake, &fake, options).unwrap();
    fake.set(eventq::PROD_OFFSET, 0x7fff_fffd);
    assert!(smmu.drain_events(1000, |_| {}).events <= 8);
}
