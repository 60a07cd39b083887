//! Waits, bounded by a clock.

use core::fmt;

use crate::access::Registers;

/// How long a wait lasts at most. That an IOMMU has done what it was told waits for requests that are under way, and those may take as long
/// as a completion may (PCIe 2.8: 50 ms, and more where software allows it).
pub const MOST_US: u64 = 1_000_000;

/// How long a wait lasts at most for an IOMMU that has let one time out, and hasn't answered since: nobody expects much of it, and trying
/// again costs little.
pub const MOST_OF_THE_DEAF_US: u64 = 1_000;

/// What was waited for, in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time: {0}")]
pub struct TimedOut<W: fmt::Display + fmt::Debug>(pub W);

/// Reads until `done` gives something, for `most_us` at most.
///
/// # Errors
///
/// It gave nothing in that time.
pub fn wait_for<T, W: fmt::Display + fmt::Debug>(
    registers: &impl Registers,
    most_us: u64,
    what: W,
    mut done: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut<W>> {
    let start = registers.now_us();
    loop {
        // Asked before the condition is looked at: whoever was kept from running in between doesn't take that for a timeout.
        let now = registers.now_us();
        if let Some(value) = done() {
            return Ok(value);
        }
        if now.saturating_sub(start) >= most_us {
            return Err(TimedOut(what));
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Registers of nothing, with a clock that goes by some steps each time that it is asked.
    struct Clock(Cell<u64>, u64);

    impl Registers for Clock {
        fn size(&self) -> u64 {
            0
        }

        fn now_us(&self) -> u64 {
            self.0.replace(self.0.get() + self.1)
        }

        fn read32(&self, _: usize) -> u32 {
            0
        }

        fn write32(&self, _: usize, _: u32) {}

        fn read64(&self, _: usize) -> u64 {
            0
        }

        fn write64(&self, _: usize, _: u64) {}
    }

    #[test]
    fn a_wait_ends_by_the_clock() {
        let clock = Clock(Cell::new(7), 10);
        assert_eq!(wait_for(&clock, 1000, "nothing", || None::<()>), Err(TimedOut("nothing")));
        assert_eq!(clock.0.get(), 7 + 1010);
        let mut asked = 0;
        let third = || {
            asked += 1;
            (asked == 3).then_some(asked)
        };
        assert_eq!(wait_for(&clock, 1000, "the third", third), Ok(3));
    }

    /// What took long in between isn't the IOMMU's fault: what it has done by then counts.
    #[test]
    fn whoever_was_kept_from_looking_looks_once_more() {
        let clock = Clock(Cell::new(0), 5000);
        let mut asked = 0;
        let second = || {
            asked += 1;
            (asked == 1).then_some(())
        };
        assert_eq!(wait_for(&clock, 1000, "it", second), Ok(()));
    }
}
