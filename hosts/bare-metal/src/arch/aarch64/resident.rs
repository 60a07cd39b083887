//! A vCPU that has its CPU: what it leaves in the CPU's registers, and the one way in which that ends.

use axvm::vm::Start;
use axvm_addr::VcpuId;
use axvm_vgic::StillOn;

use super::fast::Running;
use super::irqchip::IrqchipError;
use super::vcpu::{Context, park};
use crate::cpus;
use crate::vm::Vm;

/// Why a vCPU can't have its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotResident {
    /// The CPU's interrupt interface can't be given away.
    #[error(transparent)]
    Interrupts(#[from] IrqchipError),
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
        let (irqchip, machine) = (vm.irqchip(), &vm.host().irqchip);
        let cpu = vm.cpu_of(vcpu).and_then(cpus::get);
        let lists = irqchip.vgic().switch_on(vcpu)?;
        let direct = match irqchip.give_interrupts(machine, cpu, vcpu) {
            Ok(direct) => direct,
            Err(error) => {
                irqchip.take_interrupts_back(machine, cpu);
                irqchip.vgic().switch_off(vcpu, lists);
                return Err(IrqchipError::from(error).into());
            }
        };
        let interrupts = if direct.is_some() { Interrupts::Taken } else { Interrupts::Injected };
        let context = Context::reset(start, vm.hardware_id(vcpu), vm.space_root(), lists, direct);
        if let Interrupts::Injected = interrupts {
            irqchip.enter_messages(vcpu);
        }
        Ok(Self { running: Running::new(vm, vcpu, context), interrupts })
    }

    /// Gives back what is in the CPU's registers: timers and second stage first, so that nothing new comes of them; then interrupts,
    /// which wait where the guest has set them up.
    fn leave(self) {
        let Running { vm, vcpu, context, .. } = self.running;
        let irqchip = vm.irqchip();
        park();
        match self.interrupts {
            Interrupts::Taken => {
                irqchip.take_interrupts_back(&vm.host().irqchip, vm.cpu_of(vcpu).and_then(cpus::get));
            }
            Interrupts::Injected => {
                irqchip.leave_messages(vcpu);
            }
        }
        irqchip.vgic().switch_off(vcpu, context.lists);
    }
}
