//! Into a guest, and what is done when it was left: a vCPU as the core's loop runs it.

use axvm::devices::Hint;
use axvm::stats::ExitReason;
use axvm::vcpu::{Answer, Exit, Slept, Vcpu};
use axvm_addr::VcpuId;
use axvm_syndrome::{Syndrome, class};

use super::cpu;
use super::exit::handle;
use super::fast::Running;
use super::irqchip::deliver::{dispatch, take_interrupts};
use super::pending::Pending;
use super::sysreg::mrs;
use super::vectors::{Left, enter};
use crate::vm::Vm;

impl Vcpu for Running<'_> {
    fn run(&mut self) -> Exit {
        if let Pending::Pieces(pieces) = &self.pending {
            return Exit::Mmio(pieces.next());
        }
        match &self.context.direct {
            Some(_) => self.run_direct(),
            None => self.run_injected(),
        }
    }

    fn complete(&mut self, answer: Answer) {
        super::pending::complete(self, answer);
    }

    fn sleep(&mut self, deadline: Option<u64>) -> Slept {
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

    fn hold(&mut self) -> Slept {
        if let Some(direct) = &self.context.direct {
            return if self.vm.irqchip().hold(self.vcpu, direct) { Slept::Forged } else { Slept::Awake };
        }
        // The virtual interface is off, so that nothing virtual wakes it; virtual LPIs wait in the hardware.
        cpu::wait_for_interrupt();
        take_interrupts(Some((self.vm, self.vcpu)));
        Slept::Asleep
    }

    fn let_go(&mut self) {
        if self.context.direct.is_some() {
            self.vm.irqchip().keep_calls_out(self.vcpu);
        }
    }

    fn hint(&mut self) -> &mut Hint {
        &mut self.context.hint
    }

    fn pc(&self) -> u64 {
        self.context.frame.pc
    }
}

impl Running<'_> {
    /// In emulated mode.
    fn run_injected(&mut self) -> Exit {
        let (vm, vcpu) = (self.vm, self.vcpu);
        let vgic = self.vgic;
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
            return Exit::Interrupted;
        }
        self.handle(left)
    }

    /// In passthrough mode: the guest's interrupts are its own, and the only one that leaves it is the hypervisor's call.
    fn run_direct(&mut self) -> Exit {
        self.vgic.work_off(self.vcpu);
        let left = enter(self);
        if left == Left::Interrupt {
            self.count(ExitReason::Interrupt);
            if let Some(direct) = &self.context.direct {
                direct.take_call();
            }
            return Exit::Interrupted;
        }
        self.handle(left)
    }

    fn handle(&mut self, left: Left) -> Exit {
        // Its second stage may have been revoked or shut: what it was left for is no fault of its own. A call is made once only, so that
        // one who goes on later has to have the answer.
        let moot = self.vm.must_leave()
            && (self.vm.is_stopping()
                || left == Left::Synchronous && is_abort() && self.vm.is_moot(self.vcpu));
        if moot { Exit::Interrupted } else { handle(self, left) }
    }
}

/// Whether a guest was left for an access or a fetch, which it makes again if nothing is done about it.
fn is_abort() -> bool {
    matches!(Syndrome(mrs!("esr_el2")).class(), class::DATA_ABORT | class::INSTRUCTION_ABORT)
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
