//! What this machine can't go beyond.

use axvm_platform::limits::Limits;
use axvm_platform::model::Platform;

/// Fills it in, and says how many bytes of the hypervisor's memory the interrupt controller takes when it is taken over.
pub fn fill(platform: &Platform, limits: &mut Limits) -> u64 {
    /// A table of 256 vectors for each CPU.
    const VECTORS: u64 = 16 << 10;
    limits.processors = axvm_platform::limits::Serves::Yes;
    limits.guest_machine = axvm_platform::limits::GuestMachine::Own;
    limits.watchdogs = axvm_platform::limits::Serves::No;
    limits.messages = 180 * platform.cpus.len() as u32;
    platform.cpus.len() as u64 * VECTORS
}
