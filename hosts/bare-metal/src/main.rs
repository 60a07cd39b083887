//! AxVM's bare-metal host: boots below all guests, closes what is open, finds the hardware, plans, and runs the VMs.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod boot_info;
mod console;
mod cpus;
mod described;
mod fault;
mod hal;
mod host;
mod iommu_access;
mod lock;
mod log;
mod memory;
mod mmio;
mod pci;
mod protection;
mod record;
mod report;
mod ring;
mod security;
mod serve;
mod shell;
mod start;
mod typed;
mod vm;
mod vpci_backend;
mod watchdogs;
mod window;
