//! What both fake hosts have: a list of what fails, what was seen, and a way to wake a vCPU.

use std::collections::BTreeMap;
use std::string::String;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec::Vec;

use axvm_addr::VcpuId;

use super::script::Step;
use crate::events::Violation;

/// A value that several CPUs set and look at.
#[derive(Default)]
pub struct Cell<T>(Mutex<T>);

impl<T: Copy> Cell<T> {
    pub fn get(&self) -> T {
        *lock(&self.0)
    }

    pub fn set(&self, value: T) {
        *lock(&self.0) = value;
    }

    pub fn replace(&self, value: T) -> T {
        core::mem::replace(&mut lock(&self.0), value)
    }
}

/// As [`Cell`], for what isn't copied.
#[derive(Default)]
pub struct Shared<T>(Mutex<T>);

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub fn borrow(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }

    pub fn borrow_mut(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Another test thread that failed has said so.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which operation fails.
#[derive(Default)]
pub struct Faults {
    pub operations: Cell<usize>,
    pub fail_at: Cell<Option<usize>>,
    /// So many more after that fail, too.
    pub and_more: Cell<usize>,
    pub fail_named: Cell<Option<&'static str>>,
    /// What has failed last.
    pub failed: Cell<Option<&'static str>>,
    /// Whether somebody has the registry.
    pub lent: Arc<Cell<bool>>,
}

/// What is done to devices while they change hands.
const HAND_OVER: [&str; 6] = ["unbind", "close", "charge", "reset", "attach", "detach"];

/// What is done to them then, and at other times too.
const ANY_TIME: [&str; 2] = ["open a source", "block a source"];

impl Faults {
    /// Others wait for the registry: it is held for what is done to devices, and for nothing else.
    pub fn lends(&self, what: &str) {
        if !ANY_TIME.contains(&what) {
            assert_eq!(self.lent.get(), HAND_OVER.contains(&what), "the registry is held, or isn't: {what}");
        }
    }

    pub fn step(&self, what: &'static str) -> Result<(), &'static str> {
        self.lends(what);
        let operation = self.operations.get();
        self.operations.set(operation + 1);
        let fails = |first| (first..=first + self.and_more.get()).contains(&operation);
        if self.fail_at.get().is_some_and(fails) || self.fail_named.get() == Some(what) {
            self.failed.set(Some(what));
            return Err("the host failed");
        }
        Ok(())
    }
}

/// By which vCPUs are called. A call that nobody has heard yet stays.
#[derive(Default)]
pub struct Bells {
    rung: Mutex<Vec<VcpuId>>,
    heard: Condvar,
    /// Whether vCPUs in their guest hear none: what a hostile guest on bare metal can have.
    pub deaf: Cell<bool>,
}

impl Bells {
    pub fn ring(&self, vcpu: VcpuId) {
        lock(&self.rung).push(vcpu);
        self.heard.notify_all();
    }

    /// Whether this vCPU, which is in its guest, was called.
    pub fn answer(&self, vcpu: VcpuId) -> bool {
        !self.deaf.get() && take(&mut lock(&self.rung), vcpu)
    }

    /// Forgets what this vCPU was called for.
    pub fn forget(&self, vcpu: VcpuId) {
        take(&mut lock(&self.rung), vcpu);
    }

    /// Waits until it is called. A test that hangs is worse than one that looks in vain.
    pub fn wait(&self, vcpu: VcpuId) {
        let mut rung = lock(&self.rung);
        if !take(&mut rung, vcpu) {
            let waited = self.heard.wait_timeout(rung, Duration::from_millis(20));
            take(&mut waited.unwrap_or_else(PoisonError::into_inner).0, vcpu);
        }
    }
}

fn take(rung: &mut Vec<VcpuId>, vcpu: VcpuId) -> bool {
    let before = rung.len();
    rung.retain(|it| *it != vcpu);
    rung.len() != before
}

/// What both fake hosts have.
#[derive(Default)]
pub struct Lab {
    pub faults: Faults,
    pub bells: Bells,
    /// vCPUs that were kicked.
    pub kicked: Shared<Vec<u16>>,
    /// What guests do, by where they begin.
    pub programs: Shared<BTreeMap<u64, Vec<Step>>>,
    /// What of that wasn't answered as the guest expects.
    pub complaints: Shared<Vec<String>>,
    /// What is in memory that is mapped.
    pub memory: Shared<BTreeMap<u64, u64>>,
    /// What was written to registers that are forwarded: offset and value.
    pub forwarded: Shared<Vec<(u64, u64)>>,
    /// What was written to ports that are forwarded: the machine's port and value.
    pub forwarded_ports: Shared<Vec<(u16, u32)>>,
    /// What was written to the console.
    pub console: Shared<String>,
    pub violations: Shared<Vec<Violation>>,
    /// Bytes of RAM that are given to nobody any more.
    pub withheld: Cell<u64>,
    /// Whether vCPUs that read their memory for ever stay where they are, out of their guest, and whether one does.
    pub stuck: Cell<bool>,
    pub is_stuck: Cell<bool>,
    /// How often vCPUs were held.
    pub held: Cell<u32>,
    /// The host's clock.
    pub clock: Cell<u64>,
    /// Interrupt controllers that there are.
    pub chips: Cell<u32>,
    /// vCPUs that have a CPU, and the most that ever had.
    pub resident: Shared<Vec<VcpuId>>,
}
