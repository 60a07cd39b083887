//! What the core asks of its host.
//!
//! A host is bare metal (page tables, an SMMU, a GIC of its own) or anything else that has second stages, IOMMU domains and
//! a way to interrupt a guest: Linux with KVM and VFIO has all three behind file descriptors. So what backs memory is
//! opaque ([`Backing`]), mappings are told as spans and not as page-table entries, and interrupts are asked for: the
//! host may own the interrupt controller.

use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Hpa, Iova, Irq, Span, VcpuId, VmId};

use crate::devices::Forward;
use crate::events::Violation;
use crate::ownership::DeviceOps;
use crate::space::{Backing, Materialise};
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, Doorbell, LineRoute, VmPlan};

/// What a VM's devices reach.
pub trait DmaMap {
    /// What backs a mapping.
    type Backing: Backing;
    /// Why it couldn't be carried out.
    type Error: fmt::Debug + fmt::Display;

    /// Lets devices reach `backing` at `iova`. On failure nothing of it is mapped.
    ///
    /// # Errors
    ///
    /// The host's own.
    fn map_dma(
        &self,
        iova: Span<Iova>,
        backing: &Self::Backing,
        flags: MappingFlags,
    ) -> Result<(), Self::Error>;

    /// Lets them reach it no more, and returns when none does.
    ///
    /// # Errors
    ///
    /// The host's own.
    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), Self::Error>;
}

/// A host.
pub trait AxVMHal: DeviceOps + Forward {
    /// What backs memory and registers.
    type Backing: Backing;
    /// A VM's second stage.
    type Space: Materialise<Backing = Self::Backing, Error = <Self as DeviceOps>::Error>;
    /// A VM's DMA map.
    type Dma: DmaMap<Backing = Self::Backing, Error = <Self as DeviceOps>::Error>;

    // Memory.

    /// An empty second stage and an empty DMA map for a VM.
    ///
    /// # Errors
    ///
    /// No memory for their roots.
    fn create(&self, plan: &VmPlan) -> Result<(Self::Space, Self::Dma), Self::Error>;

    /// Takes all that a vCPU reaches away at once and for good, so that one that runs can't go on. A host whose vCPUs always come when
    /// they are kicked has nothing to do.
    fn revoke(&self, vm: VmId, space: &Self::Space);

    /// Frees both. They are empty, and no vCPU and no device uses them.
    fn destroy(&self, vm: VmId, space: Self::Space, dma: Self::Dma);

    /// Keeps all of it for ever: a device that couldn't be taken off the bus may use it still.
    fn withhold(&self, vm: VmId, space: Self::Space, dma: Self::Dma, ram: Vec<Self::Backing>);

    /// What backs a piece of a VM's RAM, all zeros and cleaned to the point of coherency. The plan says where it is; a host
    /// that has its memory from elsewhere takes it there.
    ///
    /// # Errors
    ///
    /// The host hasn't got it.
    fn ram(&self, vm: VmId, hpa: Hpa, bytes: u64) -> Result<Self::Backing, Self::Error>;

    /// Takes a piece of RAM back, and zeroes it before anyone else gets it.
    fn release_ram(&self, vm: VmId, backing: Self::Backing, bytes: u64);

    /// What backs a device's registers.
    ///
    /// # Errors
    ///
    /// The host hasn't got them.
    fn registers(&self, device: &DevicePlan, hpa: Hpa, bytes: u64) -> Result<Self::Backing, Self::Error>;

    /// What backs the page that MSIs are sent to; `None` where the host maps it itself.
    ///
    /// # Errors
    ///
    /// The host hasn't got it.
    fn doorbell(&self, vm: VmId, doorbell: &Doorbell) -> Result<Option<Self::Backing>, Self::Error>;

    // Interrupts.

    /// Sends a line to a VM.
    ///
    /// # Errors
    ///
    /// The host's interrupt controller can't.
    fn route_line(&self, vm: VmId, route: &LineRoute) -> Result<(), Self::Error>;

    /// Sends a line to nobody: masked, and not pending.
    fn unroute_line(&self, vm: VmId, route: &LineRoute);

    /// Makes an interrupt pending at a vCPU, once: an edge or a message. An SPI goes where the guest has routed it, an LPI to the
    /// vCPU of its collection, whichever is named.
    ///
    /// Any CPU may call it, whether the vCPU is in its guest on another one or waits: if it has to look, it is made to.
    /// Physical interrupts of assigned devices don't come this way: the host takes them where they arrive, or not at all.
    ///
    /// # Errors
    ///
    /// There is no such vCPU or interrupt.
    fn inject_irq_to_vcpu(&self, vm: VmId, vcpu: VcpuId, irq: Irq) -> Result<(), Self::Error>;

    /// Sets the level of an emulated device's line, which the host keeps: the interrupt is pending as long as it is high, and comes
    /// again after its end. Called on any CPU, as [`Self::inject_irq_to_vcpu`].
    ///
    /// # Errors
    ///
    /// There is no such line.
    fn set_irq_level(&self, vm: VmId, irq: Irq, high: bool) -> Result<(), Self::Error>;

    /// Brings a vCPU out of its guest, so that it looks at what was asked of it.
    fn kick(&self, vm: VmId, vcpu: VcpuId);

    // Time and events.

    /// Nanoseconds since the host started.
    fn now_ns(&self) -> u64;

    /// Records a violation.
    fn record(&self, violation: Violation);
}
