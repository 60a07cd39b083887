//! The calling CPU's own interrupt interface (Arm IHI 0069, 12.2): taking interrupts, ending them, and calling other CPUs.

use axvm_vgic::Intid;

use super::groups::{CALL_ALONE, call_sgi, single_security};
use crate::arch::aarch64::registers::INTID;
use crate::arch::aarch64::sysreg::{dsb, isb, mrs, msr};

/// Turns the interface on, on a CPU that has come up, and sets it up for the hypervisor.
pub fn enable() {
    // SAFETY: the interrupt controller's CPU interface at EL2; the hypervisor's own interrupts stay masked by PSTATE.
    unsafe {
        // System registers for EL2 and below, no bypass.
        msr!("icc_sre_el2", 0xf);
        isb!();
    }
    take();
}

/// Sets up the calling CPU's interface for the hypervisor: everything passes, priority drop and deactivation apart, nothing active.
pub fn take() {
    // SAFETY: the interrupt controller's CPU interface at EL2; the hypervisor's own interrupts stay masked by PSTATE.
    unsafe {
        msr!("icc_pmr_el1", 0xff);
        msr!("icc_bpr1_el1", 0);
        // EOImode.
        msr!("icc_ctlr_el1", 2);
        msr!("icc_igrpen1_el1", 1);
        if single_security() {
            msr!("icc_bpr0_el1", 0);
            msr!("icc_igrpen0_el1", 1);
        }
    }
    isb!();
}

/// Has nothing but [`call_sgi`] signalled to the calling CPU, until [`take`]: what else is pending stays so, where
/// it is, and can be moved to other CPUs.
pub fn close() {
    // SAFETY: the interface is the hypervisor's, which waits for nothing but calls here.
    unsafe {
        if single_security() {
            msr!("icc_igrpen1_el1", 0);
        } else {
            msr!("icc_pmr_el1", u64::from(CALL_ALONE));
        }
    }
    isb!();
}

/// Whether an INTID stands for "none".
fn is_special(id: u32) -> bool {
    (1020..1024).contains(&id)
}

/// Takes the most urgent pending interrupt, and drops the running priority again at once: from then on it is active
/// only. `None` if there is none.
#[inline(always)]
pub fn acknowledge() -> Option<Intid> {
    let id = mrs!("icc_iar1_el1") as u32 & INTID;
    dsb!("sy");
    if is_special(id) {
        return acknowledge_group0();
    }
    // SAFETY: ends what was just acknowledged.
    unsafe { msr!("icc_eoir1_el1", u64::from(id)) };
    isb!();
    Some(Intid(id))
}

/// As [`acknowledge`], of Group 0 only: the one thing that the hypervisor takes on a CPU whose Group 1 is a guest's.
pub fn acknowledge_group0() -> Option<Intid> {
    if !single_security() {
        return None;
    }
    let id = mrs!("icc_iar0_el1") as u32 & INTID;
    dsb!("sy");
    if is_special(id) {
        return None;
    }
    // SAFETY: ends what was just acknowledged.
    unsafe { msr!("icc_eoir0_el1", u64::from(id)) };
    isb!();
    Some(Intid(id))
}

/// Ends the active state of what [`acknowledge`] gave. LPIs have none.
pub fn deactivate(id: Intid) {
    // SAFETY: ends an interrupt that this CPU has taken.
    unsafe { msr!("icc_dir_el1", u64::from(id.0)) };
    isb!();
}

/// Calls the CPU that [`sgi_target`] names so.
pub fn kick(target: u64) {
    send(target, call_sgi(), single_security());
}

/// Raises a Group 1 SGI at the calling CPU, whose [`sgi_target`] is `own`.
#[inline(always)]
pub fn raise_sgi_here(own: u64, sgi: Intid) {
    // SAFETY: an interrupt to this CPU.
    unsafe { msr!("icc_sgi1r_el1", own | u64::from(sgi.0 & 0xf) << 24) };
    isb!();
}

/// What names the CPU with this MPIDR in ICC_SGI1R_EL1.
#[inline(always)]
pub fn sgi_target(mpidr: u64) -> u64 {
    let (aff0, aff1, aff2, aff3) = (mpidr & 0xff, mpidr >> 8 & 0xff, mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 0xf)
}

/// Raises a Group 1 SGI at the CPU that [`sgi_target`] names so.
pub fn raise_sgi(target: u64, sgi: Intid) {
    send(target, sgi, false);
}

/// Writes ICC_SGI0R_EL1 or ICC_SGI1R_EL1 (IHI 0069, 12.2.21 and 12.2.22).
fn send(target: u64, sgi: Intid, group0: bool) {
    let value = target | u64::from(sgi.0 & 0xf) << 24;
    dsb!("ish");
    // SAFETY: an interrupt to another CPU, which takes it when it asks.
    unsafe {
        if group0 {
            msr!("icc_sgi0r_el1", value);
        } else {
            msr!("icc_sgi1r_el1", value);
        }
    }
    isb!();
}
