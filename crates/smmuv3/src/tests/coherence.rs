//! What processor and SMMU share.

use super::*;

/// What processor and SMMU share, by the contract of `Shared`.
fn conforms(fake: &Fake, coherent: bool) {
    let memory = Shared::new(fake, coherent);
    for bytes in [128, 0x4000] {
        let block = memory.allocate("test", bytes).unwrap().0;
        memory.barrier();
        assert_eq!(block % bytes.max(0x1000), 0, "aligned to its size, and alone in its cache lines");
        for at in (block..block + bytes).step_by(8) {
            assert_eq!((fake.seen_by_smmu(at), memory.read64(Hpa(at))), (0, 0));
        }
        // A line that the processor writes and one that the SMMU writes; the one reads what the other wrote, again and
        // again.
        for round in 1..20u64 {
            for own in (block..block + 64).step_by(8) {
                let (theirs, value) = (own + 64, own ^ round);
                memory.write64(Hpa(own), value);
                memory.barrier();
                fake.write_as_smmu(theirs, !value);
                memory.barrier();
                assert_eq!((fake.seen_by_smmu(own), memory.read64(Hpa(own))), (value, value));
                assert_eq!((fake.seen_by_smmu(theirs), memory.read64(Hpa(theirs))), (!value, !value));
            }
        }
    }
    fake.0.borrow_mut().refuse_memory = true;
    let none = OutOfMemory { what: "test", bytes: 0x1000 };
    assert_eq!(memory.allocate("test", 1), Err(none));
}

#[test]
fn what_is_shared_is_the_same_for_both_whether_the_smmu_is_coherent_or_not() {
    conforms(&Fake::new(), true);
    conforms(&Fake::not_coherent(IDR0), false);
    // Cleaning where it isn't needed is right, too.
    conforms(&Fake::new(), false);
}

#[test]
#[should_panic(expected = "assertion")]
fn what_is_shared_with_one_that_is_not_coherent_would_differ_without_cleaning() {
    conforms(&Fake::not_coherent(IDR0), true);
}

#[test]
fn an_smmu_is_coherent_where_both_it_and_the_tree_say_so() {
    const COHACC: u32 = 1 << 4;
    for (tree, idr0) in [(true, IDR0 & !COHACC), (false, IDR0), (false, IDR0 & !COHACC)] {
        let fake = Fake::not_coherent(idr0);
        let options = Options { coherent: tree, event_queue_log2: 3, ..Options::new(StreamId(0xffff)) };
        let mut smmu = Smmu::new(&fake, &fake, options).unwrap();
        assert!(!smmu.features().coherent);
        assert_eq!(fake.get(cr1::OFFSET), 0x820, "queues and tables: non-cacheable, outer shareable");
        let mapper = tables(&fake, 0, 0x8000_0000);
        smmu.attach(StreamId(8), &domain(1, &mapper)).unwrap();
        // More events than the queue has, so that lines are read again that were read before.
        for round in 0..40 {
            assert_eq!(fake.dma(8, 0x10, true), Outcome::Reaches(0x8000_0010));
            fake.record([(round << 32) | 0x10, 0, round, 0]);
            let seen = |event: Event| assert_eq!(event.stream, StreamId(round as u32));
            assert_eq!(smmu.drain_events(10, seen).events, 1);
        }
        smmu.block(StreamId(8)).unwrap();
        assert_eq!(fake.dma(8, 0x10, true), Outcome::Aborts);
    }
    assert!(smmu(&Fake::new()).features().coherent);
}
