//! What a vCPU looks at without taking the lock.

use core::sync::atomic::{AtomicBool, AtomicU32};

/// The SGIs, a bit each.
pub(crate) const ALL_SGIS: u32 = 0xffff;

/// What a vCPU looks at without taking the lock.
#[derive(Debug)]
pub(crate) struct Signal {
    /// Its list registers may not be what they should be. Set and cleared with the lock held.
    pub(crate) stale: AtomicBool,
    /// Its mailbox: software interrupts of group 1 that others sent and that it hasn't looked at, by INTID.
    pub(crate) sgis: AtomicU32,
    /// Its SGIs that are of group 0, by INTID. Written with the lock held.
    pub(crate) group0_sgis: AtomicU32,
}

impl Default for Signal {
    fn default() -> Self {
        Self { stale: AtomicBool::new(true), sgis: AtomicU32::new(0), group0_sgis: AtomicU32::new(ALL_SGIS) }
    }
}
