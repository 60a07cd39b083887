//! The interrupt controller of a VM: a virtual GIC, and what it has done in hardware.

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevicesBuilder;
use axvm::msi::MsiMessage;
use axvm::report::IrqchipReport;
use axvm::vcpu::IpiRequest;
use axvm_addr::{Gpa, Hpa, Irq, MsiSource, VcpuId};
use axvm_axdevice::InterruptLine;
use axvm_plan::config::VMInterruptMode;
use axvm_plan::{GicPlan, VmPlan};
use axvm_platform::model::Platform;
use axvm_vgic::{
    Distributor, Its, ItsConfig, LineConfig, LineDelivery, ListRegisters, Redistributors, StillOn, Vgic,
    VgicConfig,
};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};

use super::backend::GicBackend;
use super::direct::{self, Direct};
use super::error::{GicError, ItsError};
use super::groups;
use super::lists;
use super::lpis::GUEST_LPI_ID_BITS;
use super::machine::IrqchipError;
use crate::arch::aarch64::protection;
use crate::cpus::{self, Cpu};
use crate::hal::HalError;
use crate::host::Host;
use crate::log;
use crate::memory::GuestRam;

/// Why a VM has no interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum GuestIrqchipError {
    /// The virtual GIC.
    #[error("virtual GIC: {0}")]
    Gic(#[from] axvm_vgic::ConfigError),
    /// The ITS.
    #[error(transparent)]
    Its(#[from] ItsError),
    /// The plan has no GIC for it.
    #[error("the plan has no GIC")]
    None,
}

/// The interrupt controller of a VM.
pub struct GuestIrqchip {
    vgic: Arc<Vgic>,
    backend: Arc<GicBackend>,
    shown: GicPlan,
    /// The VM's CPUs take physical interrupts themselves.
    direct: bool,
    host: &'static Host,
}

impl GuestIrqchip {
    /// That of a plan, whose RAM is `ram`.
    pub fn new(host: &'static Host, plan: &VmPlan, ram: &GuestRam) -> Result<Self, GuestIrqchipError> {
        let shown = plan.aarch64().and_then(|own| own.gic).ok_or(GuestIrqchipError::None)?;
        let backend =
            Arc::new(GicBackend::new(host, plan, ram.clone(), shown.its.map(|its| usize::from(its.host.0)))?);
        let vgic = match Vgic::new(config(host, plan, &shown), backend.clone()) {
            Ok(vgic) => vgic,
            Err(error) => {
                // What hardware has of it doesn't go by itself.
                if let Some(backend) = Arc::into_inner(backend) {
                    backend.release();
                }
                return Err(error.into());
            }
        };
        Ok(Self { vgic, backend, shown, direct: plan.mode == VMInterruptMode::Passthrough, host })
    }

    /// Adds its register frames to the VM's devices.
    pub fn add_to(
        &self,
        mut devices: AxVmDevicesBuilder<Hpa>,
        platform: &Platform,
    ) -> AxVmDevicesBuilder<Hpa> {
        devices = match protection::real_distributor(platform) {
            Some(real) => devices.forwarded(self.shown.distributor, real, 0, "the machine's distributor"),
            None => devices.mmio(self.shown.distributor, Arc::new(Distributor::new(self.vgic.clone()))),
        };
        devices = devices.mmio(self.shown.redistributors, Arc::new(Redistributors::new(self.vgic.clone())));
        if let (Some(planned), Some(its)) = (self.shown.its, Its::new(self.vgic.clone())) {
            devices = devices.mmio(planned.registers, Arc::new(its));
        }
        devices
    }

    /// The virtual GIC.
    #[inline(always)]
    pub(in crate::arch::aarch64) fn vgic(&self) -> &Vgic {
        &self.vgic
    }

    /// What it has done in hardware.
    pub(super) fn backend(&self) -> &GicBackend {
        &self.backend
    }

    /// Where the guest sees the distributor that is emulated for it.
    pub(in crate::arch::aarch64) fn emulated_distributor(&self, platform: &Platform) -> Option<Gpa> {
        protection::real_distributor(platform).is_none().then_some(self.shown.distributor.start())
    }

    /// Where the guest sees the ITS that is emulated for it.
    pub(in crate::arch::aarch64) fn emulated_its(&self) -> Option<Gpa> {
        self.shown.its.map(|its| its.registers.start())
    }

    /// Whether the VM's CPUs take physical interrupts themselves.
    #[inline(always)]
    pub fn takes_interrupts(&self) -> bool {
        self.direct
    }

    /// On the vCPU's own CPU, which has woken while the vCPU was off: what was sent to it waits where it belongs.
    pub fn take_mail(&self, vcpu: VcpuId) {
        self.vgic.take_mail(vcpu);
    }

    /// On the vCPU's own CPU: gives it the CPU's interrupts, where it takes them itself.
    fn give_interrupts(&self, cpu: Option<&Cpu>, vcpu: VcpuId) -> Result<Option<Direct>, GicError> {
        match cpu {
            Some(cpu) if self.direct => {
                let direct = cpu.caller().give_interrupts(&self.host.irqchip, cpu.id)?;
                self.vgic.restore_private(vcpu);
                Ok(Some(direct))
            }
            _ => Ok(None),
        }
    }

    /// The other way round.
    fn take_interrupts_back(&self, cpu: Option<&Cpu>) {
        if let Some(cpu) = cpu.filter(|_| self.direct) {
            cpu.caller().take_interrupts_back(&self.host.irqchip, cpu.id);
        }
    }

    /// On the CPU of a vCPU that takes physical interrupts itself, and is held: waits for a call, while what comes for the guest stays
    /// pending. Answers whether the guest had forged an active priority, which is gone then.
    pub(in crate::arch::aarch64) fn hold(&self, vcpu: VcpuId, direct: &Direct) -> bool {
        let let_through = || {
            if let Some(cpu) = self.cpu_of(vcpu) {
                self.host.irqchip.let_calls_through(cpu.id);
            }
        };
        let forged = direct.hold(let_through);
        // One that came has done its work: it would wake the next wait at once.
        self.keep_calls_out(vcpu);
        forged
    }

    /// On the same CPU, before the guest is entered again: a call that is pending isn't its own.
    pub(in crate::arch::aarch64) fn keep_calls_out(&self, vcpu: VcpuId) {
        if let Some(cpu) = self.cpu_of(vcpu)
            && let Err(error) = self.host.irqchip.keep_calls_out(cpu.id)
        {
            log::error!("CPU {}: {error}", cpu.id);
        }
    }

    fn cpu_of(&self, vcpu: VcpuId) -> Option<&'static Cpu> {
        self.backend.cpu(vcpu).and_then(cpus::get)
    }

    /// On the vCPU's own CPU, before it enters the guest: MSIs that the hardware delivers reach it from now on.
    pub fn enter_messages(&self, vcpu: VcpuId) {
        self.backend.enter_messages(vcpu);
    }

    /// On the vCPU's own CPU, which has left the guest: such MSIs wait from now on, and call the CPU. Answers whether one waits.
    pub fn leave_messages(&self, vcpu: VcpuId) -> bool {
        self.backend.leave_messages(vcpu)
    }
}

/// What the interrupt controller has of a vCPU in its CPU.
pub struct Seat {
    /// What its list registers hold.
    pub lists: ListRegisters,
    /// Of a vCPU that takes physical interrupts itself: what it has set up.
    pub direct: Option<Direct>,
}

/// Why a vCPU can't have its CPU's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSeated {
    /// The CPU's interrupt interface can't be given away.
    #[error(transparent)]
    Interrupts(#[from] IrqchipError),
    /// It is there already.
    #[error(transparent)]
    StillOn(#[from] StillOn),
}

impl axvm::irqchip::Irqchip for GuestIrqchip {
    type Error = HalError;
    type Seat = Seat;

    fn enter(&self, vcpu: VcpuId) -> Result<Seat, HalError> {
        let cpu = self.cpu_of(vcpu);
        let lists = self.vgic.switch_on(vcpu).map_err(NotSeated::from)?;
        let direct = match self.give_interrupts(cpu, vcpu) {
            Ok(direct) => direct,
            Err(error) => {
                self.take_interrupts_back(cpu);
                self.vgic.switch_off(vcpu, lists);
                return Err(NotSeated::from(IrqchipError::from(error)).into());
            }
        };
        if direct.is_none() {
            self.enter_messages(vcpu);
        }
        Ok(Seat { lists, direct })
    }

    fn leave(&self, vcpu: VcpuId, seat: Seat) {
        if seat.direct.is_some() {
            self.take_interrupts_back(self.cpu_of(vcpu));
        } else {
            self.leave_messages(vcpu);
        }
        self.vgic.switch_off(vcpu, seat.lists);
    }

    fn set_level(&self, irq: Irq, high: bool) -> Result<(), HalError> {
        self.vgic.set_level(irq, high);
        Ok(())
    }

    fn inject_irq_to_vcpu(&self, vcpu: VcpuId, irq: Irq) -> Result<(), HalError> {
        if self.vgic.inject(vcpu, irq.into()) { Ok(()) } else { Err(HalError::Unknown) }
    }

    fn send_msi(&self, source: Option<MsiSource>, message: MsiMessage) -> Result<(), HalError> {
        // What is written to the doorbell is the event; the device's id goes with it.
        let device = source.ok_or(HalError::Unknown)?.into();
        let known = self.vgic.hardware_lpi(device, ItsEventId(message.data));
        if known { Ok(()) } else { Err(HalError::Unknown) }
    }

    fn send_ipi(&self, from: VcpuId, request: IpiRequest) {
        self.vgic.send_sgi(from, request.0);
    }

    #[inline(always)]
    fn after_access(&self) {
        if self.direct {
            self.vgic.repeat_levels();
        }
    }

    fn reset(&self) {
        self.vgic.reset();
    }

    fn release(self) -> bool {
        let Self { vgic, backend, .. } = self;
        // It refers to the backend.
        drop(vgic);
        Arc::into_inner(backend).map(GicBackend::release).is_some()
    }

    fn report(&self) -> IrqchipReport {
        let said = self.vgic.statistics();
        IrqchipReport {
            refused: said.command_errors,
            failed: said.failed_commands,
            messages: said.translater_writes,
        }
    }
}

/// The timers that a guest gets: the EL1 physical and virtual one (the binding's second and third).
fn guest_timers(platform: &Platform) -> Vec<Intid> {
    platform.timer.iter().skip(1).take(2).map(|timer| timer.irq.into()).collect()
}

fn config(host: &Host, plan: &VmPlan, shown: &GicPlan) -> VgicConfig {
    let direct = plan.mode == VMInterruptMode::Passthrough;
    let virtual_lpis = plan.aarch64().is_some_and(|own| own.virtual_lpis);
    let mut lines: Vec<LineConfig> = plan
        .lines
        .iter()
        .map(|line| LineConfig {
            guest: line.irq.into(),
            host: Some(line.irq.into()),
            trigger: line.trigger,
            delivery: match protection::masks_until_end(line.masked) {
                true => LineDelivery::MaskUntilEnd,
                false => LineDelivery::Hardware,
            },
        })
        .collect();
    let own = plan.console.map(|console| console.irq).into_iter().chain(plan.watchdog.and_then(|it| it.irq));
    lines.extend(own.map(|irq| LineConfig {
        guest: irq.into(),
        host: None,
        trigger: axvm_vgic::spec::Trigger::Level,
        delivery: LineDelivery::default(),
    }));
    let devices: Vec<_> = plan.devices.iter().filter_map(|device| device.msi).collect();
    let most = devices.iter().map(|msi| msi.messages).max().unwrap_or(1);
    // Functions behind a bridge to conventional PCI have one id together.
    let mut ids: Vec<ItsDeviceId> = devices.iter().map(|msi| msi.source.into()).collect();
    ids.sort_unstable();
    ids.dedup();
    VgicConfig {
        vcpus: plan.cpus.iter().map(|vcpu| vcpu.hardware_id).collect(),
        spis: u32::from(shown.spis),
        lines,
        hardware_ppis: guest_timers(&host.platform),
        list_registers: lists::list_registers(),
        priority_bits: if direct { direct::priority_bits().max(4) } else { lists::priority_bits() },
        its: shown.its.map(|_| ItsConfig {
            devices: protection::its_devices(ids),
            event_bits: u32::from(most.max(2)).next_power_of_two().trailing_zeros(),
            // LPIs delivered by the hardware have the guest's numbers there, and these are set apart for them.
            lpi_id_bits: if direct || virtual_lpis { GUEST_LPI_ID_BITS } else { 16 },
            virtual_lpis,
            lpis_stay_enabled: direct && host.irqchip.gic.lpis_stay_enabled(),
        }),
        direct: direct.then_some(axvm_vgic::Direct { reserved_sgis: groups::reserved_sgis() }),
    }
}
