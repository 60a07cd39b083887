//! What the shell acts upon here: `axvm_monitor` looks up and does what is typed.

use std::fmt;
use std::sync::Arc;

use axvm::claims::Claims;
use axvm::ownership::Registry;
use axvm::report::{EventReport, VmReport};
use axvm::vm::WrongState;
use axvm_addr::{Hpa, VmId};
use axvm_monitor::{Ends, Guests, Machine};
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

use crate::hal::Hal;
use crate::host::Host;
use crate::{Vm, arch, security, serve};

/// This process, and its VMs at a moment.
pub struct Around<'a> {
    /// The process.
    pub host: &'static Host,
    /// The VMs that there are.
    pub vms: &'a [Arc<Vm>],
    /// What is said of those that are no more.
    pub ends: &'a Ends,
}

impl Guests for Around<'_> {
    fn offer(&self, vm: VmId, typed: &[u8]) -> Option<usize> {
        let vm = self.vm(vm)?;
        vm.ends().console.as_ref().map(|console| console.push_input(typed))
    }

    fn name(&self, vm: VmId) -> &str {
        self.host.plan(vm).map_or("", |plan| &plan.name)
    }

    fn now_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        self.host.link.warn(what);
    }
}

impl Machine for Around<'_> {
    type Hal = Hal;

    fn plans(&self) -> &[Arc<VmPlan>] {
        &self.host.plans
    }

    fn vm(&self, id: VmId) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.id() == id).map(Arc::as_ref)
    }

    fn gone(&self, id: VmId) -> Option<&VmReport> {
        self.ends.get(id)
    }

    fn report(&self, vm: &Vm) -> VmReport {
        vm.report()
    }

    fn start(&self, id: VmId) {
        if let Some(vm) = self.vms.iter().find(|vm| vm.id() == id) {
            self.host.start(vm);
        }
    }

    fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String> {
        self.host.revive(plan)
    }

    fn is_unsettled(&self, id: VmId) -> bool {
        self.host.is_unsettled(id)
    }

    fn suspend(&self, vm: &Vm) -> Result<(), WrongState> {
        serve::suspend(vm)
    }

    fn resume(&self, vm: &Vm) -> Result<(), WrongState> {
        serve::resume(vm)
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
