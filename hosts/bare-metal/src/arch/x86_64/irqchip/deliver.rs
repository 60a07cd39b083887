//! Physical interrupts that the hypervisor takes: what each is to the VM whose CPU it came to.

use axvm::irqchip::Irqchip as _;
use axvm_addr::{Trigger, VcpuId};

use super::vectors::{self, Target};
use crate::arch::x86_64::cpu::open_window;
use crate::arch::x86_64::percpu::PerCpu;
use crate::cpus;
use crate::vm::Vm;

/// Takes every interrupt that is pending for this CPU. `running`: the vCPU whose CPU it is.
pub fn take_interrupts(running: Option<(&Vm, VcpuId)>) {
    let own = PerCpu::own();
    own.take_call();
    open_window();
    if !own.has_taken() {
        return;
    }
    let Some(cpu) = cpus::current() else { return };
    for vector in own.take() {
        // The timer says no more than that it came: whoever is woken looks around.
        if let Some(target) = vectors::target(cpu.id, vector) {
            deliver(running, target);
        }
    }
}

fn deliver(running: Option<(&Vm, VcpuId)>, target: Target) {
    match target {
        // Whoever waits for it looks around after every interrupt; then the line may come again.
        Target::Own => crate::host::get().irqchip.end_own_lines(),
        Target::Line { vm: whose, irq } => {
            let irqchip = &crate::host::get().irqchip;
            let Some((vm, vcpu)) = running.filter(|(vm, _)| vm.id() == whose) else {
                irqchip.mask_line(irq, true);
                irqchip.end_line(irq);
                return;
            };
            let line = vm.plan().lines.iter().find(|line| line.irq == irq);
            let Some(line) = line else { return };
            let device = line.device;
            if line.trigger == Trigger::Level {
                // It stays active until the guest has served the device: kept back until it ends the interrupt.
                irqchip.mask_line(irq, true);
                irqchip.end_line(irq);
                let _ = vm.irqchip().set_level(irq, true);
            } else {
                irqchip.end_line(irq);
                let _ = vm.irqchip().inject_irq_to_vcpu(vcpu, irq);
            }
            count(vm, vcpu, device);
        }
        Target::Message { vm: whose, device, message } => {
            let Some((vm, vcpu)) = running.filter(|(vm, _)| vm.id() == whose) else { return };
            if vm.irqchip().send_msi(None, message).is_ok() {
                count(vm, vcpu, device);
            }
        }
    }
}

fn count(vm: &Vm, vcpu: VcpuId, device: u16) {
    if let Some(exits) = vm.exits(vcpu) {
        exits.count_injected();
    }
    if let Some(counters) = vm.device(device) {
        counters.interrupts.count();
    }
}
