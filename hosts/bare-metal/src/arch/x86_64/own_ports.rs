//! The machine's ports, and a guest's way to config space by some.

use alloc::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm_addr::{Hpa, Ports};
use axvm_axdevice::Width;
use axvm_paging::NotInvalidated;
use axvm_plan::PciPlan;
use axvm_vpci::{ConfigPorts, IoWindow, Messages};
use x86_64::instructions::port::Port;

use super::stage2::GuestSpace;
use crate::vpci_backend::Bridge;

/// The bridge has the messages: by its address and data alone each could be any CPU's any vector.
pub const MESSAGES: Messages = Messages::Bridge;

/// Reads a port that the plan gives to a VM, or that a BAR of its has.
pub fn read_port(port: u16, width: Width) -> u32 {
    // SAFETY: it isn't one that the hypervisor drives; a device that masters the bus is bounded by the IOMMU.
    unsafe {
        match width {
            Width::B1 => Port::<u8>::new(port).read().into(),
            Width::B2 => Port::<u16>::new(port).read().into(),
            Width::B4 | Width::B8 => Port::<u32>::new(port).read(),
        }
    }
}

/// Writes one.
pub fn write_port(port: u16, width: Width, value: u32) {
    // SAFETY: as for reads.
    unsafe {
        match width {
            Width::B1 => Port::<u8>::new(port).write(value as u8),
            Width::B2 => Port::<u16>::new(port).write(value as u16),
            Width::B4 | Width::B8 => Port::<u32>::new(port).write(value),
        }
    }
}

/// Lets a guest through to ports.
pub fn open_ports(space: &GuestSpace, ports: Ports) {
    space.open_ports(ports);
}

/// It isn't let through any more, when this returns.
///
/// # Errors
///
/// A CPU hasn't come out of the guest.
pub fn close_ports(space: &GuestSpace, ports: Ports) -> Result<(), NotInvalidated> {
    space.close_ports(ports)
}

/// The ports of a bridge's window for BARs that have such.
pub fn add_bar_ports(
    devices: AxVmDevicesBuilder<Hpa>,
    pci: &PciPlan,
    bridge: &Arc<Bridge>,
) -> AxVmDevicesBuilder<Hpa> {
    let Some(ports) = pci.ports else { return devices };
    let window = IoWindow::new(bridge.clone(), ports.first());
    devices.ports(ports.first(), ports.count() as u16, Arc::new(window))
}

/// The old way to config space (PCI 3.0, 3.2.2.3.2).
pub fn add_config_ports(
    devices: AxVmDevicesBuilder<Hpa>,
    bridges: &[Arc<Bridge>],
) -> AxVmDevicesBuilder<Hpa> {
    devices.ports(0xcf8, 8, Arc::new(ConfigPorts::new(bridges.to_vec())))
}
