//! Devices by VFIO: not served yet. The plan gives a VM none (`LinuxHost::functions`), so that none of this is ever asked for one; what is asked
//! all the same is refused.

use std::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm::hal::DmaMap;
use axvm::iommu::{Abilities, DmaFault, Drained, Iommu};
use axvm::msi::{MsiMessage, MsiSink};
use axvm::vm::Ground;
use axvm_addr::{DmaSource, IommuId, Iova, Span, VmId};
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, LineRoute, VmPlan};
use axvm_platform::limits::Serves;
use kvm_ioctls::VmFd;

use crate::error::Error;
use crate::hal::Hal;
use crate::memory::Place;

/// The devices that this Linux gives away.
#[derive(Debug, Default)]
pub struct Vfio;

/// Whether devices can be given.
pub const SERVES: Serves = Serves::No;

/// What a VM's devices reach: as it has none, nothing.
#[derive(Debug)]
pub struct Dma;

impl Vfio {
    /// An empty DMA map for a VM.
    ///
    /// # Errors
    ///
    /// The VM is planned to have devices.
    pub fn create(&self, plan: &VmPlan, _: &Arc<VmFd>) -> Result<Dma, Error> {
        if plan.devices.is_empty() { Ok(Dma) } else { Err(Error::Unknown) }
    }

    /// Takes a device from its driver.
    ///
    /// # Errors
    ///
    /// None can be.
    pub fn unbind(&self, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Takes a device off the bus, its interrupts masked.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn close(&self, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Resets a device.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn reset(&self, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Keeps a device from the bus while its VM goes on.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Gives a closed device to a VM.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn attach(&self, _: VmId, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Takes it back.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// What backs a BAR from an offset on.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn bar(&self, _: &VmPlan, _: &DevicePlan, _: u8, _: u64) -> Result<Place, Error> {
        Err(Error::Unknown)
    }

    /// Sends a device's line to a VM.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn route_line(&self, _: VmId, _: &LineRoute) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    /// Sends it to nobody.
    pub fn unroute_line(&self, _: VmId, _: &LineRoute) {}

    /// Adds the virtual PCI bridges through which a VM sees its functions.
    ///
    /// # Errors
    ///
    /// There are none.
    pub fn add_bridges(
        &self,
        devices: AxVmDevicesBuilder<Place>,
        ground: &Arc<Ground<Hal>>,
    ) -> Result<AxVmDevicesBuilder<Place>, Error> {
        if ground.plan().pci.is_empty() { Ok(devices) } else { Err(Error::Unknown) }
    }
}

impl DmaMap for Dma {
    type Backing = Place;
    type Domain = ();
    type Error = Error;

    fn map_dma(&self, _: Span<Iova>, _: &Place, _: MappingFlags) -> Result<(), Error> {
        // No device reaches anything.
        Ok(())
    }

    fn unmap_dma(&self, _: Span<Iova>) -> Result<(), Error> {
        Ok(())
    }

    fn domain(&self, _: IommuId) -> Result<(), Error> {
        Err(Error::Unknown)
    }
}

impl Iommu for Vfio {
    type Domain = ();
    type Error = Error;

    fn attach(&self, _: DmaSource, (): &()) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    fn block(&self, _: DmaSource) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    fn silence(&self, _: DmaSource) -> Result<(), Error> {
        Err(Error::Unknown)
    }

    fn drain(&self, _: IommuId, _: usize, _: impl FnMut(DmaFault)) -> Drained {
        Drained::default()
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: false, cuts_mappings: false }
    }
}

impl MsiSink for Vfio {
    type Error = Error;

    fn route(&self, _: VmId, _: &DevicePlan, _: u16, _: Option<MsiMessage>) -> Result<(), Error> {
        Err(Error::Unknown)
    }
}
