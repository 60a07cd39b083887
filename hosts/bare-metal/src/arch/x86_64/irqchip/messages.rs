//! Messages of devices. Each that a guest has its device send is a vector of one of the VM's CPUs, by an entry of the IOMMU's for this
//! device: whatever else the device writes comes to nobody.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::msi::{MsiMessage, MsiSink};
use axvm_addr::{CpuId, DmaSource, MsiSource, PciAddress, VmId};
use axvm_plan::config::VMInterruptMode;
use axvm_plan::{DevicePlan, VmPlan};
use axvm_vapic::direct::FIRST_SENT;
use axvm_vapic::{Identity, Message, Signal};
use spin::Mutex;

use super::machine::IrqchipError;
use super::vectors::{self, Target};
use crate::arch::x86_64::iommu::{Interrupt, Iommus, Sender};
use crate::cpus;
use crate::hal::HalError;

/// A message that is routed.
#[derive(Clone, Copy, Debug)]
struct Routed {
    /// `None`: to the guest itself, by the vector that it says.
    at: Option<At>,
    /// Where it went before: what was sent by then may be on its way there still. Given back at the next change.
    before: Option<At>,
}

/// A CPU's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    cpu: CpuId,
    vector: u8,
}

impl Routed {
    /// Nothing sends it any more.
    fn give_back(self) {
        for At { cpu, vector } in [self.at, self.before].into_iter().flatten() {
            vectors::give_back(cpu, vector);
        }
    }
}

/// Which message: of what arrives with which id, of which function, and its number there.
type Entry = (MsiSource, Option<PciAddress>, u16);

static ROUTED: Mutex<BTreeMap<Entry, Routed>> = Mutex::new(BTreeMap::new());

/// How many senders have messages, and how many messages those are.
pub fn routed() -> (u32, u32) {
    let routed = ROUTED.lock();
    let mut sources: Vec<MsiSource> = routed.keys().map(|entry| entry.0).collect();
    sources.dedup();
    (sources.len() as u32, routed.len() as u32)
}

/// Where interrupts of this sender arrive: at the IOMMU that remaps them.
fn at_iommu(source: MsiSource) -> DmaSource {
    DmaSource::new(source.controller.0, source.id.0)
}

/// By what the IOMMU tells a function's messages from others'.
fn sender((source, function, _): Entry) -> Sender {
    Sender { source: at_iommu(source), function }
}

/// What arrives with this id are no messages any more.
pub fn forget(iommus: &Iommus, source: MsiSource) -> Result<(), IrqchipError> {
    let mut routed = ROUTED.lock();
    let of: Vec<Entry> = routed.keys().filter(|entry| entry.0 == source).copied().collect();
    for entry in of {
        iommus.route(sender(entry), 0, entry.2, None)?;
        if let Some(routed) = routed.remove(&entry) {
            routed.give_back();
        }
    }
    iommus.release(at_iommu(source));
    Ok(())
}

/// What a function is to send for a vector that is routed.
pub fn hardware_message(function: &DevicePlan, vector: u16) -> Option<axvm_vpci::MsiMessage> {
    let sender = sender((function.msi?.source, function.pci, vector));
    Iommus::closed().message(sender, vector)
}

/// For a test image: a message of this sender counts as routed, though nobody sends it.
#[cfg(feature = "protection-off")]
pub fn leak(source: MsiSource) {
    ROUTED.lock().insert((source, None, 0), Routed { at: None, before: None });
}

/// For a test image: whatever this sender sends, and whoever writes where messages go, is the interrupt that the data says: the vector in bits
/// 7:0, of the CPU whose id is one more than the bits above.
#[cfg(feature = "protection-off")]
fn let_pass(iommus: &Iommus, own: Sender) {
    use core::sync::atomic::{AtomicBool, Ordering};

    use crate::protection::{Protection, is_off};
    static DONE: AtomicBool = AtomicBool::new(false);
    if !is_off(Protection::Messages) || DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    let io_apics = crate::host::get().platform.apic().into_iter().flat_map(|apic| &apic.io_apics);
    let io_apics = io_apics.filter_map(|it| it.source).map(|source| Sender { source, function: None });
    for sender in io_apics.chain([own]) {
        for index in (0..512u16).filter(|index| index & 0xff >= 0x20) {
            let hardware_id = 1 + u32::from(index >> 8);
            let interrupt = Interrupt { vector: index as u8, hardware_id, level: false };
            let _ = iommus.route(sender, 1, index, Some(interrupt));
        }
    }
}

/// Where messages are routed.
pub struct Messages {
    plans: Vec<Arc<VmPlan>>,
    iommus: Iommus,
}

impl Messages {
    /// For VMs of these plans.
    pub fn new(plans: &[Arc<VmPlan>]) -> Self {
        Self { plans: plans.to_vec(), iommus: Iommus::closed() }
    }
}

/// The vCPU that a message is for, as far as it names one: others take it, too, and pass it on by their virtual APICs.
fn receiver(plan: &VmPlan, message: MsiMessage) -> Option<CpuId> {
    /// The message's address: the destination in bits 19:12, logical with bit 2 (Intel SDM 3, 11.11.1).
    const LOGICAL: u64 = 1 << 2;
    let named = (message.address & LOGICAL == 0).then_some(message.address >> 12 & 0xff);
    let vcpu = plan.cpus.iter().find(|vcpu| Some(vcpu.hardware_id) == named).or_else(|| plan.cpus.first())?;
    Some(vcpu.cpu)
}

/// What a message of a guest's that takes interrupts itself is in hardware: an interrupt by its own vector, of one of its own CPUs. `None`:
/// it is none that such a guest may have sent. That is what isn't an ordinary interrupt (an NMI, an SMI, an INIT), and what has a vector of
/// an exception.
fn direct(plan: &VmPlan, message: MsiMessage) -> Option<Interrupt> {
    let Message { destination, signal, .. } = Message::from_msi(message.address, message.data)?;
    let Signal::Vector { vector, .. } = signal else { return None };
    let is_named = |id: u64| Identity::in_x2apic(id as u32).is_named(id as u32, destination);
    let vcpu = plan.cpus.iter().find(|vcpu| is_named(vcpu.hardware_id))?;
    let hardware_id = cpus::get(vcpu.cpu)?.hardware_id as u32;
    (vector >= FIRST_SENT).then_some(Interrupt { vector, hardware_id, level: false })
}

impl MsiSink for Messages {
    type Error = HalError;

    fn route(
        &self,
        vm: VmId,
        function: &DevicePlan,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), HalError> {
        let plan = self.plans.get(usize::from(vm.0)).ok_or(HalError::Unknown)?;
        let msi = function.msi.ok_or(HalError::Unknown)?;
        let (entry, count) = ((msi.source, function.pci, vector), u32::from(msi.messages));
        let device = plan.devices.iter().position(|it| it.id == function.id).ok_or(HalError::Unknown)? as u16;
        let mut routed = ROUTED.lock();
        #[cfg(feature = "protection-off")]
        let_pass(&self.iommus, sender(entry));
        let before = routed.get(&entry).copied();
        let Some(message) = message else {
            if let Some(before) = before {
                self.iommus.route(sender(entry), count, vector, None)?;
                routed.remove(&entry);
                before.give_back();
            }
            return Ok(());
        };
        if plan.mode == VMInterruptMode::Passthrough {
            let interrupt = direct(plan, message);
            self.iommus.route(sender(entry), count, vector, interrupt)?;
            match interrupt {
                Some(_) => routed.insert(entry, Routed { at: None, before: None }),
                None => routed.remove(&entry),
            };
            return Ok(());
        }
        let cpu = receiver(plan, message).ok_or(HalError::Unknown)?;
        let alone = Message::from_msi(message.address, message.data).and_then(Message::alone);
        let target = Target::Message { vm, device, message, alone };
        if let Some(at) = before.and_then(|before| before.at) {
            // Also what is on its way to where it went before becomes this from now on.
            vectors::change(at.cpu, at.vector, target);
            if at.cpu == cpu {
                return Ok(());
            }
        }
        let hardware_id = cpus::get(cpu).ok_or(HalError::Unknown)?.hardware_id as u32;
        let at = At { cpu, vector: vectors::take(cpu, target).ok_or(IrqchipError::NoVector(cpu))? };
        let interrupt = Interrupt { vector: at.vector, hardware_id, level: false };
        if let Err(error) = self.iommus.route(sender(entry), count, vector, Some(interrupt)) {
            vectors::give_back(cpu, at.vector);
            return Err(error.into());
        }
        if let Some(At { cpu, vector }) = before.and_then(|before| before.before) {
            vectors::give_back(cpu, vector);
        }
        routed.insert(entry, Routed { at: Some(at), before: before.and_then(|before| before.at) });
        Ok(())
    }
}
