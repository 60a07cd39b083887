//! Who has what of the machine. A VM has all that it is given from before it is built until everything has been given back, so that CPUs, RAM
//! and devices may be named by several VMs of which one runs at a time.
//!
//! What may change is decided by [`replan`]; here is what holds now, and what of it is with nobody any more.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm_addr::{CpuId, DmaSource, VmId};
use axvm_plan::{
    Change, DeviceId, Refusal, Running, Thing, VmPlan, Withheld, plan_with, replan, stands_alone,
    things_of_devices, things_of_vm,
};

use crate::ownership::{Registry, Slot};

#[cfg(test)]
mod tests;

/// Who has what.
#[derive(Debug)]
pub struct Claims {
    vms: Vec<Arc<VmPlan>>,
    running: Running,
}

impl Claims {
    /// Nobody has anything of what these are planned to have.
    pub fn new(vms: Vec<Arc<VmPlan>>) -> Self {
        Self { vms, running: Running::default() }
    }

    /// Who has what.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Whether a VM shares nothing with another, so that it may be given all that it is planned to have though it doesn't run.
    pub fn stands_alone(&self, vm: VmId) -> bool {
        stands_alone(&self.vms, vm)
    }

    /// Gives a VM, which is about to be built, all that it is planned to have, but for devices that are another's by assignment, or nobody's.
    /// The plan that it is built from.
    ///
    /// # Errors
    ///
    /// [`Refusal`]; nothing has changed.
    pub fn take(&mut self, vm: VmId) -> Result<Arc<VmPlan>, Refusal> {
        let running = replan(&self.vms, &self.running, &Change::Start(vm))?.running;
        let plan = self.plan(vm).ok_or(Refusal::NoSuchVm(vm))?;
        let devices = running.holder(vm).map_or(&[][..], |holder| &holder.devices);
        let plan =
            if devices.len() == plan.devices.len() { plan } else { Arc::new(plan_with(&plan, devices)?) };
        self.running = running;
        Ok(plan)
    }

    /// Has a device, and what goes with it, be a VM's whenever that runs. Which devices they are.
    ///
    /// # Errors
    ///
    /// [`Refusal`]; nothing has changed.
    pub fn assign(&mut self, vm: VmId, device: DeviceId) -> Result<Vec<DeviceId>, Refusal> {
        self.change(&Change::Assign { vm, device })
    }

    /// Has a device, and what goes with it, be nobody's. Which devices they are.
    ///
    /// # Errors
    ///
    /// [`Refusal`]; nothing has changed.
    pub fn release(&mut self, device: DeviceId) -> Result<Vec<DeviceId>, Refusal> {
        self.change(&Change::Release { device })
    }

    fn change(&mut self, change: &Change) -> Result<Vec<DeviceId>, Refusal> {
        let replanned = replan(&self.vms, &self.running, change)?;
        self.running = replanned.running;
        Ok(replanned.devices)
    }

    /// Nobody gets those of a VM's devices any more that didn't come back from it, nor what can't be told from them.
    pub fn note_failed(&mut self, vm: VmId, registry: &Registry) {
        let Some(plan) = self.plan(vm) else { return };
        for (position, device) in (0..).zip(&plan.devices) {
            if let Some(Slot::Failed { .. }) = registry.slot(&device.id) {
                self.withhold(vm, things_of_devices(&plan, &[position]));
            }
        }
    }

    /// A VM has been taken apart, or couldn't be built: others may have what it had, but for what is withheld.
    pub fn give_back(&mut self, vm: VmId) {
        self.running.holders.retain(|holder| holder.vm != vm);
    }

    /// Nobody gets a VM's RAM any more: something may reach it still.
    pub fn withhold_ram(&mut self, vm: VmId) {
        let Some(plan) = self.plan(vm) else { return };
        let things = things_of_vm(&plan).into_iter();
        self.withhold(vm, things.filter(|thing| matches!(thing, Thing::Ram(_))));
    }

    /// A VM can't be taken apart: nobody gets any more what it has, but for CPUs of it that aren't among these.
    pub fn withhold_all(&mut self, vm: VmId, lost: &[CpuId]) {
        let Some(plan) = self.plan(vm) else { return };
        let stays = |thing: &Thing| !matches!(thing, Thing::Cpu(cpu) if !lost.contains(cpu));
        self.withhold(vm, things_of_vm(&plan).into_iter().filter(stays));
        let devices: Vec<u16> = (0..).zip(&plan.devices).map(|(position, _)| position).collect();
        self.withhold(vm, things_of_devices(&plan, &devices));
        self.running.holders.retain(|holder| holder.vm != vm);
    }

    /// The VM that has the device whose DMA arrives so, and the device's position in its plan. Of several with one id it is the first: they
    /// have one owner.
    pub fn owner_of(&self, source: DmaSource) -> Option<(VmId, u16)> {
        self.running.holders.iter().find_map(|holder| {
            let plan = self.vms.iter().find(|plan| plan.id == holder.vm)?;
            let sends = |position: &&u16| {
                let device = plan.devices.get(usize::from(**position));
                device.is_some_and(|device| device.sources.contains(&source))
            };
            Some((holder.vm, *holder.devices.iter().find(sends)?))
        })
    }

    fn plan(&self, vm: VmId) -> Option<Arc<VmPlan>> {
        self.vms.iter().find(|plan| plan.id == vm).cloned()
    }

    fn withhold(&mut self, vm: VmId, things: impl IntoIterator<Item = Thing>) {
        for thing in things {
            if !self.running.withheld.iter().any(|known| known.thing == thing) {
                self.running.withheld.push(Withheld { vm, thing });
            }
        }
    }
}
