//! Physical interrupts that the hypervisor takes: what each is to the VM whose CPU it came to.

use axvm::irqchip::Irqchip as _;
use axvm_addr::{Irq, Trigger, VcpuId};

use super::vectors::{self, MessageAlone, Target};
use crate::arch::x86_64::cpu::open_window;
use crate::arch::x86_64::local_apic::TIMER;
use crate::arch::x86_64::percpu::PerCpu;
use crate::cpus;
use crate::host::Host;
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
    while let Some(vector) = own.take() {
        // That says no more than that it came: whoever is woken looks around.
        if vector == TIMER {
            continue;
        }
        if let Some(target) = vectors::target(cpu.id, vector) {
            deliver(running, target);
        }
    }
}

/// An interrupt was taken while the guest of a vCPU ran that takes one now: if it is a message for this vCPU alone, and nothing else
/// comes first, it is in service from now on, and to be injected. Otherwise it waits for [`take_interrupts`].
#[inline(always)]
pub fn take_message(vm: &Vm, vcpu: VcpuId, vector: u8) -> Option<u8> {
    let MessageAlone { vm: whose, device, alone } = vectors::message_alone(cpus::current()?.id, vector)?;
    if whose != vm.id() || !vm.irqchip().apics().take_message(vcpu, alone) {
        return None;
    }
    PerCpu::own().deal_with(vector);
    count(vm, vcpu, device);
    Some(alone.vector)
}

fn deliver(running: Option<(&Vm, VcpuId)>, target: Target) {
    match target {
        // Whoever waits for it looks around after every interrupt; then the line may come again.
        Target::Own => crate::host::get().irqchip.end_own_lines(),
        // The hypervisor's CPU, which looks at their records each time around.
        Target::Iommus => {}
        Target::Line { vm: whose, irq } => {
            let host = crate::host::get();
            match running.filter(|(vm, _)| vm.id() == whose) {
                Some((vm, vcpu)) => {
                    if let Some(device) = deliver_line(host, vm, vcpu, irq) {
                        count(vm, vcpu, device);
                    }
                }
                // Those of a VM whose CPUs are its own come to the hypervisor's.
                None => match host.vm(whose).filter(|vm| vm.irqchip().takes_interrupts()) {
                    Some(vm) => {
                        let device = deliver_line(host, &vm, VcpuId(0), irq);
                        if let Some(counters) = device.and_then(|device| vm.device(device)) {
                            counters.interrupts.count();
                        }
                    }
                    None => {
                        host.irqchip.mask_line(irq, true);
                        host.irqchip.end_line(irq);
                    }
                },
            }
        }
        Target::Message { vm: whose, device, message, alone: _ } => {
            let Some((vm, vcpu)) = running.filter(|(vm, _)| vm.id() == whose) else { return };
            if vm.irqchip().send_msi(None, message).is_ok() {
                count(vm, vcpu, device);
            }
        }
    }
}

/// A line of a VM's is active: it becomes one of its virtual I/O APIC. The device, if the line has one.
fn deliver_line(host: &Host, vm: &Vm, vcpu: VcpuId, irq: Irq) -> Option<u16> {
    let line = vm.plan().lines.iter().find(|line| line.irq == irq)?;
    if line.trigger == Trigger::Level {
        // It stays active until the guest has served the device: kept back until it ends the interrupt.
        host.irqchip.mask_line(irq, true);
        host.irqchip.end_line(irq);
        let _ = vm.irqchip().set_level(irq, true);
    } else {
        host.irqchip.end_line(irq);
        let _ = vm.irqchip().inject_irq_to_vcpu(vcpu, irq);
        vm.irqchip().keep_closed(vcpu, irq);
    }
    Some(line.device)
}

fn count(vm: &Vm, vcpu: VcpuId, device: u16) {
    if let Some(exits) = vm.exits(vcpu) {
        exits.count_injected();
    }
    if let Some(counters) = vm.device(device) {
        counters.interrupts.count();
    }
}
