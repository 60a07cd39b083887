//! What the hypervisor's shell acts upon: `axvm_monitor` looks up and does what is typed, by the hypervisor's CPU, between two looks at
//! everything else.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::claims::Claims;
use axvm::ownership::Registry;
use axvm::report::EventReport;
use axvm_addr::{Hpa, VmId};
use axvm_monitor::{Ends, Machine, Voice};
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

use crate::arch::press_power_button;
use crate::hal::Hal;
use crate::host::Host;
use crate::log;
use crate::vm::{self, Vm, VmRef};
use crate::{console, security};

/// The machine, and its VMs at a moment.
pub struct Around<'a> {
    /// The machine.
    pub host: &'static Host,
    /// The VMs that there are.
    pub vms: &'a [VmRef],
    /// What is said of those that are no more.
    pub ends: &'a Ends,
}

impl Machine for Around<'_> {
    type Hal = Hal;
    type Vm = VmRef;

    fn plans(&self) -> &[Arc<VmPlan>] {
        &self.host.plans
    }

    fn vms(&self) -> &[VmRef] {
        self.vms
    }

    fn ends(&self) -> &Ends {
        self.ends
    }

    fn voice(&self) -> &impl Voice {
        &log::Console
    }

    fn clock_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn start(&self, vm: &VmRef) {
        vm::start(vm);
    }

    fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String> {
        self.host.revive(plan)
    }

    fn is_unsettled(&self, id: VmId) -> bool {
        self.host.is_unsettled(id)
    }

    fn press_power_button(&self, vm: &Vm) -> bool {
        press_power_button(vm.irqchip())
    }

    fn with_claims<R>(&self, with: impl FnOnce(&mut Claims) -> R) -> R {
        with(&mut self.host.claims.lock())
    }

    fn with_registry<R>(&self, with: impl FnOnce(&Registry) -> R) -> Option<R> {
        self.host.registry.try_lock().map(|registry| with(&registry))
    }

    fn is_quarantined(&self, vm: VmId, device: u16) -> bool {
        self.host.security.is_quarantined(vm, device)
    }

    fn events(&self) -> Vec<EventReport> {
        security::records(self.host)
    }

    fn place(&self, hpa: Hpa) -> String {
        format!("{:#x}", hpa.0)
    }

    fn end_run(&self) {
        self.host.end_run();
    }

    fn say(&self, channel: Channel, payload: &[u8]) {
        console::send(channel, payload);
    }

    fn take_disturbed(&self, now: bool) -> bool {
        console::take_disturbed(now)
    }
}
