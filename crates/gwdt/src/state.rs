//! What the watchdog does, as a function of the counter (Arm DEN0094, "Watchdog operation").

use crate::spec;

/// How far the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// It isn't.
    None,
    /// Once (WS0).
    First,
    /// Twice (WS1, and WS0 still).
    Second,
}

/// The watchdog.
#[derive(Clone, Debug)]
pub(crate) struct State {
    enabled: bool,
    signal: Signal,
    /// How many ticks it runs: 48 bits.
    offset: u64,
    /// The counter's value after which the time is over.
    compare: u64,
    /// The counter when its VM was suspended, if it is.
    suspended_at: Option<u64>,
}

impl State {
    /// As it is after reset: off.
    pub(crate) const fn new() -> Self {
        Self { enabled: false, signal: Signal::None, offset: 0, compare: 0, suspended_at: None }
    }

    /// Whether WS0 is up.
    pub(crate) fn is_first(&self) -> bool {
        self.signal != Signal::None
    }

    /// Whether WS1 is up.
    pub(crate) fn has_expired(&self) -> bool {
        self.signal == Signal::Second
    }

    /// The counter's value at which something is to be done; none if nothing is.
    pub(crate) fn next(&self) -> Option<u64> {
        let runs = self.enabled && !self.has_expired() && self.suspended_at.is_none();
        runs.then(|| self.compare.saturating_add(1))
    }

    /// Brings it to where it is at this value of the counter.
    pub(crate) fn advance(&mut self, now: u64) {
        while self.next().is_some_and(|at| now >= at) {
            match self.signal {
                Signal::None => {
                    self.signal = Signal::First;
                    self.compare = self.compare.saturating_add(1).saturating_add(self.offset);
                }
                Signal::First | Signal::Second => self.signal = Signal::Second,
            }
        }
    }

    /// An explicit refresh. What has expired stays so: the machine is being reset, as far as its guest can see.
    pub(crate) fn refresh(&mut self, now: u64) {
        if !self.has_expired() {
            self.signal = Signal::None;
            self.compare = self.suspended_at.unwrap_or(now).saturating_add(self.offset);
        }
    }

    /// A read of the control frame, at this value of the counter.
    pub(crate) fn read(&self, register: u64) -> u32 {
        match register {
            spec::WCS => {
                let bit = |set: bool, bit: u32| if set { bit } else { 0 };
                bit(self.enabled, spec::WCS_EN)
                    | bit(self.is_first(), spec::WCS_WS0)
                    | bit(self.has_expired(), spec::WCS_WS1)
            }
            spec::WOR_LOW => self.offset as u32,
            spec::WOR_HIGH => (self.offset >> 32) as u32,
            spec::WCV_LOW => self.compare as u32,
            spec::WCV_HIGH => (self.compare >> 32) as u32,
            spec::W_IIDR => spec::IIDR,
            _ => 0,
        }
    }

    /// A write of the control frame.
    pub(crate) fn write(&mut self, register: u64, value: u32, now: u64) {
        match register {
            spec::WCS => {
                self.enabled = value & spec::WCS_EN != 0;
                self.refresh(now);
            }
            spec::WOR_LOW => {
                set_low(&mut self.offset, value);
                self.refresh(now);
            }
            spec::WOR_HIGH => {
                set_high(&mut self.offset, value & spec::WOR_HIGH_MASK);
                self.refresh(now);
            }
            spec::WCV_LOW => set_low(&mut self.compare, value),
            spec::WCV_HIGH => set_high(&mut self.compare, value),
            _ => {}
        }
    }

    /// Its time stands still from now on.
    pub(crate) fn suspend(&mut self, now: u64) {
        self.suspended_at.get_or_insert(now);
    }

    /// Its time goes on.
    pub(crate) fn resume(&mut self, now: u64) {
        if let Some(since) = self.suspended_at.take() {
            self.compare = self.compare.saturating_add(now.saturating_sub(since));
        }
    }
}

fn set_low(word: &mut u64, value: u32) {
    *word = *word & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(word: &mut u64, value: u32) {
    *word = *word & u64::from(u32::MAX) | u64::from(value) << 32;
}
