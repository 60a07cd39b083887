//! The interrupt controller that a VM's guest sees: a model of the host's own, or one that the host's kernel has.

use core::fmt;

use alloc::sync::Arc;
use axvm_addr::{Irq, MsiSource, VcpuId};
use axvm_axdevice::InterruptLine;

use crate::msi::MsiMessage;
use crate::report::IrqchipReport;
use crate::vcpu::IpiRequest;

/// A VM's interrupt controller.
///
/// Any CPU may ask it for an interrupt, whether the vCPU that it is for is in its guest on another one, sleeps, or is off: if that has to
/// look, it is made to, and while it is off the interrupt waits. Interrupts of assigned devices don't come this way: the host takes them
/// where they arrive, or not at all.
pub trait Irqchip {
    /// Why it can't.
    type Error: fmt::Debug + fmt::Display;
    /// What it has of a vCPU in its CPU, while that runs there.
    type Seat;

    /// On the vCPU's own CPU, which is about to have it run: what waits for it comes with it.
    ///
    /// # Errors
    ///
    /// The CPU's part of it can't be had, or the vCPU is somewhere already. Nothing of it is in the CPU then.
    fn enter(&self, vcpu: VcpuId) -> Result<Self::Seat, Self::Error>;

    /// On the same CPU, when the guest has been left and nothing new can come of it: the CPU has nothing of the vCPU any more, and what
    /// it hasn't taken waits.
    fn leave(&self, vcpu: VcpuId, seat: Self::Seat);

    /// Sets the level of an emulated device's line: the interrupt is pending as long as it is high, and comes again after its end. Setting
    /// the same level again does nothing.
    ///
    /// # Errors
    ///
    /// There is no such line.
    fn set_level(&self, irq: Irq, high: bool) -> Result<(), Self::Error>;

    /// Makes an interrupt pending at a vCPU, once: an edge. One that the guest routes itself goes where it has, whichever vCPU is named.
    ///
    /// # Errors
    ///
    /// There is no such vCPU or interrupt.
    fn inject_irq_to_vcpu(&self, vcpu: VcpuId, irq: Irq) -> Result<(), Self::Error>;

    /// Has a message come, as from a device with this id.
    ///
    /// # Errors
    ///
    /// The guest has set nothing up that it could lead to.
    fn send_msi(&self, source: Option<MsiSource>, message: MsiMessage) -> Result<(), Self::Error>;

    /// Interrupts vCPUs of the same VM, as one of them asks.
    fn send_ipi(&self, from: VcpuId, request: IpiRequest);

    /// A vCPU has just accessed an emulated device. For controllers that see no end of interrupt: a line that is still high comes again.
    fn after_access(&self) {}

    /// Forgets all that the guest has set up, and turns off what that has done in hardware. Every vCPU has left.
    fn reset(&self);

    /// Gives back what the host holds for it, after [`Irqchip::reset`]. Whether it could: something may refer to it still.
    fn release(self) -> bool;

    /// What the report says of it.
    fn report(&self) -> IrqchipReport {
        IrqchipReport::default()
    }
}

/// The lines of a VM's emulated devices, as these are given them.
#[derive(Debug)]
pub struct Lines<I>(Arc<I>);

impl<I> Lines<I> {
    /// Those of an interrupt controller.
    pub const fn new(irqchip: Arc<I>) -> Self {
        Self(irqchip)
    }
}

impl<I: Irqchip + Send + Sync> InterruptLine for Lines<I> {
    fn set_level(&self, irq: Irq, high: bool) {
        // A device of the VM's own plan, so that there is such a line.
        let _ = self.0.set_level(irq, high);
    }
}
