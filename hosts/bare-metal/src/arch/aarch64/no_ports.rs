//! What of x86 has no counterpart here: ports, a power button, and messages that somebody else than the functions' guests has.

use alloc::sync::Arc;

use axvm::devices::AxVmDevicesBuilder;
use axvm_addr::{Hpa, Ports};
use axvm_axdevice::Width;
use axvm_paging::NotInvalidated;
use axvm_plan::{DevicePlan, PciPlan};
use axvm_vpci::{Messages, MsiMessage};

use super::irqchip::GuestIrqchip;
use super::stage2::GuestSpace;
use crate::vpci_backend::Bridge;

/// Functions are told their messages by their guests: the ITS knows them by their ids.
pub const MESSAGES: Messages = Messages::Functions;

/// Nobody asks.
pub const fn hardware_message(_: &DevicePlan, _: u16) -> Option<MsiMessage> {
    None
}

/// No device tree names one.
pub const fn press_power_button(_: &GuestIrqchip) -> bool {
    false
}

/// There are no ports.
pub const fn read_port(_: u16, width: Width) -> u32 {
    width.mask() as u32
}

/// There are no ports.
pub const fn write_port(_: u16, _: Width, _: u32) {}

/// No guest reaches any.
pub const fn open_ports(_: &GuestSpace, _: Ports) {}

/// No guest reaches any.
///
/// # Errors
///
/// None.
pub const fn close_ports(_: &GuestSpace, _: Ports) -> Result<(), NotInvalidated> {
    Ok(())
}

/// No BAR has ports.
pub fn add_bar_ports(
    devices: AxVmDevicesBuilder<Hpa>,
    _: &PciPlan,
    _: &Arc<Bridge>,
) -> AxVmDevicesBuilder<Hpa> {
    devices
}

/// Config space is in memory only.
pub fn add_config_ports(devices: AxVmDevicesBuilder<Hpa>, _: &[Arc<Bridge>]) -> AxVmDevicesBuilder<Hpa> {
    devices
}
