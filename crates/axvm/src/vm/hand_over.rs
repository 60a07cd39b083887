//! What is done to a device that changes hands: the host's part, and the IOMMU's.

use axvm_addr::VmId;
use axvm_plan::DevicePlan;

use super::HostError;
use crate::hal::{AxVMHal, DmaMap};
use crate::iommu::Iommu;
use crate::ownership::DeviceOps;

/// A device and the DMA map that it is put behind.
pub(super) struct HandOver<'a, H: AxVMHal> {
    pub hal: &'a H,
    pub dma: &'a H::Dma,
}

/// Blocks a device's sources, all of them whatever fails; the first failure is told.
fn block<H: AxVMHal>(hal: &H, device: &DevicePlan) -> Result<(), HostError<H>> {
    let mut result = Ok(());
    for &source in &device.sources {
        result = result.and(hal.iommu().block(source));
    }
    result
}

/// Keeps a device from the bus while its VM goes on: its sources blocked, bus mastering off, each confirmed. Doing it again does no harm.
///
/// # Errors
///
/// Something of it couldn't be confirmed (yet). The rest is done.
pub fn keep_off_bus<H: AxVMHal>(hal: &H, vm: VmId, device: &DevicePlan) -> Result<(), HostError<H>> {
    let blocked = block(hal, device);
    let silent = hal.keep_off_bus(vm, device);
    blocked.and(silent)
}

impl<H: AxVMHal> DeviceOps for HandOver<'_, H> {
    type Error = HostError<H>;

    fn unbind(&self, device: &DevicePlan) -> Result<(), Self::Error> {
        self.hal.unbind(device)
    }

    fn close(&self, device: &DevicePlan) -> Result<(), Self::Error> {
        let closed = self.hal.close(device);
        let blocked = block(self.hal, device);
        blocked.and(closed)
    }

    fn charge(&self, vm: VmId, device: &DevicePlan) {
        self.hal.charge(vm, device);
    }

    fn pause(&self) {
        self.hal.pause();
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), Self::Error> {
        self.hal.reset(device)
    }

    fn keep_off_bus(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error> {
        keep_off_bus(self.hal, vm, device)
    }

    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error> {
        for &source in &device.sources {
            self.hal.iommu().attach(source, &self.dma.domain(source.iommu)?)?;
        }
        self.hal.attach(vm, device)
    }

    fn detach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error> {
        self.hal.detach(vm, device)
    }
}
