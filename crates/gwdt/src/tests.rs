//! What a guest and its host see of the watchdog, by the manual's own words.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use spec::{W_IIDR, WCS, WCS_EN, WCS_WS0, WCS_WS1, WCV_HIGH, WCV_LOW, WOR_HIGH, WOR_LOW, WRR};

extern crate std;

const GUEST: VcpuId = VcpuId(0);
const IRQ: Irq = Irq(45);

#[derive(Default)]
struct Bench {
    now: AtomicU64,
    rearmed: AtomicU64,
    levels: Mutex<Vec<bool>>,
}

impl Clock for Bench {
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn rearmed(&self) {
        self.rearmed.fetch_add(1, Ordering::Relaxed);
    }
}

impl InterruptLine for Bench {
    fn set_level(&self, irq: Irq, high: bool) {
        assert_eq!(irq, IRQ);
        self.levels.lock().unwrap().push(high);
    }
}

struct Guest {
    bench: Arc<Bench>,
    watchdog: Arc<Watchdog>,
    control: ControlFrame,
    refresh: RefreshFrame,
}

impl Guest {
    fn new() -> Self {
        let bench = Arc::new(Bench::default());
        let watchdog = Arc::new(Watchdog::new(bench.clone(), Some((bench.clone(), IRQ))));
        let (control, refresh) = (watchdog.control_frame(), watchdog.refresh_frame());
        Self { bench, watchdog, control, refresh }
    }

    /// One that runs from 0 on for so many ticks.
    fn running(offset: u32) -> Self {
        let guest = Self::new();
        guest.write(WOR_LOW, offset);
        guest.write(WCS, WCS_EN);
        guest
    }

    fn at(&self, now: u64) -> &Self {
        self.bench.now.store(now, Ordering::Relaxed);
        self
    }

    fn write(&self, register: u64, value: u32) {
        self.control.write(GUEST, register, Width::B4, value.into());
    }

    fn read(&self, register: u64) -> u32 {
        self.control.read(GUEST, register, Width::B4) as u32
    }

    fn ping(&self) {
        self.refresh.write(GUEST, WRR, Width::B4, 0);
    }

    fn levels(&self) -> Vec<bool> {
        self.bench.levels.lock().unwrap().clone()
    }
}

#[test]
fn its_time_is_over_once_then_twice() {
    let guest = Guest::running(100);
    assert_eq!(guest.watchdog.attend(), Attention::At(101));
    assert_eq!(guest.at(100).read(WCS), WCS_EN, "not before the counter is past it");
    assert_eq!(guest.at(101).read(WCS), WCS_EN | WCS_WS0);
    assert_eq!(guest.levels(), [true]);
    assert_eq!((guest.read(WCV_LOW), guest.read(WCV_HIGH)), (201, 0));
    assert_eq!(guest.at(201).watchdog.attend(), Attention::At(202));
    assert_eq!(guest.at(202).watchdog.attend(), Attention::Expired);
    assert_eq!(guest.read(WCS), WCS_EN | WCS_WS0 | WCS_WS1);
}

#[test]
fn each_explicit_refresh_begins_anew() {
    let refreshes: [fn(&Guest); 4] = [
        Guest::ping,
        |guest| guest.write(WCS, WCS_EN),
        |guest| guest.write(WOR_LOW, 100),
        |guest| guest.write(WOR_HIGH, 0),
    ];
    for refresh in refreshes {
        let guest = Guest::running(100);
        guest.at(150).watchdog.attend();
        refresh(&guest);
        assert_eq!(guest.read(WCS), WCS_EN);
        assert_eq!(guest.levels(), [true, false]);
        assert_eq!(guest.watchdog.attend(), Attention::At(251));
    }
}

#[test]
fn one_that_is_late_to_be_looked_at_has_expired_when_its_guest_could_have_seen_it() {
    let guest = Guest::running(100);
    assert_eq!(guest.at(1_000_000).watchdog.attend(), Attention::Expired);
    // Too late: the machine is being reset.
    guest.ping();
    guest.write(WCS, 0);
    assert_eq!(guest.watchdog.attend(), Attention::Expired);
}

#[test]
fn off_it_does_nothing_and_says_when_it_is_to_be_looked_at_sooner() {
    let guest = Guest::new();
    assert_eq!(guest.at(u64::MAX).watchdog.attend(), Attention::None);
    let guest = Guest::running(100);
    let rearmed = |guest: &Guest| guest.bench.rearmed.load(Ordering::Relaxed);
    assert_eq!(rearmed(&guest), 1, "by the switch");
    guest.at(50).ping();
    assert_eq!(rearmed(&guest), 1, "later is early enough");
    guest.write(WOR_LOW, 10);
    assert_eq!(rearmed(&guest), 2);
    guest.write(WCV_LOW, 55);
    assert_eq!((rearmed(&guest), guest.watchdog.attend()), (3, Attention::At(56)));
    guest.write(WCS, 0);
    assert_eq!(guest.at(1000).watchdog.attend(), Attention::None);
    assert_eq!(guest.read(WCS), 0);
}

#[test]
fn the_offset_has_48_bits_and_accesses_of_64_are_two() {
    let guest = Guest::new();
    guest.control.write(GUEST, WOR_LOW, Width::B8, u64::MAX);
    assert_eq!(guest.control.read(GUEST, WOR_LOW, Width::B8), (1 << 48) - 1);
    guest.write(WCS, WCS_EN);
    assert_eq!(guest.watchdog.attend(), Attention::At(1 << 48));
    assert_eq!(guest.control.read(GUEST, WCV_LOW, Width::B8), (1 << 48) - 1);
    assert_eq!(guest.read(W_IIDR), spec::IIDR);
    assert_eq!(guest.refresh.read(GUEST, W_IIDR, Width::B4), spec::IIDR.into());
    // Narrower, or across.
    guest.control.write(GUEST, WCS, Width::B1, 0);
    guest.control.write(GUEST, WOR_LOW + 1, Width::B4, 0);
    guest.control.write(GUEST, WOR_HIGH, Width::B8, 0);
    assert_eq!((guest.read(WCS), guest.read(WOR_LOW)), (WCS_EN, u32::MAX));
    assert_eq!(guest.control.read(GUEST, WCS, Width::B2), 0);
}

#[test]
fn while_its_vm_is_suspended_its_time_stands_still() {
    let guest = Guest::running(100);
    guest.at(40).watchdog.suspend();
    assert_eq!(guest.at(100_000).watchdog.attend(), Attention::None);
    guest.watchdog.resume();
    assert_eq!(guest.watchdog.attend(), Attention::At(100_061));
    assert_eq!(guest.bench.rearmed.load(Ordering::Relaxed), 2);
}

proptest! {
    /// It expires if and only if two times the offset have passed since the last refresh with no other, however often it is looked at.
    #[test]
    fn it_expires_when_nobody_has_refreshed_it_for_two_times_its_offset(
        offset in 0u32..50,
        steps in prop::collection::vec((0u64..40, any::<bool>()), 0..40),
    ) {
        let guest = Guest::running(offset);
        let (mut now, mut last, mut expired) = (0, 0, false);
        for (pause, ping) in steps {
            now += pause;
            guest.at(now);
            expired |= now > last + 2 * u64::from(offset) + 1;
            if ping {
                guest.ping();
                if !expired {
                    last = now;
                }
            }
            prop_assert_eq!(guest.watchdog.attend() == Attention::Expired, expired);
        }
    }

    #[test]
    fn no_access_panics(accesses in prop::collection::vec((any::<u64>(), 0u64..4, any::<u64>(), any::<u64>()), 0..50)) {
        let guest = Guest::new();
        for (offset, width, value, now) in accesses {
            let width = Width::from_bytes(1 << width).unwrap();
            guest.at(now);
            for offset in [offset, offset & 0x1c] {
                guest.control.write(GUEST, offset, width, value);
                guest.refresh.write(GUEST, offset, width, value);
                guest.control.read(GUEST, offset, width);
            }
            guest.watchdog.attend();
        }
    }
}
