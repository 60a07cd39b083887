//! Whether a VM that has ended starts again.

use axvm_plan::VmPlan;
use axvm_system::model::AfterEnd;

use crate::vm::StopReason;

#[cfg(test)]
mod tests;

/// So often in a [`WINDOW_NS`] a VM starts again that ended otherwise than by its guest's will.
pub const MOST_CRASHES: u32 = 5;

/// The window over which those are counted.
pub const WINDOW_NS: u64 = 60_000_000_000;

/// What follows the end of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It stays stopped.
    Stays,
    /// It starts again.
    Again,
    /// It would, but has ended so often that it stays stopped.
    TooOften,
}

/// A VM's ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restarts {
    /// When the window began, and the crashes in it.
    since_ns: u64,
    crashes: u32,
}

impl Restarts {
    /// What follows an end for this reason, at `now_ns`.
    ///
    /// A guest that resets itself means to go on, however often: it costs nobody's time but that of its own CPUs. So does whoever has it
    /// started again. One that crashes may do so for ever, and each time there is something to be looked at.
    pub fn after(&mut self, reason: StopReason, plan: &VmPlan, now_ns: u64) -> Afterwards {
        let asked = match reason {
            StopReason::SystemOff | StopReason::Stopped | StopReason::RunEnded => AfterEnd::Stop,
            StopReason::Restarted => AfterEnd::Restart,
            StopReason::SystemReset => plan.on_reset,
            StopReason::Watchdog => plan.watchdog.map_or(AfterEnd::Stop, |watchdog| watchdog.then),
            StopReason::CpusOff | StopReason::Violation | StopReason::GuestFault | StopReason::HostError => {
                plan.on_crash
            }
        };
        if asked == AfterEnd::Stop {
            return Afterwards::Stays;
        }
        if let StopReason::SystemReset | StopReason::Restarted = reason {
            return Afterwards::Again;
        }
        if now_ns.saturating_sub(self.since_ns) >= WINDOW_NS {
            (self.since_ns, self.crashes) = (now_ns, 0);
        }
        self.crashes += 1;
        if self.crashes > MOST_CRASHES { Afterwards::TooOften } else { Afterwards::Again }
    }
}
