//! From reset to closed.

use super::*;

#[test]
fn nothing_passes_once_it_is_set_up() {
    let fake = Fake::new();
    assert_eq!(fake.dma(0, 0x1234, true), Outcome::Reaches(0x1234), "as after reset");
    let iommu = iommu(&fake);
    for device in [0, 0x10, 0xa0, 0x100, 0xfffe, 0xffff] {
        assert_eq!(fake.dma(device, 0x1234, false), Outcome::Faults);
        assert_eq!(fake.dma(device, 0xfee0_0000, true), Outcome::Faults);
        assert_eq!(fake.msi(device, 0x41), Delivery::Faults);
    }
    assert!(iommu.is_enabled());
    assert_eq!(iommu.attached(), 0);
}

/// What firmware has left is neither used nor believed: its table, its ranges, and what the IOMMU holds of them.
#[test]
fn a_set_up_of_the_firmware_s_is_forgotten() {
    let fake = Fake::new();
    drop(iommu(&fake));
    // The firmware's has a device that reaches memory, and an exclusion range.
    {
        let mut firmware = iommu(&fake);
        firmware.attach(DEVICE, &tables(&fake, 0, 0x8000_0000).domain(1)).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
    }
    Registers::write64(&&fake, offset::EXCLUSION_BASE, 3);
    let iommu = iommu(&fake);
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    assert_eq!(fake.get(offset::EXCLUSION_BASE), 0);
    assert!(iommu.domain(DEVICE).is_none());
}

#[test]
fn without_invalidate_all_each_is_forgotten_by_itself() {
    let fake = Fake::with_features(FEATURES & !(1 << 6));
    let small = || Iommu::new(&fake, &fake, Options::new(DeviceId(0x7f))).unwrap();
    {
        let mut firmware = small();
        firmware.attach(DEVICE, &tables(&fake, 0, 0x8000_0000).domain(9)).unwrap();
        firmware.route(DEVICE, 0, fixed(0x41, 1)).unwrap();
        assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Reaches(0x8000_0000));
        assert_eq!(fake.msi(DEVICE.0, 0), Delivery::To { destination: 1, vector: 0x41 });
    }
    let mut iommu = small();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    // The domain's translations are forgotten too.
    iommu.attach(DEVICE, &Tables::new(&fake).domain(9)).unwrap();
    assert_eq!(fake.dma(DEVICE.0, 0, true), Outcome::Faults);
    iommu.route(DEVICE, 1, fixed(0x42, 1)).unwrap();
    assert_eq!(fake.msi(DEVICE.0, 0), Delivery::Faults);
}

#[test]
fn a_block_without_the_ring_s_registers_is_refused_untouched() {
    let fake = Fake::new();
    fake.0.borrow_mut().register_bytes = 0x1000;
    let error = Iommu::new(&fake, &fake, Options::new(DeviceId(0xff))).unwrap_err();
    assert_eq!(error, Error::RegistersTooSmall { bytes: 0x1000 });
    assert!(fake.0.borrow().writes.is_empty());
}

#[test]
fn without_memory_nothing_is_touched() {
    for left in 0..4 {
        let fake = Fake::new();
        fake.0.borrow_mut().memory_left = Some(left);
        let error = Iommu::new(&fake, &fake, Options::new(DeviceId(0xff))).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert!(fake.0.borrow().writes.is_empty());
    }
}

/// An IOMMU that is enabled and doesn't answer stays so: off it would let everything pass.
#[test]
fn one_that_does_not_answer_stays_closed() {
    let fake = Fake::new();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let error = Iommu::new(&fake, &fake, Options::new(DeviceId(0xff))).unwrap_err();
    assert_eq!(error, Error::Timeout(Wait::Completion));
    assert_eq!(fake.dma(0, 0x1000, true), Outcome::Faults);
    assert!((1_000_000..1_100_000).contains(&fake.clock()), "it took {} us", fake.clock());
}

#[test]
fn what_the_firmware_says_of_the_control_register_is_done() {
    let fake = Fake::new();
    let hints = Hints {
        ht_tunnel: true,
        pass_posted_writes: true,
        responses_pass_posted_writes: true,
        isochronous: true,
    };
    let options = Options { hints, event_interrupt: true, ..Options::new(DeviceId(0xff)) };
    drop(Iommu::new(&fake, &fake, options).unwrap());
    // 3.4.4: enabled, tunnel, log, interrupt, PassPW, ResPassPW, coherent, isochronous, commands, GA; no x2APIC, as nobody asked.
    assert_eq!(fake.get(offset::CONTROL), 0b10_0001_1111_0000_1111);
    let fake = Fake::new();
    drop(Iommu::new(&fake, &fake, Options::new(DeviceId(0xff))).unwrap());
    assert_eq!(fake.get(offset::CONTROL), 0b10_0001_0100_0000_0101);
}

/// Rings of a length that there isn't are cut.
#[test]
fn rings_have_256_to_32768_entries() {
    for (asked, has) in [(0, 8), (8, 8), (12, 12), (15, 15), (255, 15)] {
        let fake = Fake::new();
        let options =
            Options { command_buffer_log2: asked, event_log_log2: asked, ..Options::new(DeviceId(0xff)) };
        drop(Iommu::new(&fake, &fake, options).unwrap());
        assert_eq!(fake.get(offset::COMMAND_BASE) >> 56, has);
        assert_eq!(fake.get(offset::EVENT_BASE) >> 56, has);
    }
}
