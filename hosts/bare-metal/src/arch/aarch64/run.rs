//! Into a guest, and what is done when it was left: the part of the run loop (`crate::run`) that knows how.

use axvm::stats::ExitReason;
use axvm_addr::VcpuId;

use super::cpu;
use super::exit::{Next, handle};
use super::fast::Running;
use super::irqchip::deliver::{dispatch, take_interrupts};
use super::vectors::{Left, enter};
use crate::vm::Vm;

/// What became of a vCPU's sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// It has something to do, or its time is over: it is entered again.
    Awake,
    /// It has slept, and may sleep on.
    Asleep,
    /// As [`Slept::Awake`]; it had forged an active priority, by which nothing could have called its CPU. That is gone.
    Forged,
}

impl Running<'_> {
    /// Runs the vCPU until its next exit that the fast path doesn't answer, and handles that.
    pub fn run(&mut self) -> Next {
        match &self.context.direct {
            Some(_) => self.run_direct(),
            None => self.run_injected(),
        }
    }

    /// In emulated mode.
    fn run_injected(&mut self) -> Next {
        let (vm, vcpu) = (self.vm, self.vcpu);
        let vgic = vm.irqchip().vgic();
        vgic.flush(vcpu, &mut self.context.lists);
        self.context.load_lists();
        let left = enter(self);
        self.context.save_lists();
        vgic.sync(vcpu, &mut self.context.lists);
        if left == Left::Interrupt {
            if let Some(id) = self.take_interrupt() {
                dispatch(Some((vm, vcpu)), id);
            }
            take_interrupts(Some((vm, vcpu)));
            return Next::Resume;
        }
        self.handle(left)
    }

    /// In passthrough mode: the guest's interrupts are its own, and the only one that leaves it is the hypervisor's call.
    fn run_direct(&mut self) -> Next {
        self.vm.irqchip().vgic().work_off(self.vcpu);
        let left = enter(self);
        if left == Left::Interrupt {
            self.vm.count_exit(self.vcpu, ExitReason::Interrupt);
            if let Some(direct) = &self.context.direct {
                direct.take_call();
            }
            return Next::Resume;
        }
        self.handle(left)
    }

    fn handle(&mut self, left: Left) -> Next {
        if self.vm.is_stopping() {
            // Its second stage may have been revoked: what it was left for is no fault of its own.
            return Next::Resume;
        }
        handle(self.vm, self.vcpu, &mut self.context, left)
    }

    /// Sleeps in the vCPU's place, until an interrupt comes or its virtual count is `deadline`.
    pub fn sleep(&mut self, deadline: Option<u64>) -> Slept {
        let (vm, vcpu) = (self.vm, self.vcpu);
        if let Some(direct) = &self.context.direct {
            return if direct.wait(deadline) { Slept::Forged } else { Slept::Awake };
        }
        let irqchip = vm.irqchip();
        let over = deadline.is_some_and(|deadline| cpu::virtual_count() >= deadline);
        if !over && !irqchip.vgic().has_pending(vcpu) && !irqchip.leave_messages(vcpu) {
            match deadline {
                Some(deadline) => cpu::wait_for_interrupt_until(deadline),
                None => cpu::wait_for_interrupt(),
            }
            take_interrupts(Some((vm, vcpu)));
            // The next leaving says whether it was a doorbell.
            irqchip.enter_messages(vcpu);
            return Slept::Asleep;
        }
        irqchip.enter_messages(vcpu);
        Slept::Awake
    }
}

/// Sleeps while a vCPU is off. What comes for it waits until it is on again, or until the guest sends it elsewhere.
pub fn wait_while_off(vm: &Vm, vcpu: VcpuId) {
    if vm.irqchip().takes_interrupts() {
        // In the physical GIC, which knows what the guest makes of it.
        super::irqchip::cpu_interface::close();
        cpu::wait_for_interrupt();
        take_interrupts(None);
    } else {
        // In the virtual one.
        cpu::wait_for_interrupt();
        take_interrupts(Some((vm, vcpu)));
        vm.irqchip().take_mail(vcpu);
    }
}
