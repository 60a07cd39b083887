//! AxVM's bare-metal host: boots at EL2, closes what is open, finds the hardware, plans, and runs the VMs.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod console;
#[cfg(feature = "protection-off")]
mod contract;
mod cpus;
mod hal;
mod host;
mod iommu;
mod lock;
mod log;
mod memory;
mod mmio;
mod pci;
mod protection;
mod record;
mod report;
mod resident;
mod ring;
mod run;
mod security;
mod serve;
mod tables;
mod typed;
mod vgic_backend;
mod vm;
mod vpci_backend;

pub use boot::main;
