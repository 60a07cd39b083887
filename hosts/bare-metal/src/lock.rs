//! Locks that are held while hardware is waited for. Those waits are bounded by the clock; but an access that is never answered keeps
//! its CPU for good, and with it what it holds. Whoever waits for that ends the run, and says which CPU it was: without the lock
//! nothing can be closed, stopped or taken apart any more.

use axvm::ownership::{Registry, RegistryKeeper};
use axvm_lock::{Guard, Lock};

use crate::{arch, boot, cpus};

/// What is behind such a lock.
pub struct Held<T> {
    what: &'static str,
    most_us: u64,
    lock: Lock<T>,
}

impl<T> Held<T> {
    /// For what is held while hardware does one thing after another, each of which is waited for at most a second, and after that a
    /// millisecond.
    pub const fn for_hardware(what: &'static str, value: T) -> Self {
        const MOST_US: u64 = 60_000_000;
        Self { what, most_us: MOST_US, lock: Lock::new(value) }
    }

    /// For what is held while a VM's devices change hands: they are closed and reset one after another, which takes seconds for one that
    /// doesn't answer.
    pub const fn for_hand_over(what: &'static str, value: T) -> Self {
        const MOST_US: u64 = 600_000_000;
        Self { what, most_us: MOST_US, lock: Lock::new(value) }
    }

    /// Takes it if nobody has it or waits for it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.lock.try_lock(arch::own_hardware_id())
    }

    /// Waits for it. Ends the run at the deadline.
    pub fn lock(&self) -> Guard<'_, T> {
        // By what the platform calls it, which takes no looking for: the CPU's number is asked for when one is lost.
        self.lock.lock(arch::own_hardware_id(), self.most_us, arch::now_us).unwrap_or_else(|held| {
            let seconds = self.most_us / 1_000_000;
            match cpus::of(held.by) {
                Some(cpu) => boot::last_words(&format_args!(
                    "CPU {} is lost: it has held {} for {seconds} s",
                    cpu.id, self.what
                )),
                None => boot::last_words(&format_args!("{} has been held for {seconds} s", self.what)),
            }
        })
    }
}

impl RegistryKeeper for Held<Registry> {
    fn lend<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R {
        with(&mut self.lock())
    }
}
