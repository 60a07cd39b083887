//! What guests and their devices tried beyond their plans, and what it leads to.
//!
//! Every VM has a ring of its own; whoever looks after the VMs takes the records out, asks the VM's policy and acts. What an IOMMU has blocked
//! nobody hears of: VFIO doesn't tell.

use std::sync::Mutex;

use axvm::events::{Action, Governor, Log, Ring, Violation};
use axvm::report::EventReport;
use axvm::vm::{StopReason, keep_off_bus};
use axvm_addr::VmId;
use axvm_plan::VmPlan;
use axvm_system::wire::Channel;

use crate::hal::Hal;
use crate::host::Host;

/// Records that a VM's ring holds.
const RING: usize = 64;

/// The records and the judges.
pub struct Security {
    /// By VM, so that no VM fills another's.
    rings: Vec<Ring<RING>>,
    log: Mutex<Log>,
    judges: Mutex<Vec<Judges>>,
}

/// Who judges what a VM does, in the life that it is in.
#[derive(Default)]
struct Judges {
    cpus: Governor,
    devices: Vec<Governor>,
    /// Since when: what was recorded before is of an earlier life, and nothing follows from it for this one.
    since_ns: u64,
    /// The VM is to stop for it.
    stops: bool,
    /// Devices that have lost the bus.
    quarantined: Vec<u16>,
}

impl Security {
    /// For these VMs.
    pub fn new<'a>(plans: impl Iterator<Item = &'a VmPlan>) -> Self {
        let judges: Vec<Judges> = plans
            .map(|plan| Judges {
                devices: plan.devices.iter().map(|_| Governor::default()).collect(),
                ..Judges::default()
            })
            .collect();
        Self {
            rings: judges.iter().map(|_| Ring::new()).collect(),
            log: Mutex::new(Log::new(judges.len())),
            judges: Mutex::new(judges),
        }
    }

    /// Records a violation.
    pub fn record(&self, violation: Violation) {
        if let Some(ring) = violation.vm.and_then(|vm| self.rings.get(usize::from(vm.0))) {
            ring.push(violation);
        }
    }

    /// A VM starts anew, its devices closed and reset: what it did before is no longer held against it.
    pub fn restart(&self, vm: VmId, now_ns: u64) {
        if let Some(judges) = crate::lock(&self.judges).get_mut(usize::from(vm.0)) {
            judges.cpus.restart();
            judges.devices.iter_mut().for_each(Governor::restart);
            judges.since_ns = now_ns;
            judges.stops = false;
            judges.quarantined.clear();
        }
    }

    /// Whether a VM has done what its policy stops it for.
    pub fn has_to_stop(&self, vm: VmId) -> bool {
        crate::lock(&self.judges).get(usize::from(vm.0)).is_some_and(|judges| judges.stops)
    }

    /// Whether a device, by its position in its VM's plan, has lost the bus.
    pub fn is_quarantined(&self, vm: VmId, device: u16) -> bool {
        let judges = crate::lock(&self.judges);
        judges.get(usize::from(vm.0)).is_some_and(|judges| judges.quarantined.contains(&device))
    }

    fn judge(&self, plan: &VmPlan, violation: &Violation) -> Option<Action> {
        let mut judges = crate::lock(&self.judges);
        let judges = judges.get_mut(usize::from(plan.id.0))?;
        if violation.time_ns < judges.since_ns {
            return None;
        }
        let governor = match violation.device {
            Some(device) => judges.devices.get_mut(usize::from(device)),
            None => Some(&mut judges.cpus),
        };
        let action = governor.map_or(Action::Reported, |it| {
            it.judge(plan.on_violation, violation.kind, violation.time_ns, violation.count)
        });
        judges.stops |= action == Action::VmStopped;
        Some(action)
    }

    fn note_quarantined(&self, vm: VmId, device: u16) {
        if let Some(judges) = crate::lock(&self.judges).get_mut(usize::from(vm.0))
            && !judges.quarantined.contains(&device)
        {
            judges.quarantined.push(device);
        }
    }
}

/// Takes what was recorded, and acts on it.
pub fn attend(host: &'static Host) {
    for ring in &host.security.rings {
        // No more than a ring holds, and its record of losses: one that is filled faster than it is read ends here too.
        for _ in 0..=RING {
            let Some(violation) = ring.pop() else { break };
            settle(host, violation);
        }
    }
}

/// Decides what a violation leads to, does it, and keeps the record.
fn settle(host: &'static Host, mut violation: Violation) {
    if let Some(plan) = violation.vm.and_then(|vm| host.plan(vm))
        && let Some(action) = host.security.judge(plan, &violation)
    {
        violation.action = action;
        if let (Action::Quarantined | Action::Blocked | Action::VmStopped, Some(device)) =
            (action, violation.device)
        {
            quarantine(host, plan, device);
        }
        if let (Action::VmStopped, Some(vm)) = (action, host.vm(plan.id)) {
            vm.stop(StopReason::Violation);
        }
    }
    if crate::lock(&host.security.log).push(violation) {
        announce(host, &violation);
    }
}

/// Takes a device off the bus while its VM goes on; a VM whose device can't be taken off it stops.
fn quarantine(host: &'static Host, plan: &VmPlan, position: u16) {
    let Some(vm) = host.vm(plan.id) else { return };
    let Some(device) = vm.plan().devices.get(usize::from(position)) else { return };
    match keep_off_bus(&Hal::new(host), plan.id, device) {
        Ok(()) => host.security.note_quarantined(plan.id, position),
        Err(error) => {
            host.link.error(format_args!(
                "{}: its device {} can't be taken off the bus: it stops ({error})",
                vm.name(),
                device.name
            ));
            vm.stop(StopReason::HostError);
        }
    }
}

/// Says it.
fn announce(host: &Host, violation: &Violation) {
    let event = violation.report(|vm, device| names(host, vm, device));
    let who = if event.device.is_empty() { event.vm } else { format!("{}: {}", event.vm, event.device) };
    let place = if event.address.is_empty() { String::new() } else { format!(" at {}", event.address) };
    let what = format_args!("violation: {who}: {}{place}: {}", event.kind, event.action);
    host.link.say(Channel::Event, "", what);
}

/// All records, for the report.
pub fn records(host: &Host) -> Vec<EventReport> {
    let records = crate::lock(&host.security.log).records();
    records.iter().map(|record| record.report(|vm, device| names(host, vm, device))).collect()
}

/// The VM's name and the device's.
fn names(host: &Host, vm: Option<VmId>, device: Option<u16>) -> (String, String) {
    let Some(plan) = vm.and_then(|vm| host.plan(vm)) else { return (String::new(), String::new()) };
    let device = device.and_then(|device| plan.devices.get(usize::from(device)));
    (plan.name.clone(), device.map_or_else(String::new, |device| device.name.clone()))
}
