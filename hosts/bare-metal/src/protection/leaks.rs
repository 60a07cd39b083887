//! Leaks that a test image makes, one thing a life: what counts what VMs take and give back must see each.

use alloc::boxed::Box;

use axvm_plan::LineRoute;

use super::{Protection, is_off};
use crate::host::Host;
use crate::{cpus, memory};

/// A page.
const BYTES: usize = 0x1000;

/// Where the bundle asks for it, loses something as a VM that has been taken apart might have.
#[cfg_attr(not(feature = "protection-off"), expect(unused_variables, reason = "a release loses nothing"))]
pub fn leak(host: &Host) {
    if is_off(Protection::LeakMemory) {
        Box::leak(Box::new([0u8; BYTES]));
    }
    if is_off(Protection::LeakTable) {
        let _ = memory::allocate(BYTES, BYTES);
    }
    #[cfg(feature = "protection-off")]
    if is_off(Protection::LeakNumber) {
        crate::arch::leak_message_number(&host.irqchip);
    }
    #[cfg(feature = "protection-off")]
    if is_off(Protection::LeakMessage) {
        crate::arch::leak_message(&host.irqchip);
    }
}

/// Where the bundle asks for it, leaves a line enabled that a VM had.
pub fn leak_line(host: &Host, route: &LineRoute) {
    if is_off(Protection::LeakLine)
        && let Some(line) =
            host.platform.devices.iter().flat_map(|it| &it.interrupts).find(|it| it.irq == route.irq)
        && let Some(cpu) = cpus::get(host.hypervisor_cpu())
    {
        host.irqchip.listen(*line, cpu.hardware_id);
    }
}
