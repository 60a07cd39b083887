//! Software interrupts: one to the vCPU itself goes where the last one was, one to another is a bit in that one's mailbox and a kick.

use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;

use super::Local;
use crate::Vgic;
use crate::id::Intid;
use crate::lists::{HardwareLists, ListRegisters};
use crate::spec::Group;
use crate::spec::sgi::SgiRequest;

impl Vgic {
    /// Carries out a write of `value` to ICC_SGI1R_EL1, as [`Vgic::send_sgi`]. Whether that was done; if not, nothing has
    /// changed.
    #[inline(always)]
    pub fn fast_send_sgi(
        &self,
        local: Local<'_>,
        value: u64,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let request = SgiRequest(value);
        let intid = Intid(request.intid());
        if request.target() == local.sgi_target {
            return registers.again(local.signal, hardware, |it| it.is_pending_software(intid));
        }
        // None, or several: the long way.
        let Some(other) = self.sgi_targets.iter().position(|target| *target == request.target()) else {
            return false;
        };
        self.post_sgi(VcpuId(other as u16), intid);
        true
    }

    /// With direct delivery: the software interrupt that a write of `value` to ICC_SGI1R_EL1 by a vCPU raises at itself.
    /// `None` if it isn't one, or not at that one only.
    #[inline(always)]
    pub fn sgi_to_itself(local: Local<'_>, value: u64) -> Option<Intid> {
        let request = SgiRequest(value);
        let group0 = local.signal.group0_sgis.load(Ordering::Relaxed);
        (request.target() == local.sgi_target && group0 >> request.intid() & 1 == 0)
            .then(|| Intid(request.intid()))
    }

    /// With direct delivery: carries out a write of `value` to ICC_SGI1R_EL1, as [`Vgic::send_sgi`]. Whether that was done; if
    /// not, nothing has changed.
    pub fn fast_raise_sgi(&self, value: u64) -> bool {
        let request = SgiRequest(value);
        let intid = Intid(request.intid());
        let one = self.sgi_targets.iter().position(|target| *target == request.target());
        let (Some(one), Some(state)) = (one, self.shared.try_lock()) else { return false };
        let vcpu = VcpuId(one as u16);
        let irq = state.find(vcpu, intid).and_then(|handle| state.irq(handle));
        if irq.is_some_and(|irq| irq.group == Group::One) {
            self.shared.backend().raise_sgi(vcpu, intid);
        }
        true
    }

    /// Puts a software interrupt into the mailbox of a vCPU, and kicks it if it was empty.
    fn post_sgi(&self, vcpu: VcpuId, intid: Intid) {
        let Some(signal) = self.shared.signal(vcpu) else { return };
        if signal.sgis.fetch_or(1 << (intid.0 & 0xf), Ordering::AcqRel) == 0 {
            self.shared.backend().kick(vcpu);
        }
    }

    /// Takes what is in the mailbox of a vCPU, on its own CPU, after a kick. Whether there is nothing more to look at:
    /// then the guest can be entered as it was left.
    #[inline(always)]
    pub fn fast_take_sgis(
        &self,
        local: Local<'_>,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        let signal = local.signal;
        let mut sgis = signal.sgis.swap(0, Ordering::AcqRel);
        while sgis != 0 {
            let intid = Intid(sgis.trailing_zeros());
            if !registers.again(signal, hardware, |it| it.is_pending_software(intid)) {
                // The long way looks at the mailbox too.
                signal.sgis.fetch_or(sgis, Ordering::AcqRel);
                return false;
            }
            sgis &= sgis - 1;
        }
        !signal.stale.load(Ordering::Acquire) && !self.shared.its_backlog.load(Ordering::Acquire)
    }
}
