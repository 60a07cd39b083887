//! ACPI's timer of the machine, by which the clock is measured where there is no PIT that counts (ACPI 6.5, 4.8.3.3).

use axvm_platform::model::{Place, Platform};
use axvm_x86_cpu::clock::{self, Bounds, Counted};
use x86_64::instructions::port::Port;

use super::cpu::ticks;

/// Its counts in a second.
const HZ: u64 = 3_579_545;
/// Those of its bits that each has.
const MASK: u32 = 0xff_ffff;
/// How long is measured: a hundredth of a second.
const COUNTS: u32 = (HZ / 100) as u32;
/// After so many looks at it it doesn't count: each takes a microsecond or so on a real bus.
const MOST_LOOKS: u32 = 1_000_000;
/// Old chipsets give nonsense while it changes. Two looks one after the other are no farther apart than this.
const NEAR: u32 = 0x1000;

/// A look at it, with the clock before and after.
struct Look {
    before: u64,
    count: u32,
    after: u64,
}

/// The time-stamp counter's ticks in a second. `None` where ACPI has no such timer at a port, or it doesn't count.
pub fn measure_tick_hz(platform: &Platform) -> Option<u64> {
    let Place::Port(port) = platform.acpi()?.timer?.place else { return None };
    clock::measured_hz(|| measure(port))
}

fn measure(port: u16) -> Option<Bounds> {
    let first = look(port)?;
    for _ in 0..MOST_LOOKS {
        let last = look(port)?;
        let counted = u64::from(last.count.wrapping_sub(first.count) & MASK);
        if counted >= COUNTS.into() {
            // It may have been about to count at either end.
            let counted = Counted { least: counted - 1, most: counted + 1, hz: HZ };
            let least = last.before.saturating_sub(first.after);
            return Bounds::new(least, last.after.saturating_sub(first.before), counted);
        }
    }
    None
}

fn look(port: u16) -> Option<Look> {
    const TRIES: u32 = 10;
    // SAFETY: reading this register changes nothing.
    let read = || unsafe { Port::<u32>::new(port).read() } & MASK;
    for _ in 0..TRIES {
        let earlier = read();
        let before = ticks();
        let count = read();
        let after = ticks();
        if count.wrapping_sub(earlier) & MASK < NEAR {
            return Some(Look { before, count, after });
        }
    }
    None
}
