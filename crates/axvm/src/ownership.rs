//! Who owns a device: the host, nobody, a VM.
//!
//! The owner is in the type. Moving the value is the hand-over: a transition takes the device and gives it back in its new
//! state, or as it was together with the reason why not. Nothing happens to hardware when a value is dropped.
//!
//! ```text
//! Device<Host> ── unbind, close, reset ──► Device<Quarantined> ── attach ──► Device<Assigned>
//!      ▲                                      │         ▲                          │
//!      └─────────────── release ──────────────┘         └── close, detach, reset ──┘
//! ```

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use axvm_addr::VmId;
use litemap::LiteMap;

use axvm_plan::{DeviceId, DevicePlan};

#[cfg(test)]
mod tests;

/// The hardware's side of a hand-over.
pub trait DeviceOps {
    /// Why something couldn't be done.
    type Error: fmt::Debug + fmt::Display;

    /// Takes the device from the host's own driver, if it has one.
    ///
    /// # Errors
    ///
    /// The driver can't let go.
    fn unbind(&self, device: &DevicePlan) -> Result<(), Self::Error>;

    /// Closes the device: bus mastering off, its interrupts masked, each confirmed. (Its sources are blocked by the core, at
    /// [`crate::AxVMHal::iommu`].) Whatever of that can be done is done, also on failure. Doing it again does no harm, and is what
    /// happens after a failure.
    ///
    /// # Errors
    ///
    /// Something of it couldn't be confirmed.
    fn close(&self, device: &DevicePlan) -> Result<(), Self::Error>;

    /// Charges to a VM what the IOMMUs have recorded of its device. It is called when the device changes hands and its closing has been
    /// tried: of a device that was closed nothing more is recorded after that, and nobody else has had it since. So when this returns no
    /// record of the VM's time is left that could be held against who has the device, or the VM's place, next. Takes as long as what is
    /// recorded at that moment, whatever other devices do meanwhile.
    fn charge(&self, vm: VmId, device: &DevicePlan);

    /// Waits a moment, before a closing that couldn't be confirmed is tried again.
    fn pause(&self) {}

    /// Resets the device as its plan says; nothing where it says no way.
    ///
    /// # Errors
    ///
    /// It doesn't come back in time.
    fn reset(&self, device: &DevicePlan) -> Result<(), Self::Error>;

    /// Keeps the device from the bus while its VM goes on: bus mastering off, confirmed, and nothing else changed. Its sources are blocked
    /// already (`axvm::vm::keep_off_bus`). Doing it again does no harm.
    ///
    /// # Errors
    ///
    /// Something of it couldn't be confirmed (yet).
    fn keep_off_bus(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error>;

    /// Puts a closed device's MSIs behind the VM's interrupt controller; its sources are behind the VM's DMA map already. Bus mastering
    /// stays off. On failure it is closed again.
    ///
    /// # Errors
    ///
    /// The interrupt controller can't.
    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error>;

    /// Takes a closed device's MSIs from the VM and forgets its DMA map. The streams stay blocked.
    ///
    /// # Errors
    ///
    /// Something of it couldn't be confirmed.
    fn detach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Self::Error>;
}

/// The host's.
#[derive(Debug)]
pub struct Host(());

/// Nobody's: it can't master the bus or interrupt, and holds nothing of its last owner.
#[derive(Debug)]
pub struct Quarantined(());

/// A VM's.
#[derive(Debug)]
pub struct Assigned {
    vm: VmId,
}

/// A device, with its owner in its type.
#[derive(Debug)]
pub struct Device<S> {
    plan: Arc<DevicePlan>,
    state: S,
}

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Taking it from the host's driver.
    Unbind,
    /// Closing it.
    Close,
    /// Resetting it.
    Reset,
    /// Attaching it to its VM.
    Attach,
    /// Detaching it from its VM.
    Detach,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unbind => "taking it from its driver",
            Self::Close => "taking it off the bus",
            Self::Reset => "resetting it",
            Self::Attach => "attaching it",
            Self::Detach => "detaching it",
        })
    }
}

/// How often a device is closed before it counts as one that can't be.
const CLOSE_TRIES: usize = 3;

/// Closes a device, and tries again if that can't be confirmed.
fn close<O: DeviceOps>(ops: &O, device: &DevicePlan) -> Result<(), O::Error> {
    for _ in 1..CLOSE_TRIES {
        if ops.close(device).is_ok() {
            return Ok(());
        }
        ops.pause();
    }
    ops.close(device)
}

/// Closes a device that a VM has had; what it tried until then is the VM's, also if it couldn't be closed.
fn close_and_charge<O: DeviceOps>(ops: &O, vm: VmId, device: &DevicePlan) -> Result<(), O::Error> {
    let closed = close(ops, device);
    ops.charge(vm, device);
    closed
}

/// A step's work.
type Action<'a, E> = dyn Fn(&DevicePlan) -> Result<(), E> + 'a;

/// A transition that failed: the device as it was.
#[derive(Debug)]
pub struct Refused<D, E> {
    /// The device.
    pub device: D,
    /// What was being done.
    pub step: Step,
    /// Why it failed.
    pub error: E,
}

/// The permission to let a device master the bus, which only an attachment gives.
#[derive(Clone, Copy, Debug)]
pub struct MayMaster<'a> {
    vm: VmId,
    device: PhantomData<&'a Device<Assigned>>,
}

impl MayMaster<'_> {
    /// The VM whose memory it then reaches.
    pub fn vm(&self) -> VmId {
        self.vm
    }
}

impl<S> Device<S> {
    /// What the plan says of it.
    pub fn plan(&self) -> &DevicePlan {
        &self.plan
    }

    /// Does the steps in order; the first failure gives the device back.
    fn steps<O: DeviceOps>(
        self,
        steps: &[(Step, &Action<'_, O::Error>)],
    ) -> Result<Self, Refused<Self, O::Error>> {
        for (step, action) in steps {
            if let Err(error) = action(&self.plan) {
                return Err(Refused { device: self, step: *step, error });
            }
        }
        Ok(self)
    }

    fn now<T>(self, state: T) -> Device<T> {
        Device { plan: self.plan, state }
    }

    /// The same device, as another plan has it.
    fn planned(self, plan: &DevicePlan) -> Self {
        if *self.plan == *plan { self } else { Self { plan: Arc::new(plan.clone()), ..self } }
    }
}

impl Device<Host> {
    /// Takes it from the host: unbound, closed, reset.
    ///
    /// # Errors
    ///
    /// The device, the step and the reason.
    pub fn quarantine<O: DeviceOps>(self, ops: &O) -> Result<Device<Quarantined>, Refused<Self, O::Error>> {
        let device = self.steps::<O>(&[
            (Step::Unbind, &|plan| ops.unbind(plan)),
            (Step::Close, &|plan| close(ops, plan)),
            (Step::Reset, &|plan| ops.reset(plan)),
        ])?;
        Ok(device.now(Quarantined(())))
    }
}

impl Device<Quarantined> {
    /// Closes and resets it once more, for a new owner whose plan says otherwise how.
    fn again<O: DeviceOps>(self, ops: &O) -> Result<Self, Refused<Self, O::Error>> {
        self.steps::<O>(&[(Step::Close, &|plan| close(ops, plan)), (Step::Reset, &|plan| ops.reset(plan))])
    }

    /// Gives it to a VM.
    ///
    /// # Errors
    ///
    /// The device, the step and the reason.
    pub fn assign<O: DeviceOps>(
        self,
        vm: VmId,
        ops: &O,
    ) -> Result<Device<Assigned>, Refused<Self, O::Error>> {
        let device = self.steps::<O>(&[(Step::Attach, &|plan| ops.attach(vm, plan))])?;
        Ok(device.now(Assigned { vm }))
    }

    /// Gives it back to the host, whose driver may bind to it.
    pub fn release(self) -> Device<Host> {
        self.now(Host(()))
    }
}

impl Device<Assigned> {
    /// The VM that has it.
    pub fn vm(&self) -> VmId {
        self.state.vm
    }

    /// The permission to let it master the bus.
    pub fn may_master(&self) -> MayMaster<'_> {
        MayMaster { vm: self.state.vm, device: PhantomData }
    }

    /// Takes it from its VM: closed, detached, reset.
    ///
    /// # Errors
    ///
    /// The device, the step and the reason. It is then as closed as it could be made.
    pub fn reclaim<O: DeviceOps>(self, ops: &O) -> Result<Device<Quarantined>, Refused<Self, O::Error>> {
        let vm = self.state.vm;
        let device = self.steps::<O>(&[
            (Step::Close, &|plan| close_and_charge(ops, vm, plan)),
            (Step::Detach, &|plan| ops.detach(vm, plan)),
            (Step::Reset, &|plan| ops.reset(plan)),
        ])?;
        Ok(device.now(Quarantined(())))
    }
}

/// A device's place in the registry.
#[derive(Debug)]
pub enum Slot {
    /// The host has it.
    Host {
        /// The device.
        device: Device<Host>,
    },
    /// Nobody has it.
    Quarantined {
        /// The device.
        device: Device<Quarantined>,
    },
    /// A VM has it.
    Assigned {
        /// The VM.
        vm: VmId,
        /// The device.
        device: Device<Assigned>,
    },
    /// A hand-over failed: nobody gets it any more.
    Failed {
        /// What was being done, and why it failed.
        why: String,
        /// The VM whose memory it may reach still, because it couldn't be taken off the bus: that memory isn't given to anyone.
        reaches: Option<VmId>,
    },
}

/// Why devices weren't given to a VM. Those that were on their way are back in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Not in the registry.
    #[error("{device} isn't known")]
    Unknown {
        /// The device.
        device: String,
    },
    /// Another has it.
    #[error("{device} belongs to VM {vm}")]
    Taken {
        /// The device.
        device: String,
        /// Its owner.
        vm: VmId,
    },
    /// It failed before.
    #[error("{device} can't be given: {why}")]
    Broken {
        /// The device.
        device: String,
        /// What failed.
        why: String,
    },
    /// Another device of its group isn't given with it.
    #[error("{device} shares isolation group {group} with {other}, which isn't given with it")]
    GroupSplit {
        /// The device.
        device: String,
        /// The one that is missing.
        other: String,
        /// Their group.
        group: u32,
    },
    /// The hardware failed.
    #[error("{device}: {why}")]
    Hardware {
        /// The device.
        device: String,
        /// What was being done, and why it failed.
        why: String,
    },
}

/// A device that couldn't be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The device.
    pub device: String,
    /// What was being done, and why it failed.
    pub why: String,
    /// The VM whose memory it may reach still, because it couldn't be taken off the bus.
    pub reaches: Option<VmId>,
}

/// All devices that VMs may be given, each in exactly one slot. What tells them apart is the physical thing: names are only said.
#[derive(Debug, Default)]
pub struct Registry {
    entries: LiteMap<DeviceId, Entry>,
}

/// Where a host keeps the registry, which all VMs share. Whoever builds a VM or takes one apart has it lent while devices change hands, and
/// for nothing else: the next VM's turn doesn't wait for this one's RAM.
pub trait RegistryKeeper {
    /// Waits until nobody has the registry, and has it used.
    fn lend<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R;
}

impl RegistryKeeper for spin::Mutex<Registry> {
    fn lend<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R {
        with(&mut self.lock())
    }
}

#[derive(Debug)]
struct Entry {
    /// What users know it by.
    name: String,
    /// Its isolation group.
    group: Option<u32>,
    slot: Slot,
}

impl Registry {
    /// The devices of a plan, all of them the host's. One that several VMs are planned to have is one device.
    pub fn new<'a>(devices: impl IntoIterator<Item = &'a DevicePlan>) -> Self {
        let mut registry = Self::default();
        for plan in devices {
            let device = Device { plan: Arc::new(plan.clone()), state: Host(()) };
            let (name, group) = (plan.name.clone(), plan.group);
            registry.entries.insert(plan.id.clone(), Entry { name, group, slot: Slot::Host { device } });
        }
        registry
    }

    /// Where a device is.
    pub fn slot(&self, device: &DeviceId) -> Option<&Slot> {
        self.entries.get(device).map(|entry| &entry.slot)
    }

    /// All devices.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Slot)> {
        self.entries.iter().map(|(id, entry)| (id, &entry.slot))
    }

    /// The permission to let a device master the bus, if this VM has it.
    pub fn may_master(&self, device: &DeviceId, vm: VmId) -> Option<MayMaster<'_>> {
        match self.slot(device)? {
            Slot::Assigned { vm: owner, device } if *owner == vm => Some(device.may_master()),
            _ => None,
        }
    }

    /// Whether a device that couldn't be taken off the bus may reach this VM's memory still.
    pub fn may_reach(&self, vm: VmId) -> bool {
        self.entries
            .values()
            .any(|entry| matches!(entry.slot, Slot::Failed { reaches: Some(reached), .. } if reached == vm))
    }

    /// Gives all of `devices` to a VM, or none.
    ///
    /// # Errors
    ///
    /// [`AssignError`].
    pub fn assign<O: DeviceOps>(
        &mut self,
        vm: VmId,
        devices: &[&DevicePlan],
        ops: &O,
    ) -> Result<(), AssignError> {
        for device in devices {
            self.check(device, devices)?;
        }
        for (done, device) in devices.iter().enumerate() {
            if let Err(why) = self.assign_one(vm, device, ops) {
                for back in devices.iter().take(done).rev() {
                    self.reclaim_one(&back.id, ops);
                }
                return Err(AssignError::Hardware { device: device.name.clone(), why });
            }
        }
        Ok(())
    }

    fn check(&self, wanted: &DevicePlan, together: &[&DevicePlan]) -> Result<(), AssignError> {
        let device = || wanted.name.clone();
        let Some(entry) = self.entries.get(&wanted.id) else {
            return Err(AssignError::Unknown { device: device() });
        };
        match &entry.slot {
            Slot::Assigned { vm, .. } => return Err(AssignError::Taken { device: device(), vm: *vm }),
            Slot::Failed { why, .. } => {
                return Err(AssignError::Broken { device: device(), why: why.clone() });
            }
            Slot::Host { .. } | Slot::Quarantined { .. } => {}
        }
        let Some(group) = entry.group else { return Ok(()) };
        let missing = |(id, other): &(&DeviceId, &Entry)| {
            other.group == Some(group) && !together.iter().any(|device| device.id == **id)
        };
        match self.entries.iter().find(missing) {
            Some((_, other)) => {
                Err(AssignError::GroupSplit { device: device(), other: other.name.clone(), group })
            }
            None => Ok(()),
        }
    }

    fn assign_one<O: DeviceOps>(&mut self, vm: VmId, wanted: &DevicePlan, ops: &O) -> Result<(), String> {
        let Some(mut entry) = self.entries.remove(&wanted.id) else {
            return Err("it isn't known".to_string());
        };
        let (slot, result) = give(entry.slot, vm, wanted, ops);
        entry.slot = slot;
        self.entries.insert(wanted.id.clone(), entry);
        result
    }

    /// Takes back everything that a VM has. What can't be taken back is marked as failed, and named here.
    pub fn reclaim<O: DeviceOps>(&mut self, vm: VmId, ops: &O) -> Vec<Stuck> {
        let owned = |slot: &Slot| matches!(slot, Slot::Assigned { vm: owner, .. } if *owner == vm);
        let ids: Vec<DeviceId> =
            self.entries.iter().filter(|(_, entry)| owned(&entry.slot)).map(|(id, _)| id.clone()).collect();
        ids.iter().filter_map(|id| self.reclaim_one(id, ops)).collect()
    }

    /// Gives a device that is nobody's back to the host, whose driver may have it. Whether it was nobody's.
    pub fn release(&mut self, id: &DeviceId) -> bool {
        let Some(mut entry) = self.entries.remove(id) else { return false };
        let (slot, released) = match entry.slot {
            Slot::Quarantined { device } => (Slot::Host { device: device.release() }, true),
            other => (other, false),
        };
        entry.slot = slot;
        self.entries.insert(id.clone(), entry);
        released
    }

    fn reclaim_one<O: DeviceOps>(&mut self, id: &DeviceId, ops: &O) -> Option<Stuck> {
        let mut entry = self.entries.remove(id)?;
        let (slot, stuck) = match entry.slot {
            Slot::Assigned { device, .. } => match device.reclaim(ops) {
                Ok(device) => (Slot::Quarantined { device }, None),
                Err(refused) => {
                    let why = describe(refused.step, &refused.error);
                    let reaches = (refused.step == Step::Close).then(|| refused.device.vm());
                    let stuck = Stuck { device: entry.name.clone(), why: why.clone(), reaches };
                    (Slot::Failed { why, reaches }, Some(stuck))
                }
            },
            other => (other, None),
        };
        entry.slot = slot;
        self.entries.insert(id.clone(), entry);
        stuck
    }
}

/// Gives a device to a VM, by way of quarantine: where it is then, and why it isn't the VM's. `wanted`: what the VM's plan says of it, which
/// need not be what the last owner's said.
fn give<O: DeviceOps>(slot: Slot, vm: VmId, wanted: &DevicePlan, ops: &O) -> (Slot, Result<(), String>) {
    // What couldn't be closed or reset is nobody's. It wasn't attached, so there is nothing that it reaches.
    let failed = |step, error: &O::Error| {
        let why = describe(step, error);
        (Slot::Failed { why: why.clone(), reaches: None }, Err(why))
    };
    let quarantined = match slot {
        Slot::Host { device } => match device.planned(wanted).quarantine(ops) {
            Ok(device) => device,
            // What the host's driver didn't let go is the host's still.
            Err(Refused { device, step: Step::Unbind, error }) => {
                return (Slot::Host { device }, Err(describe(Step::Unbind, &error)));
            }
            Err(refused) => return failed(refused.step, &refused.error),
        },
        Slot::Quarantined { device } => {
            let was_reset_so = device.plan.reset == wanted.reset;
            match device.planned(wanted) {
                device if was_reset_so => device,
                device => match device.again(ops) {
                    Ok(device) => device,
                    Err(refused) => return failed(refused.step, &refused.error),
                },
            }
        }
        other => return (other, Err("it was given meanwhile".to_string())),
    };
    match quarantined.assign(vm, ops) {
        Ok(device) => (Slot::Assigned { vm, device }, Ok(())),
        Err(refused) => {
            let why = describe(refused.step, &refused.error);
            // It is nobody's again once what was opened of it is seen to be closed.
            let slot = match close_and_charge(ops, vm, refused.device.plan()) {
                Ok(()) => Slot::Quarantined { device: refused.device },
                Err(error) => Slot::Failed { why: describe(Step::Close, &error), reaches: Some(vm) },
            };
            (slot, Err(why))
        }
    }
}

fn describe(step: Step, error: &impl fmt::Display) -> String {
    alloc::format!("{step} failed: {error}")
}
