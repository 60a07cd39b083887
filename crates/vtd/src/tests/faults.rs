//! Fault records.

use super::*;

#[test]
fn what_was_blocked_is_told_in_order() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    unit.attach(DEVICE, &tables(&fake, 0, 0x8000_0000).domain(1)).unwrap();
    fake.dma(DEVICE.0, 0x1234, true);
    fake.dma(DEVICE.0, 0x5678, false);
    fake.dma(OTHER.0, 0x9000, true);
    fake.msi(OTHER.0, msi_address(7));
    let mut faults = Vec::new();
    let drained = unit.drain_faults(2, |fault| faults.push(fault));
    assert_eq!(drained, Drained { faults: 2, overflowed: false, more: true });
    faults.extend(drain(&mut unit));
    let of = |fault: &Fault| (fault.device, fault.reason, fault.write, fault.address.map(|it| it.0));
    assert_eq!(of(&faults[0]), (DEVICE, 5, true, Some(0x1000)));
    assert_eq!(of(&faults[1]), (DEVICE, 6, false, Some(0x5000)));
    assert_eq!(of(&faults[2]), (OTHER, 2, true, Some(0x9000)));
    assert_eq!((faults[3].device, faults[3].reason, faults[3].interrupt), (OTHER, 0x22, Some(7)));
    assert!(drain(&mut unit).is_empty());
}

#[test]
fn an_overflow_is_told_and_recording_goes_on() {
    let fake = Fake::new();
    let mut unit = unit(&fake);
    for page in 0..20 {
        fake.dma(DEVICE.0, page * PAGE, true);
    }
    let mut pages = Vec::new();
    let drained = unit.drain_faults(usize::MAX, |fault| pages.push(fault.address.unwrap().0 / PAGE));
    assert_eq!(drained, Drained { faults: 8, overflowed: true, more: false });
    assert_eq!(pages, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(unit.drain_faults(usize::MAX, |_| panic!()), Drained::default());
    for round in 0..50 {
        fake.dma(DEVICE.0, round * PAGE, true);
        let faults = drain(&mut unit);
        assert_eq!((faults.len(), faults[0].address), (1, Some(Iova(round * PAGE))));
    }
}

/// A unit that has just been looked at when another fault finds no room.
struct Late<'a> {
    fake: &'a Fake,
    comes: core::cell::Cell<bool>,
}

impl Registers for Late<'_> {
    fn size(&self) -> u64 {
        self.fake.size()
    }

    fn now_us(&self) -> u64 {
        self.fake.now_us()
    }

    fn read32(&self, offset: usize) -> u32 {
        let value = self.fake.read32(offset);
        if offset == offset::FAULT_STATUS && self.comes.replace(false) {
            self.fake.dma(DEVICE.0, 0x9000, true);
        }
        value
    }

    fn write32(&self, offset: usize, value: u32) {
        self.fake.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        Registers::read64(self.fake, offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        Registers::write64(self.fake, offset, value);
    }
}

/// 11.4.7.1: as long as an overflow isn't taken, nothing else makes the unit interrupt.
#[test]
fn an_overflow_that_comes_while_records_are_taken_is_not_left_behind() {
    let fake = Fake::new();
    let late = Late { fake: &fake, comes: core::cell::Cell::new(false) };
    let mut unit = Unit::new(&late, &fake, Options::default()).unwrap();
    (0..8).for_each(|page| assert_eq!(fake.dma(DEVICE.0, page * PAGE, true), Outcome::Faults));
    late.comes.set(true);
    let drained = unit.drain_faults(usize::MAX, |_| ());
    assert_eq!(drained, Drained { faults: 8, overflowed: false, more: true });
    assert_eq!(unit.drain_faults(8, |_| panic!()), Drained { faults: 0, overflowed: true, more: false });
}
