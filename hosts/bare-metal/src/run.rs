//! The run loop of a vCPU on its CPU.

use axvm::events::Kind;
use axvm::stats::ExitReason;
use axvm::vm::Turn;
use axvm_addr::VcpuId;
use axvm_vgic::Intid;

use crate::arch::gic;
use crate::arch::{self, Left, Next, Running};
use crate::log;
use crate::resident::Resident;
use crate::vm::{Delivered, Vm};

/// Runs a vCPU until it is off or its VM stops. Returns at once, with `false`, if it isn't to be started.
pub fn run(vm: &Vm, vcpu: VcpuId) -> bool {
    match vm.run_vcpu(vcpu, |start| Resident::on(vm, vcpu, start, until_off)) {
        Ok(turn) => turn == Turn::Over,
        Err(error) => {
            log::error!("{}: vCPU {vcpu} can't run: {error}", vm.name());
            true
        }
    }
}

/// Runs a vCPU that has its CPU, until it is off or its VM stops.
fn until_off(running: &mut Running<'_>) {
    let (vm, vcpu) = (running.vm, running.vcpu);
    vm.host().note_first_entry();
    let mut next = Next::Resume;
    while !vm.is_stopping() {
        match next {
            Next::Resume => {}
            Next::Suspend { deadline } => {
                if let Some(direct) = &running.context.direct {
                    if direct.wait(deadline) {
                        vm.violated(Kind::Interrupt, None);
                    }
                    next = Next::Resume;
                    continue;
                }
                let over = deadline.is_some_and(|deadline| arch::virtual_count() >= deadline);
                if !over && !vm.vgic().has_pending(vcpu) && !vm.leave_messages(vcpu) {
                    match deadline {
                        Some(deadline) => arch::wait_for_interrupt_until(deadline),
                        None => arch::wait_for_interrupt(),
                    }
                    take_interrupts(Some((vm, vcpu)));
                    // The next leaving says whether it was a doorbell.
                    vm.enter_messages(vcpu);
                    continue;
                }
                vm.enter_messages(vcpu);
            }
            Next::Off => return,
            Next::Stop(reason) => return vm.stop(reason),
        }
        next = match &running.context.direct {
            Some(_) => enter_direct(running),
            None => enter(running),
        };
    }
}

/// Runs a vCPU in emulated mode until its next exit that isn't answered at once, and handles that.
fn enter(running: &mut Running<'_>) -> Next {
    let (vm, vcpu) = (running.vm, running.vcpu);
    vm.vgic().flush(vcpu, &mut running.context.lists);
    running.context.load_lists();
    let left = arch::enter(running);
    running.context.save_lists();
    vm.vgic().sync(vcpu, &mut running.context.lists);
    if left == Left::Interrupt {
        if let Some(id) = running.take_interrupt()
            && let Delivered::Message(message, counters) = dispatch(Some((vm, vcpu)), id)
        {
            running.remember(id, message, counters);
        }
        take_interrupts(Some((vm, vcpu)));
        return Next::Resume;
    }
    if vm.is_stopping() {
        // Its second stage may have been revoked: what it was left for is no fault of its own.
        return Next::Resume;
    }
    arch::handle(vm, vcpu, &mut running.context, left)
}

/// The same in passthrough mode: the guest's interrupts are its own, and the only one that leaves it is the hypervisor's call.
fn enter_direct(running: &mut Running<'_>) -> Next {
    running.vm.vgic().work_off(running.vcpu);
    let left = arch::enter(running);
    let (vm, vcpu, context) = (running.vm, running.vcpu, &mut running.context);
    if left == Left::Interrupt {
        vm.count_exit(vcpu, ExitReason::Interrupt);
        if let Some(direct) = &context.direct {
            direct.take_call();
        }
        return Next::Resume;
    }
    if vm.is_stopping() {
        // Its second stage may have been revoked: what it was left for is no fault of its own.
        return Next::Resume;
    }
    arch::handle(vm, vcpu, context, left)
}

/// Takes every interrupt that is pending for this CPU. `running`: the vCPU whose CPU it is.
pub fn take_interrupts(running: Option<(&Vm, VcpuId)>) {
    /// So many in a row, then the guest (or whoever called) gets its turn: an interrupt that storms can't hold the CPU.
    const AT_ONCE: usize = 64;
    for _ in 0..AT_ONCE {
        let Some(id) = gic::acknowledge() else { return };
        dispatch(running, id);
    }
}

fn dispatch<'a>(running: Option<(&'a Vm, VcpuId)>, id: Intid) -> Delivered<'a> {
    let delivered = running.map_or(Delivered::Foreign, |(vm, vcpu)| vm.deliver(vcpu, id));
    // The guest deactivates what is a line; LPIs have no active state. Of the others: whoever waits for it (the hypervisor's CPU for
    // its SMMU and its console) looks around after every interrupt.
    if matches!(delivered, Delivered::Foreign) && id.0 < 8192 {
        gic::deactivate(id);
    }
    delivered
}
