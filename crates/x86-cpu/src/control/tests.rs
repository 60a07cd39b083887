//! The table is whole, and says what is written.

extern crate std;

use super::*;
use crate::features::Feature;
use crate::vmcb::TlbControl;

/// The bits that the manual defines (appendix B, table B-1).
const DEFINED: [(Word, u32); 6] = [
    (Word::Cr, u32::MAX),
    (Word::Dr, u32::MAX),
    (Word::Exceptions, u32::MAX),
    (Word::General, u32::MAX),
    (Word::Svm, u32::MAX),
    (Word::Later, 0x7f),
];

fn all_features() -> Features {
    Features {
        svm: Feature::all(),
        has_svm: true,
        asids: 16,
        rdpru: true,
        invlpgb: true,
        mcommit: true,
        invpcid: true,
        xsaves: true,
        speculation: crate::speculation::Speculation::all(),
        ..Features::default()
    }
}

#[test]
fn every_bit_of_the_manual_has_one_row() {
    for (word, defined) in DEFINED {
        let mut seen = 0;
        for row in INTERCEPTS.iter().filter(|row| row.word == word) {
            assert!(row.first <= row.last && row.last < 32, "{}", row.name);
            assert_eq!(row.bits().count_ones(), u32::from(row.last - row.first) + 1, "{}", row.name);
            assert_eq!(seen & row.bits(), 0, "{} has two rows", row.name);
            assert!(!row.name.is_empty() && !row.why.is_empty());
            seen |= row.bits();
        }
        assert_eq!(seen, defined, "{word:?}");
    }
}

#[test]
fn every_bit_of_the_other_fields_has_one_row() {
    // 0x60: bits 10, 15:13, 23:21 and 29:27 are reserved. 0x90 and 0xb8 as far as a guest could use them.
    for (place, defined) in
        [(Place::VirtualInterrupt, 0xc71f_1bff), (Place::Nested, 0xff), (Place::VirtualExtensions, 0xf)]
    {
        let mut seen = 0;
        for row in FIELDS.iter().filter(|row| row.place == place) {
            assert_eq!(seen & row.bits, 0, "{} has two rows", row.name);
            seen |= row.bits;
        }
        assert_eq!(seen, defined, "{place:?}");
    }
}

/// Numbers by the manual, not by the table.
#[test]
fn a_guest_s_words_are_these() {
    let all = intercepts(Interrupts::Emulated, &all_features());
    // CR4's read and write, CR8's write, and registers that there aren't.
    assert_eq!(all.cr, 0xfff2_fef2);
    assert_eq!(all.dr, u32::MAX);
    assert_eq!(all.exceptions, 1 << 1 | 1 << 17 | 1 << 18);
    let general = [0, 1, 2, 3, 5, 15, 18, 19, 22, 24, 26, 27, 28, 30, 31];
    assert_eq!(all.general, general.iter().fold(0, |word, bit| word | 1 << bit));
    assert_eq!(all.svm, 0x7f | 0x7e00);
    assert_eq!(all.later, 0x1f);
    assert_eq!(field(Place::Nested, Interrupts::Emulated), 1);
    assert_eq!(field(Place::VirtualInterrupt, Interrupts::Emulated), 1 << 24);
    assert_eq!(field(Place::VirtualExtensions, Interrupts::Emulated), 0);
}

#[test]
fn a_guest_with_its_own_interrupts_takes_those_and_nothing_more() {
    let features = all_features();
    let (emulated, direct) =
        (intercepts(Interrupts::Emulated, &features), intercepts(Interrupts::Direct, &features));
    // INTR, and HLT, which its own interrupts end.
    assert_eq!(emulated.general ^ direct.general, 1 | 1 << 24);
    assert_eq!(emulated.cr ^ direct.cr, 1 << 24);
    assert_eq!(
        (emulated.dr, emulated.exceptions, emulated.svm, emulated.later),
        (direct.dr, direct.exceptions, direct.svm, direct.later)
    );
    assert_eq!(field(Place::VirtualInterrupt, Interrupts::Direct), 0);
}

#[test]
fn what_the_processor_has_not_got_isn_t_set() {
    let old = intercepts(Interrupts::Emulated, &Features::default());
    assert_eq!((old.svm, old.later), (0x3e7f, 0));
    for row in INTERCEPTS {
        if let Some(needs) = row.needs {
            assert!(!(needs.has)(&Features::default()) && (needs.has)(&all_features()), "{}", row.name);
            assert!(!needs.without.is_empty());
        }
    }
}

#[test]
fn what_is_awaited_is_in_the_table() {
    for (bits, name) in [(AWAIT_WINDOW, "VINTR"), (AWAIT_IRET, "IRET")] {
        let row = INTERCEPTS.iter().find(|row| row.name == name).unwrap();
        assert_eq!((row.word, row.bits(), row.when), (Word::General, bits, When::Awaited));
    }
}

#[test]
fn without_flush_by_asid_all_are_flushed() {
    assert_eq!(flush(&Features::default()), TlbControl::FlushAll);
    assert_eq!(flush(&all_features()), TlbControl::FlushGuest);
}

#[test]
fn what_a_cpu_has_of_the_first_state_is_set() {
    let all = Features { vendor: crate::features::Vendor::Amd, family: 0x17, ..all_features() };
    let values = |features: &Features, old| {
        first(features).map(|it| (it.msr, it.value(old))).collect::<std::vec::Vec<_>>()
    };
    assert_eq!(
        values(&all, 0),
        [
            (0xc000_0080, 0x1000),
            (0xc000_0080, 1 << 21),
            (0xc001_0114, 6),
            (0xc000_0104, 1 << 32),
            (0x1d9, 0),
            (0xda0, 0),
            (0xc001_1029, 2)
        ]
    );
    assert_eq!(
        values(&all, 0xd01),
        [
            (0xc000_0080, 0x1d01),
            (0xc000_0080, 0x20_0d01),
            (0xc001_0114, 0xd07),
            (0xc000_0104, 1 << 32),
            (0x1d9, 0),
            (0xda0, 0),
            (0xc001_1029, 0xd03)
        ]
    );
    // QEMU's: family 15, SVM with little.
    let plain =
        Features { has_svm: true, vendor: crate::features::Vendor::Amd, family: 15, ..Features::default() };
    assert_eq!(values(&plain, 0), [(0xc000_0080, 0x1000), (0xc001_0114, 6), (0x1d9, 0)]);
    assert_eq!(values(&Features::default(), 0), []);
}
