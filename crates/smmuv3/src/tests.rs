//! The driver against the fake.

extern crate std;

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use axvm_addr::{Gpa, Hpa, Iova, Span};
use proptest::prelude::*;

use crate::fake::{Fake, IDR0, IDR1, Outcome, Tables};
use crate::id::StreamId;
use crate::shared::Shared;
use crate::spec::commands::{self, Command, Reason};
use crate::spec::registers::*;
use crate::*;

const PAGE: u64 = 0x1000;

fn smmu(fake: &Fake) -> Smmu<&Fake, &Fake> {
    Smmu::new(fake, fake, options(0xffff)).unwrap()
}

/// As a platform has it whose tree says that the SMMU is coherent.
fn options(most: u32) -> Options {
    Options { coherent: true, ..Options::new(StreamId(most)) }
}

/// Tables that map one page, read and written, to `target`.
fn tables(fake: &Fake, at: u64, target: u64) -> Tables<'_> {
    let tables = Tables::new(fake);
    tables.map(at, target, true, true);
    tables
}

fn domain(vmid: u16, tables: &Tables<'_>) -> Domain {
    Domain { vmid, root: tables.root(), ipa_bits: 40, output_bits: 48 }
}

fn opcodes(log: &[Command]) -> Vec<u64> {
    log.iter().map(|command| commands::OPCODE.get(command[0])).collect()
}

fn position(fake: &Fake, write: (usize, u64)) -> usize {
    let state = fake.0.borrow();
    state
        .writes
        .iter()
        .position(|done| *done == write)
        .unwrap_or_else(|| panic!("{write:x?} was not written"))
}

#[test]
fn closing_an_open_smmu_aborts_everything_and_keeps_other_bits() {
    let fake = Fake::new();
    assert_eq!(fake.dma(8, 0x1234, true), Outcome::Reaches(0x1234), "as after reset");
    close(&&fake).unwrap();
    assert_eq!(fake.dma(8, 0x1234, true), Outcome::Aborts);
    assert_eq!(fake.get(gbpa::OFFSET), 0x10_1000);
}

#[test]
fn an_smmu_that_firmware_left_on_is_turned_off_only_after_it_would_abort() {
    let fake = Fake::new();
    fake.set(cr0::OFFSET, 0xd);
    fake.set(cr0::ACK_OFFSET, 0xd);
    close(&&fake).unwrap();
    assert!(position(&fake, (gbpa::OFFSET, 0x8010_1000)) < position(&fake, (cr0::OFFSET, 0)));
    assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);
}

#[test]
fn an_smmu_whose_bypass_cannot_be_closed_is_left_translating() {
    let fake = Fake::new();
    fake.set(cr0::OFFSET, 0xd);
    fake.0.borrow_mut().misbehaviour.gbpa_stuck = true;
    assert_eq!(close(&&fake), Err(Error::Timeout(Wait::Gbpa)));
    assert_eq!(fake.get(cr0::OFFSET), 0xd);
}

#[test]
fn set_up_aborts_and_records_every_stream_below_and_above_the_table() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    for stream in [0, 8, 0x100, 0xffff] {
        assert_eq!(fake.dma(stream, 0x4000_0000, true), Outcome::Faults(0x02), "no second-level table");
    }
    assert_eq!(fake.dma(0x1_0000, 0x4000_0000, true), Outcome::Faults(0x02));
    let mut streams = Vec::new();
    let drained = smmu.drain_events(100, |event| {
        assert_eq!(event.kind, Kind::BadStreamId);
        streams.push(event.stream.0);
    });
    assert_eq!(drained, Drained { events: 5, overflowed: false, more: false });
    assert_eq!(streams, [0, 8, 0x100, 0xffff, 0x1_0000]);
}

#[test]
fn a_linear_table_records_unassigned_streams_too() {
    let fake = Fake::new();
    fake.set(idr0::OFFSET, IDR0 & !(3 << 27));
    let mut smmu = Smmu::new(&fake, &fake, Options::new(StreamId(0x1ff))).unwrap();
    assert_eq!(fake.get(strtab_base_cfg::OFFSET), 9);
    assert_eq!(fake.dma(0x1ff, 0, false), Outcome::Faults(0x04));
    assert_eq!(fake.dma(0x200, 0, false), Outcome::Aborts, "it couldn't be silenced, so it makes no record");
    let mapper = tables(&fake, 0x4000_0000, 0x8000_0000);
    smmu.attach(StreamId(0x1ff), &domain(1, &mapper)).unwrap();
    assert_eq!(fake.dma(0x1ff, 0x4000_0010, false), Outcome::Reaches(0x8000_0010));
    assert_eq!(fake.dma(0x1fe, 0x4000_0010, false), Outcome::Faults(0x04));
}

#[test]
fn set_up_writes_the_configuration_before_it_turns_translation_on() {
    let fake = Fake::new();
    let smmu = smmu(&fake);
    assert!(smmu.features().stage2 && smmu.features().vmid16 && smmu.features().coherent);
    assert_eq!(smmu.features().output_bits, 44);
    let on = position(&fake, (cr0::OFFSET, 0b1101));
    assert!(position(&fake, (cr1::OFFSET, 0xd75)) < on);
    assert!(position(&fake, (cr2::OFFSET, 0b110)) < on);
    assert!(position(&fake, (strtab_base_cfg::OFFSET, 0x1_0210)) < on);
    assert!(position(&fake, (irq_ctrl::OFFSET, 0b101)) < on);
    assert_eq!(
        opcodes(&fake.take_log()),
        [commands::CFGI_STE_RANGE, commands::TLBI_NSNH_ALL, commands::SYNC]
    );
}

#[test]
fn where_there_is_ats_translated_transactions_are_checked() {
    let fake = Fake::new();
    fake.set(idr0::OFFSET, IDR0 | 1 << 10);
    let _smmu = smmu(&fake);
    assert_eq!(fake.get(cr0::OFFSET), 0b1_1101);
}

#[test]
fn a_missing_feature_is_named_and_the_smmu_stays_closed() {
    for (offset, value, error) in [
        (idr0::OFFSET, IDR0 & !1, Error::NoStage2),
        (idr0::OFFSET, IDR0 & !(2 << 2), Error::NoAarch64Tables),
        (idr0::OFFSET, IDR0 | 3 << 21, Error::BigEndianOnly),
        (idr0::OFFSET, IDR0 & !(3 << 24) | 2 << 24, Error::StallForced),
        (idr1::OFFSET, IDR1 | 1 << 30, Error::Preset),
        (idr5::OFFSET, 0x64, Error::No4KGranule),
        (idr1::OFFSET, IDR1 & !63 | 8, Error::StreamOutOfRange { stream: StreamId(0xffff), bits: 8 }),
    ] {
        let fake = Fake::new();
        fake.set(offset, value);
        let result = Smmu::new(&fake, &fake, options(0xffff));
        assert_eq!(result.map(|_| ()), Err(error));
        assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);
    }
}

#[test]
fn an_smmu_that_does_not_answer_is_given_up_closed() {
    let fake = Fake::new();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let result = Smmu::new(&fake, &fake, options(0xffff));
    assert_eq!(result.map(|_| ()), Err(Error::Timeout(Wait::Sync)));
    assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);

    let fake = Fake::new();
    fake.0.borrow_mut().misbehaviour.never_acknowledges = true;
    let result = Smmu::new(&fake, &fake, options(0xffff));
    assert_eq!(result.map(|_| ()), Err(Error::Timeout(Wait::Cr0)));
    assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);

    let fake = Fake::new();
    fake.0.borrow_mut().refuse_memory = true;
    let result = Smmu::new(&fake, &fake, options(0xffff));
    assert!(matches!(result, Err(Error::OutOfMemory { .. })));
    assert_eq!(fake.dma(8, 0, true), Outcome::Aborts);
}

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
fn a_refused_command_is_named_and_the_queue_works_again() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::TLBI_S12_VMALL, 1, 1));
    let refused = CommandError { opcode: 0x28, reason: Reason::Illegal };
    assert_eq!(smmu.invalidate_vmid(1), Err(Error::Command(refused)));
    assert_eq!(smmu.invalidate_vmid(1), Ok(()));
    // One of several: the others are done all the same.
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::TLBI_S2_IPA, 1, 2));
    fake.take_log();
    let span = Span::new(Gpa(0), 4 * PAGE).unwrap();
    let refused = CommandError { opcode: 0x2a, reason: Reason::Abort };
    assert_eq!(smmu.invalidate_range(1, span), Err(Error::Command(refused)));
    let done = opcodes(&fake.take_log());
    assert_eq!(done.iter().filter(|opcode| **opcode == commands::TLBI_S2_IPA).count(), 3);
    assert_eq!(smmu.take_gerror(), GlobalErrors::empty(), "acknowledged by the recovery");
}

#[test]
fn a_queue_that_always_refuses_is_given_up() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::SYNC, u32::MAX, 2));
    let refused = CommandError { opcode: 0x46, reason: Reason::Abort };
    assert_eq!(smmu.sync(), Err(Error::Command(refused)));
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
fn an_smmu_whose_commands_time_out_is_waited_for_by_the_clock_and_then_asked_briefly() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let time = |smmu: &mut Smmu<&Fake, &Fake>| {
        let start = fake.clock();
        assert!(matches!(smmu.block(StreamId(8)), Err(Error::Timeout(_))));
        fake.clock() - start
    };
    assert!((1_000_000..1_001_000).contains(&time(&mut smmu)));
    for _ in 0..200 {
        assert!(time(&mut smmu) < 4_000, "it hasn't answered since");
    }
    fake.0.borrow_mut().misbehaviour.deaf = false;
    // It reads on by itself.
    Registers::write32(&fake, cmdq::PROD_OFFSET, fake.get(cmdq::PROD_OFFSET));
    smmu.block(StreamId(8)).unwrap();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert!(time(&mut smmu) >= 1_000_000, "it has");
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

#[test]
fn a_register_block_that_is_too_small_is_refused_untouched() {
    let fake = Fake::new();
    fake.0.borrow_mut().register_bytes = 0x1_0000;
    let small = Error::RegistersTooSmall { bytes: 0x1_0000 };
    assert_eq!(close(&&fake), Err(small));
    assert_eq!(Smmu::new(&fake, &fake, options(0xffff)).map(|_| ()), Err(small));
    assert_eq!(fake.0.borrow().writes, []);
}

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
    let none = Error::OutOfMemory { what: "test", bytes: 0x1000 };
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

#[derive(Clone, Debug)]
enum Action {
    Attach(u32, usize),
    Block(u32),
    Dma(u32),
    Fail(u32),
}

fn stream() -> impl Strategy<Value = u32> {
    prop_oneof![0..3u32, 0xfe..0x102u32, Just(0xfff), Just(0x1000)]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (stream(), 0..3usize).prop_map(|(stream, domain)| Action::Attach(stream, domain)),
        3 => stream().prop_map(Action::Block),
        3 => stream().prop_map(Action::Dma),
        1 => stream().prop_map(Action::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The table serves 12 bits: 0x1000 is out of range.
    #[test]
    fn any_sequence_opens_exactly_the_streams_that_a_map_says(
        two_level: bool,
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let fake = Fake::new();
        if !two_level {
            fake.set(idr0::OFFSET, IDR0 & !(3 << 27));
        }
        fake.set(idr1::OFFSET, IDR1 & !63 | 12);
        let mut smmu = Smmu::new(&fake, &fake, Options::new(StreamId(0xfff))).unwrap();
        let mappers: Vec<_> = (0..3u64).map(|n| tables(&fake, 0, (n + 1) << 32)).collect();
        let mut model = BTreeMap::new();
        let mut silent = BTreeSet::new();
        for action in actions {
            match action {
                Action::Attach(stream, number) => {
                    let result = smmu.attach(StreamId(stream), &domain(number as u16, &mappers[number]));
                    if stream < 0x1000 {
                        prop_assert_eq!(result, Ok(()));
                        model.insert(stream, number as u64);
                        silent.remove(&stream);
                    } else {
                        prop_assert!(result.is_err());
                    }
                }
                Action::Block(stream) => {
                    prop_assert_eq!(smmu.block(StreamId(stream)).is_ok(), stream < 0x1000);
                    model.remove(&stream);
                    if stream < 0x1000 {
                        silent.insert(stream);
                    }
                }
                Action::Dma(stream) => {
                    fake.dma(stream, 0, true);
                }
                Action::Fail(stream) => {
                    let wrong = Domain { ipa_bits: 48, ..domain(7, &mappers[0]) };
                    prop_assert!(smmu.attach(StreamId(stream), &wrong).is_err());
                }
            }
            for stream in [0, 1, 2, 3, 0xfd, 0xfe, 0xff, 0x100, 0x101, 0x102, 0xffe, 0xfff, 0x1000, 0x1_0000] {
                let outcome = fake.dma(stream, 0x10, true);
                match model.get(&stream) {
                    Some(number) => prop_assert_eq!(outcome, Outcome::Reaches((number + 1) << 32 | 0x10)),
                    None if silent.contains(&stream) => prop_assert_eq!(outcome, Outcome::Aborts),
                    None => {
                        let recorded = outcome == Outcome::Faults(0x04) || outcome == Outcome::Faults(0x02);
                        prop_assert!(recorded, "stream {:#x} gives {:?}", stream, outcome);
                    }
                }
                prop_assert_eq!(smmu.domain(StreamId(stream)).is_some(), model.contains_key(&stream));
            }
        }
    }

    #[test]
    fn any_record_is_decoded_with_its_own_stream(raw: [u64; 4]) {
        let event = Event::decode(raw);
        prop_assert_eq!(event.raw, raw);
        prop_assert_eq!(u64::from(event.stream.0), raw[0] >> 32);
    }
}
