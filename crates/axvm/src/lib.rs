#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it answers |
//! |---|---|
//! | [`dry_run`] | can a plan be carried out? On a host that only counts |
//! | [`vm`] | a VM's life: created all or nothing, running, stopped, disposed of |
//! | [`hal`] | what the core asks of its host, bare metal or not |
//! | [`vcpu`] | what a vCPU is left for, and what it is answered |
//! | [`irqchip`], [`msi`] | the interrupt controller that a guest sees; where messages lead |
//! | [`iommu`] | what keeps devices to their VM's memory |
//! | [`space`] | what is mapped where: the ledger that the host materialises |
//! | [`devices`] | which device answers an exit |
//! | [`ownership`] | who owns a device: the host, nobody, a VM |
//! | [`taken`] | what is taken of the machine, counted |
//! | [`restart`] | whether a VM that has ended starts again |
//! | [`events`] | what was tried beyond a plan, and what it leads to |
//! | [`stats`], [`report`] | what happened, counted, and as the run report says it |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod claims;
pub mod devices;
pub mod dry_run;
pub mod events;
pub mod hal;
pub mod iommu;
pub mod irqchip;
pub mod meanwhile;
pub mod msi;
pub mod ownership;
pub mod quarantine;
pub mod report;
pub mod restart;
pub mod space;
pub mod stats;
pub mod taken;
pub mod vcpu;
pub mod vm;

pub use axvm_plan::config::{AxVMConfig, MappingFlags, PassThroughDeviceConfig, VMInterruptMode};
pub use devices::AxVmDevices;
pub use hal::AxVMHal;
pub use report::{Report, Verdict};
pub use space::AddrSpace;
pub use vm::AxVM;
