//! What of this architecture's protections a test image leaves out (`crate::protection`). In any other image each of these gives back
//! what it was given, and is no code.

use core::sync::atomic::{AtomicU8, Ordering};

use alloc::vec::Vec;
use axvm_addr::{Hpa, Irq};
use axvm_platform::model::Platform;
use axvm_vgic::ItsDeviceId;

#[cfg(feature = "protection-off")]
use super::irqchip::Irqchip;
use crate::protection::{Protection, is_off};
use crate::vm::Vm;

/// HCR_EL2 as the table of control registers has it, without what is off.
#[inline(always)]
pub fn hcr(value: u64) -> u64 {
    const TSC: u64 = 1 << 19;
    const TWI: u64 = 1 << 13;
    match value {
        value if is_off(Protection::Smc) => value & !TSC,
        value if is_off(Protection::Wfi) => value & !TWI,
        value => value,
    }
}

/// MDCR_EL2 as the table has it, without what is off.
pub fn mdcr(value: u64) -> u64 {
    if is_off(Protection::DebugRegisters) { 0 } else { value }
}

/// ICH_HCR_EL2 as the table has it for a guest that takes interrupts itself, without what is off.
pub fn ich_hcr(value: u64) -> u64 {
    const TC: u64 = 1 << 10;
    if is_off(Protection::Interface) { value & !TC } else { value }
}

/// The machine's distributor, where it is what a guest gets.
pub fn real_distributor(platform: &Platform) -> Option<Hpa> {
    let gic = platform.gic().filter(|_| is_off(Protection::Gicd))?;
    Some(gic.distributor.start())
}

/// The devices on which a virtual ITS takes commands.
pub fn its_devices(own: Vec<ItsDeviceId>) -> Vec<ItsDeviceId> {
    if is_off(Protection::Its) { (0..256).map(ItsDeviceId).collect() } else { own }
}

/// Whether a line is masked until the guest has ended it, where the plan says so.
pub fn masks_until_end(planned: bool) -> bool {
    planned && !is_off(Protection::LineEnd)
}

/// What the fast path needs to answer for a vCPU: without it all goes the long way, as software interrupts must that reach other VMs.
pub fn answered_fast<T>(local: Option<T>) -> Option<T> {
    local.filter(|_| !is_off(Protection::Sgi))
}

/// What a guest writes to ICC_SGI1R_EL1, at all other VMs.
pub fn send_sgi_to_others(sender: &Vm, value: u64) {
    if !is_off(Protection::Sgi) {
        return;
    }
    let all_others = value & 1 << 40 != 0;
    let sgi = Irq((value >> 24 & 0xf) as u32);
    for vm in sender.hal().host().vms().iter().filter(|vm| vm.id() != sender.id()) {
        for (vcpu, planned) in vm.vcpus() {
            if all_others || value & 1 << (planned.hardware_id & 0xf) != 0 {
                let _ = vm.inject(vcpu, sgi);
            }
        }
    }
}

/// Where the bundle asks for it, the first time: the call by which the tests' firmware answers an access of the hypervisor's by an error
/// (`firmware/src/vectors.rs`). QEMU has no other way to have one come late.
#[inline(always)]
pub fn error_by_firmware() -> Option<u64> {
    const SYSTEM_ERROR: u64 = 0x8300_0001;
    static DONE: AtomicU8 = AtomicU8::new(0);
    (is_off(Protection::OwnError) && DONE.swap(1, Ordering::Relaxed) == 0).then_some(SYSTEM_ERROR)
}

/// Where the bundle asks for it: a software interrupt and an LPI, as the hypervisor's CPU injects them at a vCPU.
pub const INJECTED: [Irq; 2] = [Irq(3), Irq(8192)];

/// Takes an LPI that nobody gives back.
#[cfg(feature = "protection-off")]
pub fn leak_message_number(irqchip: &Irqchip) {
    irqchip.leak_number();
}

/// Maps an event of a device that isn't there, one device after another.
#[cfg(feature = "protection-off")]
pub fn leak_message(irqchip: &Irqchip) {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    irqchip.leak_event(ItsDeviceId(0x100 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))));
}
