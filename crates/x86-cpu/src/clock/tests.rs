extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Bounds, Countdown, Counted, Look, hz_by_cpuid, measured_hz, nominal_hz_by_cpuid};
use crate::features::Leaf;

fn processor(highest: u32, ratio: [u32; 3], mhz: u32) -> impl Fn(u32, u32) -> Leaf {
    move |leaf, _| match leaf {
        0 => Leaf { eax: highest, ..Leaf::default() },
        0x15 => Leaf { eax: ratio[0], ebx: ratio[1], ecx: ratio[2], edx: 0 },
        0x16 => Leaf { eax: mhz, ..Leaf::default() },
        _ => Leaf { eax: 7, ebx: 7, ecx: 7, edx: 7 },
    }
}

/// A processor that knows its crystal says exactly how fast its counter is; what has no such leaf, or leaves something of it out, isn't
/// believed.
#[test]
fn cpuid_says_the_rate_where_it_knows_the_crystal() {
    let denverton = processor(0x15, [2, 168, 25_000_000], 0);
    assert_eq!(hz_by_cpuid(&denverton), Some(2_100_000_000));
    for (highest, ratio) in [
        (0x14, [2, 168, 25_000_000]),
        (0x16, [0, 168, 25_000_000]),
        (0x16, [2, 0, 25_000_000]),
        (0x16, [2, 168, 0]),
    ] {
        assert_eq!(hz_by_cpuid(&processor(highest, ratio, 2100)), None, "{highest:#x} {ratio:?}");
    }
}

/// A crystal of unknown rate leaves the nominal one, and that isn't taken where the counter has no ratio to a crystal.
#[test]
fn the_nominal_rate_stands_in_for_a_crystal_of_unknown_rate() {
    let skylake = processor(0x16, [2, 216, 0], 2600);
    assert_eq!(hz_by_cpuid(&skylake), None);
    assert_eq!(nominal_hz_by_cpuid(&skylake), Some(2_600_000_000));
    assert_eq!(nominal_hz_by_cpuid(&processor(0x15, [2, 216, 0], 2600)), None);
    assert_eq!(nominal_hz_by_cpuid(&processor(0x16, [0, 0, 0], 2600)), None);
    assert_eq!(nominal_hz_by_cpuid(&processor(0x16, [2, 216, 0], 0)), None);
}

/// 10 ms of the PIT while a counter of `hz` runs, of which so many ticks are unknown, half at each end.
fn by_pit(hz: u64, unknown: u64) -> Option<Bounds> {
    let ticks = hz / 100;
    let counted = Counted { least: 11_931, most: 11_932, hz: 1_193_182 };
    Bounds::new(ticks.saturating_sub(unknown / 2), ticks + unknown / 2, counted)
}

/// A machine that is loaded, or whose firmware interrupts, takes the CPU away in the middle of a measurement: the clean one counts.
#[test]
fn the_tightest_measurement_counts() {
    const HZ: u64 = 2_600_000_000;
    let mut disturbances = [40_000_000, 2_000_000, 26_000, 90_000_000].into_iter();
    let hz = measured_hz(|| by_pit(HZ, disturbances.next()?)).unwrap();
    assert!(hz.abs_diff(HZ) < HZ / 1000, "{hz}");
    // The third was good enough.
    assert_eq!(disturbances.next(), Some(90_000_000));
}

/// Where every measurement is bad the best of them is taken, after a bounded number of tries.
#[test]
fn a_machine_that_is_never_quiet_is_measured_in_bounded_time() {
    const HZ: u64 = 2_600_000_000;
    let mut tries = 0;
    let hz = measured_hz(|| {
        tries += 1;
        by_pit(HZ, 10_000_000 - 100_000 * tries)
    });
    assert_eq!(tries, 20);
    assert!(hz.unwrap().abs_diff(HZ) < HZ / 100);
}

/// A counter that stands, or isn't there, measures nothing; nor does one that says at once that it has counted.
#[test]
fn what_does_not_count_measures_nothing() {
    let stands = Counted { least: 0, most: 0, hz: 3_579_545 };
    assert_eq!(Bounds::new(1_000_000, 1_000_000, stands), None);
    assert_eq!(measured_hz(|| None), None);
    let at_once = Counted { least: 11_931, most: 11_932, hz: 1_193_182 };
    assert_eq!(measured_hz(|| Bounds::new(0, 3000, at_once)), None);
    // Bounds that exclude each other.
    let counted = Counted { least: 10, most: 10, hz: 1 };
    assert_eq!(Bounds::new(200, 100, counted), None);
}

const HZ: u64 = 2_600_000_000;
const PIT: Counted = Counted { least: 11_931, most: 11_932, hz: 1_193_182 };
const LOOKS: u32 = 1_000_000;

/// A PC whose accesses to ports take a microsecond each, and which stands still for as long behind some of them.
struct Pc {
    now: u64,
    begun: u64,
    /// Whether the PIT counts from when its gate is opened on, not from when its count is written.
    by_gate: bool,
    stands: Vec<u64>,
    accesses: usize,
}

impl Pc {
    fn new(by_gate: bool, stands: Vec<u64>) -> Self {
        Self { now: 0, begun: 0, by_gate, stands, accesses: 0 }
    }

    fn access(&mut self) {
        self.accesses += 1;
        let stands = self.stands.get(self.accesses % self.stands.len().max(1)).copied().unwrap_or(0);
        self.now += HZ / 1_000_000 + stands;
    }
}

impl Countdown for Pc {
    fn ticks(&mut self) -> u64 {
        self.now += 20;
        self.now
    }

    fn begin(&mut self) {
        self.access();
        self.begun = self.now;
        self.access();
        if self.by_gate {
            self.begun = self.now;
        }
        self.access();
    }

    fn is_over(&mut self) -> bool {
        self.access();
        self.now - self.begun >= HZ / 100
    }

    fn end(&mut self) {
        self.access();
    }
}

/// What stands still between the writing of the count and the opening of the gate finds the countdown over, or nearly: that is no slow clock.
#[test]
fn a_pc_that_stood_still_while_the_timer_was_begun_is_not_taken_for_a_slow_one() {
    for by_gate in [false, true] {
        for at in 1..5 {
            for stands in [HZ / 20, HZ / 101, HZ / 100 - HZ / 100_000] {
                let mut pc = Pc::new(by_gate, vec![0; 100_000]);
                pc.stands[at] = stands;
                let hz = measured_hz(|| Bounds::by_countdown(&mut pc, PIT, LOOKS)).unwrap();
                assert!(hz.abs_diff(HZ) < HZ / 50, "{by_gate} {at} {stands}: {hz}");
            }
        }
    }
}

#[test]
fn a_quiet_pc_is_measured_once_and_one_without_a_timer_never() {
    for by_gate in [false, true] {
        let mut pc = Pc::new(by_gate, Vec::new());
        let hz = measured_hz(|| Bounds::by_countdown(&mut pc, PIT, LOOKS)).unwrap();
        assert!(hz.abs_diff(HZ) < HZ / 500 && pc.now < HZ / 60, "{hz}");
    }
    assert_eq!(Bounds::by_countdown(&mut Pc::new(true, Vec::new()), PIT, 100), None);
}

proptest! {
    /// However it stands still, the truth lies within the bounds.
    #[test]
    fn the_truth_lies_within(by_gate: bool, stands in prop::collection::vec(prop_oneof![4 => Just(0), 1 => 0..HZ / 30], 1..40)) {
        let bounds = Bounds::by_countdown(&mut Pc::new(by_gate, stands), PIT, LOOKS).unwrap();
        prop_assert!(bounds.least <= HZ && HZ <= bounds.most, "{bounds:?}");
    }
}

const PIT_HZ: u64 = 1_193_182;
const PERIOD: u64 = 0x1_0000;

/// A look at the PIT, which took so long, at a moment of a time-stamp counter of `hz`.
fn look(hz: u64, at: u64, took: u64) -> Look {
    let count = (u128::from(at + took / 2) * u128::from(PIT_HZ) / u128::from(hz)) as u64 % PERIOD;
    Look { before: at, count, after: at + took }
}

/// What a millisecond says, to less than a hundredth.
fn rough(hz: u64, wrong: i64) -> Bounds {
    let middle = hz.saturating_add_signed(wrong * (hz / 1000) as i64);
    Bounds { least: middle - hz / 200, most: middle + hz / 200 }
}

#[test]
fn two_looks_at_the_pit_measure_whatever_goes_by_between_them() {
    let (first, last) = (look(HZ, 5000, 5200), look(HZ, HZ / 100, 5200));
    let bounds = rough(HZ, 3).between(first, last, PIT_HZ, PERIOD).unwrap();
    // A count of the PIT's, and two accesses, of 10 ms.
    assert!(bounds.unknown() < HZ / 1500 && bounds.hz().abs_diff(HZ) < HZ / 3000, "{bounds:?}");
    // Looks between which it isn't sure how often the PIT began anew.
    assert_eq!(rough(HZ, 0).between(first, look(HZ, 20 * HZ, 5200), PIT_HZ, PERIOD), None);
    // It stands.
    let stands = Look { count: first.count, ..last };
    assert_eq!(rough(HZ, 0).between(first, stands, PIT_HZ, PERIOD), None);
    assert_eq!(rough(HZ, 0).between(first, last, PIT_HZ, 0), None);
    let best = Look::best([look(HZ, 0, 900), look(HZ, 1, 20), look(HZ, 2, 30)].into_iter());
    assert_eq!(best, Some(look(HZ, 1, 20)));
}

proptest! {
    /// However fast the clock is, and whatever takes the CPU away: what is known then holds, and is no less than what was known before.
    #[test]
    fn what_two_looks_say_is_so(
        hz in 500_000_000u64..6_000_000_000,
        wrong in -4i64..=4,
        begins in 0u64..1 << 50,
        goes_by_us in 10_000u64..4_000_000,
        took in proptest::array::uniform2(20u64..40_000),
    ) {
        let (first, last) = (look(hz, begins, took[0]), look(hz, begins + goes_by_us * (hz / 1_000_000), took[1]));
        if let Some(bounds) = rough(hz, wrong).between(first, last, PIT_HZ, PERIOD) {
            prop_assert!(bounds.least <= hz && hz <= bounds.most, "{bounds:?}");
        } else {
            // It isn't sure how often the PIT began anew: not before half a second.
            prop_assert!(goes_by_us > 500_000);
        }
    }

    /// Before it has begun anew two looks say it with nothing known before: well enough from a millisecond on, if nothing took the CPU away.
    #[test]
    fn two_looks_say_it_before_the_pit_begins_anew(
        hz in 500_000_000u64..6_000_000_000,
        goes_by_us in 1_100u64..50_000,
        took in proptest::array::uniform2(20u64..20_000),
    ) {
        let (first, last) = (look(hz, 0, took[0]), look(hz, goes_by_us * (hz / 1_000_000), took[1]));
        prop_assume!(last.count > first.count);
        let bounds = Bounds::by_looks(first, last, last.count - first.count, PIT_HZ).unwrap();
        prop_assert!(bounds.least <= hz && hz <= bounds.most, "{bounds:?}");
        let took_us = (took[0] + took[1]) / (hz / 1_000_000) + 1;
        prop_assert!(bounds.is_good() || took_us * 100 > goes_by_us, "{bounds:?}");
        prop_assert!(Bounds::by_looks(first, first, 0, PIT_HZ).is_none_or(|bounds| !bounds.is_good()));
    }

    #[test]
    fn whatever_looks_say_is_no_panic(numbers: [u64; 10]) {
        let [least, most, a, b, c, d, e, f, hz, period] = numbers;
        let bounds = Bounds { least: least.min(most), most: least.max(most) };
        let looks = [Look { before: a, count: b, after: c }, Look { before: d, count: e, after: f }];
        let _ = bounds.between(looks[0], looks[1], hz, period);
        let _ = Bounds::by_looks(looks[0], looks[1], period, hz).map(|bounds| bounds.is_good());
    }
}
