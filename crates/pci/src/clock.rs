//! Waits that end: by the host's clock, however long each look takes.

/// The host's clock.
pub trait Clock {
    /// Microseconds since some time that doesn't change.
    fn now_us(&self) -> u64;

    /// Waits at least this long.
    fn delay_us(&self, microseconds: u64);
}

/// The pause between two looks.
const POLL_US: u64 = 1_000;

/// Looks until `done` says so or it is `end`; says which. There is one look at least.
pub(crate) fn wait_until(clock: &dyn Clock, end: u64, mut done: impl FnMut() -> bool) -> bool {
    loop {
        if done() {
            return true;
        }
        if clock.now_us() >= end {
            return false;
        }
        clock.delay_us(POLL_US);
    }
}
