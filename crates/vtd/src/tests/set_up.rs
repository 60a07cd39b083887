//! From reset to closed.

use super::*;

#[test]
fn nothing_passes_once_it_is_set_up() {
    let fake = Fake::new();
    assert_eq!(fake.dma(0, 0x1234, true), Outcome::Reaches(0x1234), "as after reset");
    assert_eq!(fake.msi(0, 0xfee0_0000), Delivery::Passes);
    let unit = unit(&fake);
    for device in [0, 0x10, 0x100, 0xffff] {
        assert_eq!(fake.dma(device, 0x1234, false), Outcome::Faults);
        assert_eq!(fake.dma(device, 0xfee0_0000, true), Outcome::Faults);
        assert_eq!(fake.msi(device, 0xfee0_0000), Delivery::Faults, "the old format");
        assert_eq!(fake.msi(device, msi_address(0)), Delivery::Faults);
    }
    assert_eq!(unit.attached(), 0);
    let features = unit.features();
    assert!(features.three_levels && features.four_levels && features.blocks_2m && features.blocks_1g);
    assert_eq!((features.domain_bits, features.coherent, features.x2apic), (16, false, true));
}

/// A unit that firmware has left on is never off meanwhile, and of its tables nothing is left.
#[test]
fn a_set_up_of_the_firmware_s_is_replaced_without_a_gap() {
    let fake = Fake::new();
    {
        let mut firmware = unit(&fake);
        firmware.attach(DEVICE, &tables(&fake, 0, 0x8000_0000).domain(1)).unwrap();
        firmware.route(5, Some((DEVICE, fixed(0x41, 1)))).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
        assert_eq!(fake.msi(DEVICE.0, msi_address(5)), Delivery::To { destination: 1, vector: 0x41 });
        fake.dma(DEVICE.0, PAGE, true);
    }
    fake.set(offset::PROTECTED, 1 << 31 | 1);
    fake.0.borrow_mut().writes.clear();
    let mut unit = unit(&fake);
    let translating = 1 << 31;
    let off =
        fake.0.borrow().writes.iter().any(|(at, value)| *at == offset::COMMAND && value & translating == 0);
    assert!(!off, "translation stays on");
    assert_eq!(fake.get(offset::PROTECTED), 0);
    assert!(drain(&mut unit).is_empty(), "what was before is no one's");
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    assert_eq!(fake.msi(DEVICE.0, msi_address(5)), Delivery::Faults);
    // Nor of its translations.
    unit.attach(DEVICE, &Tables::new(&fake).domain(1)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
}

#[test]
fn what_a_unit_must_have_is_asked_for() {
    let refused = |capability, extended| {
        let fake = Fake::with(capability, extended);
        let error = Unit::new(&fake, &fake, Options::default()).unwrap_err();
        assert!(fake.0.borrow().writes.is_empty(), "it is untouched");
        error
    };
    assert_eq!(refused(CAPABILITY, EXTENDED & !2), Error::NoQueue);
    assert_eq!(refused(CAPABILITY | 1 << 7, EXTENDED), Error::CachingMode);
    assert_eq!(refused(CAPABILITY & !(0x1f << 8) | 8 << 8, EXTENDED), Error::NoWidth);
    // Fault records past the block.
    let far = CAPABILITY & !(0x3ff << 24) | 0x100 << 24;
    assert_eq!(refused(far, EXTENDED), Error::RegistersTooSmall { bytes: 0x1000, needs: 0x1080 });
    let fake = Fake::new();
    fake.0.borrow_mut().register_bytes = 0x800;
    let error = Unit::new(&fake, &fake, Options::default()).unwrap_err();
    assert_eq!(error, Error::RegistersTooSmall { bytes: 0x800, needs: 0x1000 });
}

#[test]
fn without_memory_nothing_is_touched() {
    for left in 0..5 {
        let fake = Fake::new();
        fake.0.borrow_mut().memory_left = Some(left);
        let error = Unit::new(&fake, &fake, Options::default()).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert!(fake.0.borrow().writes.is_empty());
    }
}

#[test]
fn one_that_does_not_answer_is_given_up_in_time() {
    let fake = Fake::new();
    fake.0.borrow_mut().misbehaviour.never_follows = true;
    assert_eq!(Unit::new(&fake, &fake, Options::default()).unwrap_err(), Error::Timeout(Wait::Command));
    let fake = Fake::new();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert_eq!(Unit::new(&fake, &fake, Options::default()).unwrap_err(), Error::Timeout(Wait::Invalidation));
    assert!((1_000_000..1_200_000).contains(&fake.clock()), "{}", fake.clock());
}

/// One that snoops needs no flushing, and one with a write buffer has it flushed.
#[test]
fn coherent_and_buffered_units_are_served() {
    for (capability, extended) in [(CAPABILITY, EXTENDED | 1), (CAPABILITY | 1 << 4, EXTENDED)] {
        let fake = Fake::with(capability, extended);
        let mut unit = unit(&fake);
        unit.attach(DEVICE, &tables(&fake, 0, 0x8000_0000).domain(1)).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
        unit.block(DEVICE).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Blocked);
        let flushes = |(at, value): &&(usize, u64)| *at == offset::COMMAND && value & 1 << 27 != 0;
        let flushed = fake.0.borrow().writes.iter().filter(flushes).count();
        assert_eq!(flushed != 0, capability != CAPABILITY);
    }
}

#[test]
fn its_own_interrupt_is_as_asked() {
    let fake = Fake::new();
    drop(unit(&fake));
    assert_eq!(fake.get(offset::FAULT_CONTROL), 1 << 31, "masked");
    unit(&fake).interrupt_by(Some(OwnInterrupt { address: 0x1_fee0_3000, data: 0x41 }));
    let read =
        [offset::FAULT_DATA, offset::FAULT_ADDRESS, offset::FAULT_UPPER_ADDRESS, offset::FAULT_CONTROL];
    assert_eq!(read.map(|at| fake.get(at)), [0x41, 0xfee0_3000, 1, 0]);
    unit(&fake).interrupt_by(None);
    assert_eq!(fake.get(offset::FAULT_CONTROL), 1 << 31, "masked again");
}

#[test]
fn one_that_is_turned_off_says_so() {
    let fake = Fake::new();
    let unit = unit(&fake);
    assert!(unit.is_enabled());
    let status = fake.get(offset::STATUS);
    // Translation, remapping; MSIs of the old format pass.
    for changed in [status & !(1 << 31), status & !(1 << 25), status | 1 << 23] {
        fake.set(offset::STATUS, changed);
        assert!(!unit.is_enabled(), "{changed:#x}");
    }
}

/// Firmware may have let MSIs of the old format pass, and have taken some of the fault records.
#[test]
fn what_firmware_has_left_of_switches_and_records_does_no_harm() {
    let fake = Fake::new();
    {
        let mut firmware = unit(&fake);
        (0..3).for_each(|page| assert_eq!(fake.dma(DEVICE.0, page * PAGE, true), Outcome::Faults));
        assert_eq!(drain(&mut firmware).len(), 3);
    }
    let compatibility = 1 << 23;
    fake.set(offset::STATUS, fake.get(offset::STATUS) | compatibility);
    assert_eq!(fake.msi(DEVICE.0, 0xfee0_0000), Delivery::Passes);
    let mut unit = unit(&fake);
    assert_eq!(fake.msi(DEVICE.0, 0xfee0_0000), Delivery::Faults);
    fake.dma(DEVICE.0, 7 * PAGE, true);
    let faults = drain(&mut unit);
    assert_eq!(
        (faults.len(), faults[1].address),
        (2, Some(Iova(7 * PAGE))),
        "the records go on where they were"
    );
}
