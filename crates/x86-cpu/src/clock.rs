//! How fast the time-stamp counter is: by what CPUID says of it, or measured against a counter whose rate is known.

use crate::features::{Leaf, Source};

/// Ticks in a second as CPUID says them exactly: its leaf 0x15 has the ratio to a crystal, and the crystal's rate (Intel SDM 2A, CPUID).
/// `None`: the processor doesn't know both, as AMD's don't.
pub fn hz_by_cpuid(source: &impl Source) -> Option<u64> {
    let Leaf { eax: denominator, ebx: numerator, ecx: crystal, .. } = ratio(source)?;
    if crystal == 0 {
        return None;
    }
    u64::from(crystal).checked_mul(numerator.into())?.checked_div(denominator.into())
}

/// Ticks in a second to the next MHz: of a processor whose counter has a ratio to a crystal of which it doesn't say the rate, that of its
/// leaf 0x16 (Intel SDM 3, 20.7.3). Worse than a measurement, and better than nothing.
pub fn nominal_hz_by_cpuid(source: &impl Source) -> Option<u64> {
    const BASE: u32 = 0x16;
    ratio(source)?;
    if source.cpuid(0, 0).eax < BASE {
        return None;
    }
    let mhz = source.cpuid(BASE, 0).eax & 0xffff;
    (mhz != 0).then(|| u64::from(mhz) * 1_000_000)
}

fn ratio(source: &impl Source) -> Option<Leaf> {
    const RATIO: u32 = 0x15;
    if source.cpuid(0, 0).eax < RATIO {
        return None;
    }
    Some(source.cpuid(RATIO, 0)).filter(|leaf| leaf.eax != 0 && leaf.ebx != 0)
}

/// What a measurement has found: ticks in a second are no fewer and no more than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    least: u64,
    most: u64,
}

/// A stretch of a counter whose rate is known: how far it counted at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// At least.
    pub least: u64,
    /// At most.
    pub most: u64,
    /// Its counts in a second.
    pub hz: u64,
}

/// A look at a counter that counts up, with the time-stamp counter before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Before.
    pub before: u64,
    /// The counter.
    pub count: u64,
    /// After.
    pub after: u64,
}

impl Look {
    /// Of some looks the one that took least: it says best when the counter was that.
    pub fn best(looks: impl Iterator<Item = Self>) -> Option<Self> {
        looks.min_by_key(|look| look.after.saturating_sub(look.before))
    }
}

/// A timer that counts down once, beside the time-stamp counter.
pub trait Countdown {
    /// The time-stamp counter.
    fn ticks(&mut self) -> u64;

    /// Has it count down. Whether it begins when its count is written, as an emulated one may, or when its gate is opened, doesn't matter: it has
    /// begun when this returns.
    fn begin(&mut self);

    /// Whether it has come to its end.
    fn is_over(&mut self) -> bool;

    /// Leaves it as it was.
    fn end(&mut self);
}

impl Bounds {
    /// Of the time-stamp counter, which made between `least` and `most` ticks while another counter counted. `None`: that says nothing,
    /// as of a counter that stands.
    pub fn new(least: u64, most: u64, counted: Counted) -> Option<Self> {
        let rate = |ticks: u64, counts: u64| {
            let hz = (u128::from(ticks) * u128::from(counted.hz)).checked_div(counts.into())?;
            u64::try_from(hz).ok()
        };
        let bounds = Self { least: rate(least, counted.most)?, most: rate(most, counted.least)? };
        (bounds.least <= bounds.most).then_some(bounds)
    }

    /// By a timer that counts down. `None`: it didn't come to its end within so many looks at it.
    pub fn by_countdown(timer: &mut impl Countdown, counted: Counted, most_looks: u32) -> Option<Self> {
        // It can't have begun before this, nor later than that: whatever takes the CPU away in between is in what isn't known.
        let before = timer.ticks();
        timer.begin();
        let begun = timer.ticks();
        let mut counts = begun;
        let mut bounds = None;
        for _ in 0..most_looks {
            let looks = timer.ticks();
            if timer.is_over() {
                let over = timer.ticks();
                bounds = Self::new(counts.saturating_sub(begun), over.saturating_sub(before), counted);
                break;
            }
            counts = looks;
        }
        timer.end();
        bounds
    }

    /// By two looks at a counter that counted so far in between.
    pub fn by_looks(first: Look, last: Look, counted: u64, hz: u64) -> Option<Self> {
        let (least, most) =
            (last.before.saturating_sub(first.after), last.after.saturating_sub(first.before));
        // It may have been about to count at either end.
        Self::new(
            least,
            most,
            Counted { least: counted.saturating_sub(1), most: counted.saturating_add(1), hz },
        )
    }

    /// By two looks at a counter of so many counts in a second, which begins anew after `period` of them. How often it has done so in between follows
    /// from what is known already. `None`: that doesn't say it surely, or both don't fit together.
    pub fn between(self, first: Look, last: Look, hz: u64, period: u64) -> Option<Self> {
        let (least, most) =
            (last.before.saturating_sub(first.after), last.after.saturating_sub(first.before));
        let counts = |ticks: u64, per_second: u64| {
            u64::try_from((u128::from(ticks) * u128::from(hz)).checked_div(per_second.into())?).ok()
        };
        // It may have been about to count at either end.
        let fewest = counts(least, self.most)?.saturating_sub(1);
        let highest = counts(most, self.least)?.checked_add(2)?;
        let counted = last.count.wrapping_sub(first.count).checked_rem(period)?;
        let rounds = fewest.saturating_sub(counted).div_ceil(period);
        let counted = rounds.checked_mul(period)?.checked_add(counted)?;
        if counted > highest || counted.checked_add(period)? <= highest {
            return None;
        }
        Self::by_looks(first, last, counted, hz)
    }

    fn unknown(self) -> u64 {
        self.most - self.least
    }

    /// Whether it is known well enough for deadlines: to less than a sixty-fourth.
    pub fn is_good(&self) -> bool {
        self.unknown() <= self.most / GOOD
    }

    /// In the middle of what isn't known.
    pub fn hz(self) -> u64 {
        self.least + self.unknown() / 2
    }
}

/// So often is measured at the most. A measurement is good when what isn't known of it is less than this part of it.
const TRIES: u32 = 20;
const GOOD: u64 = 64;

/// The ticks in a second by the measurement of which the least is unknown: whatever takes the CPU away in the middle of one, as firmware or
/// another hypervisor does, widens its bounds. `None`: what is measured by doesn't count.
pub fn measured_hz(measure: impl FnMut() -> Option<Bounds>) -> Option<u64> {
    measured(measure).map(Bounds::hz)
}

/// The same, with what isn't known.
pub fn measured(mut measure: impl FnMut() -> Option<Bounds>) -> Option<Bounds> {
    let mut best = measure()?;
    for _ in 1..TRIES {
        if best.is_good() {
            break;
        }
        let bounds = measure()?;
        if bounds.unknown() < best.unknown() {
            best = bounds;
        }
    }
    // Nothing was seen to go by: as where what says that it has counted says so always.
    (best.least != 0).then_some(best)
}

#[cfg(test)]
mod tests;
