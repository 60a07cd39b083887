#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ends;
mod served;
mod shell;
mod typed;
mod waiting;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use axvm::AxVM;
use axvm::claims::Claims;
use axvm::hal::AxVMHal;
use axvm::ownership::Registry;
use axvm::report::EventReport;
use axvm_addr::{Hpa, VmId};
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

pub use ends::Ends;
pub use served::{
    Equipped, LEAVE_WITHIN_S, Leaving, Voice, attend_suspension, attend_watchdog, leaving, report, resume,
    say_lost, say_where, suspend,
};
pub use typed::Typed;
pub use waiting::{Guests, Waiting};

/// What is said of a VM of which nothing can be asked at the moment.
pub const UNSETTLED: &str = "is being taken apart or built again: ask again";

/// A host and its VMs, as a command finds them. What is typed for its guests it hands to their consoles ([`Guests`]).
pub trait Machine {
    /// The host.
    type Hal: AxVMHal<Ends: Equipped>;

    /// A VM, as the host holds it.
    type Vm: Deref<Target = AxVM<Self::Hal>>;

    /// What the VMs were planned to be, by their ids.
    fn plans(&self) -> &[Arc<VmPlan>];

    /// The VMs that there are now.
    fn vms(&self) -> &[Self::Vm];

    /// What is said of those that are no more.
    fn ends(&self) -> &Ends;

    /// By what it speaks.
    fn voice(&self) -> &impl Voice;

    /// Nanoseconds since some moment.
    fn clock_ns(&self) -> u64;

    /// A VM that there is now.
    fn vm(&self, id: VmId) -> Option<&AxVM<Self::Hal>> {
        self.held(id).map(|vm| &**vm)
    }

    /// The same, as the host holds it.
    fn held(&self, id: VmId) -> Option<&Self::Vm> {
        self.vms().iter().find(|vm| vm.id() == id)
    }

    /// Starts a VM that is built.
    fn start(&self, vm: &Self::Vm);

    /// Has a VM built and started.
    ///
    /// # Errors
    ///
    /// Why it can't be: a line. Nothing has changed.
    fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String>;

    /// Whether a VM is being taken apart or built again.
    fn is_unsettled(&self, id: VmId) -> bool;

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

impl<M: Machine> Guests for M {
    fn offer(&self, vm: VmId, typed: &[u8]) -> Option<usize> {
        self.vm(vm)?.ends().console().map(|console| console.push_input(typed))
    }

    fn name(&self, vm: VmId) -> &str {
        self.plans().get(usize::from(vm.0)).map_or("", |plan| &plan.name)
    }

    fn now_ns(&self) -> u64 {
        self.clock_ns()
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        self.voice().warn(what);
    }
}
