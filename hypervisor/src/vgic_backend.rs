//! What the virtual GIC of a VM has done in hardware.

use alloc::vec::Vec;

use axvm::events::Kind;
use axvm_addr::{CpuId, Gpa, Intid, ItsDeviceId, ItsEventId, VcpuId, VmId};
use axvm_vgic::{Backend, BackendError, NotGuestMemory, PhysicalState, SpiSettings, Violation};
use spin::Mutex;

use crate::arch::gic;
use crate::arch::its::ItsError;
use crate::memory::GuestRam;
use crate::{cpus, host};

/// The hypervisor's side of a VM's interrupts.
pub struct GicBackend {
    vm: VmId,
    /// The physical CPU of each vCPU.
    cpus: Vec<CpuId>,
    ram: GuestRam,
    /// The ITS behind the virtual one.
    its: Option<usize>,
    /// The guest takes physical interrupts itself: priorities and LPI numbers are its own.
    direct: bool,
    /// Physical LPIs: the first, how many, whose.
    lpis: Mutex<Vec<(Intid, u32, ItsDeviceId)>>,
}

impl GicBackend {
    /// For a VM with these physical CPUs.
    pub fn new(vm: VmId, cpus: Vec<CpuId>, ram: GuestRam, its: Option<usize>, direct: bool) -> Self {
        Self { vm, cpus, ram, its, direct, lpis: Mutex::new(Vec::new()) }
    }

    /// The device and event behind a physical LPI.
    pub fn event_of(&self, lpi: Intid) -> Option<(ItsDeviceId, ItsEventId)> {
        self.lpis.lock().iter().find_map(|&(first, count, device)| {
            let event = lpi.0.checked_sub(first.0).filter(|&event| event < count)?;
            Some((device, ItsEventId(event)))
        })
    }

    fn cpu(&self, vcpu: VcpuId) -> Option<CpuId> {
        self.cpus.get(usize::from(vcpu.0)).copied()
    }

    /// The physical priority of an interrupt of the guest's.
    fn priority(&self, asked: u8) -> u8 {
        if self.direct { gic::guest_priority(asked) } else { gic::PRIORITY }
    }

    fn its(&self) -> Result<&'static crate::arch::its::PhysicalIts, BackendError> {
        self.its.and_then(|its| host::get().its.get(its)).ok_or(BackendError::Unknown)
    }
}

fn error(error: ItsError) -> BackendError {
    match error {
        ItsError::Stuck => BackendError::Timeout,
        ItsError::NoMemory => BackendError::NoMemory,
        ItsError::NoLpis => BackendError::NoLpi,
        ItsError::NotMapped(_) | ItsError::DeviceId(_) | ItsError::NotForGuests(_) => BackendError::Unknown,
    }
}

impl Backend for GicBackend {
    fn kick(&self, vcpu: VcpuId) {
        if let Some(cpu) = self.cpu(vcpu).and_then(cpus::get) {
            cpu.kick();
        }
    }

    fn configure_spi(&self, line: Intid, settings: &SpiSettings) {
        let mpidr = settings.target.and_then(|vcpu| self.cpu(vcpu)).and_then(cpus::get).map(|cpu| cpu.mpidr);
        // A line that goes nowhere is off.
        let (priority, enabled) = (self.priority(settings.priority), settings.enabled && mpidr.is_some());
        host::get().gic.configure_line(line, settings.edge, priority, mpidr, enabled);
    }

    fn set_spi_enabled(&self, line: Intid, enabled: bool) {
        host::get().gic.set_enabled(line, enabled);
    }

    fn set_spi_pending(&self, line: Intid, pending: bool) {
        host::get().gic.set_pending(line, pending);
    }

    fn set_spi_active(&self, line: Intid, active: bool) {
        host::get().gic.set_active(line, active);
    }

    fn configure_private(&self, vcpu: VcpuId, line: Intid, enabled: bool, priority: u8) {
        if let Some(cpu) = self.cpu(vcpu) {
            let gic = &host::get().gic;
            gic.set_private_priority(cpu, line, self.priority(priority));
            gic.enable_private(cpu, line, enabled);
        }
    }

    fn set_private_pending(&self, vcpu: VcpuId, line: Intid, pending: bool) {
        if let Some(cpu) = self.cpu(vcpu) {
            host::get().gic.set_private_pending(cpu, line, pending);
        }
    }

    fn set_private_active(&self, vcpu: VcpuId, line: Intid, active: bool) {
        if let Some(cpu) = self.cpu(vcpu) {
            host::get().gic.set_private_active(cpu, line, active);
        }
    }

    fn spi_state(&self, line: Intid) -> PhysicalState {
        let (pending, active) = host::get().gic.line_state(line);
        PhysicalState { pending, active }
    }

    fn private_state(&self, vcpu: VcpuId, line: Intid) -> PhysicalState {
        let Some(cpu) = self.cpu(vcpu) else { return PhysicalState::default() };
        let (pending, active) = host::get().gic.private_state(cpu, line);
        PhysicalState { pending, active }
    }

    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid) {
        if let Some(cpu) = self.cpu(vcpu).and_then(cpus::get)
            && gic::reserved_sgis() >> (sgi.0 & 0xf) & 1 == 0
        {
            gic::raise_sgi(cpu.mpidr, sgi);
        }
    }

    fn map_device(&self, device: ItsDeviceId, event_bits: u32) -> Result<(), BackendError> {
        let its = self.its()?;
        // No more LPIs than the device can send, however many the guest asks for: they are the machine's.
        let plan = host::get().plan(self.vm).ok_or(BackendError::Unknown)?;
        let msi = plan.devices.iter().filter_map(|it| it.msi).find(|msi| msi.device == device);
        let most = msi.map_or(1, |msi| u32::from(msi.events).max(2).next_power_of_two().trailing_zeros());
        let bits = event_bits.min(most);
        let mut lpis = self.lpis.lock();
        lpis.retain(|&(_, _, it)| it != device);
        if self.direct {
            return its.map_device_for_guest(&host::get().lpis, device, bits).map_err(error);
        }
        let first = its.map_device(&host::get().lpis, device, bits).map_err(error)?;
        lpis.push((first, 1 << bits, device));
        Ok(())
    }

    fn unmap_device(&self, device: ItsDeviceId) -> Result<(), BackendError> {
        self.lpis.lock().retain(|&(_, _, it)| it != device);
        self.its()?.unmap_device(&host::get().lpis, device).map_err(error)
    }

    fn map_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        lpi: Intid,
        vcpu: VcpuId,
    ) -> Result<(), BackendError> {
        let cpu = self.cpu(vcpu).ok_or(BackendError::Unknown)?;
        let (its, host) = (self.its()?, host::get());
        if self.direct {
            its.choose_lpi(&host.lpis, device, event, lpi).map_err(error)?;
        }
        its.map_event(&host.gic, device, event, cpu).map_err(error)
    }

    fn move_event(&self, device: ItsDeviceId, event: ItsEventId, vcpu: VcpuId) -> Result<(), BackendError> {
        let cpu = self.cpu(vcpu).ok_or(BackendError::Unknown)?;
        self.its()?.move_event(&host::get().gic, device, event, cpu).map_err(error)
    }

    fn discard_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.its()?.discard_event(device, event).map_err(error)
    }

    fn clear_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.its()?.clear_event(device, event).map_err(error)
    }

    fn trigger_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.its()?.trigger_event(device, event).map_err(error)
    }

    fn configure_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        enabled: bool,
        priority: u8,
    ) -> Result<(), BackendError> {
        let property = (self.priority(priority), enabled);
        self.its()?.configure_event(&host::get().lpis, device, event, property).map_err(error)
    }

    fn read_guest(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), NotGuestMemory> {
        self.ram.read(address, bytes).map_err(|at| NotGuestMemory(at.0))
    }

    fn write_guest(&self, address: Gpa, bytes: &[u8]) -> Result<(), NotGuestMemory> {
        self.ram.write(address, bytes).map_err(|at| NotGuestMemory(at.0))
    }

    fn violation(&self, kind: Violation) {
        let Violation::ForeignItsDevice(device) = kind;
        host::get().violated(self.vm, None, Kind::ItsCommand, Some(u64::from(device.0)));
    }
}
