//! A guest's ACPI registers and its reset register: what it asks its power for.

use core::sync::atomic::{AtomicU16, Ordering};

use axvm::vcpu::PowerRequest;
use axvm_plan::PowerPlan;

/// The registers.
pub struct Power {
    plan: PowerPlan,
    status: AtomicU16,
    enable: AtomicU16,
}

/// What an access comes to.
pub enum Accessed {
    /// A value was read, or a write was taken.
    Value(u64),
    /// It asks for this.
    Asks(PowerRequest),
}

/// PM1_CNT: SCI_EN, always on; SLP_TYP in bits 12:10; SLP_EN (ACPI 6.5, 4.8.3.2).
const SCI_ENABLED: u64 = 1;
const TYPE_SHIFT: u32 = 10;
const SLEEP: u64 = 1 << 13;

impl Power {
    /// As after reset.
    pub const fn new(plan: PowerPlan) -> Self {
        Self { plan, status: AtomicU16::new(0), enable: AtomicU16::new(0) }
    }

    /// Whether a port is one of them.
    pub fn has(&self, port: u16) -> bool {
        self.plan.event.contains(port) || self.plan.control.contains(port) || port == self.plan.reset
    }

    /// A read of so many bytes at one of them.
    fn read(&self, port: u16) -> u64 {
        let events = u64::from(self.status.load(Ordering::Relaxed))
            | u64::from(self.enable.load(Ordering::Relaxed)) << 16;
        if self.plan.event.contains(port) {
            events >> (8 * (port - self.plan.event.first()))
        } else if self.plan.control.contains(port) {
            SCI_ENABLED >> (8 * (port - self.plan.control.first()))
        } else {
            0
        }
    }

    /// An access: a read, or a write of a value.
    pub fn access(&self, port: u16, write: Option<u64>) -> Accessed {
        let Some(value) = write else { return Accessed::Value(self.read(port)) };
        if port == self.plan.reset && value & 0xff == u64::from(self.plan.reset_value) {
            return Accessed::Asks(PowerRequest::SystemReset);
        }
        if port == self.plan.control.first()
            && value & SLEEP != 0
            && value >> TYPE_SHIFT & 7 == u64::from(self.plan.s5)
        {
            return Accessed::Asks(PowerRequest::SystemOff);
        }
        if port == self.plan.event.first() {
            // A one clears.
            self.status.fetch_and(!(value as u16), Ordering::Relaxed);
        } else if port == self.plan.event.first() + 2 {
            self.enable.store(value as u16, Ordering::Relaxed);
        }
        Accessed::Value(0)
    }
}
