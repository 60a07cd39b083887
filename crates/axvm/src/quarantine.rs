//! Devices that have lost the bus while their VM runs: from when that is asked for until it is true.
//!
//! What is asked for is tried at once, and again until it is confirmed: an IOMMU may be slow, a function in the middle of its reset
//! doesn't answer. It is recorded as done once it is. If it can't be had in time, the VM has to stop: then its memory is withheld
//! unless the device is closed after all ([`Registry::reclaim`](crate::ownership::Registry::reclaim)).

use alloc::vec::Vec;

use axvm_addr::VmId;

use crate::events::{Action, Violation};

/// How long it is tried: longer than a function may be silent after a reset.
pub const MOST_NS: u64 = 4_000_000_000;

/// How long after the first failure it is tried again; each time after that twice as long.
pub const FIRST_PAUSE_NS: u64 = 1_000_000;

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not confirmed: to be tried at `at`, and given up at `end`.
    Wanted { at: u64, pause: u64, end: u64 },
    /// It is off the bus.
    Confirmed,
    /// It couldn't be taken off the bus.
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    vm: VmId,
    device: u16,
    state: State,
    /// What it has lost the bus for, not recorded yet: with what it is to be recorded as once that is true.
    violation: Option<Violation>,
}

/// What has come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It will be tried again.
    Later,
    /// It is off the bus. What is to be recorded.
    Confirmed(Option<Violation>),
    /// Its VM has to stop. What is to be recorded.
    StopVm(Option<Violation>),
}

/// All of them.
#[derive(Debug, Default)]
pub struct Quarantine {
    entries: Vec<Entry>,
}

impl Quarantine {
    /// None.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Asks for it; a device for which it was asked already has it. `violation` is recorded when it is done: if this gives it
    /// back, somebody else has to record it.
    pub fn ask(
        &mut self,
        vm: VmId,
        device: u16,
        now_ns: u64,
        violation: Option<Violation>,
    ) -> Option<Violation> {
        if self.find(vm, device).is_some() {
            return violation;
        }
        let state = State::Wanted { at: now_ns, pause: FIRST_PAUSE_NS, end: now_ns.saturating_add(MOST_NS) };
        self.entries.push(Entry { vm, device, state, violation });
        None
    }

    /// Whether a device isn't to have the bus: from when it was asked for.
    pub fn is_asked_for(&self, vm: VmId, device: u16) -> bool {
        self.find(vm, device).is_some()
    }

    /// Whether a device is off the bus.
    pub fn is_confirmed(&self, vm: VmId, device: u16) -> bool {
        self.find(vm, device).is_some_and(|entry| entry.state == State::Confirmed)
    }

    /// Whether something is to be tried, now or later.
    pub fn is_waiting(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Wanted { .. }))
    }

    /// The next one to be tried at this time.
    pub fn due(&self, now_ns: u64) -> Option<(VmId, u16)> {
        let due = |entry: &&Entry| matches!(entry.state, State::Wanted { at, .. } if at <= now_ns);
        self.entries.iter().find(due).map(|entry| (entry.vm, entry.device))
    }

    /// It was tried; `confirmed` says with what success.
    pub fn tried(&mut self, vm: VmId, device: u16, now_ns: u64, confirmed: bool) -> Outcome {
        let Some(entry) = self.entries.iter_mut().find(|entry| (entry.vm, entry.device) == (vm, device))
        else {
            return Outcome::Later;
        };
        let State::Wanted { pause, end, .. } = entry.state else { return Outcome::Later };
        if confirmed {
            entry.state = State::Confirmed;
            return Outcome::Confirmed(entry.violation.take());
        }
        if now_ns >= end {
            entry.state = State::GivenUp;
            let stopped = |violation| Violation { action: Action::VmStopped, ..violation };
            return Outcome::StopVm(entry.violation.take().map(stopped));
        }
        entry.state = State::Wanted { at: now_ns.saturating_add(pause), pause: pause.saturating_mul(2), end };
        Outcome::Later
    }

    /// The VM is gone: nothing more is tried for it, by this. What wasn't recorded.
    pub fn end(&mut self, vm: VmId) -> Vec<Violation> {
        let mut left = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.vm == vm) {
            if let State::Wanted { .. } = entry.state {
                entry.state = State::GivenUp;
                left.extend(entry.violation.take().map(|it| Violation { action: Action::Reported, ..it }));
            }
        }
        left
    }

    /// The VM starts anew, its devices closed and reset in between: they may have the bus again.
    pub fn restart(&mut self, vm: VmId) {
        self.entries.retain(|entry| entry.vm != vm);
    }

    fn find(&self, vm: VmId, device: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| (entry.vm, entry.device) == (vm, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Kind;

    const VM: VmId = VmId(1);

    fn violation() -> Violation {
        Violation {
            time_ns: 5,
            vm: Some(VM),
            device: Some(2),
            kind: Kind::DmaWrite,
            address: Some(0x1000),
            action: Action::Quarantined,
            count: 1,
        }
    }

    #[test]
    fn it_is_recorded_once_it_is_true_and_not_before() {
        let mut quarantine = Quarantine::new();
        assert_eq!(quarantine.ask(VM, 2, 100, Some(violation())), None);
        assert!(quarantine.is_asked_for(VM, 2) && !quarantine.is_confirmed(VM, 2), "it may not have the bus");
        assert_eq!(quarantine.due(100), Some((VM, 2)));
        assert_eq!(quarantine.tried(VM, 2, 100, false), Outcome::Later);
        assert!(!quarantine.is_confirmed(VM, 2) && quarantine.is_waiting());
        assert_eq!(
            quarantine.ask(VM, 2, 101, Some(violation())),
            Some(violation()),
            "one record is held back"
        );
        assert_eq!(quarantine.due(101), None);
        assert_eq!(quarantine.due(100 + FIRST_PAUSE_NS), Some((VM, 2)));
        assert_eq!(
            quarantine.tried(VM, 2, 100 + FIRST_PAUSE_NS, true),
            Outcome::Confirmed(Some(violation()))
        );
        assert!(quarantine.is_confirmed(VM, 2) && !quarantine.is_waiting());
        assert_eq!(quarantine.due(u64::MAX), None);
        assert_eq!(quarantine.tried(VM, 2, 0, false), Outcome::Later, "what is confirmed stays so");
        assert!(quarantine.is_confirmed(VM, 2));
    }

    #[test]
    fn what_cannot_be_had_stops_the_vm_after_a_bounded_time_and_number_of_attempts() {
        let mut quarantine = Quarantine::new();
        quarantine.ask(VM, 2, 0, Some(violation()));
        let (mut now, mut tries) = (0, 0);
        let outcome = loop {
            if quarantine.due(now).is_some() {
                tries += 1;
                match quarantine.tried(VM, 2, now, false) {
                    Outcome::Later => {}
                    outcome => break outcome,
                }
            }
            now += FIRST_PAUSE_NS;
        };
        let stopped = Violation { action: Action::VmStopped, ..violation() };
        assert_eq!(outcome, Outcome::StopVm(Some(stopped)));
        assert!((MOST_NS..2 * MOST_NS + 10 * FIRST_PAUSE_NS).contains(&now), "{now}");
        assert!((5..20).contains(&tries), "{tries}");
        assert!(
            quarantine.is_asked_for(VM, 2) && !quarantine.is_confirmed(VM, 2) && !quarantine.is_waiting()
        );
    }

    #[test]
    fn a_vm_that_ends_before_leaves_its_record_and_nothing_to_be_tried() {
        let mut quarantine = Quarantine::new();
        quarantine.ask(VM, 2, 0, Some(violation()));
        quarantine.ask(VmId(0), 2, 0, None);
        let reported = Violation { action: Action::Reported, ..violation() };
        assert_eq!(quarantine.end(VM), [reported]);
        assert_eq!(quarantine.end(VM), []);
        assert_eq!(quarantine.due(u64::MAX), Some((VmId(0), 2)));
        assert!(quarantine.is_asked_for(VM, 2), "as long as it isn't started anew");
        quarantine.restart(VM);
        assert!(!quarantine.is_asked_for(VM, 2) && quarantine.is_asked_for(VmId(0), 2));
    }
}
