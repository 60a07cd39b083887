//! What this machine can't go beyond.

use axvm_platform::limits::{GuestMachine, Limits, Serves};
use axvm_platform::model::Platform;
use axvm_x86_cpu::features::VM_CR;

use super::guarded::read_msr;
use super::local_apic::LocalApic;
use super::vcpu;

/// Fills it in, and says how many bytes of the hypervisor's memory the interrupt controller takes when it is taken over.
pub fn fill(platform: &Platform, limits: &mut Limits) -> u64 {
    /// A table of 256 vectors for each CPU.
    const VECTORS: u64 = 16 << 10;
    // The CPU that boots speaks for all; each is asked when it comes up.
    let is_fit = vcpu::features().fit(|| read_msr(VM_CR).unwrap_or(0)).is_ok();
    limits.processors = if is_fit { Serves::Yes } else { Serves::No };
    limits.direct_interrupts = if LocalApic::own().can_be_given() { Serves::Yes } else { Serves::No };
    limits.guest_machine = GuestMachine::Own;
    limits.watchdogs = Serves::Yes;
    limits.messages = 180 * platform.cpus.len() as u32;
    platform.cpus.len() as u64 * VECTORS
}
