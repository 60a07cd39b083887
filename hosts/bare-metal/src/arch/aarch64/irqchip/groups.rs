//! Which interrupts are whose: groups, software interrupts and priorities, as the machine has them (Arm IHI 0069, 4.6 and 4.8).
//!
//! Every interrupt but one is Group 1. The one is [`call_sgi`], by which CPUs call each other. Where there is a single security state
//! (GICD_CTLR.DS=1: no EL3, or one that gave Group 0 away) it is Group 0, which is taken at EL2 whatever the guest has set up, and of
//! the highest priority. Otherwise Group 0 is the secure world's, and the call is Group 1 like the rest.

use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use axvm_vgic::Intid;

/// The priority of everything that the hypervisor takes: the middle, so that a virtual priority needs no physical one.
pub const PRIORITY: u8 = 0xa0;

/// The priority of [`call_sgi`]: the highest.
pub const CALL_PRIORITY: u8 = 0;

/// Whether Group 0 is the hypervisor's. Set once, before other CPUs start.
static SINGLE_SECURITY: AtomicBool = AtomicBool::new(false);

/// Says so, once the distributor has been asked.
pub fn set_single_security(single: bool) {
    SINGLE_SECURITY.store(single, Ordering::Relaxed);
}

/// Whether there is a single security state, so that Group 0 is the hypervisor's.
pub fn single_security() -> bool {
    SINGLE_SECURITY.load(Ordering::Relaxed)
}

/// The SGIs that the secure world, if there is one, keeps: a bit each. Set once, before other CPUs start.
static KEPT_SGIS: AtomicU16 = AtomicU16::new(0);

/// Says which, once a redistributor has been asked.
pub fn set_own_sgis(own: u16) {
    KEPT_SGIS.store(!own, Ordering::Relaxed);
}

/// The SGI by which CPUs call each other: the last one that is not the secure world's. Firmware commonly keeps 8 to 15, as Arm
/// recommends (IHI 0069, 2.2.1).
pub fn call_sgi() -> Intid {
    Intid((!KEPT_SGIS.load(Ordering::Relaxed)).checked_ilog2().unwrap_or_default())
}

/// The SGIs that are no guest's, a bit each: [`call_sgi`], and those that the secure world keeps.
pub fn reserved_sgis() -> u16 {
    KEPT_SGIS.load(Ordering::Relaxed) | 1 << call_sgi().0
}

/// The physical priority of what a guest takes itself, for the priority that it asked for.
///
/// With two security states the hardware shifts what non-secure software writes into the lower half (IHI 0069, 4.8.6). With one the
/// same is done here, so that nothing of the guest's, by whatever binary point, runs at a priority that keeps [`call_sgi`] out. Where
/// the call is of Group 1 like the rest, its priority is its own, so that a mask can tell it from all else (`cpu_interface::close`).
pub fn guest_priority(asked: u8) -> u8 {
    if single_security() { 0x80 | asked >> 1 } else { asked.max(CALL_ALONE) }
}

/// A mask that the call's priority passes and no other: the second of the 16 priorities that non-secure software has at least.
pub const CALL_ALONE: u8 = 0x10;

/// The priority in the guest's terms: the inverse of [`guest_priority`]. Idle stays idle.
pub fn shown_priority(physical: u8) -> u8 {
    if single_security() && physical != 0xff { physical << 1 } else { physical }
}
