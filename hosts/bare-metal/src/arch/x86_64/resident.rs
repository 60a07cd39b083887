//! A vCPU that has its CPU: what it leaves in the CPU's registers, and the one way in which that ends.

use alloc::boxed::Box;

use axvm::vm::Start;
use axvm_addr::VcpuId;
use axvm_vapic::direct::{self, Opening};
use axvm_x86_cpu::permissions::MsrPermissions;
use axvm_x86_cpu::start;

use super::cpu::own_hardware_id;
use super::irqchip::Seat;
use super::local_apic::LocalApic;
use super::protection;
use super::registers::{self, Switched};
use super::run::{BY_STARTUP, Running};
use super::vcpu::Context;
use super::vector_state;
use crate::protection::{Protection, is_off};
use crate::vm::Vm;

/// Has a vCPU reside on the calling CPU, which is its own, while `run` runs it. Afterwards nothing of it is in the CPU.
pub fn reside<'a>(
    vm: &'a Vm,
    vcpu: VcpuId,
    start: Start,
    seat: Seat,
    run: impl FnOnce(&mut Running<'a>),
) -> Seat {
    let space = &vm.ends().space;
    let walk = space.walk(own_hardware_id());
    for opened in vm.plan().ports.iter().filter(|it| it.direct) {
        (opened.ports.first()..=opened.ports.last()).for_each(|port| space.ports.open_port(port));
    }
    protection::open_ports(vm, &space.ports);
    let mut msr = Box::new(MsrPermissions::closed());
    axvm_x86_cpu::msr::open(&mut msr);
    if vm.irqchip().takes_interrupts() {
        open_own_apic(&mut msr);
    }
    protection::open_registers(&mut msr);
    // What is switched here and not by VMRUN.
    let switched = Switched::save();
    let context = Context::reset(vm, &begins(vm, start), walk, msr);
    let allowed = registers::allowed(vm);
    let mut running = Running::new(vm, vcpu, context, allowed);
    run(&mut running);
    let features = running.context.features;
    drop(running);
    if !vm.irqchip().takes_interrupts() {
        LocalApic::own().stop_timer();
    }
    vector_state::reset(features.xcr0);
    switched.restore();
    seat
}

/// What the guest reaches of the CPU's local APIC without an exit.
fn open_own_apic(msr: &mut MsrPermissions) {
    let keeps_timer_harmless = LocalApic::own().keeps_timer_harmless();
    for row in direct::OPEN {
        for register in row.first..=row.last {
            // The map covers them all; what it didn't would exit.
            if row.opening != Opening::Write {
                let _ = msr.open_read(register);
            }
            if row.opening != Opening::Read && (register != direct::LVT_TIMER || keeps_timer_harmless) {
                let _ = msr.open_write(register);
            }
        }
    }
    if is_off(Protection::Apic) {
        for register in [registers::COMMAND, direct::LVT_TIMER] {
            let _ = msr.open_write(register);
        }
    }
}

/// How it begins.
fn begins(vm: &Vm, start: Start) -> start::Start {
    if start.argument == BY_STARTUP {
        return start::Start::Sipi { vector: (start.entry >> 12) as u8 };
    }
    registers::planned_start(vm, start)
}
