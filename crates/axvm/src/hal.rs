//! What the core asks of its host.
//!
//! A host is bare metal (page tables, IOMMUs and an interrupt controller of its own) or anything else that has second stages, IOMMU
//! domains and a way to interrupt a guest: Linux with KVM and VFIO has all three behind file descriptors. So what backs memory is
//! opaque ([`Backing`]), mappings are told as spans and not as page-table entries, and interrupts are asked for:
//! the host may own the interrupt controller.
//!
//! Each part of a host is a type of its own, with a contract of its own: [`Vcpu`], [`Irqchip`], [`Iommu`], [`MsiSink`], [`Materialise`],
//! [`DmaMap`], [`DeviceOps`], [`Forward`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Address, Hpa, IommuId, Iova, Span, VcpuId, VmId};

use crate::devices::{AxVmDevices, Forward};
use crate::events::Violation;
use crate::iommu::Iommu;
use crate::irqchip::Irqchip;
use crate::msi::MsiSink;
use crate::ownership::DeviceOps;
use crate::space::{Backing, Materialise};
use crate::vcpu::Vcpu;
use crate::vm::{AxVM, Ground, Start};
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, Doorbell, LineRoute, RamPiece, VmPlan};

/// What a VM's devices reach.
pub trait DmaMap {
    /// What backs a mapping.
    type Backing: Backing;
    /// What a source is attached to at an IOMMU.
    type Domain;
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

    /// What the VM's sources at an IOMMU are attached to.
    ///
    /// # Errors
    ///
    /// The plan has no source there, so that there is no map.
    fn domain(&self, iommu: IommuId) -> Result<Self::Domain, Self::Error>;
}

/// A part of a device's registers, by what the plan calls it. What backs it is the host's to find: a file and an offset, or an address.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The device.
    pub device: &'a DevicePlan,
    /// Which of its blocks.
    pub region: Region,
    /// From where on.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl Resource<'_> {
    /// Bare metal's own: where the plan says that it is. `None` of what the plan doesn't say, as where the BARs of a function are.
    pub fn planned(&self, plan: &VmPlan) -> Option<Hpa> {
        match self.region {
            Region::Registers(block) => plan.registers.get(usize::from(block))?.hpa.checked_add(self.offset),
            Region::Bar(_) => None,
        }
    }
}

/// A block of a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The block at this position of `VmPlan::registers`.
    Registers(u16),
    /// A base address register of a PCI function.
    Bar(u8),
}

/// What a host makes for a VM that has its memory and devices, before it starts.
pub struct Equipment<H: AxVMHal> {
    /// The interrupt controller that the guest sees.
    pub irqchip: Arc<H::Irqchip>,
    /// All devices that answer exits.
    pub devices: AxVmDevices<H::Backing>,
    /// The host's own ends of these.
    pub ends: H::Ends,
}

/// What [`AxVMHal::reside`] leaves: what the interrupt controller had given, and whether the vCPU could run.
pub struct Resided<H: AxVMHal> {
    /// Back from the CPU.
    pub seat: Seat<H>,
    /// Whether it ran.
    pub result: Result<(), <H as DeviceOps>::Error>,
}

/// What a host's interrupt controller has of a vCPU in its CPU.
pub type Seat<H> = <<H as AxVMHal>::Irqchip as Irqchip>::Seat;

/// A host. What backs memory and registers is its [`Forward::Backing`].
pub trait AxVMHal: DeviceOps + Forward + Sized {
    /// A VM's second stage.
    type Space: Materialise<Backing = Self::Backing, Error = <Self as DeviceOps>::Error>;
    /// A VM's DMA map.
    type Dma: DmaMap<
            Backing = Self::Backing,
            Domain = <Self::Iommu as Iommu>::Domain,
            Error = <Self as DeviceOps>::Error,
        >;
    /// What keeps devices to it.
    type Iommu: Iommu<Error = <Self as DeviceOps>::Error>;
    /// Who knows where messages lead.
    type Messages: MsiSink<Error = <Self as DeviceOps>::Error>;
    /// A VM's interrupt controller.
    type Irqchip: Irqchip<Error = <Self as DeviceOps>::Error>;
    /// A vCPU that has a CPU.
    type Vcpu<'a>: Vcpu
    where
        Self: 'a;
    /// The host's own ends of a VM's devices: where its console's output arrives, say. They go with the VM.
    type Ends;

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

    /// Takes all that a vCPU reaches away until [`AxVMHal::open`], so that one that runs can't go on. What it was about to do it does then:
    /// nothing of that is lost, and nothing of it is taken for a fault ([`Ground::is_moot`]). Devices reach what they did. A host whose
    /// vCPUs always come when they are kicked has nothing to do.
    fn shut(&self, vm: VmId, space: &Self::Space);

    /// Gives it back. What was revoked stays so, and what wasn't shut is open already.
    fn open(&self, vm: VmId, space: &Self::Space);

    /// Frees both. They are empty, and no vCPU and no device uses them.
    fn destroy(&self, vm: VmId, space: Self::Space, dma: Self::Dma);

    /// Keeps all of it for ever: a device that couldn't be taken off the bus may use it still.
    fn withhold(&self, vm: VmId, space: Self::Space, dma: Self::Dma, ram: Vec<Self::Backing>);

    /// What backs a piece of a VM's RAM, all zeros and cleaned to the point of coherency. The plan says where it is on bare metal; a host
    /// that has its memory from elsewhere takes it there.
    ///
    /// # Errors
    ///
    /// The host hasn't got it.
    fn ram(&self, vm: VmId, piece: &RamPiece) -> Result<Self::Backing, Self::Error>;

    /// Takes a piece of RAM back, and zeroes it before anyone else gets it.
    fn release_ram(&self, vm: VmId, backing: Self::Backing, bytes: u64);

    /// What backs a device's registers.
    ///
    /// # Errors
    ///
    /// The host hasn't got them.
    fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Self::Backing, Self::Error>;

    /// What backs the page that MSIs are sent to; `None` where the host maps it itself.
    ///
    /// # Errors
    ///
    /// The host hasn't got it.
    fn doorbell(&self, vm: VmId, doorbell: &Doorbell) -> Result<Option<Self::Backing>, Self::Error>;

    /// Its IOMMUs.
    fn iommu(&self) -> &Self::Iommu;

    // Interrupts.

    /// Sends a line to a VM.
    ///
    /// # Errors
    ///
    /// The host's interrupt controller can't.
    fn route_line(&self, vm: VmId, route: &LineRoute) -> Result<(), Self::Error>;

    /// Sends a line to nobody: masked, and not pending.
    fn unroute_line(&self, vm: VmId, route: &LineRoute);

    /// Where messages are routed.
    fn messages(&self) -> &Self::Messages;

    // Devices and vCPUs.

    /// Makes what answers a VM's exits: its interrupt controller, its emulated devices, its trapped registers.
    ///
    /// # Errors
    ///
    /// The host's own. What was made is dropped.
    fn equip(&self, ground: &Arc<Ground<Self>>) -> Result<Equipment<Self>, Self::Error>;

    /// On a vCPU's own CPU: has it there, reset to where it starts, while `run` runs it, and gives back what the interrupt controller
    /// has of it in the CPU. Neither the CPU nor a device of the VM's has anything else of the vCPU when it returns.
    ///
    /// A reset puts every register that a guest can see into the state that its architecture says, or zero.
    fn reside<'a>(
        &'a self,
        vm: &'a AxVM<Self>,
        vcpu: VcpuId,
        start: Start,
        seat: Seat<Self>,
        run: impl FnOnce(&mut Self::Vcpu<'a>),
    ) -> Resided<Self>;

    /// Brings a vCPU out of its guest or its sleep, so that it looks at what was asked of it; also if it is just about to go there.
    fn kick(&self, vm: VmId, vcpu: VcpuId);

    // Time and events.

    /// Nanoseconds since the host started.
    fn now_ns(&self) -> u64;

    /// Records a violation.
    fn record(&self, violation: Violation);
}
