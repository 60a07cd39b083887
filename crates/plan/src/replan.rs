//! Changes while VMs run: whether a VM can start beside those that run, and which VM has a device that several name.
//!
//! Nothing new is planned then: all that can ever happen is in the [`Plan`](crate::Plan), where each VM has what the file names for it. What
//! changes is who has it now ([`Running`]). A VM that starts takes all that its plan has, but for devices that were assigned to another or
//! released, and no VM that runs may have any of it. What can't be told apart, or is reset together, comes and goes together.
//!
//! A guest that runs can't be told of a device that comes or goes: the PCI bridge that it sees has no hot-plug. So a device changes hands
//! between VMs that don't run.
//!
//! [`replan`] is pure: whoever carries a change out asks first, and keeps the answer's `running`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::borrow::Borrow;

use axvm_addr::{PciAddress, VmId};
use axvm_pci::ResetMethod;
use serde::{Deserialize, Serialize};

use crate::findings::And;
use crate::machine;
use crate::model::{DeviceId, DevicePlan, Presence, VmPlan};
use crate::things::{Thing, held, holder_of_line, things_of_devices, things_of_vm};

/// A VM that has what its plan names, from before it is built until all of it has been given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The VM.
    pub vm: VmId,
    /// Those of its devices that it has now, by their positions in [`VmPlan::devices`], in order.
    pub devices: Vec<u16>,
}

/// Who has what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The VMs that run.
    pub holders: Vec<Holder>,
    /// What nobody has and nobody may be given.
    pub withheld: Vec<Withheld>,
    /// The devices of which somebody has said whose they are. Of others a VM that starts has all that the file names for it.
    pub assigned: Vec<Assignment>,
}

/// Whose a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The device.
    pub device: DeviceId,
    /// The VM that has it whenever it runs; `None`: no VM.
    pub vm: Option<VmId>,
}

impl Running {
    /// Whose a device is, if somebody has said that.
    pub fn assignment(&self, device: &DeviceId) -> Option<&Assignment> {
        self.assigned.iter().find(|assignment| assignment.device == *device)
    }

    /// What a VM has, if it has anything.
    pub fn holder(&self, vm: VmId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.vm == vm)
    }
}

/// What a VM had and didn't give back: a CPU that is lost, RAM that a device may reach still, a device whose reset has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// The VM.
    pub vm: VmId,
    /// What it was.
    pub thing: Thing,
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A VM starts.
    Start(VmId),
    /// A device is a VM's whenever that runs, and no other's.
    Assign {
        /// The VM.
        vm: VmId,
        /// The device.
        device: DeviceId,
    },
    /// A device is no VM's any more, until it is assigned to one.
    Release {
        /// The device.
        device: DeviceId,
    },
}

/// A change that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replanned {
    /// Who has what once it is made.
    pub running: Running,
    /// The devices that it is about: those of a VM that starts; one that is assigned or released, and those that go with it.
    pub devices: Vec<DeviceId>,
}

/// Why a change can't be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such VM.
    NoSuchVm(VmId),
    /// The VM runs already.
    Runs(VmId),
    /// The file doesn't name the device for the VM.
    NotPlanned(VmId, DeviceId),
    /// The file names no such device.
    NotNamed(DeviceId),
    /// The device comes with another that the file doesn't name for the VM.
    PartPlanned {
        /// The VM.
        vm: VmId,
        /// The device.
        device: DeviceId,
        /// What comes with it.
        with: DeviceId,
    },
    /// It is assigned to the VM already.
    HasIt(VmId, DeviceId),
    /// It is nobody's already.
    Nobodys(DeviceId),
    /// The VM runs, and its guest can't be told that this comes or goes.
    NotTold(VmId, DeviceId),
    /// The VM brings a device tree of its own, which says that it has this.
    OwnTree(VmId, DeviceId),
    /// What the guest is told can't be written.
    NotDescribed(VmId),
    /// A VM that runs has this of what is needed.
    Held(VmId, Vec<Thing>),
    /// A VM that runs was planned never to run together with this one, as both name this; whoever has it now.
    Apart(VmId, Thing),
    /// Something of what is needed is withheld from everybody.
    Withheld(Withheld),
}

impl Refusal {
    /// It in a line: why not, and who has what.
    pub fn say(&self, vms: &[impl Borrow<VmPlan>]) -> String {
        let name = |id: &VmId| match find(vms, *id) {
            Ok(vm) => format!("vm \"{}\"", vm.name),
            Err(_) => format!("VM {id}"),
        };
        let device = |id: &DeviceId| Thing::Device(id.clone()).to_string();
        match self {
            Self::NoSuchVm(vm) => format!("there is no VM {vm}"),
            Self::Runs(vm) => format!("{} runs already", name(vm)),
            Self::NotPlanned(vm, id) => {
                format!("the file doesn't name {} for {}: name it there", device(id), name(vm))
            }
            Self::NotNamed(id) => format!("the file names {} for no VM", device(id)),
            Self::PartPlanned { vm, device: id, with } => format!(
                "{} comes only together with {}, which the file doesn't name for {}",
                device(id),
                device(with),
                name(vm)
            ),
            Self::HasIt(vm, id) => format!("{} is assigned to {} already", device(id), name(vm)),
            Self::Nobodys(id) => format!("{} is nobody's already", device(id)),
            Self::NotTold(vm, id) => {
                let why = match id {
                    DeviceId::Function(_) => "its PCI bridge has no hot-plug",
                    DeviceId::Node(_) | DeviceId::Registers(_) | DeviceId::Ports(_) => {
                        "it is no PCI function"
                    }
                };
                let id = device(id);
                format!(
                    "{} runs, and its guest can't be told that {id} comes or goes: {why}; stop it first",
                    name(vm)
                )
            }
            Self::OwnTree(vm, id) => {
                format!("{} brings a device tree of its own, which says that it has {}", name(vm), device(id))
            }
            Self::NotDescribed(vm) => format!("what {} is told of its machine can't be written", name(vm)),
            Self::Held(vm, things) => {
                let things: Vec<String> = things.iter().map(Thing::to_string).collect();
                format!("{} has {}", name(vm), And(&things))
            }
            Self::Apart(vm, thing) => {
                format!(
                    "{} runs, and the two can't run together, as the file names {thing} for both",
                    name(vm)
                )
            }
            Self::Withheld(Withheld { vm, thing }) => {
                format!("{} hasn't given back {thing}: nobody gets it until the machine is reset", name(vm))
            }
        }
    }
}

/// Whether a change can be made, and what holds then.
///
/// # Errors
///
/// [`Refusal`]; nothing has changed.
pub fn replan(vms: &[impl Borrow<VmPlan>], running: &Running, change: &Change) -> Result<Replanned, Refusal> {
    let mut after = running.clone();
    let (devices, vm) = match change {
        Change::Start(vm) => {
            let positions = start(vms, running, *vm)?;
            let devices = held(find(vms, *vm)?, &positions).map(|(_, device)| device.id.clone()).collect();
            let place = after.holders.partition_point(|holder| holder.vm < *vm);
            after.holders.insert(place, Holder { vm: *vm, devices: positions });
            return Ok(Replanned { running: after, devices });
        }
        Change::Assign { vm, device } => (assign(vms, running, *vm, device)?, Some(*vm)),
        Change::Release { device } => (release(vms, running, device)?, None),
    };
    after.assigned.retain(|assignment| !devices.contains(&assignment.device));
    after.assigned.extend(devices.iter().map(|device| Assignment { device: device.clone(), vm }));
    Ok(Replanned { running: after, devices })
}

/// The plan of a VM that has only these of its devices, by their positions, which stay: its guest is told of no others.
///
/// # Errors
///
/// [`Refusal::NotDescribed`].
pub fn plan_with(vm: &VmPlan, devices: &[u16]) -> Result<VmPlan, Refusal> {
    let mut plan = with_devices(vm, devices);
    let shown = |function: &PciAddress| plan.devices.iter().any(|device| device.shown == Some(*function));
    for bridge in &mut plan.description.pci {
        bridge.lines.retain(|pin| shown(&pin.function));
        bridge.msi.retain(|sender| {
            plan.devices.iter().any(|it| it.shown.is_some_and(|it| it.requester_id() == sender.requester))
        });
    }
    let nodes = plan.devices.iter().filter(|device| matches!(device.id, DeviceId::Node(_)));
    let mut is_here = nodes.map(|device| device.presence == Presence::Here);
    plan.description.devices.retain(|_| is_here.next() != Some(false));
    if !plan.blobs.is_empty() {
        plan.blobs = machine::write(&plan).map_err(|_| Refusal::NotDescribed(vm.id))?;
    }
    Ok(plan)
}

/// What holds now: the VMs that run, each with what it has. What its guest was told at its start stays.
pub fn in_force(vms: &[impl Borrow<VmPlan>], running: &Running) -> Vec<VmPlan> {
    let holders = running.holders.iter();
    holders.filter_map(|holder| Some(with_devices(find(vms, holder.vm).ok()?, &holder.devices))).collect()
}

/// Whether nothing that a VM is planned to have is planned for another, so that whoever runs, it can run too.
pub fn stands_alone(vms: &[impl Borrow<VmPlan>], vm: VmId) -> bool {
    let everybody = vms.iter().map(Borrow::borrow).filter(|other: &&VmPlan| other.id != vm);
    let holders = everybody.map(|other| Holder { vm: other.id, devices: all_devices(other) }).collect();
    let running = Running { holders, ..Running::default() };
    start(vms, &running, vm).is_ok()
}

fn find(vms: &[impl Borrow<VmPlan>], vm: VmId) -> Result<&VmPlan, Refusal> {
    vms.iter().map(Borrow::borrow).find(|planned| planned.id == vm).ok_or(Refusal::NoSuchVm(vm))
}

fn all_devices(vm: &VmPlan) -> Vec<u16> {
    (0..).zip(&vm.devices).map(|(position, _)| position).collect()
}

/// The devices that a VM has when it starts: those of which nobody has said that they are another's, or nobody's.
fn own_devices(vm: &VmPlan, running: &Running) -> Vec<u16> {
    let is_own = |device: &DevicePlan| match running.assignment(&device.id) {
        Some(assignment) => assignment.vm == Some(vm.id),
        None => true,
    };
    (0..).zip(&vm.devices).filter(|(_, device)| is_own(device)).map(|(position, _)| position).collect()
}

fn start(vms: &[impl Borrow<VmPlan>], running: &Running, vm: VmId) -> Result<Vec<u16>, Refusal> {
    let planned = find(vms, vm)?;
    if running.holder(vm).is_some() {
        return Err(Refusal::Runs(vm));
    }
    let devices = own_devices(planned, running);
    let mut wanted = things_of_vm(planned);
    wanted.extend(things_of_devices(planned, &devices));
    is_free(vms, running, vm, &wanted)?;
    // They were planned as VMs of which one runs at a time: their modes, their RAM, their share of what there is one store of.
    let lasting = lasting(planned);
    for other in running.holders.iter().filter(|other| other.vm != vm) {
        let theirs = self::lasting(find(vms, other.vm)?);
        if let Some(thing) = lasting.iter().find(|thing| theirs.iter().any(|theirs| theirs.meets(thing))) {
            return Err(Refusal::Apart(other.vm, thing.clone()));
        }
    }
    Ok(devices)
}

/// What keeps two VMs that both name it from ever running together, whoever has it: what can't change hands while they run.
fn lasting(vm: &VmPlan) -> Vec<Thing> {
    let devices = (0..).zip(&vm.devices).filter(|(_, device)| !matches!(device.id, DeviceId::Function(_)));
    let mut things = things_of_devices(vm, &devices.map(|(position, _)| position).collect::<Vec<_>>());
    things.retain(|thing| matches!(thing, Thing::Device(_) | Thing::Registers(_) | Thing::Ports(_)));
    things
}

fn assign(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    vm: VmId,
    device: &DeviceId,
) -> Result<Vec<DeviceId>, Refusal> {
    let planned = find(vms, vm)?;
    position(planned, device)?;
    let moved = with_it(vms, device);
    let mut positions = Vec::new();
    for with in &moved {
        let part = |_| Refusal::PartPlanned { vm, device: device.clone(), with: with.clone() };
        positions.push(position(planned, with).map_err(part)?);
    }
    let is_for_it = |device| running.assignment(device).is_some_and(|it| it.vm == Some(vm));
    if moved.iter().all(is_for_it) {
        return Err(Refusal::HasIt(vm, device.clone()));
    }
    match running.holder(vm) {
        Some(holder) if positions.iter().all(|position| holder.devices.contains(position)) => {}
        Some(_) => return Err(Refusal::NotTold(vm, device.clone())),
        None => is_with_nobody(vms, running, &moved, Refusal::Held)?,
    }
    let things = things_of_devices(planned, &positions);
    let is_one = |withheld: &&Withheld| things.iter().any(|thing| thing.meets(&withheld.thing));
    if let Some(withheld) = running.withheld.iter().find(is_one) {
        return Err(Refusal::Withheld(withheld.clone()));
    }
    can_do_without(vms, Some(vm), &moved)?;
    Ok(moved)
}

fn release(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    device: &DeviceId,
) -> Result<Vec<DeviceId>, Refusal> {
    if !vms.iter().any(|vm| position(vm.borrow(), device).is_ok()) {
        return Err(Refusal::NotNamed(device.clone()));
    }
    let moved = with_it(vms, device);
    is_with_nobody(vms, running, &moved, |vm, _| Refusal::NotTold(vm, device.clone()))?;
    if moved.iter().all(|device| running.assignment(device).is_some_and(|it| it.vm.is_none())) {
        return Err(Refusal::Nobodys(device.clone()));
    }
    can_do_without(vms, None, &moved)?;
    Ok(moved)
}

/// Whether no VM that runs has any of these devices.
fn is_with_nobody(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    devices: &[DeviceId],
    refusal: impl Fn(VmId, Vec<Thing>) -> Refusal,
) -> Result<(), Refusal> {
    for holder in &running.holders {
        let theirs = held(find(vms, holder.vm)?, &holder.devices).filter(|(_, it)| devices.contains(&it.id));
        let things: Vec<Thing> = theirs.map(|(_, device)| Thing::Device(device.id.clone())).collect();
        if !things.is_empty() {
            return Err(refusal(holder.vm, things));
        }
    }
    Ok(())
}

/// Whether all VMs but this one can start without these devices. A function that isn't there isn't found; another device is looked for where
/// a guest's own tree says.
fn can_do_without(
    vms: &[impl Borrow<VmPlan>],
    owner: Option<VmId>,
    devices: &[DeviceId],
) -> Result<(), Refusal> {
    let others = vms.iter().map(Borrow::borrow).filter(|vm: &&VmPlan| Some(vm.id) != owner);
    for vm in others.filter(|vm| vm.blobs.is_empty()) {
        let is_one = |device: &&DevicePlan| device.pci.is_none() && devices.contains(&device.id);
        if let Some(device) = vm.devices.iter().find(is_one) {
            return Err(Refusal::OwnTree(vm.id, device.id.clone()));
        }
    }
    Ok(())
}

/// A device with all that come and go with it, in whichever VM's plan; the device is the first.
fn with_it(vms: &[impl Borrow<VmPlan>], device: &DeviceId) -> Vec<DeviceId> {
    let mut found = alloc::vec![device.clone()];
    let mut at = 0;
    while let Some(one) = found.get(at).cloned() {
        for vm in vms.iter().map(Borrow::borrow) {
            let Ok(position) = position(vm, &one) else { continue };
            for (_, other) in held(vm, &together(vm, position)) {
                if !found.contains(&other.id) {
                    found.push(other.id.clone());
                }
            }
        }
        at += 1;
    }
    found
}

fn position(vm: &VmPlan, device: &DeviceId) -> Result<u16, Refusal> {
    let mut devices = (0..).zip(&vm.devices);
    let found = devices.find(|(_, planned)| planned.id == *device);
    found.map(|(position, _)| position).ok_or_else(|| Refusal::NotPlanned(vm.id, device.clone()))
}

/// A device with all of its VM's that come and go with it, in any order: what can't be told apart, and what is reset together.
fn together(vm: &VmPlan, device: u16) -> Vec<u16> {
    let mut found = alloc::vec![device];
    let mut at = 0;
    while let Some(one) = found.get(at).and_then(|&position| vm.devices.get(usize::from(position))) {
        let bound = (0..).zip(&vm.devices).filter(|(_, other)| is_bound(one, other) || is_bound(other, one));
        let new: Vec<u16> =
            bound.map(|(position, _)| position).filter(|position| !found.contains(position)).collect();
        found.extend(new);
        at += 1;
    }
    found
}

fn is_bound(one: &DevicePlan, other: &DevicePlan) -> bool {
    let by_bus = one.reset == Some(ResetMethod::SecondaryBus)
        && one.pci.zip(other.pci).is_some_and(|(a, b)| (a.segment, a.bus) == (b.segment, b.bus));
    by_bus
        || one.group.is_some() && one.group == other.group
        || one.sources.iter().any(|source| other.sources.contains(source))
        || one.msi.zip(other.msi).is_some_and(|(a, b)| a.source == b.source)
}

/// Whether nobody else has any of these.
fn is_free(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    vm: VmId,
    wanted: &[Thing],
) -> Result<(), Refusal> {
    let is_wanted = |thing: &Thing| wanted.iter().any(|wanted| wanted.meets(thing));
    if let Some(withheld) = running.withheld.iter().find(|withheld| is_wanted(&withheld.thing)) {
        return Err(Refusal::Withheld(withheld.clone()));
    }
    for other in running.holders.iter().filter(|other| other.vm != vm) {
        let Ok(planned) = find(vms, other.vm) else { continue };
        let mut theirs = things_of_vm(planned);
        theirs.extend(things_of_devices(planned, &other.devices));
        theirs.retain(is_wanted);
        // What goes with the rest isn't what anybody would name.
        if theirs.iter().any(Thing::is_named) {
            theirs.retain(Thing::is_named);
        }
        if !theirs.is_empty() {
            return Err(Refusal::Held(other.vm, theirs));
        }
    }
    Ok(())
}

/// A VM's plan with these of its devices only. The others keep their places, with nothing that would reach them.
fn with_devices(vm: &VmPlan, devices: &[u16]) -> VmPlan {
    let mut plan = vm.clone();
    for (position, device) in (0..).zip(&mut plan.devices) {
        if !devices.contains(&position) {
            device.leave();
        }
    }
    plan.registers.retain(|block| devices.contains(&block.device));
    plan.ports.retain(|block| devices.contains(&block.device));
    let lines = vm.lines.iter();
    plan.lines = lines
        .filter_map(|route| {
            let device = holder_of_line(vm, devices, route.irq, route.device)?;
            Some(crate::LineRoute { device, ..*route })
        })
        .collect();
    for bridge in &mut plan.pci {
        bridge.functions.retain(|function| devices.contains(function));
    }
    if plan.devices.iter().all(|device| device.msi.is_none()) {
        plan.doorbells.clear();
    }
    plan
}
