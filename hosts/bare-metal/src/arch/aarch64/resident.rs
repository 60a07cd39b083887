//! A vCPU that has its CPU: what it leaves in the CPU's registers, and the one way in which that ends.

use axvm::vm::Start;
use axvm_addr::VcpuId;

use super::fast::Running;
use super::irqchip::Seat;
use super::vcpu::{Context, park};
use crate::vm::Vm;

/// Has a vCPU reside on the calling CPU, which is its own, while `run` runs it. Afterwards timers and second stage are parked, so that
/// nothing new comes of them: what is left is the interrupt controller's, and goes back to it.
pub fn reside<'a>(
    vm: &'a Vm,
    vcpu: VcpuId,
    start: Start,
    seat: Seat,
    run: impl FnOnce(&mut Running<'a>),
) -> Seat {
    let hardware_id = vm.vcpu(vcpu).map_or(0, |planned| planned.hardware_id);
    let context = Context::reset(start, hardware_id, vm.ends().space, seat);
    let mut running = Running::new(vm, vcpu, context);
    run(&mut running);
    park();
    running.context.into_seat()
}
