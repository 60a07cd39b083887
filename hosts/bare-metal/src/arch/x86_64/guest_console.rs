//! A guest's emulated console: a 16550.

use alloc::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm::irqchip::Lines;
use axvm_addr::Hpa;
use axvm_ns16550::Ns16550;
use axvm_plan::ConsolePlan;

use super::GuestIrqchip;
use crate::ring::Ring;
use crate::vm::AddedConsole;

/// Adds it to the VM's devices.
pub fn add_console(
    devices: AxVmDevicesBuilder<Hpa>,
    plan: ConsolePlan,
    output: Arc<Ring>,
    lines: Arc<Lines<GuestIrqchip>>,
) -> AddedConsole {
    let Some(ports) = plan.at.ports() else { return AddedConsole { devices, console: None } };
    let uart = Arc::new(Ns16550::new(output, lines, plan.irq));
    let devices = devices.ports(ports.first(), ports.count() as u16, uart.clone());
    AddedConsole { devices, console: Some(uart) }
}
