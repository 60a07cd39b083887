//! What guests see of several processors.

extern crate std;

use super::*;
use std::collections::BTreeMap;

const ONES: Leaf = Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

/// An AMD processor that has everything, and tells more than there is.
fn everything(leaf: u32, subleaf: u32) -> Leaf {
    let vendor = |eax| Leaf { eax, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 };
    match (leaf, subleaf) {
        (0, _) => vendor(0x20),
        (0x8000_0000, _) => vendor(0x8000_0028),
        (0xd, 0) => Leaf { eax: 0x2e7, ebx: 0x240, ecx: 0x988, edx: 0 },
        // AVX, AVX-512's three, PKRU.
        (0xd, 2) => Leaf { eax: 0x100, ebx: 0x240, ecx: 0, edx: 0 },
        (0xd, 5) => Leaf { eax: 0x40, ebx: 0x340, ecx: 0, edx: 0 },
        (0xd, 6) => Leaf { eax: 0x1f8, ebx: 0x380, ecx: 0, edx: 0 },
        (0xd, 7) => Leaf { eax: 0x400, ebx: 0x580, ecx: 2, edx: 0 },
        (0xd, 9) => Leaf { eax: 8, ebx: 0x980, ecx: 0, edx: 0 },
        (0xd, 2..) => Leaf::default(),
        // L1 data, L1 code, L2, L3.
        (0x8000_001d | 4, 0..4) => {
            Leaf { eax: 0xffff_c000 | [0x21, 0x22, 0x43, 0x63][subleaf as usize], ebx: 7, ecx: 63, edx: 3 }
        }
        (0x8000_001d | 4, _) => Leaf::default(),
        _ => ONES,
    }
}

/// One that has nothing.
fn nothing(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => Leaf { eax: 0xd, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
        0x8000_0000 => Leaf { eax: 0x8000_0021, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

const VIEW: View = View { vcpus: 2, physical_bits: 40, xcr0: 7, offers: Offers::empty() };
const ASKER: Asker = Asker { apic_id: 1, apic_enabled: true, cr4: 0, xcr0: 1 };

fn see(leaf: u32, subleaf: u32) -> Leaf {
    cpuid(leaf, subleaf, &everything, &VIEW, &ASKER)
}

fn has(value: u32, bit: u32) -> bool {
    value & 1 << bit != 0
}

#[test]
fn no_bit_has_two_rows() {
    let mut seen = BTreeMap::new();
    for row in TABLE {
        assert!(row.mask != 0 && !row.why.is_empty());
        let subleaf = if let Subleaf::Only(only) = row.subleaf { only } else { 0 };
        let bits: &mut u32 = seen.entry((row.leaf, subleaf, row.register as u8)).or_default();
        assert_eq!(*bits & row.mask, 0, "{:#x} {:?}: {}", row.leaf, row.register, row.why);
        *bits |= row.mask;
        // A leaf has subleaves, or it has none.
        let kinds = TABLE.iter().filter(|other| other.leaf == row.leaf);
        assert!(kinds.clone().all(|other| (other.subleaf == Subleaf::Any) == (row.subleaf == Subleaf::Any)));
    }
}

#[test]
fn a_leafs_rows_are_found_all() {
    for row in TABLE {
        let all = TABLE.iter().filter(|other| other.leaf == row.leaf).count();
        assert_eq!(rows(row.leaf).len(), all, "{:#x}: the table isn't in the order of leaves", row.leaf);
    }
    assert!(rows(3).is_empty() && rows(u32::MAX).is_empty());
}

#[test]
fn what_is_hidden_is_zero_though_the_processor_has_it() {
    let all = Offers::all();
    let view = View { xcr0: 0xe7, offers: all, ..VIEW };
    for row in TABLE.iter().filter(|row| row.rule == Rule::Hidden) {
        let subleaf = if let Subleaf::Only(only) = row.subleaf { only } else { 0 };
        let mut seen = cpuid(row.leaf, subleaf, &everything, &view, &ASKER);
        assert_eq!(
            *part(&mut seen, row.register) & row.mask,
            0,
            "{:#x} {:?}: {}",
            row.leaf,
            row.register,
            row.why
        );
    }
}

/// By the manuals' numbers, not the table's.
#[test]
fn what_would_lead_past_the_guest_is_hidden() {
    let first = see(1, 0);
    for (bit, name) in [
        (3, "MONITOR"),
        (5, "VMX"),
        (6, "SMX"),
        (17, "PCID"),
        (21, "x2APIC"),
        (24, "TSC deadline"),
        (15, "PDCM"),
    ] {
        assert!(!has(first.ecx, bit), "{name}");
    }
    for (bit, name) in [(14, "MCA"), (21, "DS"), (22, "ACPI"), (29, "TM")] {
        assert!(!has(first.edx, bit), "{name}");
    }
    let seventh = see(7, 0);
    for (bit, name) in [
        (1, "TSC_ADJUST"),
        (2, "SGX"),
        (4, "HLE"),
        (10, "INVPCID"),
        (11, "RTM"),
        (12, "PQM"),
        (14, "MPX"),
        (25, "PT"),
    ] {
        assert!(!has(seventh.ebx, bit), "{name}");
    }
    for (bit, name) in [
        (3, "PKU"),
        (5, "WAITPKG"),
        (7, "CET_SS"),
        (13, "TME"),
        (16, "LA57"),
        (28, "MOVDIR64B"),
        (29, "ENQCMD"),
    ] {
        assert!(!has(seventh.ecx, bit), "{name}");
    }
    for (bit, name) in
        [(18, "PCONFIG"), (19, "LBR"), (20, "IBT"), (24, "AMX"), (26, "SPEC_CTRL"), (29, "ARCH_CAPABILITIES")]
    {
        assert!(!has(seventh.edx, bit), "{name}");
    }
    let extended = see(0x8000_0001, 0);
    for (bit, name) in [
        (2, "SVM"),
        (3, "EXTAPIC"),
        (10, "IBS"),
        (12, "SKINIT"),
        (13, "WDT"),
        (15, "LWP"),
        (23, "counters"),
        (29, "MWAITX"),
    ] {
        assert!(!has(extended.ecx, bit), "{name}");
    }
    let sizes = see(0x8000_0008, 0);
    for (bit, name) in
        [(1, "IRPERF"), (3, "INVLPGB"), (4, "RDPRU"), (8, "MCOMMIT"), (12, "IBPB"), (14, "IBRS")]
    {
        assert!(!has(sizes.ebx, bit), "{name}");
    }
    // MONITOR, thermal control, counters, SVM, sampling, encryption; and what nobody knows yet.
    for leaf in [3, 5, 6, 8, 9, 0xa, 0xc, 0xe, 0xf, 0x10, 0x12, 0x14, 0x19, 0x1c, 0x1f, 0x20, 0x21] {
        assert_eq!(see(leaf, 0), Leaf::default(), "{leaf:#x}");
    }
    for leaf in [
        0x8000_0007,
        0x8000_0009,
        0x8000_000a,
        0x8000_001b,
        0x8000_001c,
        0x8000_001f,
        0x8000_0020,
        0x8000_0022,
        0x8000_0026,
    ] {
        assert_eq!(see(leaf, 0), Leaf::default(), "{leaf:#x}");
    }
    for leaf in [0x4000_0002, 0x4000_0010, 0x4000_0100, 0xc000_0000, 0xffff_ffff] {
        assert_eq!(see(leaf, 0), Leaf::default(), "{leaf:#x}");
    }
}

#[test]
fn nothing_is_shown_that_the_processor_has_not_got() {
    let view = View { offers: Offers::BARRIER | Offers::SPEC_CTRL | Offers::LFENCE, ..VIEW };
    for leaf in (1..0x20).chain(0x8000_0001..0x8000_0030) {
        for subleaf in 0..4 {
            let seen = cpuid(leaf, subleaf, &nothing, &view, &ASKER);
            let expected = match (leaf, subleaf) {
                // The hypervisor, two vCPUs, an APIC.
                (1, _) => Leaf { eax: 0, ebx: 1 << 24 | 2 << 16, ecx: 1 << 31, edx: 1 << 28 | 1 << 9 },
                (0x8000_0001, _) => Leaf { ecx: 1 << 1, edx: 1 << 9, ..Leaf::default() },
                (0x8000_0008, _) => Leaf { ecx: 1 << 12 | 1, ..Leaf::default() },
                (0xb, 0) => Leaf { eax: 0, ebx: 1, ecx: 1 << 8, edx: 1 },
                (0xb, 1) => Leaf { eax: 1, ebx: 2, ecx: 2 << 8 | 1, edx: 1 },
                (0xb, other) => Leaf { ecx: other, edx: 1, ..Leaf::default() },
                (0xd, 0) => Leaf { eax: 7, ebx: 576, ecx: 576, edx: 0 },
                _ => Leaf::default(),
            };
            assert_eq!(seen, expected, "{leaf:#x} {subleaf}");
        }
    }
}

#[test]
fn what_is_offered_shows_and_nothing_else_changes() {
    let changes = |offer| {
        let view = View { offers: offer, ..VIEW };
        let mut changed = BTreeMap::new();
        for leaf in (0..0x20).chain(0x4000_0000..0x4000_0003).chain(0x8000_0000..0x8000_0030) {
            let (a, b) = (see(leaf, 0), cpuid(leaf, 0, &everything, &view, &ASKER));
            let bits = [a.eax ^ b.eax, a.ebx ^ b.ebx, a.ecx ^ b.ecx, a.edx ^ b.edx];
            if bits != [0; 4] {
                changed.insert(leaf, bits);
            }
        }
        changed
    };
    assert_eq!(changes(Offers::X2APIC), BTreeMap::from([(1, [0, 0, 1 << 21, 0])]));
    assert_eq!(changes(Offers::TSC_DEADLINE), BTreeMap::from([(1, [0, 0, 1 << 24, 0])]));
    assert_eq!(changes(Offers::STEADY_TIMER), BTreeMap::from([(6, [1 << 2, 0, 0, 0])]));
    assert_eq!(changes(Offers::CLOCK), BTreeMap::from([(0x4000_0001, [1 | 1 << 3 | 1 << 24, 0, 0, 0])]));
    assert_eq!(changes(Offers::INVARIANT_TSC), BTreeMap::from([(0x8000_0007, [0, 0, 0, 1 << 8])]));
    assert_eq!(
        changes(Offers::BARRIER),
        BTreeMap::from([(0x8000_0008, [0, 1 << 12 | 1 << 30, 0, 0]), (0x8000_0021, [1 << 28, 0, 0, 0])])
    );
    assert_eq!(
        changes(Offers::SPEC_CTRL),
        BTreeMap::from([(0x8000_0008, [0, 1 << 14 | 1 << 15 | 1 << 24, 0, 0])])
    );
    assert_eq!(changes(Offers::LFENCE), BTreeMap::from([(0x8000_0021, [1 << 2, 0, 0, 0])]));
}

#[test]
fn the_hypervisor_is_kvm_s_interface() {
    assert!(has(see(1, 0).ecx, 31));
    let base = see(0x4000_0000, 0);
    let mut name = std::vec::Vec::new();
    for part in [base.ebx, base.ecx, base.edx] {
        name.extend(part.to_le_bytes());
    }
    assert_eq!((base.eax, &name[..]), (0x4000_0001, &b"KVMKVMKVM\0\0\0"[..]));
    // No other feature than port 0x80's without a clock: no asynchronous faults, no EOI in memory, no hypercalls.
    assert_eq!(see(0x4000_0001, 0), Leaf { eax: 2, edx: 1, ..Leaf::default() });
    // With one, its leaves are what whoever answers its MSRs says.
    let view = View { offers: Offers::CLOCK, ..VIEW };
    for leaf in [0x4000_0000, 0x4000_0001] {
        let mut ours = cpuid(leaf, 0, &everything, &view, &ASKER);
        let theirs = axvm_pvclock::cpuid(leaf).unwrap();
        if leaf == 0x4000_0001 {
            ours.eax &= !2;
        }
        assert_eq!(ours, Leaf { eax: theirs.eax, ebx: theirs.ebx, ecx: theirs.ecx, edx: theirs.edx });
    }
}

#[test]
fn vcpus_are_the_cores_of_one_package() {
    for vcpus in 1..=64u16 {
        for apic_id in 0..u32::from(vcpus) {
            let view = View { vcpus, ..VIEW };
            let asker = Asker { apic_id, ..ASKER };
            let see = |leaf, subleaf| cpuid(leaf, subleaf, &everything, &view, &asker);
            let count = u32::from(vcpus);
            // As many bits as the largest id takes.
            let bits = 32 - (count - 1).leading_zeros();
            let first = see(1, 0);
            assert_eq!((first.ebx >> 24, first.ebx >> 16 & 0xff), (apic_id, count));
            assert_eq!(has(first.edx, 28), vcpus > 1);
            assert_eq!(has(see(0x8000_0001, 0).ecx, 1), vcpus > 1);
            assert_eq!(see(0x8000_0008, 0).ecx, (count - 1) | (bits << 12));
            assert_eq!(see(0xb, 0), Leaf { eax: 0, ebx: 1, ecx: 0x100, edx: apic_id });
            assert_eq!(see(0xb, 1), Leaf { eax: bits, ebx: count, ecx: 0x201, edx: apic_id });
            assert_eq!(see(0xb, 2), Leaf { eax: 0, ebx: 0, ecx: 2, edx: apic_id });
            assert_eq!(see(0x8000_001e, 0), Leaf { eax: apic_id, ebx: apic_id, ecx: 0, edx: 0 });
            for (level, shared) in [(0, 0), (1, 0), (2, 0), (3, count - 1)] {
                assert_eq!(see(0x8000_001d, level).eax >> 14, shared);
                let intel = see(4, level).eax;
                assert_eq!(intel >> 14 & 0xfff, if level == 3 { (1 << bits) - 1 } else { 0 });
                assert_eq!(intel >> 26, ((1u32 << bits) - 1).min(63));
            }
            assert_eq!(see(0x8000_001d, 4), Leaf::default());
            assert_eq!(see(4, 4), Leaf::default());
        }
    }
}

#[test]
fn an_intel_processor_has_no_topology_of_amd_s() {
    let intel = |leaf: u32, subleaf: u32| match leaf {
        0 => Leaf { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
        0x8000_0000 => Leaf { eax: 0x8000_0008, ..Leaf::default() },
        0x8000_0009.. => Leaf::default(),
        _ => everything(leaf, subleaf),
    };
    let see = |leaf| cpuid(leaf, 0, &intel, &VIEW, &ASKER);
    assert!(!has(see(0x8000_0001).ecx, 1));
    assert_eq!((see(0x8000_0008).eax, see(0x8000_0008).ecx), (48 << 8 | 40, 0));
    assert_eq!(see(0x8000_001d), Leaf::default());
    assert_eq!(see(0x8000_001e), Leaf::default());
    assert_eq!((see(0).eax, see(0).ebx), (0xd, 0x756e_6547));
}

#[test]
fn the_last_leaves_are_those_that_are_shown() {
    assert_eq!((see(0, 0).eax, see(0x8000_0000, 0).eax), (0xd, 0x8000_0021));
    assert_eq!(see(7, 0).eax, 1);
    // A processor that repeats its last leaf above it (Intel's) doesn't get it in here.
    let old =
        |leaf: u32, subleaf: u32| if leaf == 0 { Leaf { eax: 5, ..ONES } } else { everything(leaf, subleaf) };
    assert_eq!(cpuid(0, 0, &old, &VIEW, &ASKER).eax, 5);
    assert_eq!(cpuid(7, 0, &old, &VIEW, &ASKER), Leaf::default());
    // One without AMD's leaves repeats it there.
    let basic = |_: u32, _: u32| Leaf { eax: 0xd, ..ONES };
    assert_eq!(cpuid(0x8000_0000, 0, &basic, &VIEW, &ASKER), Leaf::default());
}

#[test]
fn what_the_guest_has_switched_on_shows() {
    let with = |asker| cpuid(1, 0, &everything, &VIEW, &asker);
    assert!(!has(with(ASKER).ecx, 27));
    assert!(has(with(Asker { cr4: 1 << 18, ..ASKER }).ecx, 27));
    assert!(has(with(ASKER).edx, 9));
    let off = Asker { apic_enabled: false, ..ASKER };
    assert!(!has(with(off).edx, 9));
    assert!(!has(cpuid(0x8000_0001, 0, &everything, &VIEW, &off).edx, 9));
}

#[test]
fn state_is_what_xcr0_may_be() {
    let see = |view: &View, xcr0, subleaf| cpuid(0xd, subleaf, &everything, view, &Asker { xcr0, ..ASKER });
    assert_eq!(see(&VIEW, 1, 0), Leaf { eax: 7, ebx: 576, ecx: 0x340, edx: 0 });
    assert_eq!(see(&VIEW, 7, 0), Leaf { eax: 7, ebx: 0x340, ecx: 0x340, edx: 0 });
    // XSAVEOPT, XSAVEC, XGETBV 1; no XSAVES, no XFD.
    assert_eq!(see(&VIEW, 7, 1), Leaf { eax: 7, ebx: 576 + 0x100, ..Leaf::default() });
    assert_eq!(see(&VIEW, 7, 2), Leaf { eax: 0x100, ebx: 0x240, ecx: 0, edx: 0 });
    assert_eq!(see(&VIEW, 7, 5), Leaf::default(), "AVX-512 isn't allowed");
    assert_eq!(see(&VIEW, 7, 9), Leaf::default(), "nor are protection keys");
    // Whatever the processor has more: protection keys, for one.
    let wide = View { xcr0: 0x2e7 | 1 << 62, ..VIEW };
    assert_eq!(see(&wide, 0xe7, 9), Leaf::default());
    assert_eq!(see(&wide, 0xe7, 0), Leaf { eax: 0xe7, ebx: 0x980, ecx: 0x980, edx: 0 });
    assert_eq!(see(&wide, 0xe7, 7), Leaf { eax: 0x400, ebx: 0x580, ecx: 2, edx: 0 });
    assert_eq!(see(&wide, 0xe7, 1).ebx, 576 + 0x100 + 0x40 + 0x200 + 0x400, "the last one is aligned");
    // Without XSAVE there is neither the leaf nor what needs it.
    let none = View { xcr0: 0, ..VIEW };
    for subleaf in 0..10 {
        assert_eq!(see(&none, 1, subleaf), Leaf::default());
    }
    let first = cpuid(1, 0, &everything, &none, &Asker { cr4: 1 << 18, ..ASKER });
    assert!([12, 26, 27, 28, 29].iter().all(|bit| !has(first.ecx, *bit)));
    assert!(!has(cpuid(7, 0, &everything, &none, &ASKER).ebx, 5));
    // AVX-512 shows with its state only.
    assert!(!has(super::cpuid(7, 0, &everything, &VIEW, &ASKER).ebx, 16));
    assert!(has(super::cpuid(7, 0, &everything, &wide, &ASKER).ebx, 16));
}
