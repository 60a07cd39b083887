//! Streams and what they reach.

use super::*;

#[test]
fn an_entry_changes_in_the_order_write_barrier_invalidate_sync() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    // The SMMU holds "not there", then the empty entry, then each domain's entry in turn; the fake checks that no
    // word of an entry changes while a valid one can be held, and only sees what a barrier has followed.
    assert_eq!(fake.dma(8, 0, true), Outcome::Faults(0x02));
    fake.take_log();
    smmu.attach(StreamId(8), &domain(1, &one)).unwrap();
    let publish = [commands::CFGI_STE, commands::SYNC];
    assert_eq!(opcodes(&fake.take_log()), [publish, publish].concat());
    assert_eq!(fake.dma(8, 4, true), Outcome::Reaches(0x8000_0004));
    assert_eq!(fake.dma(9, 4, true), Outcome::Faults(0x04), "a neighbour in the same table");
    smmu.attach(StreamId(8), &domain(2, &two)).unwrap();
    assert_eq!(smmu.domain(StreamId(8)), Some(&domain(2, &two)));
    let forget = [commands::TLBI_S12_VMALL, commands::SYNC];
    assert_eq!(opcodes(&fake.take_log()), [publish, forget, publish, publish, publish].concat());
    assert_eq!(fake.dma(8, 4, true), Outcome::Reaches(0x9000_0004));
    fake.take_log();
    smmu.block(StreamId(8)).unwrap();
    assert_eq!(opcodes(&fake.take_log()), [publish, forget].concat());
    assert_eq!(fake.dma(8, 4, true), Outcome::Aborts);
    assert_eq!(fake.dma(9, 4, true), Outcome::Faults(0x04), "a neighbour isn't silenced");
    assert_eq!(smmu.domain(StreamId(8)), None);
    smmu.block(StreamId(8)).unwrap();
    assert_eq!(opcodes(&fake.take_log()), publish, "confirmed again");
    smmu.block(StreamId(0x4000)).unwrap();
    assert_eq!(
        smmu.block(StreamId(0x1_0000)),
        Err(Error::StreamOutOfRange { stream: StreamId(0x1_0000), bits: 16 })
    );
}

#[test]
fn a_domain_that_the_smmu_would_refuse_is_refused_before() {
    let fake = Fake::new();
    fake.set(idr0::OFFSET, IDR0 & !(1 << 18));
    let mut smmu = smmu(&fake);
    let mapper = tables(&fake, 0, 0x8000_0000);
    let good = domain(1, &mapper);
    let stream = StreamId(8);
    let mut refused = |domain: Domain| smmu.attach(stream, &domain).unwrap_err();
    assert_eq!(refused(Domain { vmid: 256, ..good }), Error::VmidTooWide { vmid: 256 });
    assert!(matches!(refused(Domain { ipa_bits: 31, ..good }), Error::InputSize { bits: 31 }));
    assert_eq!(
        refused(Domain { ipa_bits: 48, ..good }),
        Error::AddressSize { input: 48, output: 44, oas: 44 }
    );
    assert_eq!(
        refused(Domain { output_bits: 36, ..good }),
        Error::AddressSize { input: 40, output: 36, oas: 44 }
    );
    assert_eq!(
        refused(Domain { ipa_bits: 41, output_bits: 41, ..good }),
        Error::AddressSize { input: 41, output: 41, oas: 44 },
        "41 bits can't be said, and 40 are too few"
    );
    let root = Hpa(good.root.0 + PAGE);
    assert_eq!(refused(Domain { root, ..good }), Error::Root { root, bytes: 2 * PAGE });
    let root = Hpa(1 << 44);
    assert_eq!(refused(Domain { root, ..good }), Error::Root { root, bytes: 2 * PAGE });
    assert_eq!(fake.dma(8, 0, true), Outcome::Faults(0x02));
}

#[test]
fn streams_of_one_vmid_share_one_root() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    smmu.attach(StreamId(8), &domain(1, &one)).unwrap();
    smmu.attach(StreamId(9), &domain(1, &one)).unwrap();
    assert_eq!(
        smmu.attach(StreamId(10), &domain(1, &two)),
        Err(Error::VmidInUse {
            vmid: 1,
            stream: StreamId(10),
            root: two.root(),
            other: StreamId(8),
            other_root: one.root(),
        })
    );
    assert_eq!(fake.dma(10, 0, true), Outcome::Faults(0x04));
    fake.take_log();
    smmu.block(StreamId(8)).unwrap();
    assert!(!opcodes(&fake.take_log()).contains(&commands::TLBI_S12_VMALL), "another stream still uses it");
    smmu.block(StreamId(9)).unwrap();
    assert!(opcodes(&fake.take_log()).contains(&commands::TLBI_S12_VMALL));
    smmu.attach(StreamId(10), &domain(1, &two)).unwrap();
    assert_eq!(fake.dma(10, 0, true), Outcome::Reaches(0x9000_0000));
}

#[test]
fn what_is_unmapped_is_out_of_reach_once_it_is_invalidated() {
    for pages in [1, 64, 65] {
        let fake = Fake::new();
        let mut smmu = smmu(&fake);
        let mapper = Tables::new(&fake);
        for page in 0..101 {
            mapper.map(page * PAGE, 0x8000_0000 + page * PAGE, true, true);
        }
        smmu.attach(StreamId(8), &domain(3, &mapper)).unwrap();
        for page in 0..101 {
            assert_eq!(fake.dma(8, page * PAGE, false), Outcome::Reaches(0x8000_0000 + page * PAGE));
        }
        fake.take_log();
        (0..pages).for_each(|page| mapper.unmap(page * PAGE));
        assert_eq!(fake.dma(8, 0, false), Outcome::Reaches(0x8000_0000), "the fake holds what it has used");
        smmu.invalidate_range(3, Span::new(Gpa(0), pages * PAGE).unwrap()).unwrap();
        for page in 0..101 {
            let expected = if page < pages {
                Outcome::Faults(0x10)
            } else {
                Outcome::Reaches(0x8000_0000 + page * PAGE)
            };
            assert_eq!(fake.dma(8, page * PAGE, false), expected, "page {page} of {pages}");
        }
        let by_page = opcodes(&fake.take_log()).contains(&commands::TLBI_S2_IPA);
        assert_eq!(by_page, pages <= 64);
    }
}

#[test]
fn a_doorbell_is_written_and_never_read() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let mapper = tables(&fake, 0x4000_0000, 0x8000_0000);
    mapper.map(0x809_0000, 0x809_0000, false, true);
    smmu.attach(StreamId(8), &domain(3, &mapper)).unwrap();
    assert_eq!(fake.dma(8, 0x809_0040, true), Outcome::Reaches(0x809_0040));
    assert_eq!(fake.dma(8, 0x809_0040, false), Outcome::Faults(0x13));
    let mut events = Vec::new();
    let _ = smmu.drain_events(10, |event| events.push(event));
    assert_eq!(events.len(), 1);
    let event = events[0];
    assert_eq!((event.stream, event.kind, event.write), (StreamId(8), Kind::Permission, Some(false)));
    assert_eq!((event.iova, event.ipa), (Some(Iova(0x809_0040)), Some(Gpa(0x809_0000))));
    assert_eq!(event.class, Some(Class::Input));
}

#[test]
fn a_stream_that_could_not_be_blocked_still_counts_as_attached() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
    smmu.attach(StreamId(8), &domain(1, &one)).unwrap();
    assert_eq!(fake.dma(8, 0, true), Outcome::Reaches(0x8000_0000));
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert_eq!(smmu.block(StreamId(8)), Err(Error::Timeout(Wait::Sync)));
    assert_eq!(smmu.domain(StreamId(8)), Some(&domain(1, &one)));
    assert!(matches!(smmu.attach(StreamId(9), &domain(1, &two)), Err(Error::VmidInUse { .. })));
    fake.0.borrow_mut().misbehaviour.deaf = false;
    smmu.block(StreamId(8)).unwrap();
    assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);
    assert_eq!(smmu.domain(StreamId(8)), None);
}

#[test]
fn whichever_command_is_lost_the_stream_can_be_closed_and_opened_again() {
    // With the entry's table to be made, with it there, and with the stream attached to something else.
    for before in 0..3 {
        let mut lost = 0;
        loop {
            let fake = Fake::new();
            let mut smmu = smmu(&fake);
            let (one, two) = (tables(&fake, 0, 0x8000_0000), tables(&fake, 0, 0x9000_0000));
            if before > 0 {
                smmu.attach(StreamId(8), &domain(2, &two)).unwrap();
            }
            if before == 1 {
                smmu.block(StreamId(8)).unwrap();
            }
            fake.0.borrow_mut().misbehaviour.hears = Some(lost);
            let result = smmu.attach(StreamId(8), &domain(1, &one));
            let all_heard = core::mem::take(&mut fake.0.borrow_mut().misbehaviour.hears).is_some();
            if result.is_ok() {
                assert!(all_heard, "{before}: command {lost} was lost, and nobody noticed");
                break;
            }
            assert_eq!(result, Err(Error::Timeout(Wait::Sync)));
            smmu.block(StreamId(8)).unwrap();
            assert_eq!((smmu.attached(), fake.dma(8, 4, true)), (0, Outcome::Aborts), "{before}, {lost}");
            // Nobody has the tables: they may be another's.
            smmu.attach(StreamId(9), &domain(1, &two)).unwrap();
            smmu.attach(StreamId(8), &domain(2, &one)).unwrap();
            assert_eq!(fake.dma(8, 4, true), Outcome::Reaches(0x8000_0004));
            assert_eq!((smmu.attached(), fake.dma(9, 4, true)), (2, Outcome::Reaches(0x9000_0004)));
            lost += 1;
        }
        assert!(lost >= 4, "{before}: {lost}");
    }
}

#[test]
fn without_memory_for_its_entry_a_stream_stays_as_it_was() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let mapper = tables(&fake, 0, 0x8000_0000);
    fake.0.borrow_mut().refuse_memory = true;
    let result = smmu.attach(StreamId(8), &domain(1, &mapper));
    assert!(matches!(result, Err(Error::OutOfMemory { .. })));
    assert_eq!((smmu.attached(), fake.dma(8, 0, true)), (0, Outcome::Faults(0x02)));
    fake.0.borrow_mut().refuse_memory = false;
    smmu.attach(StreamId(8), &domain(1, &mapper)).unwrap();
    assert_eq!((smmu.attached(), fake.dma(8, 0, true)), (1, Outcome::Reaches(0x8000_0000)));
}

#[test]
fn a_device_that_keeps_mastering_leaves_room_for_others_events() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    let mapper = tables(&fake, 0, 0x8000_0000);
    smmu.attach(StreamId(8), &domain(1, &mapper)).unwrap();
    // One that a VM had, one on the same bus that nobody had, one on a bus that nobody is on, and the last of all.
    smmu.block(StreamId(8)).unwrap();
    for stream in [9, 0x4000, 0xffff] {
        assert!(matches!(fake.dma(stream, 0, true), Outcome::Faults(_)), "the first of them says who it is");
        smmu.silence(StreamId(stream)).unwrap();
    }
    assert_eq!(smmu.drain_events(100, |_| {}).events, 3);
    for _ in 0..5000 {
        for stream in [8, 9, 0x4000, 0xffff] {
            assert_eq!(fake.dma(stream, 0, true), Outcome::Aborts);
        }
    }
    assert_eq!(fake.dma(10, 0, true), Outcome::Faults(0x04));
    let mut streams = Vec::new();
    let _ = smmu.drain_events(100, |event| streams.push(event.stream.0));
    assert_eq!((streams, smmu.take_gerror()), ([10].to_vec(), GlobalErrors::empty()));
    // What was silenced can be given all the same, and its bus stays silent.
    smmu.attach(StreamId(0x4001), &domain(1, &mapper)).unwrap();
    assert_eq!(fake.dma(0x4001, 0, true), Outcome::Reaches(0x8000_0000));
    assert_eq!(fake.dma(0x4000, 0, true), Outcome::Aborts);
}

#[test]
fn a_stream_is_blocked_also_where_there_is_no_memory_for_a_table() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().refuse_memory = true;
    smmu.block(StreamId(0x4000)).unwrap();
    assert_eq!(fake.dma(0x4000, 0, true), Outcome::Aborts);
}
