//! What the machine's GIC and ITSs can hold, for the planner: asked before they are taken over. ITSs are off from then on.

use alloc::vec::Vec;

use axvm_platform::limits::MsiLimits;
use axvm_platform::model::Gic;

use super::gic::PhysicalGic;
use super::its::PhysicalIts;
use super::lpis;

/// The limits of an interrupt controller.
pub struct GicLimits {
    /// Lines have INTIDs below this.
    pub lines: u16,
    /// Physical LPIs of the hypervisor's own choice.
    pub lpis: u32,
    /// Of each ITS.
    pub its: Vec<MsiLimits>,
}

/// Asks the GIC. `doorbells`: LPIs that it needs itself.
///
/// # Safety
///
/// The GIC and its ITSs must be mapped as the platform describes them.
pub unsafe fn of(gic: &Gic, doorbells: usize) -> GicLimits {
    // SAFETY: by the caller's promise.
    let (lines, id_bits) = unsafe { PhysicalGic::size_of(gic.distributor) };
    // SAFETY: the same.
    let its = gic.its.iter().map(|its| unsafe { PhysicalIts::limits_of(its.registers) }).collect();
    GicLimits { lines, lpis: lpis::own_count(id_bits).saturating_sub(doorbells as u32), its }
}

/// Bytes of the hypervisor's memory that CPUs and ITSs take when they are taken over: pending tables, and an ITS's own tables
/// and queue.
pub fn bytes_at_take_over(cpus: usize, its: usize) -> u64 {
    const PENDING: u64 = 64 << 10;
    // A table of one level, the queue, second levels.
    const ITS: u64 = 1536 << 10;
    (cpus as u64).saturating_mul(PENDING).saturating_add((its as u64).saturating_mul(ITS))
}
