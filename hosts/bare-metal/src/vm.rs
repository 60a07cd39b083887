//! A VM as the hypervisor runs it: the core's, over this machine.

mod build;
mod held;

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevicesBuilder;
use axvm::report::VmReport;
use axvm::vm::AxVM;
pub use axvm::vm::StopReason;
use axvm::vm::{Suspension, WrongState};
use axvm_addr::Hpa;
use axvm_axdevice::Console;
use axvm_gwdt::Watchdog;

use crate::arch::SpaceRoot;
use crate::cpus;
use crate::hal::Hal;
use crate::log;
use crate::memory::GuestRam;
use crate::ring::Ring;
use crate::vpci_backend::Bridge;

pub use build::{EquipError, build, equip};
pub use held::VmRef;

/// A CPU that hasn't left a VM for so long after it was told to is lost. What it may be at is short: the longest wait on hardware
/// for a guest is a reset, 1.3 s. Of those that vCPUs queue for at one function only the one that is under way is waited for
/// (`axvm_vpci::Backend::is_stopping`).
pub const LEAVE_WITHIN_S: u64 = 3;

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

/// Suspends a VM, and with it its watchdog. [`attend_suspension`] says when it is.
pub fn suspend(vm: &Vm) -> Result<(), WrongState> {
    vm.suspend()?;
    vm.ends().watchdog.iter().for_each(|watchdog| watchdog.suspend());
    Ok(())
}

/// Has a suspended VM go on.
pub fn resume(vm: &Vm) -> Result<(), WrongState> {
    vm.resume()?;
    vm.ends().watchdog.iter().for_each(|watchdog| watchdog.resume());
    Ok(())
}

/// Looks after a VM that is being suspended. Whether there is still something to do for it.
pub fn attend_suspension(vm: &Vm) -> bool {
    match vm.suspension(LEAVE_WITHIN_S * 1_000_000_000) {
        Suspension::NotAsked => return false,
        Suspension::Underway => return true,
        Suspension::Complete => log::info!("{}: it is suspended", vm.name()),
        Suspension::Overdue(vcpus) => {
            vm.ends().watchdog.iter().for_each(|watchdog| watchdog.resume());
            for vcpu in vcpus {
                log::error!(
                    "{}: it isn't suspended, and runs on: vCPU {vcpu} didn't leave its guest within {LEAVE_WITHIN_S} s",
                    vm.name()
                );
            }
        }
    }
    false
}

/// What the report says of a VM.
pub fn report(vm: &Vm) -> VmReport {
    let mut report = vm.report();
    let bridges = &vm.ends().bridges;
    report.refused.config = bridges.iter().map(|bridge| bridge.refused()).sum();
    for (device, (_, plan)) in report.devices.iter_mut().zip(vm.plan().present()) {
        if let Some(function) = plan.pci {
            device.exits.config = bridges.iter().filter_map(|bridge| bridge.accesses(function)).sum();
        }
    }
    report
}
