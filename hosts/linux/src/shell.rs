//! What the shell acts upon here: `axvm_monitor` looks up and does what is typed.

use std::sync::Arc;

use axvm::claims::Claims;
use axvm::ownership::Registry;
use axvm::report::EventReport;
use axvm_addr::{Hpa, VmId};
use axvm_monitor::{Ends, Machine, Voice};
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

use crate::hal::Hal;
use crate::host::Host;
use crate::{Vm, arch, security};

/// This process, and its VMs at a moment.
pub struct Around<'a> {
    /// The process.
    pub host: &'static Host,
    /// The VMs that there are.
    pub vms: &'a [Arc<Vm>],
    /// What is said of those that are no more.
    pub ends: &'a Ends,
}

impl Machine for Around<'_> {
    type Hal = Hal;
    type Vm = Arc<Vm>;

    fn plans(&self) -> &[Arc<VmPlan>] {
        &self.host.plans
    }

    fn vms(&self) -> &[Arc<Vm>] {
        self.vms
    }

    fn ends(&self) -> &Ends {
        self.ends
    }

    fn voice(&self) -> &impl Voice {
        &self.host.link
    }

    fn clock_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn start(&self, vm: &Arc<Vm>) {
        self.host.start(vm);
    }

    fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String> {
        self.host.revive(plan)
    }

    fn is_unsettled(&self, id: VmId) -> bool {
        self.host.is_unsettled(id)
    }

    fn press_power_button(&self, vm: &Vm) -> bool {
        arch::press_power_button(&vm.ends().own, vm.irqchip())
    }

    fn with_claims<R>(&self, with: impl FnOnce(&mut Claims) -> R) -> R {
        with(&mut crate::lock(&self.host.claims))
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

    fn place(&self, _: Hpa) -> String {
        // Where in the machine is the kernel's to know.
        String::new()
    }

    fn end_run(&self) {
        self.host.end_run();
    }

    fn say(&self, channel: Channel, payload: &[u8]) {
        self.host.link.send(channel, payload);
    }

    fn take_disturbed(&self, _: bool) -> bool {
        // The tool draws the shell's line again where others have spoken (`Console::say`).
        false
    }
}
