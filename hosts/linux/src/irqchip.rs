//! The interrupt controller that a guest sees: KVM's, in the kernel.

use std::sync::Arc;

use axvm::irqchip::Irqchip;
use axvm::msi::MsiMessage;
use axvm::vcpu::IpiRequest;
use axvm_addr::{Irq, MsiSource, VcpuId};
use kvm_bindings::{KVM_MSI_VALID_DEVID, kvm_msi};
use kvm_ioctls::VmFd;

use crate::arch;
use crate::error::{Error, Kernel};

/// A VM's interrupt controller.
pub struct KernelIrqchip {
    vm: Arc<VmFd>,
    vcpus: u16,
    parts: arch::IrqchipParts,
}

impl KernelIrqchip {
    /// With these parts, for so many vCPUs.
    pub const fn new(vm: Arc<VmFd>, vcpus: u16, parts: arch::IrqchipParts) -> Self {
        Self { vm, vcpus, parts }
    }

    /// What of it isn't the kernel's, and what there is of the kernel's as long as this is.
    pub const fn parts(&self) -> &arch::IrqchipParts {
        &self.parts
    }
}

impl Irqchip for KernelIrqchip {
    type Error = Error;
    /// The kernel sees to it.
    type Seat = ();

    fn enter(&self, vcpu: VcpuId) -> Result<(), Error> {
        if vcpu.0 < self.vcpus { Ok(()) } else { Err(Error::Unknown) }
    }

    fn leave(&self, _: VcpuId, (): ()) {}

    fn set_level(&self, irq: Irq, high: bool) -> Result<(), Error> {
        self.parts.set_level(&self.vm, irq, high)
    }

    fn inject_irq_to_vcpu(&self, vcpu: VcpuId, irq: Irq) -> Result<(), Error> {
        self.enter(vcpu)?;
        self.set_level(irq, true)?;
        self.set_level(irq, false)
    }

    fn send_msi(&self, source: Option<MsiSource>, message: MsiMessage) -> Result<(), Error> {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            flags: if source.is_some() { KVM_MSI_VALID_DEVID } else { 0 },
            devid: source.map_or(0, |source| source.id.0),
            ..kvm_msi::default()
        };
        // None: the guest has it blocked.
        self.vm.signal_msi(msi).kernel("KVM_SIGNAL_MSI").map(|_| ())
    }

    fn send_ipi(&self, _: VcpuId, _: IpiRequest) {
        // They never leave the kernel.
    }

    fn reset(&self) {
        // It goes with its VM, and is another one's never.
    }

    fn release(self) -> bool {
        true
    }
}
