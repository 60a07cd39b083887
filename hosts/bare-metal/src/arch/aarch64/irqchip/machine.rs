//! The machine's interrupt controller, as the rest of the hypervisor knows it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use axvm::taken::Taken;
use axvm_addr::{CpuId, Hpa, Span};
use axvm_plan::{LineRoute, MsiPlan};
use axvm_platform::fdt::outline::Outline;
use axvm_platform::limits::Limits;
use axvm_platform::model::{Interrupt, Platform, Trigger};
use axvm_vgic::Intid;
#[cfg(feature = "protection-off")]
use axvm_vgic::{ItsDeviceId, ItsEventId};

use super::direct::Direct;
use super::error::{GicError, ItsError};
use super::gic::{self, PhysicalGic};
use super::its::PhysicalIts;
use super::lpis::Lpis;
use super::{cpu_interface, groups, limits, lists, vpe};
use crate::log;

/// The hypervisor's own timer among the platform's: the binding's fourth.
const HYPERVISOR_TIMER: usize = 3;

/// What can be wrong with the machine's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqchipError {
    /// The GIC.
    #[error(transparent)]
    Gic(#[from] GicError),
    /// An ITS.
    #[error(transparent)]
    Its(#[from] ItsError),
    /// There is none.
    #[error("the platform has no GICv3")]
    None,
}

/// The machine's interrupt controller.
pub struct Irqchip {
    pub(super) gic: PhysicalGic,
    pub(super) lpis: Lpis,
    /// By position in the platform.
    pub(super) its: Vec<PhysicalIts>,
    /// What tells a CPU that its list registers are to be looked at again.
    maintenance: Option<Intid>,
    /// The hypervisor's own timer, on each CPU.
    timer: Option<Intid>,
}

/// The registers that the hypervisor drives.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    let mut spans = Vec::new();
    if let Some(gic) = platform.gic() {
        spans.push(gic.distributor);
        spans.extend(&gic.redistributors);
        spans.extend(gic.its.iter().map(|its| its.registers));
    }
    spans
}

/// Below which address the tables must lie that the interrupt controller walks.
pub fn memory_limit(outline: &Outline<'_>) -> Option<Hpa> {
    outline.compatible().any(axvm_gicv3::may_need_low_memory).then_some(Hpa(1 << 32))
}

impl Irqchip {
    /// Looks at what boot has found, before anything is planned: what it can do, and which CPUs it doesn't serve. A VM that names one
    /// of those is refused.
    ///
    /// # Safety
    ///
    /// The registers must be mapped as the platform describes them, and driven by nobody else.
    pub unsafe fn probe(platform: &mut Platform) {
        let Some(gic) = platform.gic_mut() else { return };
        // SAFETY: by the caller's promise.
        gic.virtual_lpis = Some(unsafe { vpe::offered(gic) });
        let Some(gic) = platform.gic() else { return };
        // SAFETY: the same.
        let without =
            unsafe { gic::without_redistributor(gic, platform.cpus.iter().map(|cpu| cpu.hardware_id)) };
        for (cpu, _) in platform.cpus.iter_mut().zip(without).filter(|it| it.1) {
            log::warn!("{}: it has no redistributor in the GIC's regions, and can't be used", cpu.path);
            cpu.usable = false;
        }
    }

    /// Fills in what it can't go beyond, and says how many bytes it takes of the hypervisor's memory when it is taken over.
    ///
    /// # Safety
    ///
    /// As for [`Irqchip::probe`].
    pub unsafe fn limits(platform: &Platform, limits: &mut Limits) -> u64 {
        let mut its = 0;
        if let Some(gic) = platform.gic() {
            // SAFETY: by the caller's promise.
            let found = unsafe { limits::of(gic, doorbells(platform)) };
            its = gic.its.len();
            limits.lines.end = limits.lines.end.min(found.lines.into());
            (limits.messages, limits.msi) = (found.lpis, found.its);
        }
        limits.list_registers = lists::list_registers() as u8;
        limits::bytes_at_take_over(platform.cpus.len(), its)
    }

    /// Takes it over: everything is off, and nothing is mapped.
    ///
    /// # Safety
    ///
    /// As for [`Irqchip::probe`].
    pub unsafe fn take_over(platform: &Platform) -> Result<Self, IrqchipError> {
        let described = platform.gic().ok_or(IrqchipError::None)?;
        let cpus: Vec<u64> = platform.cpus.iter().map(|cpu| cpu.hardware_id).collect();
        // SAFETY: by the caller's promise.
        let gic = unsafe { PhysicalGic::new(described, &platform.compatible, &cpus)? };
        let lpis = Lpis::new(gic.id_bits(), doorbells(platform))?;
        let mut its = Vec::new();
        for one in &described.its {
            // SAFETY: by the caller's promise.
            its.push(unsafe { PhysicalIts::new(one, &platform.compatible, cpus.len())? });
        }
        let maintenance = described.maintenance.map(|line| line.irq.into());
        let timer = platform.timer.get(HYPERVISOR_TIMER).map(|line| line.irq.into());
        Ok(Self { gic, lpis, its, maintenance, timer })
    }

    /// Brings up the calling CPU's part of it.
    pub fn init_cpu(&self, cpu: CpuId) -> Result<(), IrqchipError> {
        Ok(self.gic.init_cpu(cpu, self.has_lpis().then(|| self.lpis.properties()))?)
    }

    /// A CPU that VMs will have: messages can be sent to it from now on.
    pub fn add_guest_cpu(&self, cpu: CpuId) -> Result<(), IrqchipError> {
        self.its.iter().try_for_each(|its| its.map_collection(&self.gic, cpu)).map_err(IrqchipError::from)
    }

    /// Makes a CPU's own interrupts ready for a VM, which it has until [`Irqchip::leave_cpu`]. `injected`: by list registers.
    pub fn prepare_cpu(&self, cpu: CpuId, injected: bool) {
        // It brings a vCPU out of its guest when a level is to be looked at again, or when list registers are free for what waits.
        if let Some(maintenance) = self.maintenance {
            self.gic.enable_private(cpu, maintenance, injected);
        }
        // A guest that takes physical LPIs finds them disabled. Nothing of an earlier one's is pending: its events were unmapped.
        if !injected
            && self.has_lpis()
            && let Err(error) = self.gic.stop_lpis(cpu, |_, _| {})
        {
            log::error!("CPU {cpu}: {error}");
        }
    }

    /// On a CPU that a VM has had: nothing of the VM's is pending, active or enabled there any more, and whoever gets it next finds it
    /// as after power-on.
    pub fn leave_cpu(&self, cpu: CpuId) -> Result<(), IrqchipError> {
        cpu_interface::take();
        if self.has_lpis() {
            self.gic.start_lpis(cpu)?;
        }
        Ok(self.gic.reset_private(cpu)?)
    }

    /// Where a guest could take the hypervisor's calls: lets them through on a CPU.
    pub(super) fn let_calls_through(&self, cpu: CpuId) {
        if !groups::single_security() {
            self.gic.let_calls_through(cpu);
        }
    }

    /// There, too: keeps them out, and forgets one that is pending.
    pub(super) fn keep_calls_out(&self, cpu: CpuId) -> Result<(), IrqchipError> {
        if groups::single_security() { Ok(()) } else { Ok(self.gic.keep_calls_out(cpu)?) }
    }

    fn has_lpis(&self) -> bool {
        !self.its.is_empty()
    }

    /// Has a line interrupt a CPU, by what the board calls that (`hardware_id`). Whether it can.
    pub fn listen(&self, line: Interrupt, hardware_id: u64) -> bool {
        self.gic.enable_line(line, hardware_id)
    }

    /// Has a line interrupt nobody any more.
    pub fn ignore(&self, line: Interrupt) {
        self.gic.disable_line(line.irq.into(), line.trigger == Trigger::Edge);
    }

    /// Has a CPU's timer for the hypervisor interrupt it (`arch::wait_for_interrupt_or_us`). Whether it can.
    pub fn listen_to_timer(&self, cpu: CpuId) -> bool {
        let Some(timer) = self.timer else { return false };
        self.gic.enable_private(cpu, timer, true);
        true
    }

    /// A line of a VM's: to nobody yet. The guest enables it and says to which vCPU.
    pub fn route_line(&self, route: &LineRoute) {
        self.gic.disable_line(route.irq.into(), route.trigger == Trigger::Edge);
    }

    /// A line that a VM had: to nobody any more, and nothing of it is left.
    pub fn unroute_line(&self, route: &LineRoute) {
        self.gic.disable_line(route.irq.into(), route.trigger == Trigger::Edge);
        self.gic.set_pending(route.irq.into(), false);
        self.gic.set_active(route.irq.into(), false);
    }

    /// Fills in what is taken of it.
    pub fn count(&self, taken: &mut Taken) {
        taken.lines = self.gic.enabled_lines();
        taken.message_numbers = self.lpis.taken();
        for (devices, events) in self.its.iter().map(PhysicalIts::mapped) {
            taken.message_sources += devices;
            taken.messages += events;
        }
    }

    /// For a test image: an LPI that no VM has is taken, and stays so.
    #[cfg(feature = "protection-off")]
    pub fn leak_number(&self) {
        let _ = self.lpis.take_last();
    }

    /// For a test image: an event is mapped of a device that no VM has, and stays so.
    #[cfg(feature = "protection-off")]
    pub fn leak_event(&self, id: ItsDeviceId) {
        let Some(its) = self.its.first() else { return };
        let mapped = its.map_device_for_guest(&self.lpis, id, 0).and_then(|()| {
            its.map_event(&self.lpis, self.lpis.properties(), (id, ItsEventId(0)), Intid(8192), CpuId(1))
        });
        if let Err(error) = mapped {
            log::error!("leak: {error}");
        }
    }

    /// The messages of a device that a VM had: they are dropped from now on.
    pub fn forget_messages(&self, msi: &MsiPlan) -> Result<(), IrqchipError> {
        match self.its.get(usize::from(msi.source.controller.0)) {
            Some(its) => Ok(its.unmap_device(&self.lpis, msi.source.into())?),
            None => Ok(()),
        }
    }
}

/// How many doorbells there are: one for each CPU, if there are virtual LPIs.
fn doorbells(platform: &Platform) -> usize {
    let needed = platform.gic().is_some_and(|gic| gic.virtual_lpis == Some(true));
    if needed { platform.cpus.len() } else { 0 }
}

/// How a CPU is called.
pub struct Caller {
    /// What names it when it is.
    target: u64,
    /// Whose its interrupt interface is: an [`Interface`].
    interface: AtomicU8,
}

/// Whose a CPU's interrupt interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Interface {
    /// The hypervisor's: a call comes through.
    Hypervisors,
    /// That of a guest which takes interrupts itself: calls have to be let through first.
    Guests,
}

impl Caller {
    /// Of the CPU that the board calls so.
    pub fn new(hardware_id: u64) -> Self {
        Self {
            target: cpu_interface::sgi_target(hardware_id),
            interface: AtomicU8::new(Interface::Hypervisors as u8),
        }
    }

    /// Makes it leave its guest or its sleep, and look around. `cpu`: which it is.
    pub fn call(&self, irqchip: &Irqchip, cpu: CpuId) {
        if self.interface.load(Ordering::SeqCst) == Interface::Guests as u8 {
            irqchip.gic.let_calls_through(cpu);
        }
        cpu_interface::kick(self.target);
    }

    fn belongs_to(&self, whose: Interface) {
        self.interface.store(whose as u8, Ordering::SeqCst);
    }

    /// Raises a software interrupt of Group 1 there.
    pub(super) fn raise_sgi(&self, sgi: Intid) {
        cpu_interface::raise_sgi(self.target, sgi);
    }

    /// Gives the calling CPU's interrupt interface to a guest. Whoever stops the VM sets its flag first and calls then, so that a
    /// call that comes too early for [`Caller::call`] to know of this is one whose flag is seen before the guest is entered.
    pub(super) fn give_interrupts(&self, irqchip: &Irqchip, cpu: CpuId) -> Result<Direct, GicError> {
        self.belongs_to(Interface::Guests);
        Direct::give(&irqchip.gic, cpu)
    }

    /// Takes it back.
    pub(super) fn take_interrupts_back(&self, irqchip: &Irqchip, cpu: CpuId) {
        self.belongs_to(Interface::Hypervisors);
        Direct::take_back(&irqchip.gic, cpu);
    }
}
