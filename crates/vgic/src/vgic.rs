//! A VM's GIC as the hypervisor sees it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use axvm_addr::{Intid, ItsDeviceId, ItsEventId, VcpuId};
use axvm_axdevice::InterruptLine;
use spin::Mutex;

use crate::at_once::Message;
use crate::backend::Backend;
use crate::config::{ConfigError, VgicConfig};
use crate::cpu_interface::ListRegisters;
use crate::interrupts::{Handle, Interrupts, Signal, VcpuSet};
use crate::its::{CommandError, ItsState};
use crate::redistributor::LpiTables;
use crate::spec::{LPI_FIRST, SPI_FIRST, sgi::SgiRequest};
use crate::switches::{self, Switches};

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Interrupts that the guest has taken from list registers.
    pub interrupts_taken: u64,
    /// ITS commands that were ignored because of an error of the guest's.
    pub command_errors: u64,
    /// ITS commands that the hypervisor couldn't carry out ([`CommandError::Backend`]).
    pub failed_commands: u64,
    /// The last of those errors.
    pub last_command_error: Option<CommandError>,
    /// Writes by a processor to GITS_TRANSLATER, ignored.
    pub translater_writes: u64,
}

/// A vCPU is to be switched on that hasn't been switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vCPU {0}'s list registers are still in use")]
pub struct StillOn(pub VcpuId);

/// A VM's virtual GIC.
///
/// Locks are taken in the order ITS, LPI tables, interrupts; the middle one is never held while another is
/// taken.
pub struct Vgic {
    config: VgicConfig,
    backend: Arc<dyn Backend>,
    pub(crate) signals: Arc<[Signal]>,
    pub(crate) switches: Arc<Switches>,
    /// What names each vCPU alone in ICC_SGI1R_EL1.
    pub(crate) sgi_targets: Vec<u64>,
    interrupts: Mutex<Interrupts>,
    pub(crate) lpi_tables: Mutex<LpiTables>,
    pub(crate) its: Option<Mutex<ItsState>>,
    /// The ITS has commands left from an exit that had enough to do.
    pub(crate) its_backlog: AtomicBool,
    /// Counts what may have changed which LPI an event stands for. Written with the ITS's lock held.
    pub(crate) its_generation: AtomicU32,
    command_errors: AtomicU64,
    failed_commands: AtomicU64,
    last_command_error: Mutex<Option<CommandError>>,
    translater_writes: AtomicU64,
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
        let vcpus = config.vcpus.len();
        let signals: Arc<[Signal]> = core::iter::repeat_with(Signal::default).take(vcpus).collect();
        let switches = switches::new();
        let interrupts =
            Mutex::new(Interrupts::new(&config, signals.clone(), switches.clone(), backend.clone()));
        let its = config.its.as_ref().map(|its| Mutex::new(ItsState::new(its, vcpus)));
        let sgi_targets = config.vcpus.iter().map(|affinity| SgiRequest::target_of(*affinity)).collect();
        Ok(Arc::new(Self {
            sgi_targets,
            lpi_tables: LpiTables::new(vcpus),
            config,
            backend,
            signals,
            switches,
            interrupts,
            its,
            its_backlog: AtomicBool::new(false),
            its_generation: AtomicU32::new(0),
            command_errors: AtomicU64::new(0),
            failed_commands: AtomicU64::new(0),
            last_command_error: Mutex::new(None),
            translater_writes: AtomicU64::new(0),
        }))
    }

    /// What it was made from.
    pub fn config(&self) -> &VgicConfig {
        &self.config
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Does something with the interrupts' state, and then kicks the vCPUs that this concerns. `current` is
    /// the vCPU that does it: it is out of the guest and needs no kick.
    pub(crate) fn with<R>(&self, current: Option<VcpuId>, f: impl FnOnce(&mut Interrupts) -> R) -> R {
        let mut state = self.interrupts.lock();
        state.current = current;
        let result = f(&mut state);
        // Whoever takes the lock by itself is nobody in particular.
        state.current = None;
        if state.kicks.is_empty() {
            return result;
        }
        let kicks = core::mem::take(&mut state.kicks);
        drop(state);
        self.kick(&kicks);
        result
    }

    #[inline(never)]
    fn kick(&self, kicks: &VcpuSet) {
        kicks.iter().for_each(|vcpu| self.backend.kick(vcpu));
    }

    /// The interrupts' state, if nobody else has it: for what kicks no vCPU.
    #[inline(always)]
    pub(crate) fn try_lock(&self) -> Option<impl core::ops::DerefMut<Target = Interrupts> + '_> {
        self.interrupts.try_lock()
    }

    fn latch(&self, current: Option<VcpuId>, find: impl FnOnce(&Interrupts) -> Option<Handle>) -> bool {
        self.with(current, |state| match find(state) {
            Some(handle) => {
                state.latch(handle);
                true
            }
            None => false,
        })
    }

    /// Goes on with what the ITS has to do and was too much for one exit, before `vcpu` enters the guest. With list registers
    /// [`Self::flush`] does it.
    pub fn work_off(&self, vcpu: VcpuId) {
        if self.its_backlog.load(Ordering::Acquire)
            && let Some(mut its) = self.its.as_ref().and_then(|its| its.try_lock())
        {
            its.process(self, Some(vcpu));
        }
    }

    /// Fills the list registers of `vcpu`, before it enters the guest.
    pub fn flush(&self, vcpu: VcpuId, registers: &mut ListRegisters) {
        self.work_off(vcpu);
        let stale = self.signals.get(usize::from(vcpu.0)).is_some_and(|s| s.stale.load(Ordering::Acquire));
        if stale || registers.to_write != 0 || self.has_mail(vcpu) {
            self.with(Some(vcpu), |state| state.flush(vcpu, registers));
        }
    }

    /// Takes back what the guest has done with the list registers of `vcpu`, after it left the guest.
    pub fn sync(&self, vcpu: VcpuId, registers: &mut ListRegisters) {
        if !registers.is_unchanged() || self.has_mail(vcpu) {
            self.with(Some(vcpu), |state| {
                state.sync(vcpu, registers);
                state.take_mail(vcpu);
            });
        }
    }

    /// Whether an interrupt can be delivered to `vcpu`: then a WFI doesn't wait. After [`Self::sync`].
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        // What comes by mail is looked at when the list registers are filled. If it turns out to be disabled, the wait has ended for
        // nothing, which it may (Arm ARM, D1.6.2).
        if self.has_mail(vcpu) {
            return true;
        }
        self.with(Some(vcpu), |state| state.has_pending(vcpu))
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
        self.with(current, |state| match state.find_host(host) {
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
        self.latch(current, |state| {
            let handle = state.find(vcpu, host)?;
            state.irq(handle).filter(|irq| irq.is_private() && irq.host == Some(host)).map(|_| handle)
        })
    }

    /// Takes the physical LPI that stands for this event. Answers whether the event is mapped.
    pub fn hardware_lpi(&self, device: ItsDeviceId, event: ItsEventId) -> bool {
        self.message_arrives(None, || Some((device, event))).is_some()
    }

    /// As [`Vgic::hardware_lpi`], on the CPU of `vcpu`: see [`Vgic::hardware_spi_here`]. `sender` says which event it is, as for
    /// [`Vgic::message`]. Answers what that stands for, for [`Vgic::message_at_once`] when it comes again.
    pub fn hardware_lpi_here(
        &self,
        vcpu: VcpuId,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> Option<Message> {
        self.message_arrives(Some(vcpu), sender)
    }

    fn message_arrives(
        &self,
        current: Option<VcpuId>,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> Option<Message> {
        let its = self.its.as_ref()?.lock();
        let (handle, message) = self.translate(&its, sender)?;
        // With the lock of the tables held, so that the handle stays the event's.
        self.with(current, |state| state.message(handle));
        Some(message)
    }

    /// Makes an LPI pending, if any event is mapped to it.
    pub fn inject_lpi(&self, lpi: Intid) -> bool {
        if self.config.hardware_lpis() {
            let Some(its) = &self.its else { return false };
            let mut its = its.lock();
            let event = its.tables.events().find(|(_, _, event)| event.lpi == lpi && event.physical);
            return event.is_some_and(|(device, id, _)| self.backend.trigger_event(device, id).is_ok());
        }
        self.latch(None, |state| state.find_lpi(lpi))
    }

    /// Makes an interrupt pending: an SGI or PPI of `vcpu`, an SPI (which goes where the guest routed it) or
    /// an LPI. Answers whether there is such an interrupt.
    pub fn inject(&self, vcpu: VcpuId, intid: Intid) -> bool {
        if intid.0 >= LPI_FIRST {
            return self.inject_lpi(intid);
        }
        self.latch(None, |state| {
            let handle = state.find(vcpu, intid)?;
            state.irq(handle).filter(|irq| irq.host.is_none() || state.direct.is_some()).map(|_| handle)
        })
    }

    /// With direct delivery, before `vcpu` starts on its CPU, whose interrupts are in their reset state: sets
    /// them up as the guest has.
    pub fn restore_private(&self, vcpu: VcpuId) {
        self.with(Some(vcpu), |state| {
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
        self.with(Some(vcpu), |state| state.find(vcpu, intid).is_some())
    }

    /// With direct delivery, after an access of the guest to an emulated device: a line that is still high is
    /// made pending again. The hardware takes it for an edge, and nobody sees the guest's end of interrupt.
    pub fn repeat_levels(&self) {
        if self.switches.any_level_is_high() {
            self.with(None, |state| state.repeat_levels());
        }
    }

    /// Where the hardware delivers LPIs: tells the hypervisor anew which are enabled, after a switch of the
    /// distributor or a redistributor.
    pub(crate) fn retell_lpis(&self, current: Option<VcpuId>) {
        if let Some(its) = self.its.as_ref().filter(|_| self.config.hardware_lpis()) {
            its.lock().retell(self, current);
        }
    }

    /// Carries out a write of `value` to ICC_SGI1R_EL1 by `from`: the SGI goes to those of the VM's own vCPUs
    /// that it names. Writes to ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 are to be ignored.
    pub fn send_sgi(&self, from: VcpuId, value: u64) {
        let request = SgiRequest(value);
        self.with(Some(from), |state| {
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
                    && state.irq(handle).is_some_and(|irq| irq.group1)
                {
                    match state.direct {
                        Some(_) => self.backend.raise_sgi(vcpu, Intid(request.intid())),
                        None => state.latch(handle),
                    }
                }
            }
        });
    }

    /// Carries out a write of ICC_DIR_EL1 by `vcpu`, which is trapped while it has active interrupts in no list register
    /// ([`HCR_TDIR`](crate::spec::list_register::HCR_TDIR)) and ends interrupts in two steps. After [`Self::sync`].
    pub fn deactivate(&self, vcpu: VcpuId, intid: Intid) {
        self.with(Some(vcpu), |state| {
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
        self.with(Some(vcpu), |state| state.switch_on(vcpu)).ok_or(StillOn(vcpu))
    }

    /// Takes them back from a vCPU that has left the guest for good: what is pending or active in them stays so, and waits for it.
    pub fn switch_off(&self, vcpu: VcpuId, registers: ListRegisters) {
        self.with(Some(vcpu), |state| state.switch_off(vcpu, registers));
    }

    /// On the CPU of a vCPU that is off, after a kick: makes pending what others have sent it.
    pub fn take_mail(&self, vcpu: VcpuId) {
        if self.has_mail(vcpu) {
            self.with(Some(vcpu), |state| state.take_mail(vcpu));
        }
    }

    /// Puts everything in its reset state, for a restart of the VM. No vCPU may be in the guest, and each has
    /// to be switched on anew.
    pub fn reset(&self) {
        if let Some(its) = &self.its {
            its.lock().reset(self);
        }
        self.its_backlog.store(false, Ordering::Release);
        self.lpi_tables.lock().reset();
        self.with(None, |state| {
            state.reset();
        });
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        let interrupts_taken =
            self.with(None, |state| state.cpus.iter().fold(0, |sum: u64, cpu| sum.wrapping_add(cpu.taken)));
        Statistics {
            interrupts_taken,
            command_errors: self.command_errors.load(Ordering::Relaxed),
            failed_commands: self.failed_commands.load(Ordering::Relaxed),
            last_command_error: *self.last_command_error.lock(),
            translater_writes: self.translater_writes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count_command_error(&self, error: CommandError) {
        let counter = match error {
            CommandError::Backend(_) => &self.failed_commands,
            _ => &self.command_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last_command_error.lock() = Some(error);
    }

    pub(crate) fn count_translater_write(&self) {
        self.translater_writes.fetch_add(1, Ordering::Relaxed);
    }
}

impl InterruptLine for Vgic {
    fn set_level(&self, irq: Intid, high: bool) {
        self.with(None, |state| {
            // The line of an SPI is the same for every vCPU.
            if let Some(handle) = state.find(VcpuId(0), irq)
                && state.irq(handle).is_some_and(|irq| !irq.is_private())
            {
                state.set_level(handle, high);
            }
        });
    }
}
