//! A local APIC's timer (SDM 3, 12.5.4). There is one clock, the guest's time-stamp counter: the timer counts its ticks.

use crate::spec::TimerMode;

/// A count that is under way.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Since when.
    since: u64,
    /// From where.
    count: u32,
}

/// The timer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timer {
    initial: u32,
    /// Bits 3, 1 and 0 of the divide configuration.
    divide: u32,
    /// What it counts down from, and when it began to; stopped, there is none.
    run: Option<Run>,
    /// MSR 0x6e0; zero: none.
    deadline: u64,
}

impl Timer {
    /// The ticks that a count takes.
    fn divisor(&self) -> u64 {
        match self.divide & 3 | self.divide >> 1 & 4 {
            7 => 1,
            shift => 2 << shift,
        }
    }

    /// The ticks that so many counts take.
    fn ticks(&self, count: u32) -> u64 {
        u64::from(count) * self.divisor()
    }

    pub fn divide(&self) -> u32 {
        self.divide
    }

    /// Another divisor: a count that is under way goes on from where it is.
    pub fn set_divide(&mut self, value: u32, mode: TimerMode, now: u64) {
        let left = self.current(mode, now);
        self.divide = value & 0b1011;
        self.run = self.run.map(|_| Run { since: now, count: left });
    }

    pub fn initial(&self) -> u32 {
        self.initial
    }

    /// Starts it; with zero it stops. In deadline mode that has no effect.
    pub fn set_initial(&mut self, value: u32, mode: TimerMode, now: u64) {
        if mode != TimerMode::TscDeadline {
            self.initial = value;
            self.run = (value != 0).then_some(Run { since: now, count: value });
        }
    }

    /// What is left of the count.
    pub fn current(&self, mode: TimerMode, now: u64) -> u32 {
        let Some(Run { since, count }) = self.run else { return 0 };
        let done = now.saturating_sub(since) / self.divisor();
        match (u64::from(count).checked_sub(done), mode) {
            (Some(left @ 1..), _) => left as u32,
            (_, TimerMode::Periodic) if self.initial != 0 => {
                let past = done.saturating_sub(count.into()) % u64::from(self.initial);
                self.initial - past as u32
            }
            _ => 0,
        }
    }

    pub fn tsc_deadline(&self, mode: TimerMode) -> u64 {
        if mode == TimerMode::TscDeadline { self.deadline } else { 0 }
    }

    pub fn set_tsc_deadline(&mut self, value: u64, mode: TimerMode) {
        if mode == TimerMode::TscDeadline {
            self.deadline = value;
        }
    }

    /// Into or out of deadline mode it is disarmed (SDM 3, 12.5.4.1).
    pub fn change_mode(&mut self, from: TimerMode, to: TimerMode) {
        if (from == TimerMode::TscDeadline) != (to == TimerMode::TscDeadline) {
            self.run = None;
            self.initial = 0;
            self.deadline = 0;
        }
    }

    /// When it ends, if it is armed.
    pub fn deadline(&self, mode: TimerMode) -> Option<u64> {
        match mode {
            TimerMode::TscDeadline => (self.deadline != 0).then_some(self.deadline),
            TimerMode::Reserved => None,
            _ => {
                let Run { since, count } = self.run?;
                Some(since.saturating_add(self.ticks(count)))
            }
        }
    }

    /// Whether it has ended by now; then it is as it is after that. Ends of a periodic one that nobody has looked at are one.
    pub fn expire(&mut self, mode: TimerMode, now: u64) -> bool {
        let Some(at) = self.deadline(mode).filter(|at| *at <= now) else { return false };
        if mode == TimerMode::TscDeadline {
            self.deadline = 0;
        } else {
            let length = self.ticks(self.initial).max(1);
            let since = at.saturating_add(now.saturating_sub(at) / length * length);
            self.run = (mode == TimerMode::Periodic).then_some(Run { since, count: self.initial });
        }
        true
    }
}
