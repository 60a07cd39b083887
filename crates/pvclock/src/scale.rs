//! How ticks of a counter become nanoseconds.

use crate::NS_PER_S;

/// Ticks shifted left by `shift` (right, if that is below zero) and multiplied by `multiplier` are nanoseconds and 32 bits behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Its uppermost bit is one: it is as exact as it can be.
    pub multiplier: u32,
    /// Which way.
    pub shift: i8,
}

impl Scale {
    /// That of a counter of `hz`; `None`: of less than 1 MHz or more than 1 THz, which no processor has.
    pub fn new(hz: u64) -> Option<Self> {
        if !(1_000_000..=1_000_000_000_000).contains(&hz) {
            return None;
        }
        (-10..=10).find_map(|shift: i8| {
            // Nanoseconds by tick with 32 bits behind the point, and 10 more so that nothing is shifted out.
            let by_tick = u128::from(NS_PER_S) << 42;
            let multiplier = (by_tick / u128::from(hz)) >> (10 + shift);
            u32::try_from(multiplier).ok().map(|multiplier| Self { multiplier, shift })
        })
    }

    /// The nanoseconds of so many ticks.
    pub fn ns(&self, ticks: u64) -> u64 {
        let by = self.shift.unsigned_abs();
        let shifted = if self.shift < 0 { ticks >> by } else { ticks << by };
        ((u128::from(shifted) * u128::from(self.multiplier)) >> 32) as u64
    }
}
