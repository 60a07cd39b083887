//! A VM's GIC as the hypervisor sees it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::InterruptLine;
use spin::Mutex;

use crate::backend::Backend;
use crate::config::{ConfigError, VgicConfig};
use crate::id::{Intid, ItsDeviceId, ItsEventId};
use crate::its::{ItsState, Message};
use crate::lists::ListRegisters;
use crate::shared::Shared;
use crate::spec::{Group, LPI_FIRST, SPI_FIRST, sgi::SgiRequest};
use crate::statistics::Statistics;

/// A vCPU is to be switched on that hasn't been switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vCPU {0}'s list registers are still in use")]
pub struct StillOn(pub VcpuId);

/// A VM's virtual GIC.
///
/// Locks are taken in the order ITS, LPI tables, interrupts; the middle one is never held while another is
/// taken.
pub struct Vgic {
    pub(crate) shared: Shared,
    pub(crate) its: Option<Mutex<ItsState>>,
    /// What names each vCPU alone in ICC_SGI1R_EL1.
    pub(crate) sgi_targets: Vec<u64>,
}

impl Vgic {
    /// The virtual GIC of a VM, in its reset state. The physical interrupts it stands for are expected to be
    /// disabled and inactive.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the configuration contradicts itself or the architecture.
    pub fn new(config: VgicConfig, backend: Arc<dyn Backend>) -> Result<Arc<Self>, ConfigError> {
        config.check()?;
        let its = config.its.as_ref().map(|its| Mutex::new(ItsState::new(its, config.vcpus.len())));
        let sgi_targets = config.vcpus.iter().map(|affinity| SgiRequest::target_of(*affinity)).collect();
        Ok(Arc::new(Self { shared: Shared::new(config, backend), its, sgi_targets }))
    }

    /// What it was made from.
    pub fn config(&self) -> &VgicConfig {
        &self.shared.config
    }

    /// Goes on with what the ITS has to do and was too much for one exit, before `vcpu` enters the guest. With list registers
    /// [`Self::flush`] does it.
    pub fn work_off(&self, vcpu: VcpuId) {
        if self.shared.its_backlog.load(Ordering::Acquire)
            && let Some(mut its) = self.its.as_ref().and_then(|its| its.try_lock())
        {
            its.process(&self.shared, Some(vcpu));
        }
    }

    /// Fills the list registers of `vcpu`, before it enters the guest.
    pub fn flush(&self, vcpu: VcpuId, registers: &mut ListRegisters) {
        self.work_off(vcpu);
        let stale = self.shared.signal(vcpu).is_some_and(|s| s.stale.load(Ordering::Acquire));
        if stale || registers.to_write != 0 || self.shared.has_mail(vcpu) {
            self.shared.with(Some(vcpu), |state| state.flush(vcpu, registers));
        }
    }

    /// Takes back what the guest has done with the list registers of `vcpu`, after it left the guest.
    pub fn sync(&self, vcpu: VcpuId, registers: &mut ListRegisters) {
        if !registers.is_unchanged() || self.shared.has_mail(vcpu) {
            self.shared.with(Some(vcpu), |state| {
                state.sync(vcpu, registers);
                state.take_mail(vcpu);
            });
        }
    }

    /// Whether an interrupt can be delivered to `vcpu`: then a WFI doesn't wait. After [`Self::sync`].
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        // What comes by mail is looked at when the list registers are filled. If it turns out to be disabled, the wait has ended for
        // nothing, which it may (Arm ARM, D1.6.2).
        if self.shared.has_mail(vcpu) {
            return true;
        }
        self.shared.with(Some(vcpu), |state| state.has_pending(vcpu))
    }

    /// Takes a physical SPI that arrived at EL2: priority dropped, and left active. Answers whether it is
    /// this VM's; if not, it is the caller's to deactivate.
    #[must_use]
    pub fn hardware_spi(&self, host: Intid) -> bool {
        self.spi_arrives(None, host)
    }

    /// As [`Vgic::hardware_spi`], on the CPU of `vcpu`, which is out of the guest: it isn't kicked, since it looks at its state before
    /// it enters again.
    #[must_use]
    pub fn hardware_spi_here(&self, vcpu: VcpuId, host: Intid) -> bool {
        self.spi_arrives(Some(vcpu), host)
    }

    fn spi_arrives(&self, current: Option<VcpuId>, host: Intid) -> bool {
        self.shared.with(current, |state| match state.find_host(host) {
            Some(handle) => {
                state.arrive(handle);
                true
            }
            None => false,
        })
    }

    /// Takes a physical PPI that arrived at EL2 on the CPU of `vcpu`: priority dropped, and left active.
    /// Answers whether it stands for one of the VM's; if not, it is the caller's to deactivate.
    #[must_use]
    pub fn hardware_ppi(&self, vcpu: VcpuId, host: Intid) -> bool {
        self.ppi_arrives(None, vcpu, host)
    }

    /// As [`Vgic::hardware_ppi`], by that CPU itself: see [`Vgic::hardware_spi_here`].
    #[must_use]
    pub fn hardware_ppi_here(&self, vcpu: VcpuId, host: Intid) -> bool {
        self.ppi_arrives(Some(vcpu), vcpu, host)
    }

    fn ppi_arrives(&self, current: Option<VcpuId>, vcpu: VcpuId, host: Intid) -> bool {
        self.shared.latch(current, |state| {
            let handle = state.find(vcpu, host)?;
            state
                .irq(handle)
                .filter(|irq| irq.is_private() && irq.host().is_some_and(|it| it.intid == host))
                .map(|_| handle)
        })
    }

    /// Takes the physical LPI that stands for this event. Answers whether the event is mapped.
    pub fn hardware_lpi(&self, device: ItsDeviceId, event: ItsEventId) -> bool {
        self.message_arrives(None, || Some((device, event)))
    }

    /// As [`Vgic::hardware_lpi`], on the CPU of `vcpu`: see [`Vgic::hardware_spi_here`]. `sender` says which event it is, as for
    /// [`Vgic::message`].
    pub fn hardware_lpi_here(
        &self,
        vcpu: VcpuId,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> bool {
        self.message_arrives(Some(vcpu), sender)
    }

    /// What a device's event stands for now, for [`Vgic::fast_message`]. `sender` says which event: it is asked while no command
    /// of the guest's is carried out, so that what it finds in the backend's tables and what is found here belong together.
    pub fn message(&self, sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>) -> Option<Message> {
        let its = self.its.as_ref()?.lock();
        Some(its.translate(&self.shared, sender)?.1)
    }

    fn message_arrives(
        &self,
        current: Option<VcpuId>,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> bool {
        let Some(its) = self.its.as_ref().map(|its| its.lock()) else { return false };
        let Some((handle, _)) = its.translate(&self.shared, sender) else { return false };
        // With the lock of the tables held, so that the handle stays the event's.
        self.shared.with(current, |state| state.message(handle));
        true
    }

    /// Makes an LPI pending, if any event is mapped to it.
    pub fn inject_lpi(&self, lpi: Intid) -> bool {
        if self.shared.config.hardware_lpis() {
            let Some(its) = &self.its else { return false };
            let mut its = its.lock();
            let event = its.tables.events().find(|(_, _, event)| event.lpi == lpi && event.physical);
            return event
                .is_some_and(|(device, id, _)| self.shared.backend().raise_event(device, id).is_ok());
        }
        self.shared.latch(None, |state| state.find_lpi(lpi))
    }

    /// Makes an interrupt pending: an SGI or PPI of `vcpu`, an SPI (which goes where the guest routed it) or
    /// an LPI. Answers whether there is such an interrupt.
    pub fn inject(&self, vcpu: VcpuId, intid: Intid) -> bool {
        if intid.0 >= LPI_FIRST {
            return self.inject_lpi(intid);
        }
        self.shared.latch(None, |state| {
            let handle = state.find(vcpu, intid)?;
            state.irq(handle).filter(|irq| irq.host().is_none() || state.direct.is_some()).map(|_| handle)
        })
    }

    /// With direct delivery, before `vcpu` starts on its CPU, whose interrupts are in their reset state: sets
    /// them up as the guest has.
    pub fn restore_private(&self, vcpu: VcpuId) {
        self.shared.with(Some(vcpu), |state| {
            for intid in (0..SPI_FIRST).map(Intid) {
                if let Some(handle) = state.find(vcpu, intid) {
                    state.mirror(handle);
                }
            }
        });
    }

    /// With direct delivery: whether `vcpu` may end the active state of this interrupt, by a write to
    /// ICC_DIR_EL1.
    pub fn may_deactivate(&self, vcpu: VcpuId, intid: Intid) -> bool {
        self.shared.with(Some(vcpu), |state| state.find(vcpu, intid).is_some())
    }

    /// With direct delivery, after an access of the guest to an emulated device: a line that is still high is
    /// made pending again. The hardware takes it for an edge, and nobody sees the guest's end of interrupt.
    pub fn repeat_levels(&self) {
        if self.shared.switches.any_level_is_high() {
            self.shared.with(None, |state| state.repeat_levels());
        }
    }

    /// Where the hardware delivers LPIs: tells the hypervisor anew which are enabled, after a switch of the
    /// distributor or a redistributor.
    pub(crate) fn retell_lpis(&self, current: Option<VcpuId>) {
        if let Some(its) = self.its.as_ref().filter(|_| self.shared.config.hardware_lpis()) {
            its.lock().retell(&self.shared, current);
        }
    }

    /// Carries out a write of `value` to ICC_SGI1R_EL1 by `from`: the SGI goes to those of the VM's own vCPUs
    /// that it names. Writes to ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 are to be ignored.
    pub fn send_sgi(&self, from: VcpuId, value: u64) {
        let request = SgiRequest(value);
        self.shared.with(Some(from), |state| {
            for vcpu in (0..).map(VcpuId).take(state.cpus.len()) {
                let named = if request.all_others() {
                    vcpu != from
                } else {
                    state.cpu(vcpu).is_some_and(|cpu| request.names(cpu.affinity))
                };
                if !named {
                    continue;
                }
                // ICC_SGI1R_EL1 raises SGIs of group 1 only.
                if let Some(handle) = state.find(vcpu, Intid(request.intid()))
                    && state.irq(handle).is_some_and(|irq| irq.group == Group::One)
                {
                    match state.direct {
                        Some(_) => self.shared.backend().raise_sgi(vcpu, Intid(request.intid())),
                        None => state.latch(handle),
                    }
                }
            }
        });
    }

    /// Carries out a write of ICC_DIR_EL1 by `vcpu`, which is trapped while it has active interrupts in no list register
    /// ([`HCR_TDIR`](crate::spec::list_register::HCR_TDIR)) and ends interrupts in two steps. After [`Self::sync`].
    pub fn deactivate(&self, vcpu: VcpuId, intid: Intid) {
        self.shared.with(Some(vcpu), |state| {
            // An LPI has no active state, and nothing is done.
            if let Some(handle) = state.find(vcpu, intid) {
                state.clear_active(handle);
            }
        });
    }

    /// Gives `vcpu`, which starts on its own CPU, its list registers.
    ///
    /// # Errors
    ///
    /// [`StillOn`] if those of its last start haven't come back: there are interrupts in them.
    pub fn switch_on(&self, vcpu: VcpuId) -> Result<ListRegisters, StillOn> {
        self.shared.with(Some(vcpu), |state| state.switch_on(vcpu)).ok_or(StillOn(vcpu))
    }

    /// Takes them back from a vCPU that has left the guest for good: what is pending or active in them stays so, and waits for it.
    pub fn switch_off(&self, vcpu: VcpuId, registers: ListRegisters) {
        self.shared.with(Some(vcpu), |state| state.switch_off(vcpu, registers));
    }

    /// On the CPU of a vCPU that is off, after a kick: makes pending what others have sent it.
    pub fn take_mail(&self, vcpu: VcpuId) {
        if self.shared.has_mail(vcpu) {
            self.shared.with(Some(vcpu), |state| state.take_mail(vcpu));
        }
    }

    /// Puts everything in its reset state, for a restart of the VM. No vCPU may be in the guest, and each has
    /// to be switched on anew.
    pub fn reset(&self) {
        if let Some(its) = &self.its {
            its.lock().reset(&self.shared);
        }
        self.shared.its_backlog.store(false, Ordering::Release);
        self.shared.lpi_tables.lock().reset();
        self.shared.with(None, |state| {
            state.reset();
        });
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        let interrupts_taken = self
            .shared
            .with(None, |state| state.cpus.iter().fold(0, |sum: u64, cpu| sum.wrapping_add(cpu.taken)));
        self.shared.counters.statistics(interrupts_taken)
    }
}

impl InterruptLine for Vgic {
    fn set_level(&self, irq: Irq, high: bool) {
        self.shared.with(None, |state| {
            // The line of an SPI is the same for every vCPU.
            if let Some(handle) = state.find(VcpuId(0), irq.into())
                && state.irq(handle).is_some_and(|irq| !irq.is_private())
            {
                state.set_level(handle, high);
            }
        });
    }
}
