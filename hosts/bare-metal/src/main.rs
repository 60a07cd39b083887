//! AxVM's bare-metal host: boots at EL2, closes what is open, finds the hardware, plans, and runs the VMs.
//!
//! On a host's own target this is an empty program, so that the workspace builds as a whole.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(all(target_os = "none", feature = "protection-off"))]
mod contract;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod hal;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod iommu;
#[cfg(target_os = "none")]
mod lock;
#[cfg(target_os = "none")]
mod log;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod mmio;
#[cfg(target_os = "none")]
mod pci;
#[cfg(target_os = "none")]
mod protection;
#[cfg(target_os = "none")]
mod record;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod resident;
#[cfg(target_os = "none")]
mod ring;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod security;
#[cfg(target_os = "none")]
mod serve;
#[cfg(target_os = "none")]
mod tables;
#[cfg(target_os = "none")]
mod typed;
#[cfg(target_os = "none")]
mod vgic_backend;
#[cfg(target_os = "none")]
mod vm;
#[cfg(target_os = "none")]
mod vpci_backend;

#[cfg(target_os = "none")]
pub use boot::main;

#[cfg(not(target_os = "none"))]
fn main() {}
