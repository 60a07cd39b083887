//! Which of a CPU's vectors is whose. Each CPU has vectors of its own, so that what comes to one by a vector is one thing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use axvm::msi::MsiMessage;
use axvm_addr::{CpuId, Irq, VmId};
use axvm_vapic::Alone;
use spin::{Mutex, Once};

use crate::arch::x86_64::local_apic::TIMER;

/// The first that a device can have (AMD APM 2, 8.2: those below are exceptions'). Two classes of priority are left out: nothing of the
/// machine's that firmware left is there.
const FIRST: u8 = 0x30;

/// What a vector stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A line that the hypervisor listens to.
    Own,
    /// An IOMMU has recorded something.
    Iommus,
    /// A line of a VM's.
    Line {
        /// Whose.
        vm: VmId,
        /// Which.
        irq: Irq,
    },
    /// A message of a VM's device.
    Message {
        /// Whose.
        vm: VmId,
        /// The device, by its position in the plan.
        device: u16,
        /// What the guest has told the device to send.
        message: MsiMessage,
        /// The same, if it is for one vCPU.
        alone: Option<Alone>,
    },
}

type Targets = Box<[Option<Target>; 256]>;

/// By CPU.
static CPUS: Once<Vec<Mutex<Targets>>> = Once::new();

/// Every vector is free, of so many CPUs.
pub fn init(cpus: usize) {
    CPUS.call_once(|| (0..cpus).map(|_| Mutex::new(Box::new([None; 256]))).collect());
}

fn of(cpu: CpuId) -> Option<&'static Mutex<Targets>> {
    CPUS.get()?.get(usize::from(cpu.0))
}

/// Takes a vector of a CPU for this. `None`: all are taken.
pub fn take(cpu: CpuId, target: Target) -> Option<u8> {
    let mut targets = of(cpu)?.lock();
    let free =
        (FIRST..TIMER).find(|&vector| targets.get(usize::from(vector)).is_some_and(Option::is_none))?;
    *targets.get_mut(usize::from(free))? = Some(target);
    Some(free)
}

/// Has a vector that was taken stand for something else.
pub fn change(cpu: CpuId, vector: u8, target: Target) {
    if let Some(slot) = of(cpu).map(|it| it.lock()).as_mut().and_then(|it| it.get_mut(usize::from(vector))) {
        *slot = Some(target);
    }
}

/// Gives one back. Nothing sends it any more.
pub fn give_back(cpu: CpuId, vector: u8) {
    if let Some(slot) = of(cpu).map(|it| it.lock()).as_mut().and_then(|it| it.get_mut(usize::from(vector))) {
        *slot = None;
    }
}

/// What a vector stands for.
pub fn target(cpu: CpuId, vector: u8) -> Option<Target> {
    of(cpu)?.lock().get(usize::from(vector)).copied().flatten()
}

/// A message of a device of a VM's, for one of its vCPUs.
#[derive(Clone, Copy)]
pub struct MessageAlone {
    /// Whose.
    pub vm: VmId,
    /// The device, by its position in the plan.
    pub device: u16,
    /// For whom, and what.
    pub alone: Alone,
}

/// The same as [`target`], where it is that.
#[inline(always)]
pub fn message_alone(cpu: CpuId, vector: u8) -> Option<MessageAlone> {
    match of(cpu)?.lock().get(usize::from(vector))? {
        &Some(Target::Message { vm, device, alone: Some(alone), .. }) => {
            Some(MessageAlone { vm, device, alone })
        }
        _ => None,
    }
}

/// How many are taken, of all CPUs: lines, and messages.
pub fn taken() -> u32 {
    let all = CPUS.get().into_iter().flatten();
    all.map(|it| it.lock().iter().flatten().filter(|it| matches!(it, Target::Message { .. })).count() as u32)
        .sum()
}

/// Gives back all that stand for something like this. Nothing sends them any more.
pub fn give_back_all(like: impl Fn(Target) -> bool) {
    for cpu in CPUS.get().into_iter().flatten() {
        cpu.lock().iter_mut().filter(|slot| slot.is_some_and(&like)).for_each(|slot| *slot = None);
    }
}
