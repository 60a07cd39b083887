//! What the virtual GIC of a VM has done in hardware.

use alloc::vec::Vec;
use core::fmt::Display;

use axvm::events::{Kind, Violation as Recorded};
use axvm_addr::{CpuId, Gpa, VcpuId, VmId};
use axvm_plan::VmPlan;
use axvm_plan::config::VMInterruptMode;
use axvm_vgic::spec::Trigger;
use axvm_vgic::spec::redistributor::LpiProperty;
use axvm_vgic::{
    Backend, BackendError, EventChange, GuestMemory, HardwareInterrupts, HardwareIts, LPI_PIECE,
    NotGuestMemory, Physical, PhysicalState, PrivateSettings, SpiSettings, Violation,
};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};
use spin::Mutex;

use super::error::ItsError;
use super::groups;
use super::its::PhysicalIts;
use super::lpis::Properties;
use super::vpe::VirtualProcessors;
use crate::cpus;
use crate::host::Host;
use crate::log;
use crate::memory::GuestRam;

/// The hypervisor's side of a VM's interrupts.
pub struct GicBackend {
    vm: VmId,
    host: &'static Host,
    /// The physical CPU of each vCPU.
    cpus: Vec<CpuId>,
    ram: GuestRam,
    /// The ITS behind the virtual one.
    its: Option<usize>,
    delivery: Delivery,
    /// Physical LPIs of the hypervisor's choice.
    lpis: Mutex<Vec<DeviceLpis>>,
}

/// Physical LPIs of a device: one for each of its events.
struct DeviceLpis {
    first: Intid,
    count: u32,
    device: ItsDeviceId,
}

/// The device and event behind a physical LPI.
fn find_event(lpis: &[DeviceLpis], lpi: Intid) -> Option<(ItsDeviceId, ItsEventId)> {
    lpis.iter().find_map(|of| {
        let event = lpi.0.checked_sub(of.first.0).filter(|&event| event < of.count)?;
        Some((of.device, ItsEventId(event)))
    })
}

/// Who delivers a VM's interrupts.
enum Delivery {
    /// The hypervisor, by list registers.
    Injected,
    /// The same, but for LPIs: those of virtual processors.
    VirtualLpis(VirtualProcessors),
    /// The guest takes physical interrupts itself: priorities and LPI numbers are its own.
    Direct,
}

impl GicBackend {
    /// For a VM of this plan. `its`: the one behind its virtual ITS.
    ///
    /// # Errors
    ///
    /// The ITS, if its virtual processors can't be mapped.
    pub fn new(
        host: &'static Host,
        plan: &VmPlan,
        ram: GuestRam,
        its: Option<usize>,
    ) -> Result<Self, ItsError> {
        let cpus: Vec<CpuId> = plan.cpus.iter().map(|vcpu| vcpu.cpu).collect();
        let delivery = match its.and_then(|its| host.irqchip.its.get(its)) {
            _ if plan.mode == VMInterruptMode::Passthrough => Delivery::Direct,
            Some(its) if plan.aarch64().is_some_and(|own| own.virtual_lpis) => {
                Delivery::VirtualLpis(VirtualProcessors::new(its, &cpus)?)
            }
            _ => Delivery::Injected,
        };
        Ok(Self { vm: plan.id, host, cpus, ram, its, delivery, lpis: Mutex::new(Vec::new()) })
    }

    /// Gives back what the hardware holds for it: every vCPU has left, and the virtual GIC has been reset.
    pub fn release(self) {
        if let (Delivery::VirtualLpis(processors), Some(its)) =
            (self.delivery, self.its.and_then(|its| self.host.irqchip.its.get(its)))
        {
            processors.release(its);
        }
    }

    /// On the vCPU's own CPU: virtual LPIs, if it has any, reach it from now on.
    pub fn enter_messages(&self, vcpu: VcpuId) {
        if let Delivery::VirtualLpis(processors) = &self.delivery
            && let Err(error) = processors.enter(&self.host.irqchip.gic, vcpu)
        {
            log::error!("VM {}: vCPU {vcpu} gets no MSIs: {error}", self.vm);
        }
    }

    /// On the vCPU's own CPU: virtual LPIs, if it has any, wait from now on, and the first that comes calls the CPU. Answers whether
    /// one waits already.
    pub fn leave_messages(&self, vcpu: VcpuId) -> bool {
        let Delivery::VirtualLpis(processors) = &self.delivery else { return false };
        processors.leave(&self.host.irqchip.gic, vcpu).unwrap_or_else(|error| {
            log::error!("VM {}: vCPU {vcpu}: {error}", self.vm);
            // Better woken for nothing than never.
            true
        })
    }

    /// The device and event behind a physical LPI.
    pub fn event_of(&self, lpi: Intid) -> Option<(ItsDeviceId, ItsEventId)> {
        find_event(&self.lpis.lock(), lpi)
    }

    /// As [`GicBackend::event_of`], if nobody else is at it.
    pub fn try_event_of(&self, lpi: Intid) -> Option<(ItsDeviceId, ItsEventId)> {
        find_event(&self.lpis.try_lock()?, lpi)
    }

    pub fn cpu(&self, vcpu: VcpuId) -> Option<CpuId> {
        self.cpus.get(usize::from(vcpu.0)).copied()
    }

    /// The physical priority of an interrupt of the guest's.
    fn priority(&self, asked: u8) -> u8 {
        if matches!(self.delivery, Delivery::Direct) {
            groups::guest_priority(asked)
        } else {
            groups::PRIORITY
        }
    }

    /// Where its LPIs are configured.
    fn properties(&self) -> &Properties {
        match &self.delivery {
            Delivery::VirtualLpis(processors) => processors.properties(),
            Delivery::Injected | Delivery::Direct => self.host.irqchip.lpis.properties(),
        }
    }

    /// A CPU's LPIs could be switched neither on nor off.
    fn unswitched(&self, vcpu: VcpuId, error: &dyn Display) -> BackendError {
        log::error!("VM {}: the LPIs of vCPU {vcpu}: {error}", self.vm);
        BackendError::Timeout
    }

    fn its(&self) -> Result<&'static PhysicalIts, BackendError> {
        self.its.and_then(|its| self.host.irqchip.its.get(its)).ok_or(BackendError::Unknown)
    }
}

fn error(error: ItsError) -> BackendError {
    match error {
        ItsError::Stuck => BackendError::Timeout,
        ItsError::NoMemory | ItsError::OutOfReach { .. } => BackendError::NoMemory,
        ItsError::NoLpis => BackendError::NoLpi,
        ItsError::TooSmall(_)
        | ItsError::Refused(_)
        | ItsError::NotMapped(_)
        | ItsError::DeviceId(_)
        | ItsError::NotForGuests(_)
        | ItsError::NoSuchCpu(_) => BackendError::Unknown,
    }
}

impl HardwareInterrupts for GicBackend {
    fn configure_spi(&self, line: Intid, settings: &SpiSettings) {
        let mpidr =
            settings.target.and_then(|vcpu| self.cpu(vcpu)).and_then(cpus::get).map(|cpu| cpu.hardware_id);
        // A line that goes nowhere is off.
        let (priority, enabled) = (self.priority(settings.priority), settings.enabled && mpidr.is_some());
        self.host.irqchip.gic.configure_line(
            line,
            settings.trigger == Trigger::Edge,
            priority,
            mpidr,
            enabled,
        );
    }

    fn configure_private(&self, vcpu: VcpuId, line: Intid, settings: PrivateSettings) {
        if let Some(cpu) = self.cpu(vcpu) {
            let gic = &self.host.irqchip.gic;
            gic.set_private_priority(cpu, line, self.priority(settings.priority));
            gic.enable_private(cpu, line, settings.enabled);
        }
    }

    fn set_spi_enabled(&self, line: Intid, enabled: bool) {
        self.host.irqchip.gic.set_enabled(line, enabled);
    }

    fn set_pending(&self, interrupt: Physical, pending: bool) {
        match interrupt {
            Physical::Spi(line) => self.host.irqchip.gic.set_pending(line, pending),
            Physical::Private(vcpu, line) => {
                if let Some(cpu) = self.cpu(vcpu) {
                    self.host.irqchip.gic.set_private_pending(cpu, line, pending);
                }
            }
        }
    }

    fn set_active(&self, interrupt: Physical, active: bool) {
        match interrupt {
            Physical::Spi(line) => self.host.irqchip.gic.set_active(line, active),
            Physical::Private(vcpu, line) => {
                if let Some(cpu) = self.cpu(vcpu) {
                    self.host.irqchip.gic.set_private_active(cpu, line, active);
                }
            }
        }
    }

    fn state(&self, interrupt: Physical) -> PhysicalState {
        let (pending, active) = match interrupt {
            Physical::Spi(line) => self.host.irqchip.gic.line_state(line),
            Physical::Private(vcpu, line) => match self.cpu(vcpu) {
                Some(cpu) => self.host.irqchip.gic.private_state(cpu, line),
                None => return PhysicalState::default(),
            },
        };
        PhysicalState { pending, active }
    }

    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid) {
        if let Some(cpu) = self.cpu(vcpu).and_then(cpus::get)
            && groups::reserved_sgis() >> (sgi.0 & 0xf) & 1 == 0
        {
            cpu.caller().raise_sgi(sgi);
        }
    }
}

impl HardwareIts for GicBackend {
    fn map_device(&self, device: ItsDeviceId, event_bits: u32) -> Result<(), BackendError> {
        let its = self.its()?;
        let plan = self.host.plan(self.vm).ok_or(BackendError::Unknown)?;
        let mut lpis = self.lpis.lock();
        lpis.retain(|of| of.device != device);
        let all = &self.host.irqchip.lpis;
        // All that the guest asks for, which the virtual ITS has bounded: the plan counts so many for each of its devices.
        match self.delivery {
            Delivery::Direct => its.map_device_for_guest(all, device, event_bits).map_err(error),
            Delivery::VirtualLpis(_) => its.map_device_to_virtual(all, device, event_bits).map_err(error),
            Delivery::Injected => {
                let first = its.map_device(all, plan.messages.clone(), device, event_bits).map_err(error)?;
                lpis.push(DeviceLpis { first, count: 1 << event_bits, device });
                Ok(())
            }
        }
    }

    fn unmap_device(&self, device: ItsDeviceId) -> Result<(), BackendError> {
        self.lpis.lock().retain(|of| of.device != device);
        self.its()?.unmap_device(&self.host.irqchip.lpis, device).map_err(error)
    }

    fn change_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        change: EventChange,
    ) -> Result<(), BackendError> {
        let its = self.its()?;
        let cpu = |vcpu| self.cpu(vcpu).ok_or(BackendError::Unknown);
        let (lpis, properties) = (&self.host.irqchip.lpis, self.properties());
        match change {
            EventChange::Map { lpi, vcpu } => {
                its.map_event(lpis, properties, (device, event), lpi, cpu(vcpu)?)
            }
            EventChange::Move(vcpu) => its.move_event(lpis, device, event, cpu(vcpu)?),
            EventChange::Discard => its.discard_event(properties, device, event),
            EventChange::Clear => its.clear_event(device, event),
            EventChange::Configure(LpiProperty { enabled, priority }) => {
                // A virtual LPI's priority is the guest's own, which nothing of the hypervisor's competes with.
                let priority = match self.delivery {
                    Delivery::VirtualLpis(_) => priority,
                    Delivery::Injected | Delivery::Direct => self.priority(priority),
                };
                its.configure_event(properties, device, event, (priority, enabled))
            }
        }
        .map_err(error)
    }

    fn raise_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.its()?.trigger_event(device, event).map_err(error)
    }

    fn start_lpis(&self, vcpu: VcpuId) -> Result<(), BackendError> {
        let cpu = self.cpu(vcpu).ok_or(BackendError::Unknown)?;
        match &self.delivery {
            Delivery::VirtualLpis(processors) => processors
                .start(self.its()?, &self.host.irqchip.gic, vcpu)
                .map_err(|error| self.unswitched(vcpu, &error)),
            Delivery::Direct => {
                self.host.irqchip.gic.start_lpis(cpu).map_err(|error| self.unswitched(vcpu, &error))
            }
            Delivery::Injected => Err(BackendError::Unknown),
        }
    }

    fn stop_lpis(
        &self,
        vcpu: VcpuId,
        pending: &mut dyn FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), BackendError> {
        let cpu = self.cpu(vcpu).ok_or(BackendError::Unknown)?;
        match &self.delivery {
            Delivery::VirtualLpis(processors) => processors
                .stop(self.its()?, &self.host.irqchip.gic, vcpu, pending)
                .map_err(|error| self.unswitched(vcpu, &error)),
            Delivery::Direct => {
                self.host.irqchip.gic.stop_lpis(cpu, pending).map_err(|error| self.unswitched(vcpu, &error))
            }
            Delivery::Injected => Err(BackendError::Unknown),
        }
    }
}

impl GuestMemory for GicBackend {
    fn read_guest(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), NotGuestMemory> {
        self.ram.read(address, bytes).map_err(|at| NotGuestMemory(at.0))
    }

    fn write_guest(&self, address: Gpa, bytes: &[u8]) -> Result<(), NotGuestMemory> {
        self.ram.write(address, bytes).map_err(|at| NotGuestMemory(at.0))
    }
}

impl Backend for GicBackend {
    fn kick(&self, vcpu: VcpuId) {
        if let Some(cpu) = self.cpu(vcpu).and_then(cpus::get) {
            cpu.kick(&self.host.irqchip);
        }
    }

    fn violation(&self, kind: Violation) {
        let Violation::ForeignItsDevice(device) = kind;
        let (host, address) = (self.host, Some(u64::from(device.0)));
        host.record(Recorded::of(self.vm, None, Kind::MsiCommand, address, host.now_ns()));
    }
}
