//! What guests and their devices tried beyond their plans, and what it leads to.
//!
//! Every CPU writes to a ring of its own; the hypervisor's CPU takes the records out, asks the VM's policy and acts.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm::events::{Action, Governor, Kind, Log, Ring, Violation};
use axvm::plan::DevicePlan;
use axvm::report::EventReport;
use axvm_addr::VmId;
use axvm_smmuv3::{Event, GlobalErrors};
use axvm_system::model::ViolationPolicy;
use axvm_system::wire::Channel;
use spin::Mutex;

use crate::host::Host;
use crate::protection::{self, Protection};
use crate::vm::StopReason;
use crate::{console, cpus};

/// Who, by what, did what, and what it led to.
type What = (Option<VmId>, Option<u16>, Kind, Action);

/// So many different violations are said on the console; the report has them all.
const MOST_ANNOUNCED: usize = 256;

/// Records that a CPU's ring holds.
const RING: usize = 64;

/// The records and the judges.
pub struct Security {
    /// By CPU.
    rings: Vec<Ring<RING>>,
    log: Mutex<Log>,
    /// By VM: one for its CPUs, and one for each device.
    governors: Mutex<Vec<(Governor, Vec<Governor>)>>,
    /// VM and name of each device that has lost the bus.
    quarantined: Mutex<Vec<(VmId, String)>>,
    /// What was said on the console: each once.
    announced: Mutex<Vec<What>>,
}

impl Security {
    /// For so many CPUs, and for VMs with so many devices each.
    pub fn new(cpus: usize, devices: impl Iterator<Item = usize>) -> Self {
        let judges =
            |count| (Governor::default(), core::iter::repeat_n(Governor::default(), count).collect());
        Self {
            rings: (0..cpus).map(|_| Ring::new()).collect(),
            log: Mutex::new(Log::new()),
            governors: Mutex::new(devices.map(judges).collect()),
            quarantined: Mutex::new(Vec::new()),
            announced: Mutex::new(Vec::new()),
        }
    }

    /// Records a violation on the calling CPU.
    pub fn record(&self, violation: Violation) {
        let cpu = cpus::current().map_or(0, |cpu| usize::from(cpu.id.0));
        if let Some(ring) = self.rings.get(cpu) {
            ring.push(violation);
        }
    }

    /// Whether a device has lost the bus.
    pub fn is_quarantined(&self, vm: VmId, device: &str) -> bool {
        self.quarantined.lock().iter().any(|(owner, name)| *owner == vm && name == device)
    }

    fn judge(&self, violation: &Violation, policy: ViolationPolicy) -> Action {
        if protection::is_off(Protection::Quarantine) || protection::is_off(Protection::Rate) {
            return Action::Reported;
        }
        let mut governors = self.governors.lock();
        let judges = violation.vm.and_then(|vm| governors.get_mut(usize::from(vm.0)));
        let governor = judges.and_then(|(cpus, devices)| match violation.device {
            Some(device) => devices.get_mut(usize::from(device)),
            None => Some(cpus),
        });
        governor.map_or(Action::Reported, |it| {
            it.judge(policy, violation.kind, violation.time_ns, violation.count)
        })
    }
}

/// On the hypervisor's CPU: takes what the SMMUs have blocked and what the CPUs have recorded, and acts on it.
pub fn attend(host: &Host) {
    take_iommu_events(host);
    for ring in &host.security.rings {
        // No more than a ring holds, and its record of losses: one that is filled faster than it is read ends here too.
        for taken in 0..=RING {
            let Some(violation) = ring.pop() else { break };
            settle(host, violation);
            if taken == RING {
                host.call_hypervisor_cpu();
            }
        }
    }
}

/// All records, for the report.
pub fn records(host: &Host) -> Vec<EventReport> {
    let records = host.security.log.lock().records();
    records.iter().map(|record| record.report(|vm, device| names(host, vm, device))).collect()
}

/// The VM's name and the device's.
fn names(host: &Host, vm: Option<VmId>, device: Option<u16>) -> (String, String) {
    let Some(plan) = vm.and_then(|vm| host.plan(vm)) else {
        // A device that no VM has: its position among all PCI functions.
        let functions = host.platform.functions.as_deref().unwrap_or_default();
        let function = device.and_then(|device| functions.get(usize::from(device)));
        return (String::new(), function.map_or_else(String::new, |it| it.function.address.to_string()));
    };
    let device = device.and_then(|device| plan.devices.get(usize::from(device)));
    (plan.name.clone(), device.map_or_else(String::new, |device| device.name.clone()))
}

/// Decides what a violation leads to, does it, and keeps the record.
fn settle(host: &Host, mut violation: Violation) {
    let vm = violation.vm.and_then(|vm| host.plan(vm));
    if let Some(plan) = vm {
        violation.action = host.security.judge(&violation, plan.on_violation);
        match violation.action {
            Action::Quarantined | Action::Blocked => quarantine(host, plan.id, violation.device),
            Action::VmStopped => {
                if let Some(vm) = host.vm(plan.id) {
                    vm.stop(StopReason::Violation);
                }
            }
            _ => {}
        }
    }
    host.security.log.lock().push(violation);
    let what = (violation.vm, violation.device, violation.kind, violation.action);
    let mut announced = host.security.announced.lock();
    if announced.len() < MOST_ANNOUNCED && !announced.contains(&what) {
        announced.push(what);
        drop(announced);
        announce(host, &violation);
    }
}

/// Says it on the console.
fn announce(host: &Host, violation: &Violation) {
    let event = violation.report(|vm, device| names(host, vm, device));
    let who = match (event.vm.is_empty(), event.device.is_empty()) {
        (false, false) => format!("{}: {}", event.vm, event.device),
        (false, true) => event.vm,
        _ => format!("no VM's {}", event.device),
    };
    let place = if event.address.is_empty() { String::new() } else { format!(" at {}", event.address) };
    let line = format!("violation: {who}: {}{place}: {}\n", event.kind, event.action);
    console::send(Channel::Event, line.as_bytes());
}

/// Keeps a device from the bus until its VM is started anew.
fn quarantine(host: &Host, vm: VmId, device: Option<u16>) {
    let Some(plan) = host.plan(vm) else { return };
    let Some(device) = device.and_then(|device| plan.devices.get(usize::from(device))) else { return };
    // Behind a bridge to conventional PCI a stream is all functions': which of them it was, nobody can tell.
    let shares = |other: &&DevicePlan| {
        other.name == device.name || other.streams.iter().any(|stream| device.streams.contains(stream))
    };
    for device in plan.devices.iter().filter(shares) {
        quarantine_one(host, vm, device);
    }
}

fn quarantine_one(host: &Host, vm: VmId, device: &DevicePlan) {
    if host.security.is_quarantined(vm, &device.name) {
        return;
    }
    host.security.quarantined.lock().push((vm, device.name.clone()));
    for &(smmu, stream) in &device.streams {
        if let Err(error) = host.iommus.block(smmu, stream) {
            log::error!("{}: its stream can't be blocked: {error}", device.name);
        }
    }
    if let (Some(function), Some(vm)) = (device.pci, host.vm(vm)) {
        for bridge in vm.bridges() {
            // One of the bridges has it; the others say that they don't know it.
            let _ = bridge.quarantine(function);
        }
    }
}

/// Takes the records of what the SMMUs have blocked.
fn take_iommu_events(host: &Host) {
    /// So many records in a row, then the consoles get their turn. A stray page makes a thousand.
    const AT_ONCE: usize = 256;
    for smmu in 0..host.iommus.count() {
        let mut pending: Vec<Violation> = Vec::new();
        let drained = host.iommus.drain(smmu, AT_ONCE, |event| {
            let violation = violation(host, smmu, &event);
            match pending.last_mut() {
                Some(last)
                    if (last.vm, last.device, last.kind)
                        == (violation.vm, violation.device, violation.kind) =>
                {
                    last.count += 1;
                }
                _ => pending.push(violation),
            }
        });
        for violation in pending {
            settle(host, violation);
        }
        let errors = host.iommus.take_global_errors(smmu).unwrap_or_else(GlobalErrors::empty);
        if drained.is_some_and(|drained| drained.overflowed) || errors.contains(GlobalErrors::EVENTS_LOST) {
            settle(
                host,
                Violation {
                    time_ns: host.now_ns(),
                    vm: None,
                    device: None,
                    kind: Kind::Lost,
                    address: None,
                    action: Action::Reported,
                    count: 1,
                },
            );
        }
        if errors.contains(GlobalErrors::SERVICE_FAILURE) {
            log::error!("SMMU {smmu}: it has failed and aborts everything until the machine is reset");
        }
        if drained.is_some_and(|drained| drained.more) {
            host.call_hypervisor_cpu();
        }
    }
}

/// Whose it was, and what it was.
fn violation(host: &Host, smmu: usize, event: &Event) -> Violation {
    let owner = host.plans.iter().find_map(|plan| {
        let device = plan.devices.iter().position(|device| device.streams.contains(&(smmu, event.stream)))?;
        Some((plan.id, device as u16))
    });
    let kind = match (owner, event.write) {
        (None, _) => Kind::DmaUnassigned,
        (_, Some(true)) => Kind::DmaWrite,
        (_, Some(false)) => Kind::DmaRead,
        (_, None) => Kind::DmaOther,
    };
    let stranger = || {
        let functions = host.platform.functions.as_deref().unwrap_or_default();
        functions.iter().position(|it| it.streams.contains(&(smmu, event.stream))).map(|it| it as u16)
    };
    Violation {
        time_ns: host.now_ns(),
        vm: owner.map(|(vm, _)| vm),
        device: owner.map_or_else(stranger, |(_, device)| Some(device)),
        kind,
        address: event.iova.map(|iova| iova.0),
        action: Action::Reported,
        count: 1,
    }
}
