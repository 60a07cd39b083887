//! The CPU interface of a vCPU that takes physical interrupts itself.
//!
//! With HCR_EL2.IMO=0 Group 1 interrupts go to EL1, which acknowledges and ends them in the physical interface: no exit. What would
//! let a guest reach beyond itself traps instead (ICH_HCR_EL2.TC, and FMO for the registers that raise SGIs), and is answered here:
//! ICC_PMR_EL1, ICC_CTLR_EL1, ICC_RPR_EL1, ICC_DIR_EL1 (Arm IHI 0069, 12.2). Software touches these when it starts, or masks by
//! priority; the registers of every interrupt (IAR1, EOIR1) don't trap.
//!
//! **How the hypervisor gets its CPU back.** Three ways together, none of which asks the guest:
//!
//! - the call ([`groups::call_sgi`]) is of Group 0 where there is one, which IMO=0 doesn't give away. It is of the highest priority, and
//!   nothing of the guest's reaches the upper half of priorities ([`groups::guest_priority`]);
//! - a guest can still forge an active priority of that half, by a write to ICC_AP1R0_EL1, which nothing traps but TALL1, and that
//!   traps the acknowledgement of every interrupt as well. So whoever stops a VM also revokes its second stage
//!   (`GuestSpace::revoke`): a guest that runs faults at its next instruction;
//! - one that sleeps doesn't. So WFI traps (TWI), and the hypervisor sleeps for the guest ([`Direct::wait`]), with no priority in
//!   the way of the call. A guest that sleeps in WFE is woken by SEV.
//!
//! Where Group 0 is the secure world's, forged priorities are no matter (non-secure writes to ICC_AP1R0_EL1 are ignored), but a
//! guest could still sleep where no Group 1 interrupt wakes it: with ICC_IGRPEN1_EL1 off, or in a handler at a binary point that
//! makes all its priorities one. So WFI traps there too.

use axvm_addr::CpuId;
use axvm_cpu::Encoding;
use axvm_vgic::Intid;

use super::error::GicError;
use super::gic::PhysicalGic;
use super::{cpu_interface, groups, lists};
use crate::arch::aarch64::cpu;
use crate::arch::aarch64::registers::{ICC_CTLR, ICC_DIR, ICC_PMR, ICC_RPR, INTID};
use crate::arch::aarch64::sysreg::{dsb, isb, mrs, msr};

/// ICC_CTLR_EL1.EOImode.
const EOI_MODE: u64 = 1 << 1;
/// ICC_CTLR_EL1.PRIbits: priority bits, less one.
const PRI_BITS: u64 = 7 << 8;

/// What the trapped registers hold for the guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct {
    /// ICC_PMR_EL1.
    mask: u8,
    /// ICC_CTLR_EL1.EOImode.
    split: bool,
}

/// A trapped register that is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMine;

/// How many priority bits such a guest has: one less than the hardware, whose upper half it never sees. At least the 4 that the
/// architecture asks for.
pub fn priority_bits() -> u32 {
    ((mrs!("icc_ctlr_el1") & PRI_BITS) >> 8) as u32
}

impl Direct {
    /// Gives the calling CPU's interface to a guest that starts: in its reset state. What its redistributor has pending or active is
    /// the guest's, as long as the VM has the CPU.
    ///
    /// The caller has made sure that whoever stops the VM from now on knows that calls have to be let through
    /// ([`PhysicalGic::let_calls_through`]).
    pub fn give(gic: &PhysicalGic, cpu: CpuId) -> Result<Self, GicError> {
        // Where the call is of Group 1 the guest would take it: it is off until the guest is left for good.
        if !groups::single_security() {
            gic.keep_calls_out(cpu)?;
        }
        let new = Self::default();
        new.apply();
        // SAFETY: Group 1 of this CPU is the guest's from here on.
        unsafe {
            msr!("icc_bpr1_el1", 0);
            msr!("icc_igrpen1_el1", 0);
        }
        isb!();
        Ok(new)
    }

    /// Takes the calling CPU's interface back from a guest that has been left for good. No priority is active there any more; the
    /// interrupts that the guest acknowledged and never ended still are, as on a board whose CPU goes off.
    pub fn take_back(gic: &PhysicalGic, cpu: CpuId) {
        /// More than there are priorities.
        const MOST: usize = 256;
        cpu_interface::take();
        clear_active_priorities(true);
        // Non-secure writes to the active priorities are ignored where there are two security states. There each end of interrupt
        // drops one (which INTID is written matters to the active state only, which ends by ICC_DIR_EL1 in the hypervisor's setting).
        for _ in 0..MOST {
            if mrs!("icc_rpr_el1") & 0xff == 0xff {
                break;
            }
            let active = (0..32).map(Intid).find(|&id| gic.private_state(cpu, id).1).unwrap_or(Intid(0));
            // SAFETY: the interface is the hypervisor's again.
            unsafe { msr!("icc_eoir1_el1", u64::from(active.0)) };
            isb!();
        }
        gic.let_calls_through(cpu);
    }

    fn apply(self) {
        // SAFETY: masks and ends interrupts of the guest; calls pass any mask, as Group 0 by priority, else by revocation.
        unsafe {
            msr!("icc_pmr_el1", u64::from(groups::guest_priority(self.mask)));
            msr!("icc_ctlr_el1", if self.split { EOI_MODE } else { 0 });
        }
        isb!();
    }

    /// What a trapped read gives.
    pub fn read(&self, register: Encoding) -> Result<u64, NotMine> {
        match register {
            ICC_PMR => Ok(self.mask.into()),
            ICC_CTLR => {
                let fixed = mrs!("icc_ctlr_el1") & !(EOI_MODE | PRI_BITS | 1);
                let bits = u64::from(priority_bits().saturating_sub(1));
                Ok(fixed | bits << 8 | u64::from(self.split) << 1)
            }
            ICC_RPR => Ok(groups::shown_priority(mrs!("icc_rpr_el1") as u8).into()),
            _ => Err(NotMine),
        }
    }

    /// Carries out a trapped write. `may_end`: whether the guest may end the active state of an interrupt.
    pub fn write(
        &mut self,
        register: Encoding,
        value: u64,
        may_end: impl FnOnce(Intid) -> bool,
    ) -> Result<(), NotMine> {
        match register {
            ICC_PMR => self.mask = value as u8 & !(0xff_u32 >> priority_bits()) as u8,
            ICC_CTLR => self.split = value & EOI_MODE != 0,
            ICC_DIR => {
                let id = Intid(value as u32 & INTID);
                // Without the split the end of interrupt has done it, and DIR does nothing predictable.
                if self.split && may_end(id) {
                    cpu_interface::deactivate(id);
                }
                return Ok(());
            }
            // Read only.
            ICC_RPR => return Ok(()),
            _ => return Err(NotMine),
        }
        self.apply();
        Ok(())
    }

    /// Takes the hypervisor's call, if that is what the guest was left for.
    pub fn take_call(&self) {
        while let Some(id) = cpu_interface::acknowledge_group0() {
            // What ends an interrupt in one step in the guest's setting did so just now.
            if self.split {
                cpu_interface::deactivate(id);
            }
        }
    }

    /// Sleeps in the guest's place until something is pending that the guest, or the hypervisor, would take, or until `deadline`. It
    /// may come back early, as WFI may. Answers whether the guest had forged an active priority, which is gone then.
    pub fn wait(&self, deadline: Option<u64>) -> bool {
        let sleep = || match deadline {
            Some(deadline) => cpu::wait_for_interrupt_until(deadline),
            None => cpu::wait_for_interrupt(),
        };
        if groups::single_security() {
            let forged = clear_forged_priorities();
            sleep();
            return forged;
        }
        if keeps_calls_out() {
            return false;
        }
        with_interface(1, mrs!("icc_pmr_el1").max(CALL_ALONE), sleep);
        false
    }

    /// As [`Direct::wait`], until the hypervisor calls, which `let_calls_through` lets it: what is pending for the guest stays so.
    pub fn hold(&self, let_calls_through: impl FnOnce()) -> bool {
        if groups::single_security() {
            let forged = clear_forged_priorities();
            with_interface(0, mrs!("icc_pmr_el1"), cpu::wait_for_interrupt);
            self.take_call();
            return forged;
        }
        let_calls_through();
        if keeps_calls_out() {
            core::hint::spin_loop();
        } else {
            with_interface(1, CALL_ALONE, cpu::wait_for_interrupt);
        }
        false
    }
}

/// A mask that the call passes where it is of Group 1 like the rest.
const CALL_ALONE: u64 = groups::CALL_ALONE as u64;

/// Where there are two security states: whether a priority is active that nothing can interrupt, the call neither. Who would wait for it
/// can't sleep.
fn keeps_calls_out() -> bool {
    mrs!("icc_rpr_el1") & 0xff < CALL_ALONE
}

/// Where there is one: clears active priorities that no interrupt of a guest has. Whether there were some.
#[inline(always)]
fn clear_forged_priorities() -> bool {
    let forged = mrs!("icc_rpr_el1") & 0xff < 0x80;
    if forged {
        clear_active_priorities(false);
    }
    forged
}

/// Sleeps while Group 1 is on or off and so much is masked. Nothing is taken.
fn with_interface(group1: u64, mask: u64, sleep: impl FnOnce()) {
    let (was_on, was_masked) = (mrs!("icc_igrpen1_el1"), mrs!("icc_pmr_el1"));
    // SAFETY: for the time of the sleep; the guest finds all as it was.
    unsafe {
        msr!("icc_igrpen1_el1", group1);
        msr!("icc_pmr_el1", mask);
        isb!();
        sleep();
        msr!("icc_igrpen1_el1", was_on);
        msr!("icc_pmr_el1", was_masked);
    }
    isb!();
}

/// Clears the active priorities of Group 1: all, or those of the upper half, which no interrupt of a guest's has. Bit n of
/// ICC_AP1R is group priority n (IHI 0069, 12.2.4); how many registers there are goes with the bits of preemption.
fn clear_active_priorities(all: bool) {
    let preemption = lists::preemption_bits();
    let upper_of_32 = if all { 0 } else { mrs!("icc_ap1r0_el1") & !0xffff };
    dsb!("sy");
    // SAFETY: states of the guest's interrupts on its own CPU.
    unsafe {
        match preemption {
            0..=5 => msr!("icc_ap1r0_el1", upper_of_32),
            6 => {
                msr!("icc_ap1r0_el1", 0);
                if all {
                    msr!("icc_ap1r1_el1", 0);
                }
            }
            _ => {
                msr!("icc_ap1r0_el1", 0);
                msr!("icc_ap1r1_el1", 0);
                if all {
                    msr!("icc_ap1r2_el1", 0);
                    msr!("icc_ap1r3_el1", 0);
                }
            }
        }
    }
    isb!();
}
