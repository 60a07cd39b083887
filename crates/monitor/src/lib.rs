#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ends;
mod shell;
mod typed;
mod waiting;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::AxVM;
use axvm::claims::Claims;
use axvm::hal::AxVMHal;
use axvm::ownership::Registry;
use axvm::report::{EventReport, VmReport};
use axvm::vm::WrongState;
use axvm_addr::{Hpa, VmId};
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

pub use ends::Ends;
pub use typed::Typed;
pub use waiting::{Guests, Waiting};

/// What is said of a VM of which nothing can be asked at the moment.
pub const UNSETTLED: &str = "is being taken apart or built again: ask again";

/// A host and its VMs, as a command finds them.
pub trait Machine: Guests {
    /// The host.
    type Hal: AxVMHal;

    /// What the VMs were planned to be, by their ids.
    fn plans(&self) -> &[Arc<VmPlan>];

    /// A VM that there is now.
    fn vm(&self, id: VmId) -> Option<&AxVM<Self::Hal>>;

    /// The report of a VM that is no more.
    fn gone(&self, id: VmId) -> Option<&VmReport>;

    /// What the report says of a VM.
    fn report(&self, vm: &AxVM<Self::Hal>) -> VmReport;

    /// Starts a VM that is built.
    fn start(&self, id: VmId);

    /// Has a VM built and started.
    ///
    /// # Errors
    ///
    /// Why it can't be: a line. Nothing has changed.
    fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String>;

    /// Whether a VM is being taken apart or built again.
    fn is_unsettled(&self, id: VmId) -> bool;

    /// Suspends a VM, and what goes with it.
    ///
    /// # Errors
    ///
    /// [`WrongState`].
    fn suspend(&self, vm: &AxVM<Self::Hal>) -> Result<(), WrongState>;

    /// Has a suspended VM go on.
    ///
    /// # Errors
    ///
    /// [`WrongState`].
    fn resume(&self, vm: &AxVM<Self::Hal>) -> Result<(), WrongState>;

    /// Presses a VM's power button. Whether its guest listens to that.
    fn press_power_button(&self, vm: &AxVM<Self::Hal>) -> bool;

    /// Looks at who has what, or changes it.
    fn with_claims<R>(&self, with: impl FnOnce(&mut Claims) -> R) -> R;

    /// Looks at who owns which device. `None`: devices are changing hands.
    fn with_registry<R>(&self, with: impl FnOnce(&Registry) -> R) -> Option<R>;

    /// Whether a device, by its position in its VM's plan, has lost the bus.
    fn is_quarantined(&self, vm: VmId, device: u16) -> bool;

    /// What was tried beyond the plans.
    fn events(&self) -> Vec<EventReport>;

    /// Where in the machine a piece of RAM is, if the plan says.
    fn place(&self, hpa: Hpa) -> String;

    /// Says something to whoever listens.
    fn say(&self, channel: Channel, payload: &[u8]);

    /// Whether somebody has spoken in the middle of the shell's line, which is asked once. `now`: even in the middle of what they say.
    fn take_disturbed(&self, now: bool) -> bool;

    /// Ends the run: VMs are stopped, and none is started again.
    fn end_run(&self);
}
