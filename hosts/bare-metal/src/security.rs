//! What guests and their devices tried beyond their plans, and what it leads to.
//!
//! Every CPU writes to a ring of its own; the hypervisor's CPU takes the records out, asks the VM's policy and acts.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm::events::{Action, Governor, Kind, Log, Ring, Violation};
use axvm::iommu::{DmaFault, Iommu};
use axvm::quarantine::{Outcome, Quarantine};
use axvm::report::EventReport;
use axvm::vm::keep_off_bus;
use axvm_addr::{DmaSource, VmId};
use axvm_plan::{DevicePlan, VmPlan};
use axvm_system::model::ViolationPolicy;
use axvm_system::wire::Channel;
use spin::Mutex;

use crate::hal::Hal;
use crate::host::Host;
use crate::log;
use crate::protection::{self, Protection};
use crate::vm::StopReason;
use crate::{console, cpus};

/// Records that a CPU's ring holds.
const RING: usize = 64;

/// The records and the judges.
pub struct Security {
    /// By CPU: each runs one VM's vCPU, so that no VM fills another's.
    rings: Vec<Ring<RING>>,
    log: Mutex<Log>,
    /// By VM.
    judges: Mutex<Vec<Judges>>,
    /// The devices that have lost the bus, or shall.
    quarantine: Mutex<Quarantine>,
    /// What was taken from the IOMMUs while one VM was taken apart, and is others'.
    left: Mutex<Blocked>,
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
}

/// What IOMMUs have blocked. As much as there are devices and kinds, however many records there were.
#[derive(Default)]
struct Blocked {
    violations: Vec<Violation>,
    /// Sources that nobody has.
    strangers: Vec<DmaSource>,
}

impl Blocked {
    fn add(&mut self, violation: Violation, source: Option<DmaSource>) {
        let key = |it: &Violation| (it.vm, it.device, it.kind);
        match self.violations.iter_mut().find(|it| key(it) == key(&violation)) {
            Some(known) => known.count = known.count.saturating_add(violation.count),
            None => self.violations.push(violation),
        }
        let stranger = source.filter(|_| violation.vm.is_none());
        self.strangers.extend(stranger.filter(|it| !self.strangers.contains(it)));
    }
}

impl Security {
    /// For so many CPUs, and for VMs with so many devices each.
    pub fn new(cpus: usize, devices: impl Iterator<Item = usize>) -> Self {
        let judges = |count| Judges {
            devices: core::iter::repeat_n(Governor::default(), count).collect(),
            ..Judges::default()
        };
        let judges: Vec<_> = devices.map(judges).collect();
        Self {
            rings: (0..cpus).map(|_| Ring::new()).collect(),
            log: Mutex::new(Log::new(judges.len())),
            judges: Mutex::new(judges),
            quarantine: Mutex::new(Quarantine::new()),
            left: Mutex::default(),
        }
    }

    /// Records a violation on the calling CPU.
    pub fn record(&self, violation: Violation) {
        let cpu = cpus::current().map_or(0, |cpu| usize::from(cpu.id.0));
        if let Some(ring) = self.rings.get(cpu) {
            ring.push(violation);
        }
    }

    /// Whether a device, by its position in its VM's plan, isn't to have the bus.
    pub fn is_quarantined(&self, vm: VmId, device: u16) -> bool {
        self.quarantine.lock().is_asked_for(vm, device)
    }

    /// A VM starts anew, its devices closed and reset: what it did before is no longer held against it, also if that is found only now.
    pub fn restart(&self, vm: VmId, now_ns: u64) {
        if let Some(judges) = self.judges.lock().get_mut(usize::from(vm.0)) {
            judges.cpus.restart();
            judges.devices.iter_mut().for_each(Governor::restart);
            judges.since_ns = now_ns;
            judges.stops = false;
        }
        self.quarantine.lock().restart(vm);
    }

    /// Whether a VM has done what its policy stops it for: then that is why it has ended, also if that was found while it was ending by
    /// itself.
    pub fn has_to_stop(&self, vm: VmId) -> bool {
        self.judges.lock().get(usize::from(vm.0)).is_some_and(|judges| judges.stops)
    }

    /// What follows from a violation; `None` where it is of an earlier life of the VM's, which nothing can be done about.
    fn judge(&self, violation: &Violation, policy: ViolationPolicy) -> Option<Action> {
        let mut judges = self.judges.lock();
        let Some(judges) = violation.vm.and_then(|vm| judges.get_mut(usize::from(vm.0))) else {
            return Some(Action::Reported);
        };
        if violation.time_ns < judges.since_ns {
            return None;
        }
        let governor = match violation.device {
            Some(device) => judges.devices.get_mut(usize::from(device)),
            None => Some(&mut judges.cpus),
        };
        let action = protection::judged(governor.map_or(Action::Reported, |it| {
            it.judge(policy, violation.kind, violation.time_ns, violation.count)
        }));
        judges.stops |= action == Action::VmStopped;
        Some(action)
    }
}

/// On the hypervisor's CPU: takes what the IOMMUs have blocked and what the CPUs have recorded, and acts on it. Whether something
/// is to be tried again soon.
pub fn attend(host: &'static Host) -> bool {
    enforce(host);
    take_iommu_events(host);
    take_records(host);
    host.security.quarantine.lock().is_waiting()
}

/// Takes what the CPUs have recorded, and acts on it. Of a VM whose CPUs have left it nothing is left then.
pub fn take_records(host: &'static Host) {
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

/// On the hypervisor's CPU: what the IOMMUs have blocked until now is recorded as that of whoever has the device now.
pub fn attend_all(host: &'static Host) {
    /// As many as an IOMMU keeps: what comes meanwhile isn't to keep it here.
    const ROUNDS: usize = 8;
    for _ in 0..ROUNDS {
        take_iommu_events(host);
    }
}

/// All records, for the report.
pub fn records(host: &'static Host) -> Vec<EventReport> {
    let records = host.security.log.lock().records();
    records.iter().map(|record| record.report(|vm, device| names(host, vm, device))).collect()
}

/// The VM's name and the device's.
fn names(host: &'static Host, vm: Option<VmId>, device: Option<u16>) -> (String, String) {
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
fn settle(host: &'static Host, mut violation: Violation) {
    if let Some(plan) = violation.vm.and_then(|vm| host.plan(vm))
        && let Some(action) = host.security.judge(&violation, plan.on_violation)
    {
        violation.action = action;
        match (violation.action, violation.device) {
            (Action::Quarantined | Action::Blocked, Some(device)) => {
                match quarantine(host, plan, device, Some(violation)) {
                    Some(left) => violation = left,
                    // It is recorded when it is true.
                    None => return,
                }
            }
            (Action::VmStopped, device) => {
                if let Some(vm) = host.vm(plan.id) {
                    vm.stop(StopReason::Violation);
                }
                if let Some(device) = device {
                    // Until the VM is taken apart the device would go on.
                    quarantine(host, plan, device, None);
                }
            }
            _ => {}
        }
    }
    keep(host, violation);
}

/// Keeps a record, and says it where it is the first of its kind: in a VM's share of the log those are as bounded as records are.
fn keep(host: &'static Host, violation: Violation) {
    let is_new = host.security.log.lock().push(violation);
    if is_new {
        announce(host, &violation);
    }
}

/// Says it on the console.
fn announce(host: &'static Host, violation: &Violation) {
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

/// Keeps a device from the bus until its VM is started anew: from now on, and recorded with `violation` once it is true. If that isn't
/// the first one, it comes back, to be recorded at once.
fn quarantine(
    host: &'static Host,
    plan: &VmPlan,
    position: u16,
    violation: Option<Violation>,
) -> Option<Violation> {
    let device = plan.devices.get(usize::from(position))?;
    // Behind a bridge to conventional PCI a stream is all functions': which of them it was, nobody can tell.
    let shares = |other: &DevicePlan| {
        other.name == device.name || other.sources.iter().any(|source| device.sources.contains(source))
    };
    let now = host.now_ns();
    let mut asked = host.security.quarantine.lock();
    let left = asked.ask(plan.id, position, now, violation);
    for (other, _) in (0..).zip(&plan.devices).filter(|(_, other)| shares(other)) {
        asked.ask(plan.id, other, now, None);
    }
    let left = left.map(|violation| match asked.is_confirmed(plan.id, position) {
        true => violation,
        false => Violation { action: Action::Reported, ..violation },
    });
    drop(asked);
    enforce(host);
    left
}

/// Tries what is due to be tried of taking devices off the bus.
fn enforce(host: &'static Host) {
    let asked = &host.security.quarantine;
    loop {
        let due = asked.lock().due(host.now_ns());
        let Some((id, position)) = due else { return };
        let vm = host.vm(id);
        // What it has now, which need not be all that the file names for it.
        let device = vm.as_deref().and_then(|vm| vm.plan().devices.get(usize::from(position)));
        let (Some(vm), Some(device)) = (&vm, device) else {
            // It is being taken apart, its devices closed.
            forget(host, id);
            continue;
        };
        // Without the lock: it may take as long as an IOMMU is waited for.
        let done = keep_off_bus(&Hal::new(host), id, device);
        if let Err(error) = &done {
            log::warn!("{}: it can't be taken off the bus: {error}", device.name);
        }
        let outcome = asked.lock().tried(id, position, host.now_ns(), done.is_ok());
        let recorded = match outcome {
            Outcome::Later => None,
            Outcome::Confirmed(violation) => violation,
            Outcome::StopVm(violation) => {
                log::error!("{}: its device {} can't be taken off the bus: it stops", vm.name(), device.name);
                vm.stop(StopReason::HostError);
                violation
            }
        };
        if let Some(violation) = recorded {
            keep(host, violation);
        }
    }
}

/// Keeps all devices of a VM from the bus.
pub fn quarantine_all(host: &'static Host, vm: VmId) {
    let Some(plan) = host.plan(vm) else { return };
    for position in (0..).take(plan.devices.len()) {
        let _ = quarantine(host, plan, position, None);
    }
}

/// The VM is taken apart: its devices are closed by that.
pub fn forget(host: &'static Host, vm: VmId) {
    let left = host.security.quarantine.lock().end(vm);
    for violation in left {
        keep(host, violation);
    }
}

/// A device that nobody has masters the bus: it reaches nothing, and leaves no more records. Whether that is confirmed.
fn silence_stranger(host: &'static Host, source: DmaSource) -> bool {
    let functions = host.platform.functions.iter().flatten();
    for function in functions.filter(|it| it.sources.contains(&source)) {
        if let Err(error) = axvm_pci::stop_mastering(&host.config, function.function.address) {
            log::warn!("{error}");
        }
    }
    match host.iommus.silence(source) {
        Ok(()) => true,
        Err(error) => {
            log::warn!(
                "{} {}: {:#x} can't be silenced: {error}",
                crate::arch::IOMMU,
                source.iommu,
                source.id.0
            );
            false
        }
    }
}

/// So many records in a row, then the consoles get their turn. A stray page makes a thousand.
const AT_ONCE: usize = 256;

/// Takes the records of what the IOMMUs have blocked.
fn take_iommu_events(host: &'static Host) {
    if protection::keeps_late(host) {
        return;
    }
    let left = core::mem::take(&mut *host.security.left.lock());
    settle_blocked(host, left);
    for iommu in host.iommus.ids() {
        let mut blocked = Blocked::default();
        let drained = host.iommus.drain(iommu, AT_ONCE, |fault| {
            blocked.add(violation(host, &fault), Some(fault.source));
        });
        settle_blocked(host, blocked);
        let health = host.iommus.take_health(iommu);
        if drained.lost || health.lost_faults {
            settle(host, lost(host));
        }
        if health.failed {
            log::error!(
                "{} {iommu}: it has failed and aborts everything until the machine is reset",
                crate::arch::IOMMU
            );
        }
        if drained.more {
            host.call_hypervisor_cpu();
        }
    }
}

/// Acts on what IOMMUs have blocked.
fn settle_blocked(host: &'static Host, Blocked { violations, strangers }: Blocked) {
    // Before they are recorded as such.
    let silence = |&&source: &&DmaSource| {
        protection::with(Protection::Quarantine, || silence_stranger(host, source)) == Some(true)
    };
    let silent = strangers.iter().filter(silence).count();
    for mut violation in violations {
        if violation.vm.is_none() && silent == strangers.len() {
            violation.action = Action::Blocked;
        }
        settle(host, violation);
    }
}

/// On a CPU of a VM that is being taken apart, or gives a device up: what the IOMMUs have recorded of the device is the VM's. Nothing more
/// is recorded of it: its streams are blocked, and silent. As much is taken as an IOMMU's queue holds, at most; what others have tried is
/// left to the hypervisor's CPU.
pub fn charge(host: &'static Host, vm: VmId, device: &DevicePlan) {
    let Some(plan) = host.plan(vm) else { return };
    let is_own = |violation: &Violation| {
        let of = violation.device.filter(|_| violation.vm == Some(vm));
        of.and_then(|position| plan.devices.get(usize::from(position))).is_some_and(|it| it.id == device.id)
    };
    let (own, rest) =
        core::mem::take(&mut host.security.left.lock().violations).into_iter().partition(is_own);
    let mut own = Blocked { violations: own, strangers: Vec::new() };
    host.security.left.lock().violations.extend::<Vec<_>>(rest);
    for iommu in host.iommus.ids().filter(|it| device.sources.iter().any(|source| source.iommu == *it)) {
        let mut left = host.security.left.lock();
        let drained = host.iommus.drain(iommu, usize::MAX, |fault| {
            let violation = violation(host, &fault);
            let blocked: &mut Blocked = if is_own(&violation) { &mut own } else { &mut left };
            blocked.add(violation, Some(fault.source));
        });
        if drained.lost {
            left.add(lost(host), None);
        }
    }
    host.call_hypervisor_cpu();
    for mut violation in own.violations {
        // What a policy would do to the device has been done, and more. What it would do to the VM is `Security::has_to_stop`'s.
        if let Some(action) = host.security.judge(&violation, plan.on_violation) {
            violation.action = action;
        }
        keep(host, violation);
    }
}

/// What says that an IOMMU had more to tell than room for it.
fn lost(host: &Host) -> Violation {
    Violation {
        time_ns: host.now_ns(),
        vm: None,
        device: None,
        kind: Kind::Lost,
        address: None,
        action: Action::Reported,
        count: 1,
    }
}

/// Whose it was, and what it was.
fn violation(host: &'static Host, fault: &DmaFault) -> Violation {
    let owner = host.claims.lock().owner_of(fault.source);
    let kind = match (owner, fault.write) {
        (None, _) => Kind::DmaUnassigned,
        (_, Some(true)) => Kind::DmaWrite,
        (_, Some(false)) => Kind::DmaRead,
        (_, None) => Kind::DmaOther,
    };
    let stranger = || {
        let functions = host.platform.functions.as_deref().unwrap_or_default();
        functions.iter().position(|it| it.sources.contains(&fault.source)).map(|it| it as u16)
    };
    Violation {
        time_ns: host.now_ns(),
        vm: owner.map(|(vm, _)| vm),
        device: owner.map_or_else(stranger, |(_, device)| Some(device)),
        kind,
        address: fault.address,
        action: Action::Reported,
        count: 1,
    }
}
