//! Closing, and setting up.

use super::*;

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
fn a_register_block_that_is_too_small_is_refused_untouched() {
    let fake = Fake::new();
    fake.0.borrow_mut().register_bytes = 0x1_0000;
    let small = Error::RegistersTooSmall { bytes: 0x1_0000 };
    assert_eq!(close(&&fake), Err(small));
    assert_eq!(Smmu::new(&fake, &fake, options(0xffff)).map(|_| ()), Err(small));
    assert_eq!(fake.0.borrow().writes, []);
}
