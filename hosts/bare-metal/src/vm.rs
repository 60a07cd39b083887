//! A VM as the hypervisor runs it: the core's, over this machine.

mod build;
mod held;

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevicesBuilder;
use axvm::vm::AxVM;
pub use axvm::vm::StopReason;
use axvm_addr::{Hpa, PciAddress};
use axvm_axdevice::Console;
use axvm_gwdt::Watchdog;
use axvm_monitor::Equipped;

use crate::arch::SpaceRoot;
use crate::cpus;
use crate::hal::Hal;
use crate::memory::GuestRam;
use crate::ring::Ring;
use crate::vpci_backend::Bridge;

pub use build::{EquipError, build, equip};
pub use held::VmRef;

/// A VM.
pub type Vm = AxVM<Hal>;

/// A VM's devices with its emulated console, if it has one.
pub struct AddedConsole {
    /// All of them.
    pub devices: AxVmDevicesBuilder<Hpa>,
    /// The console among them.
    pub console: Option<Arc<dyn Console>>,
}

/// The hypervisor's own ends of a VM's devices.
pub struct Ends {
    /// Its virtual PCI bridges.
    pub bridges: Vec<Arc<Bridge>>,
    /// Its emulated console.
    pub console: Option<Arc<dyn Console>>,
    /// The console's output.
    pub output: Arc<Ring>,
    /// Its emulated watchdog.
    pub watchdog: Option<Arc<Watchdog>>,
    /// Its RAM, to be copied to and from.
    pub ram: GuestRam,
    /// By what a CPU finds its second stage.
    pub space: SpaceRoot,
}

impl Equipped for Ends {
    fn console(&self) -> Option<&dyn Console> {
        self.console.as_deref()
    }

    fn watchdog(&self) -> Option<&Watchdog> {
        self.watchdog.as_deref()
    }

    fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    fn refused_config(&self) -> u64 {
        self.bridges.iter().map(|bridge| bridge.refused()).sum()
    }

    fn config_accesses(&self, function: PciAddress) -> u64 {
        self.bridges.iter().filter_map(|bridge| bridge.accesses(function)).sum()
    }
}

/// Starts a VM: vCPU 0 at the kernel's entry with the device tree's address, the others wait until the guest switches them on.
pub fn start(vm: &VmRef) {
    if vm.start().is_err() {
        return;
    }
    let host = vm.hal().host();
    // All before the first runs: what it does with the redistributors of the others comes after.
    for (_, vcpu) in vm.vcpus() {
        host.irqchip.prepare_cpu(vcpu.cpu, !vm.irqchip().takes_interrupts());
    }
    for (id, vcpu) in vm.vcpus() {
        if let Some(cpu) = cpus::get(vcpu.cpu) {
            cpu.give(vm.clone(), id);
        }
    }
}
