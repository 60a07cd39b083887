//! The emulated watchdogs of the VMs: their clock is the machine's, and the hypervisor's CPU looks after them.

use alloc::sync::Arc;

use axvm_gwdt::{Clock, Watchdog};
use axvm_plan::WatchdogPlan;

use crate::arch;
use crate::host::Host;
use crate::log;
use crate::vm::{Vm, VmRef};

/// The counter by which a guest sets its watchdog.
struct Counter(&'static Host);

impl Clock for Counter {
    fn now(&self) -> u64 {
        arch::watchdog_ticks()
    }

    fn rearmed(&self) {
        self.0.call_hypervisor_cpu();
    }
}

/// A VM's watchdog, whose line is one of `lines`.
pub fn new(
    host: &'static Host,
    plan: &WatchdogPlan,
    lines: Arc<dyn axvm_axdevice::InterruptLine>,
) -> Arc<Watchdog> {
    Arc::new(Watchdog::new(Arc::new(Counter(host)), plan.irq.map(|irq| (lines, irq))))
}

/// Stops VMs whose watchdog has expired. In how many microseconds to look again, if ever.
pub fn attend(vms: &[VmRef]) -> Option<u64> {
    let running = vms.iter().filter(|vm| vm.is_running());
    running.filter_map(|vm| attend_one(vm)).min()
}

fn attend_one(vm: &Vm) -> Option<u64> {
    let tick = axvm_monitor::attend_watchdog(vm, &log::Console)?;
    Some(arch::watchdog_us(tick.saturating_sub(arch::watchdog_ticks())).saturating_add(1))
}
