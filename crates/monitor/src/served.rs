//! What a host does for a VM while it runs, whatever the host is: it is suspended with its watchdog, is told to go and goes, and what became of it is
//! said.

use alloc::vec::Vec;
use core::fmt;

use axvm::AxVM;
use axvm::hal::AxVMHal;
use axvm::report::VmReport;
use axvm::vm::{Departure, StopReason, Suspension, Whereabouts, WrongState};
use axvm_addr::{CpuId, PciAddress};
use axvm_axdevice::Console;
use axvm_gwdt::{Attention, Watchdog};

/// A CPU that hasn't left a VM for so long after it was told to is lost. What it may be at is short: on bare metal the longest wait on hardware
/// for a guest is a reset, 1.3 s. Of those that vCPUs queue for at one function only the one that is under way is waited for
/// (`axvm_vpci::Backend::is_stopping`).
pub const LEAVE_WITHIN_S: u64 = 3;

const LEAVE_WITHIN_NS: u64 = LEAVE_WITHIN_S * 1_000_000_000;

/// A host's own ends of a VM's devices, as far as each host has them.
pub trait Equipped {
    /// Its emulated console.
    fn console(&self) -> Option<&dyn Console>;

    /// Its emulated watchdog.
    fn watchdog(&self) -> Option<&Watchdog>;

    /// Whether something that its guest has written is still to be shown.
    fn has_output(&self) -> bool;

    /// How many accesses to config space were refused.
    fn refused_config(&self) -> u64;

    /// How often the config space of a function was accessed.
    fn config_accesses(&self, function: PciAddress) -> u64;
}

/// Says things to whoever listens, a line each.
pub trait Voice {
    /// How things are.
    fn info(&self, what: fmt::Arguments<'_>);

    /// What somebody should look at.
    fn warn(&self, what: fmt::Arguments<'_>);

    /// What has gone wrong.
    fn error(&self, what: fmt::Arguments<'_>);
}

/// Suspends a VM, and with it its watchdog. [`attend_suspension`] says when it is.
///
/// # Errors
///
/// [`WrongState`].
pub fn suspend<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>) -> Result<(), WrongState> {
    vm.suspend()?;
    vm.ends().watchdog().into_iter().for_each(Watchdog::suspend);
    Ok(())
}

/// Has a suspended VM go on.
///
/// # Errors
///
/// [`WrongState`].
pub fn resume<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>) -> Result<(), WrongState> {
    vm.resume()?;
    vm.ends().watchdog().into_iter().for_each(Watchdog::resume);
    Ok(())
}

/// Looks after a VM that is being suspended. Whether there is still something to do for it.
pub fn attend_suspension<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>, voice: &impl Voice) -> bool {
    match vm.suspension(LEAVE_WITHIN_NS) {
        Suspension::NotAsked => return false,
        Suspension::Underway => return true,
        Suspension::Complete => voice.info(format_args!("{}: it is suspended", vm.name())),
        Suspension::Overdue(vcpus) => {
            vm.ends().watchdog().into_iter().for_each(Watchdog::resume);
            for vcpu in vcpus {
                voice.error(format_args!(
                    "{}: it isn't suspended, and runs on: vCPU {vcpu} didn't leave its guest within {LEAVE_WITHIN_S} s",
                    vm.name()
                ));
            }
        }
    }
    false
}

/// How far a VM is that may have been told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It wasn't.
    NotAsked,
    /// Its CPUs are still at it, or its last words have still to be shown: it is to be looked at again.
    Underway,
    /// It is over.
    Over {
        /// Its CPUs that haven't left it in time.
        overdue: Vec<CpuId>,
    },
}

/// How far a VM is on its way out.
pub fn leaving<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>) -> Leaving {
    let overdue = match vm.departure(LEAVE_WITHIN_NS) {
        Departure::NotAsked => return Leaving::NotAsked,
        // Nothing calls when the deadline is over.
        Departure::Underway => return Leaving::Underway,
        Departure::Complete => Vec::new(),
        Departure::Overdue(vcpus) => vcpus.into_iter().filter_map(|vcpu| Some(vm.vcpu(vcpu)?.cpu)).collect(),
    };
    if vm.ends().has_output() { Leaving::Underway } else { Leaving::Over { overdue } }
}

/// Says which CPUs are lost, which keep a VM.
pub fn say_lost<H: AxVMHal>(vm: &AxVM<H>, overdue: &[CpuId], voice: &impl Voice) {
    for cpu in overdue {
        voice.error(format_args!(
            "CPU {cpu} is lost: it didn't leave vm \"{}\" within {LEAVE_WITHIN_S} s; the VM's memory and devices stay with nobody",
            vm.name()
        ));
    }
}

/// Stops a VM whose watchdog has expired. The tick of its counter at which it is to be looked at again, if there is one.
pub fn attend_watchdog<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>, voice: &impl Voice) -> Option<u64> {
    match vm.ends().watchdog()?.attend() {
        Attention::None => None,
        Attention::At(tick) => Some(tick),
        Attention::Expired => {
            voice.warn(format_args!("{}: its watchdog has expired", vm.name()));
            vm.stop(StopReason::Watchdog);
            None
        }
    }
}

/// Says where a VM's vCPUs were when its watchdog had expired.
pub fn say_where<H: AxVMHal>(vm: &AxVM<H>, voice: &impl Voice) {
    if vm.state().reason() != Some(StopReason::Watchdog) {
        return;
    }
    let name = vm.name();
    for (vcpu, _) in vm.vcpus() {
        match vm.whereabouts(vcpu) {
            // Some wait without an exit.
            Some(Whereabouts::Executing { pc }) => {
                voice.warn(format_args!("{name}: vCPU {vcpu} executed, or waited, at {pc:#x}"));
            }
            Some(Whereabouts::Waiting { pc, deadline: None }) => {
                voice.warn(format_args!("{name}: vCPU {vcpu} waited for an interrupt at {pc:#x}"));
            }
            Some(Whereabouts::Waiting { pc, deadline: Some(tick) }) => {
                voice.warn(format_args!(
                    "{name}: vCPU {vcpu} waited for an interrupt or tick {tick} at {pc:#x}"
                ));
            }
            None => voice.warn(format_args!("{name}: vCPU {vcpu} was off")),
        }
    }
}

/// What the report says of a VM.
pub fn report<H: AxVMHal<Ends: Equipped>>(vm: &AxVM<H>) -> VmReport {
    let mut report = vm.report();
    report.refused.config = vm.ends().refused_config();
    for (device, (_, plan)) in report.devices.iter_mut().zip(vm.plan().present()) {
        if let Some(function) = plan.pci {
            device.exits.config = vm.ends().config_accesses(function);
        }
    }
    report
}
