//! VMs none of whose vCPUs executes anything any more, where it is the kernel that knows which are off: it tells nobody.
//!
//! The kernel tells how a vCPU is to the thread that runs it, and only between two entries. So each thread is asked once a while, by a signal, and
//! says whether its vCPU rests: it is off, or sleeps, and nothing but another vCPU of its VM can have it go on (`arch::rests`). Where all of a VM's have said
//! so twice in a row the VM has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axvm::vm::StopReason;

use crate::Vm;
use crate::arch::Switches;
use crate::caller::Caller;
use crate::host::Host;

/// How often vCPUs are asked.
const EVERY: Duration = Duration::from_secs(2);

/// How often in a row each has to say it: one that was asked early may have been woken since by one that was asked late.
const ROUNDS: u8 = 2;

/// When they are asked next.
pub struct Questions {
    next: Instant,
}

impl Questions {
    /// After the first while.
    pub fn begin() -> Self {
        Self { next: Instant::now() + EVERY }
    }

    /// Stops VMs that have ended so, and asks the others. In how long to look again.
    pub fn attend(&mut self, host: &Host, vms: &[Arc<Vm>]) -> Option<Duration> {
        let is_asked = |vm: &&Arc<Vm>| vm.is_running() && vm.irqchip().parts().switches() == Switches::Kernel;
        let mut running = vms.iter().filter(is_asked).peekable();
        running.peek()?;
        let now = Instant::now();
        if now < self.next {
            return Some(self.next - now);
        }
        self.next = now + EVERY;
        for vm in running {
            let callers: Vec<_> = vm.vcpus().filter_map(|(vcpu, _)| host.caller(vm.id(), vcpu)).collect();
            if has_ended(&callers) {
                host.link.warn(format_args!("{}: none of its CPUs executes anything any more", vm.name()));
                vm.stop(StopReason::CpusOff);
            } else {
                callers.iter().for_each(|caller| caller.ask());
            }
        }
        Some(EVERY)
    }
}

/// Whether all have said often enough that they rest.
fn has_ended(callers: &[Arc<Caller>]) -> bool {
    !callers.is_empty() && callers.iter().all(|caller| caller.rests() >= ROUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is asked, and says whether it rests.
    fn round(callers: &[Arc<Caller>], rests: [bool; 2]) -> bool {
        for (caller, rests) in callers.iter().zip(rests) {
            caller.ask();
            assert!(caller.is_asked());
            caller.answer(rests);
            assert!(!caller.is_asked());
        }
        has_ended(callers)
    }

    #[test]
    fn a_vm_has_ended_where_all_have_rested_twice_in_a_row() {
        let callers = [Arc::new(Caller::default()), Arc::new(Caller::default())];
        assert!(!has_ended(&callers) && !has_ended(&[]));
        assert!(!round(&callers, [true, true]));
        assert!(round(&callers, [true, true]));
        assert!(round(&callers, [true, true]));
        // One is woken.
        assert!(!round(&callers, [true, false]));
        assert!(!round(&callers, [true, true]));
        assert!(round(&callers, [true, true]));
    }

    #[test]
    fn what_it_is_left_for_shows_that_it_does_not_rest() {
        let callers = [Arc::new(Caller::default()), Arc::new(Caller::default())];
        round(&callers, [true, true]);
        callers[1].moves();
        assert!(!round(&callers, [true, true]));
        assert!(round(&callers, [true, true]));
        callers[0].moves();
        assert!(!has_ended(&callers));
    }

    #[test]
    fn another_life_is_asked_anew() {
        let callers = [Arc::new(Caller::default()), Arc::new(Caller::default())];
        round(&callers, [true, true]);
        round(&callers, [true, true]);
        callers[0].ask();
        callers[0].join();
        assert!(!callers[0].is_asked() && callers[0].rests() == 0);
        assert!(!has_ended(&callers));
    }

    #[test]
    fn whoever_has_not_answered_yet_has_not_said_it_again() {
        let callers = [Arc::new(Caller::default()), Arc::new(Caller::default())];
        round(&callers, [true, true]);
        callers[0].ask();
        callers[0].answer(true);
        callers[1].ask();
        assert!(!has_ended(&callers));
    }
}
