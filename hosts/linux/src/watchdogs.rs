//! The emulated watchdogs of the VMs: whoever looks after the VMs looks after them.

use std::sync::Arc;

use axvm_axdevice::InterruptLine;
use axvm_gwdt::{Clock, Watchdog};
use axvm_plan::WatchdogPlan;

use crate::host::Host;
use crate::{Vm, arch};

/// The counter by which a guest sets its watchdog.
struct Counter(&'static Host);

fn ticks(host: &Host) -> u64 {
    (u128::from(host.now_ns()) * u128::from(arch::watchdog_hz()) / 1_000_000_000) as u64
}

impl Clock for Counter {
    fn now(&self) -> u64 {
        ticks(self.0)
    }

    fn rearmed(&self) {
        self.0.bell.ring();
    }
}

/// A VM's watchdog, whose line is one of `lines`.
pub fn new(host: &'static Host, plan: &WatchdogPlan, lines: Arc<dyn InterruptLine>) -> Arc<Watchdog> {
    Arc::new(Watchdog::new(Arc::new(Counter(host)), plan.irq.map(|irq| (lines, irq))))
}

/// Stops VMs whose watchdog has expired. In how many microseconds to look again, if ever.
pub fn attend(host: &Host, vms: &[Arc<Vm>]) -> Option<u64> {
    let running = vms.iter().filter(|vm| vm.is_running());
    running.filter_map(|vm| attend_one(host, vm)).min()
}

fn attend_one(host: &Host, vm: &Vm) -> Option<u64> {
    let tick = axvm_monitor::attend_watchdog(vm, &host.link)?;
    let left = u128::from(tick.saturating_sub(ticks(host)));
    Some((left * 1_000_000 / u128::from(arch::watchdog_hz().max(1))) as u64 + 1)
}
