//! Every MSR that there is, read and written.

extern crate std;

use super::*;
use crate::control::{Interrupts, Own, area};
use crate::features::Features;
use crate::start::Start;
use crate::vmcb::Vmcb;
use proptest::prelude::*;
use std::vec::Vec;

const ALLOWED: Allowed = Allowed { cr4: 0x7ff, efer: 1 | 1 << 8 | 1 << 11, xcr0: 7 };
const GP: Exception = Exception::GP;

fn save() -> Save {
    Start::Reset.state(0).save
}

/// What a kernel may read, by the manuals' numbers.
fn readable(offers: Offers) -> Vec<u32> {
    let mut all = std::vec![
        0x10,
        0x1b,
        0x8b,
        0xfe,
        0x174,
        0x175,
        0x176,
        0x1a0,
        0x1d9,
        0x250,
        0x258,
        0x259,
        0x277,
        0x2ff,
        0xc000_0080,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
        0xc001_0010,
        0xc001_0015,
        0xc001_001f,
        0xc001_0055,
        0xc001_0058,
        0xc001_0114,
        0xc001_1022,
        0xc001_102a,
    ];
    all.extend(0x200..0x210);
    all.extend(0x268..0x270);
    if offers.contains(Offers::X2APIC) {
        all.extend(0x800..0x900);
    }
    let mut add = |offer, msr| {
        if offers.contains(offer) {
            all.push(msr);
        }
    };
    add(Offers::TSC_DEADLINE, 0x6e0);
    add(Offers::CLOCK, 0x11);
    add(Offers::CLOCK, 0x12);
    add(Offers::CLOCK, 0x4b56_4d00);
    add(Offers::CLOCK, 0x4b56_4d01);
    add(Offers::SPEC_CTRL, 0x48);
    add(Offers::LFENCE, 0xc001_1029);
    all.sort_unstable();
    all
}

/// The ranges in which processors have MSRs, and what is around them.
fn all_numbers() -> impl Iterator<Item = u32> {
    (0..0x1_0000)
        .chain(0x4000_0000..0x4000_2000)
        .chain(0x4b56_0000..0x4b57_0000)
        .chain(0xc000_0000..0xc000_4000)
        .chain(0xc001_0000..0xc001_4000)
        .chain([u32::MAX, 0x8000_0000])
}

#[test]
fn no_other_msr_can_be_read() {
    for offers in [Offers::empty(), Offers::all()] {
        let found: Vec<u32> = all_numbers()
            .filter(|msr| read(*msr, &save(), &Msrs::new(), offers) != Read::Fault(GP))
            .collect();
        assert_eq!(found, readable(offers));
    }
}

#[test]
fn no_other_msr_can_be_written() {
    for offers in [Offers::empty(), Offers::all()] {
        for msr in all_numbers() {
            let is_right = readable(offers).binary_search(&msr).is_ok() || msr == 0x49;
            if !is_right {
                for value in [0, 1, u64::MAX] {
                    let (mut save, mut msrs) = (save(), Msrs::new());
                    let found = write(msr, value, &mut save, &mut msrs, offers, &ALLOWED);
                    assert_eq!(found, Written::Fault(GP), "{msr:#x}");
                }
            }
        }
    }
}

#[test]
fn no_msr_has_two_rows() {
    for (at, row) in TABLE.iter().enumerate() {
        assert!(row.first <= row.last && !row.name.is_empty() && !row.why.is_empty());
        if let Some(next) = TABLE.get(at + 1) {
            assert!(row.last < next.first, "{} and {}", row.name, next.name);
        }
    }
}

#[test]
fn what_is_open_is_the_guest_s_own() {
    let mut map = MsrPermissions::closed();
    open(&mut map);
    let own = [
        0x174,
        0x175,
        0x176,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
    ];
    for msr in all_numbers() {
        assert_eq!(
            (map.may_read(msr), map.may_write(msr)),
            (own.contains(&msr), own.contains(&msr)),
            "{msr:#x}"
        );
    }
    // They answer all the same where the map is closed.
    for msr in own {
        let (mut save, mut msrs) = (save(), Msrs::new());
        let value = 0x7fff_0000_1000 | u64::from(msr & 0xf);
        assert_eq!(
            write(msr, value, &mut save, &mut msrs, Offers::empty(), &ALLOWED),
            Written::Done(Flush::No)
        );
        assert_eq!(read(msr, &save, &msrs, Offers::empty()), Read::Value(value), "{msr:#x}");
    }
}

fn wrote(msr: u32, value: u64, offers: Offers) -> (Written, Read) {
    let (mut save, mut msrs) = (save(), Msrs::new());
    let written = write(msr, value, &mut save, &mut msrs, offers, &ALLOWED);
    (written, read(msr, &save, &msrs, offers))
}

const DONE: Written = Written::Done(Flush::No);
const FAULT: Written = Written::Fault(GP);

#[test]
fn addresses_are_canonical() {
    for msr in [0x175, 0x176, 0xc000_0082, 0xc000_0083, 0xc000_0100, 0xc000_0101, 0xc000_0102] {
        assert_eq!(wrote(msr, 0x8000_0000_0000, Offers::empty()), (FAULT, Read::Value(0)), "{msr:#x}");
        assert_eq!(wrote(msr, 0xffff_8000_0000_0000, Offers::empty()).0, DONE);
    }
    assert_eq!(wrote(0xc000_0081, 0x8000_0000_0000, Offers::empty()).0, DONE, "STAR is none");
}

#[test]
fn memory_types_are_those_that_there_are() {
    let no = Offers::empty();
    assert_eq!(wrote(0x277, 0x0706_0504_0100_0706, no).0, Written::Done(Flush::Guest));
    for kind in [2u64, 3, 8, 0xff] {
        for at in 0..8 {
            assert_eq!(wrote(0x277, kind << (8 * at), no), (FAULT, Read::Value(0x0007_0406_0007_0406)));
        }
    }
    // MTRRs: UC-, which is PAT's only, isn't one.
    assert_eq!(wrote(0x2ff, 0x806, no), (DONE, Read::Value(0x806)));
    assert_eq!(wrote(0x2ff, 0, no), (DONE, Read::Value(0)));
    for wrong in [7, 2, 1 << 12, 1 << 8, 1 << 63] {
        assert_eq!(wrote(0x2ff, wrong, no), (FAULT, Read::Value(0x806)), "{wrong:#x}");
    }
    assert_eq!(wrote(0x250, 0x0606_0505_0404_0100, no), (DONE, Read::Value(0x0606_0505_0404_0100)));
    assert_eq!(wrote(0x26f, 0x07, no), (FAULT, Read::Value(0x0606_0606_0606_0606)));
    assert_eq!(wrote(0x200, 0xc000_0000, no), (DONE, Read::Value(0xc000_0000)));
    assert_eq!(wrote(0x200, 0xc000_0002, no), (FAULT, Read::Value(0)));
    assert_eq!(wrote(0x200, 0xc000_0100, no).0, FAULT);
    assert_eq!(wrote(0x201, 0xff_c000_0800, no), (DONE, Read::Value(0xff_c000_0800)));
    assert_eq!(wrote(0x201, 0x400, no).0, FAULT);
    assert_eq!(wrote(0xfe, 0x508, no), (FAULT, Read::Value(0x508)));
}

#[test]
fn each_fixed_mtrr_is_one_of_its_own() {
    let (mut save, mut msrs) = (save(), Msrs::new());
    let fixed = || [0x250, 0x258, 0x259].into_iter().chain(0x268..0x270).zip(0u64..);
    // Eleven different values.
    let value =
        |number: u64| number & 1 | (number >> 1 & 1) << 8 | (number >> 2 & 1) << 16 | (number >> 3) << 24;
    for (msr, number) in fixed() {
        assert_eq!(write(msr, value(number), &mut save, &mut msrs, Offers::empty(), &ALLOWED), DONE);
    }
    for (msr, number) in fixed() {
        assert_eq!(read(msr, &save, &msrs, Offers::empty()), Read::Value(value(number)), "{msr:#x}");
    }
}

#[test]
fn svm_can_t_be_switched_off_or_seen() {
    let mut vmcb_save = save();
    let mut msrs = Msrs::new();
    assert_eq!(read(0xc000_0080, &vmcb_save, &msrs, Offers::empty()), Read::Value(0));
    let found = write(0xc000_0080, 0x901, &mut vmcb_save, &mut msrs, Offers::empty(), &ALLOWED);
    assert_eq!((found, vmcb_save.efer), (Written::Done(Flush::Guest), 0x1901));
    assert_eq!(wrote(0xc000_0080, 1 << 12, Offers::empty()), (FAULT, Read::Value(0)));
    // VM_CR: SVM is off, and locked.
    assert_eq!(wrote(0xc001_0114, 0, Offers::empty()), (FAULT, Read::Value(0x18)));
    assert_eq!(wrote(0xc001_0117, 0x1000, Offers::empty()), (FAULT, Read::Fault(GP)), "VM_HSAVE_PA");
}

#[test]
fn speculation_s_msrs_are_there_where_they_are_offered() {
    assert_eq!(wrote(0x49, 1, Offers::BARRIER), (Written::Barrier, Read::Fault(GP)));
    assert_eq!(wrote(0x49, 0, Offers::BARRIER).0, DONE);
    assert_eq!(wrote(0x49, 2, Offers::BARRIER).0, FAULT);
    assert_eq!(wrote(0x49, 1, Offers::SPEC_CTRL).0, FAULT);
    assert_eq!(wrote(0x48, 7, Offers::SPEC_CTRL), (DONE, Read::Value(7)));
    assert_eq!(wrote(0x48, 8, Offers::SPEC_CTRL), (FAULT, Read::Value(0)));
    assert_eq!(wrote(0x48, 0, Offers::BARRIER), (FAULT, Read::Fault(GP)));
    assert_eq!(wrote(0xc001_1029, 2, Offers::LFENCE), (DONE, Read::Value(2)));
    assert_eq!(wrote(0xc001_1029, 0, Offers::LFENCE), (FAULT, Read::Value(2)));
}

#[test]
fn what_linux_writes_unasked_has_no_effect() {
    let no = Offers::empty();
    for (msr, value) in [
        (0x8b, 0),
        (0x1a0, 1),
        (0x1d9, 0),
        (0xc001_0010, 0),
        (0xc001_001f, 0),
        (0xc001_0055, 0),
        (0xc001_1022, 0),
        (0xc001_102a, 0),
    ] {
        assert_eq!(wrote(msr, u64::MAX, no), (DONE, Read::Value(value)), "{msr:#x}");
    }
    // K8's flush filter, and the bit that says which rate the time-stamp counter has.
    assert_eq!(wrote(0xc001_0015, 1 << 24 | 1 << 6, no), (DONE, Read::Value(1 << 24)));
    assert_eq!(wrote(0xc001_0015, 1 << 30, no), (FAULT, Read::Value(1 << 24)));
    // SMMLOCK, CpbDis, MonMwaitUserEn.
    for bit in [0, 25, 10] {
        assert_eq!(wrote(0xc001_0015, 1 << bit, no).0, FAULT, "{bit}");
    }
}

#[test]
fn the_hypervisor_is_asked_for_what_it_has() {
    let all = Offers::all();
    for (msr, of) in [
        (0x10, Of::Tsc),
        (0x1b, Of::ApicBase),
        (0x6e0, Of::Deadline),
        (0x80b, Of::X2Apic),
        (0x4b56_4d00, Of::WallClock),
        (0x4b56_4d01, Of::SystemTime),
    ] {
        assert_eq!(wrote(msr, 5, all), (Written::Hypervisor(of), Read::Hypervisor(of)), "{msr:#x}");
    }
    assert_eq!(wrote(0xc000_0103, 5, all), (Written::Hypervisor(Of::TscAux), Read::Value(5)));
    assert_eq!(wrote(0xc000_0103, 1 << 32, all), (FAULT, Read::Value(0)));
}

proptest! {
    #[test]
    fn no_writes_make_a_state_that_vmrun_refuses(
        writes in proptest::collection::vec((any::<u32>(), 0usize..TABLE.len(), any::<u64>(), any::<bool>()), 0..40)
    ) {
        let own = Own { io_permissions: 0, msr_permissions: 0, nested_cr3: 0, asid: 1, tsc_offset: 0 };
        let mut vmcb = Vmcb::zero();
        vmcb.control = area(Interrupts::Emulated, &Features::default(), &own);
        vmcb.save = save();
        let mut msrs = Msrs::new();
        for (number, row, value, listed) in writes {
            let row = &TABLE[row];
            let msr = if listed { row.first + number % (row.last - row.first + 1) } else { number };
            for value in [value, value & 0x901] {
                let (before, msrs_before) = (vmcb.save, msrs);
                if let Written::Fault(_) = write(msr, value, &mut vmcb.save, &mut msrs, Offers::all(), &ALLOWED) {
                    prop_assert!(vmcb.save == before && msrs == msrs_before, "a fault has changed something");
                }
                prop_assert_eq!(vmcb.check(40), Ok(()));
            }
        }
    }
}
