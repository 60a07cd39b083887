//! A vCPU that has its CPU: what it leaves in the CPU's registers, and the one way in which that ends.

use axvm::vm::Start;
use axvm_addr::VcpuId;
use axvm_vgic::StillOn;

use crate::arch::gic::GicError;
use crate::arch::{self, Context, Running};
use crate::vm::Vm;

/// Why a vCPU can't have its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotResident {
    /// The CPU's interrupt interface can't be given away.
    #[error(transparent)]
    Interrupts(#[from] GicError),
    /// It is there already.
    #[error(transparent)]
    StillOn(#[from] StillOn),
}

/// What a vCPU has of its CPU, and where.
enum Interrupts {
    /// The CPU's interrupt interface is its own.
    Taken,
    /// They are injected by list registers; messages that the hardware delivers reach it.
    Injected,
}

/// A vCPU on its CPU. There is one only inside [`Resident::on`], at whose end the CPU has nothing of it any more.
pub struct Resident<'a> {
    running: Running<'a>,
    interrupts: Interrupts,
}

impl<'a> Resident<'a> {
    /// Has a vCPU reside on the calling CPU, which is its own, while `run` runs it.
    ///
    /// # Errors
    ///
    /// [`NotResident`]; then nothing of it is in the CPU.
    pub fn on(
        vm: &'a Vm,
        vcpu: VcpuId,
        start: Start,
        run: impl FnOnce(&mut Running<'a>),
    ) -> Result<(), NotResident> {
        let mut resident = Self::enter(vm, vcpu, start)?;
        run(&mut resident.running);
        resident.leave();
        Ok(())
    }

    fn enter(vm: &'a Vm, vcpu: VcpuId, start: Start) -> Result<Self, NotResident> {
        let lists = vm.vgic().switch_on(vcpu)?;
        let direct = match vm.give_interrupts(vcpu) {
            Ok(direct) => direct,
            Err(error) => {
                vm.take_interrupts_back(vcpu);
                vm.vgic().switch_off(vcpu, lists);
                return Err(error.into());
            }
        };
        let interrupts = if direct.is_some() { Interrupts::Taken } else { Interrupts::Injected };
        let context = Context::reset(start, vm.mpidr(vcpu), vm.vttbr(), vm.vtcr(), lists, direct);
        if let Interrupts::Injected = interrupts {
            vm.enter_messages(vcpu);
        }
        Ok(Self { running: Running::new(vm, vcpu, context), interrupts })
    }

    /// Gives back what is in the CPU's registers: timers and second stage first, so that nothing new comes of them; then interrupts,
    /// which wait where the guest has set them up.
    fn leave(self) {
        let Running { vm, vcpu, context, .. } = self.running;
        arch::park();
        match self.interrupts {
            Interrupts::Taken => vm.take_interrupts_back(vcpu),
            Interrupts::Injected => {
                vm.leave_messages(vcpu);
            }
        }
        vm.vgic().switch_off(vcpu, context.lists);
    }
}
