//! Changes while VMs run: whether a VM can start beside those that run, and whether a PCI function can be taken from a running VM or given to
//! one.
//!
//! Nothing new is planned then: all that can ever happen is in the [`Plan`](crate::Plan), where each VM has what the file names for it. What changes is who
//! has it now ([`Running`]). A VM that starts takes all that its plan has, and no VM that runs may have any of it. A running guest can be told
//! of a PCI function that comes or goes, and of nothing else; what can't be told apart, or is reset together, comes and goes together.
//! [`replan`] is pure: whoever carries a change out asks first, and keeps the answer's `running` once it is done.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;
use core::ops::Range;

use axvm_addr::{CpuId, DmaSource, Hpa, Irq, MsiSource, Span, VmId};
use axvm_pci::ResetMethod;
use serde::{Deserialize, Serialize};

use crate::config::VMInterruptMode;
use crate::findings::And;
use crate::model::{DeviceId, DevicePlan, VmPlan};

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
}

impl Running {
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

/// Something that one VM has at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Thing {
    /// A CPU.
    Cpu(CpuId),
    /// RAM.
    Ram(Span<Hpa>),
    /// A device.
    Device(DeviceId),
    /// Registers of a device.
    Registers(Span<Hpa>),
    /// An isolation group.
    Group(u32),
    /// An id of a DMA master.
    Source(DmaSource),
    /// An id of who sends MSIs.
    Sender(MsiSource),
    /// A wired interrupt.
    Line(Irq),
    /// Message interrupts of the host's choice.
    Messages(Range<u32>),
}

impl Thing {
    /// Whether two are the same, or have something of each other.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ram(a) | Self::Registers(a), Self::Ram(b) | Self::Registers(b)) => a.overlaps(b),
            (Self::Messages(a), Self::Messages(b)) => a.start.max(b.start) < a.end.min(b.end),
            (a, b) => a == b,
        }
    }
}

impl Thing {
    /// Whether it is what users name: the rest comes with that.
    fn is_named(&self) -> bool {
        matches!(self, Self::Cpu(_) | Self::Ram(_) | Self::Device(_))
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(f, "CPU {cpu}"),
            Self::Ram(span) => write!(f, "RAM {span}"),
            Self::Device(DeviceId::Function(address)) => write!(f, "{address}"),
            Self::Device(DeviceId::Node(path)) => f.write_str(path),
            Self::Device(DeviceId::Registers(span)) | Self::Registers(span) => {
                write!(f, "the registers {span}")
            }
            Self::Group(group) => write!(f, "a device of isolation group {group}"),
            Self::Source(source) => {
                write!(f, "a device with DMA id {:#x} of IOMMU {}", source.id.0, source.iommu)
            }
            Self::Sender(sender) => write!(f, "a device with MSI id {:#x}", sender.id.0),
            Self::Line(line) => write!(f, "interrupt {line}"),
            Self::Messages(_) => f.write_str("the message interrupts kept for it"),
        }
    }
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A VM starts.
    Start(VmId),
    /// A running VM is given a function that its plan has and that it doesn't have now.
    Assign {
        /// The VM.
        vm: VmId,
        /// The function.
        device: DeviceId,
    },
    /// A running VM gives a function up.
    Release {
        /// The VM.
        vm: VmId,
        /// The function.
        device: DeviceId,
    },
}

/// A change that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replanned {
    /// Who has what once it is made.
    pub running: Running,
    /// The devices that change hands with it, by their positions in [`VmPlan::devices`].
    pub moved: Vec<u16>,
}

/// Why a change can't be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such VM.
    NoSuchVm(VmId),
    /// The VM runs already.
    Runs(VmId),
    /// The VM doesn't run: it is given its devices when it starts.
    Stopped(VmId),
    /// The file doesn't name the device for the VM.
    NotPlanned(VmId, DeviceId),
    /// The VM has it already.
    HasIt(VmId, DeviceId),
    /// The VM doesn't have it.
    HasItNot(VmId, DeviceId),
    /// Its guest can't be told that this comes or goes: it is no PCI function.
    NotTold(DeviceId),
    /// A VM that runs has this of what is needed.
    Held(VmId, Vec<Thing>),
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
            Self::Stopped(vm) => format!("{} doesn't run: it is given its devices when it starts", name(vm)),
            Self::NotPlanned(vm, id) => {
                format!("the file doesn't name {} for {}: name it there", device(id), name(vm))
            }
            Self::HasIt(vm, id) => format!("{} has {} already", name(vm), device(id)),
            Self::HasItNot(vm, id) => format!("{} doesn't have {}", name(vm), device(id)),
            Self::NotTold(id) => {
                format!(
                    "{} is no PCI function: a running guest can't be told that it comes or goes",
                    device(id)
                )
            }
            Self::Held(vm, things) => {
                let things: Vec<String> = things.iter().map(Thing::to_string).collect();
                format!("{} has {}", name(vm), And(&things))
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
    let moved = match change {
        Change::Start(vm) => start(vms, running, *vm)?,
        Change::Assign { vm, device } => assign(vms, running, *vm, device)?,
        Change::Release { vm, device } => release(vms, running, *vm, device)?,
    };
    match change {
        Change::Start(vm) => {
            after.holders.push(Holder { vm: *vm, devices: moved.clone() });
            after.holders.sort_unstable_by_key(|holder| holder.vm);
        }
        Change::Assign { vm, .. } => {
            if let Some(holder) = after.holders.iter_mut().find(|holder| holder.vm == *vm) {
                holder.devices.extend(&moved);
                holder.devices.sort_unstable();
            }
        }
        Change::Release { vm, .. } => {
            if let Some(holder) = after.holders.iter_mut().find(|holder| holder.vm == *vm) {
                holder.devices.retain(|position| !moved.contains(position));
            }
        }
    }
    Ok(Replanned { running: after, moved })
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

fn start(vms: &[impl Borrow<VmPlan>], running: &Running, vm: VmId) -> Result<Vec<u16>, Refusal> {
    let planned = find(vms, vm)?;
    if running.holder(vm).is_some() {
        return Err(Refusal::Runs(vm));
    }
    let devices = all_devices(planned);
    let mut wanted = things_of_vm(planned);
    wanted.extend(things_of_devices(planned, &devices));
    is_free(vms, running, vm, &wanted)?;
    Ok(devices)
}

fn assign(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    vm: VmId,
    device: &DeviceId,
) -> Result<Vec<u16>, Refusal> {
    let planned = find(vms, vm)?;
    let holder = running.holder(vm).ok_or(Refusal::Stopped(vm))?;
    let position = position(planned, device)?;
    if holder.devices.contains(&position) {
        return Err(Refusal::HasIt(vm, device.clone()));
    }
    let mut moved = together(planned, position);
    moved.retain(|position| !holder.devices.contains(position));
    tell(planned, &moved)?;
    is_free(vms, running, vm, &things_of_devices(planned, &moved))?;
    Ok(moved)
}

fn release(
    vms: &[impl Borrow<VmPlan>],
    running: &Running,
    vm: VmId,
    device: &DeviceId,
) -> Result<Vec<u16>, Refusal> {
    let planned = find(vms, vm)?;
    let holder = running.holder(vm).ok_or(Refusal::Stopped(vm))?;
    let position = position(planned, device)?;
    if !holder.devices.contains(&position) {
        return Err(Refusal::HasItNot(vm, device.clone()));
    }
    let mut moved = together(planned, position);
    moved.retain(|position| holder.devices.contains(position));
    tell(planned, &moved)?;
    Ok(moved)
}

fn position(vm: &VmPlan, device: &DeviceId) -> Result<u16, Refusal> {
    let mut devices = (0..).zip(&vm.devices);
    let found = devices.find(|(_, planned)| planned.id == *device);
    found.map(|(position, _)| position).ok_or_else(|| Refusal::NotPlanned(vm.id, device.clone()))
}

/// Whether a running guest can be told that these come or go.
fn tell(vm: &VmPlan, moved: &[u16]) -> Result<(), Refusal> {
    let mut devices = moved.iter().filter_map(|&position| vm.devices.get(usize::from(position)));
    match devices.find(|device| device.pci.is_none()) {
        Some(device) => Err(Refusal::NotTold(device.id.clone())),
        None => Ok(()),
    }
}

/// A device with all of its VM's that come and go with it: what can't be told apart, and what is reset together.
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
    found.sort_unstable();
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

/// What a VM has whatever devices it has.
pub fn things_of_vm(vm: &VmPlan) -> Vec<Thing> {
    let mut things: Vec<Thing> = vm.cpus.iter().map(|vcpu| Thing::Cpu(vcpu.cpu)).collect();
    let ram = vm.ram.iter().filter_map(|piece| Span::new(piece.hpa, piece.gpa.size()).ok());
    things.extend(ram.map(Thing::Ram));
    if !vm.messages.is_empty() {
        things.push(Thing::Messages(vm.messages.clone()));
    }
    // In passthrough mode the console's line is one of the machine's.
    let physical = vm.console.filter(|_| vm.mode == VMInterruptMode::Passthrough);
    things.extend(physical.map(|console| Thing::Line(console.irq)));
    things
}

/// What a VM has with these of its devices, by their positions.
pub fn things_of_devices(vm: &VmPlan, devices: &[u16]) -> Vec<Thing> {
    let mut things = Vec::new();
    for (position, device) in held(vm, devices) {
        things.push(Thing::Device(device.id.clone()));
        things.extend(device.group.map(Thing::Group));
        things.extend(device.sources.iter().copied().map(Thing::Source));
        things.extend(device.msi.map(|msi| Thing::Sender(msi.source)));
        for block in vm.registers.iter().filter(|block| block.device == position) {
            let span = Span::new(block.hpa, block.gpa.size()).unwrap_or_default();
            things.push(Thing::Registers(if block.direct { span.to_pages() } else { span }));
        }
    }
    let lines =
        vm.lines.iter().filter(|route| holder_of_line(vm, devices, route.irq, route.device).is_some());
    things.extend(lines.map(|route| Thing::Line(route.irq)));
    things
}

/// These devices of a VM, with their positions.
fn held<'a>(vm: &'a VmPlan, devices: &'a [u16]) -> impl Iterator<Item = (u16, &'a DevicePlan)> {
    (0..).zip(&vm.devices).filter(|(position, _)| devices.contains(position))
}

/// Which of these devices of a VM has a line; `None`, if none of them has. Of PCI functions the description says which have it; of others
/// it isn't known of each, so that a VM with any has all lines.
fn holder_of_line(vm: &VmPlan, devices: &[u16], irq: Irq, first: u16) -> Option<u16> {
    if devices.contains(&first) {
        return Some(first);
    }
    let pins = || vm.description.pci.iter().flat_map(|bridge| &bridge.lines);
    let has = |device: &DevicePlan| {
        device.pci.is_none() || pins().any(|pin| Some(pin.function) == device.shown && pin.line.irq == irq)
    };
    held(vm, devices).find(|(_, device)| has(device)).map(|(position, _)| position)
}

/// A VM's plan with these of its devices only, and with positions that fit.
fn with_devices(vm: &VmPlan, devices: &[u16]) -> VmPlan {
    let mut plan = vm.clone();
    let now = |old: u16| {
        let position = held(vm, devices).position(|(position, _)| position == old)?;
        u16::try_from(position).ok()
    };
    plan.devices = held(vm, devices).map(|(_, device)| device.clone()).collect();
    let registers = vm.registers.iter();
    plan.registers = registers
        .filter_map(|block| Some(crate::RegisterPlan { device: now(block.device)?, ..*block }))
        .collect();
    let lines = vm.lines.iter();
    plan.lines = lines
        .filter_map(|route| {
            let device = now(holder_of_line(vm, devices, route.irq, route.device)?)?;
            Some(crate::LineRoute { device, ..*route })
        })
        .collect();
    for bridge in &mut plan.pci {
        bridge.functions = bridge.functions.iter().filter_map(|&function| now(function)).collect();
    }
    if plan.devices.iter().all(|device| device.msi.is_none()) {
        plan.doorbells.clear();
    }
    plan
}
