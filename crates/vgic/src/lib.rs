#![doc = include_str!("../README.md")]
//!
//! # The way of an interrupt
//!
//! | comes from | by | list register |
//! |---|---|---|
//! | an assigned device's line | [`Vgic::hardware_spi`] | HW = 1 |
//! | the same with [`LineDelivery::MaskUntilEnd`] | [`Vgic::hardware_spi`] | HW = 0, EOI = 1 |
//! | the timer, any hardware PPI | [`Vgic::hardware_ppi`] | HW = 1 |
//! | an assigned device's MSI, but for virtual LPIs | [`Vgic::hardware_lpi`] | HW = 0 |
//! | an emulated device's line | [`axvm_axdevice::InterruptLine`] | HW = 0, EOI = 1 by level |
//! | another vCPU | [`Vgic::send_sgi`] | HW = 0 |
//!
//! Hardware lines and PPIs are taken at EL2, their priority dropped, and left active: with HW = 1 the guest's
//! end of interrupt deactivates the physical one. A line that is to be masked until its end is disabled and
//! deactivated before it is injected, and enabled again when the guest has ended it. With EOI = 1 the guest's end of interrupt leaves the guest,
//! and the line is looked at again.
//!
//! # Direct delivery
//!
//! With [`VgicConfig::direct`] the guest takes physical interrupts itself. Then the register frames are a
//! filter before the real ones: what the guest sets up is checked, kept and told to the backend, what is
//! pending or active is asked of it, and none of the list registers, [`Vgic::flush`] and [`Vgic::sync`] is
//! used.
//!
//! With [`ItsConfig::virtual_lpis`] the same holds of LPIs only: GICv4 delivers them to the vCPUs, and everything else goes by list
//! registers.
//!
//! # The run loop
//!
//! [`Vgic::flush`] (with direct delivery [`Vgic::work_off`]) before each entry, [`Vgic::sync`] after each exit, on the vCPU's own CPU with interrupts
//! masked. If nothing has changed, neither takes a lock. [`Vgic::switch_on`] before the first entry gives it its list registers,
//! [`Vgic::switch_off`] after the last exit takes what is in them back.
//!
//! Registers that show pending and active state show what a vCPU's list registers held when it last left the
//! guest: a vCPU that runs isn't stopped for a read of another.
#![cfg_attr(not(feature = "fake"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "fake")]
extern crate self as axvm_vgic;

mod access;
mod backend;
mod command_error;
mod config;
#[cfg(feature = "fake")]
#[allow(missing_docs, reason = "what has none does what its name says")]
#[path = "../tests/common/mod.rs"]
pub mod fake;
mod fast;
mod frames;
mod id;
mod interrupts;
mod irq;
mod its;
mod lists;
mod lpi_tables;
mod shared;
mod signal;
pub mod spec;
mod statistics;
mod switches;
mod vcpu_set;
mod vgic;

pub use backend::{
    Backend, BackendError, EventChange, GuestMemory, HardwareInterrupts, HardwareIts, LPI_PIECE,
    NotGuestMemory, Physical, PhysicalState, PrivateSettings, SpiSettings, Violation,
};
pub use command_error::CommandError;
pub use config::{
    ConfigError, Direct, EVENT_BITS_MAX, ItsConfig, LineConfig, LineDelivery, VCPUS_MAX, VgicConfig,
};
pub use fast::{Local, Switches};
pub use frames::{Distributor, Its, Redistributors};
pub use id::{Intid, ItsDeviceId, ItsEventId};
pub use its::Message;
pub use lists::{HardwareLists, ListRegisters};
pub use statistics::Statistics;
pub use vgic::{StillOn, Vgic};
