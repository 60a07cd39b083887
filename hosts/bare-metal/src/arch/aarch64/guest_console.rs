//! A guest's emulated console: a PL011.

use alloc::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm::irqchip::Lines;
use axvm_addr::Hpa;
use axvm_pl011::Pl011;
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
    let Some(registers) = plan.at.registers() else { return AddedConsole { devices, console: None } };
    let uart = Arc::new(Pl011::new(output, lines, plan.irq));
    AddedConsole { devices: devices.mmio(registers, uart.clone()), console: Some(uart) }
}
