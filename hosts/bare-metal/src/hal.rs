//! The bare-metal host of the core's VMs: what `axvm::AxVMHal` asks for, done with page tables, IOMMUs and the interrupt controller.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::{Aborted, Forward};
use axvm::events::Violation;
use axvm::hal::{AxVMHal, DmaMap, Equipment, Region, Resided, Resource};
use axvm::ownership::DeviceOps;
use axvm::space::Materialise;
use axvm::vm::{Ground, Start};
use axvm_addr::{Address, Gpa, Hpa, IommuId, Iova, Span, VcpuId, VmId};
use axvm_axdevice::Width;
use axvm_plan::config::MappingFlags;
use axvm_plan::{DevicePlan, Doorbell, LineRoute, RamPiece, VmPlan};
use spin::Mutex;

use crate::arch::{
    DmaSpace, Domain, GuestIrqchip, GuestSpace, IommuError, Iommus, IrqchipError, Messages, NotSeated,
    Running, Seat, SpaceError,
};
use crate::host::Host;
use crate::log;
use crate::memory::GuestRam;
use crate::pci::Ticks;
use crate::protection::{self, Protection};
use crate::vm::{Ends, EquipError, Vm};
use crate::{arch, console, cpus, security};

/// Why the machine couldn't do something.
#[derive(Debug, thiserror::Error)]
pub enum HalError {
    /// A space can't be made.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A mapping can't be made.
    #[error(transparent)]
    Map(#[from] axvm_paging::MapError),
    /// A mapping can't be taken away.
    #[error(transparent)]
    Unmap(#[from] axvm_paging::UnmapError),
    /// An IOMMU.
    #[error("{name}: {0}", name = arch::IOMMU)]
    Iommu(#[from] IommuError),
    /// A device, or a bridge above it, masters the bus still.
    #[error(transparent)]
    NotSilent(#[from] axvm_pci::NotSilent),
    /// A device doesn't come back from its reset.
    #[error(transparent)]
    Reset(#[from] axvm_pci::ResetError),
    /// The interrupt controller.
    #[error(transparent)]
    Irqchip(#[from] IrqchipError),
    /// More VMs than there are tags for their translations.
    #[error("there are more VMs than VMIDs: 255")]
    TooManyVms,
    /// A VM, a vCPU or an interrupt that isn't there.
    #[error("there is no such VM, vCPU or interrupt")]
    Unknown,
    /// A vCPU can't have its CPU.
    #[error(transparent)]
    NotSeated(#[from] NotSeated),
    /// The hypervisor's console can't be given away.
    #[error(transparent)]
    NotLent(#[from] console::NotLent),
    /// A VM's own devices can't be made.
    #[error(transparent)]
    Equip(#[from] Box<EquipError>),
}

/// The host of the core's VMs: the machine.
#[derive(Clone, Copy)]
pub struct Hal {
    host: &'static Host,
}

impl Hal {
    /// On this machine.
    pub const fn new(host: &'static Host) -> Self {
        Self { host }
    }

    /// The machine.
    pub const fn host(&self) -> &'static Host {
        self.host
    }
}

/// A VM's second stage.
pub struct Space(pub GuestSpace);

impl Materialise for Space {
    type Backing = Hpa;
    type Error = HalError;

    fn map(&self, gpa: Span<Gpa>, backing: &Hpa, flags: MappingFlags) -> Result<(), HalError> {
        Ok(self.0.map(gpa, *backing, flags)?)
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), HalError> {
        Ok(self.0.unmap(gpa)?)
    }
}

/// What a VM's devices reach: a map for each IOMMU that one of them is behind.
pub struct Dma {
    maps: Mutex<Vec<DmaSpace>>,
    iommus: &'static Iommus,
}

impl DmaMap for Dma {
    type Backing = Hpa;
    type Domain = Domain;
    type Error = HalError;

    fn map_dma(&self, iova: Span<Iova>, backing: &Hpa, flags: MappingFlags) -> Result<(), HalError> {
        let mut maps = self.maps.lock();
        for position in 0..maps.len() {
            let Some(map) = maps.get_mut(position) else { continue };
            if let Err(error) = map.map(iova, *backing, flags) {
                for done in maps.iter_mut().take(position) {
                    // What was mapped a moment ago, and no stream uses: it can be unmapped.
                    let _ = done.unmap(iova, self.iommus);
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), HalError> {
        for map in self.maps.lock().iter_mut() {
            map.unmap(iova, self.iommus)?;
        }
        Ok(())
    }

    fn domain(&self, iommu: IommuId) -> Result<Domain, HalError> {
        let maps = self.maps.lock();
        maps.iter().find(|map| map.iommu() == iommu).map(DmaSpace::domain).ok_or(HalError::Unknown)
    }
}

/// How long is waited after a closing that couldn't be confirmed.
const CLOSE_PAUSE_US: u64 = 10_000;

/// Turns a PCI function's bus mastering off, and the bridges' above it where no other's requests pass them, and reads both back.
fn stop_mastering(host: &Host, device: &DevicePlan) -> Result<(), HalError> {
    let Some(device) = device.pci.and_then(|address| host.pci_device(address)) else { return Ok(()) };
    let address = device.function.address;
    let silent = axvm_pci::stop_mastering(&host.config, address);
    let bridges_of = |other| host.pci_device(other).map_or_else(Vec::new, |it| it.bridges.clone());
    let closed = host.forwarding.lock().close(&host.config, address, &device.bridges, bridges_of);
    Ok(silent.and(closed)?)
}

impl DeviceOps for Hal {
    type Error = HalError;

    fn unbind(&self, device: &DevicePlan) -> Result<(), HalError> {
        // The hypervisor's only driver is its console's.
        Ok(console::unbind(self.host, device)?)
    }

    fn close(&self, device: &DevicePlan) -> Result<(), HalError> {
        let host = self.host;
        if let Some(function) = device.pci.and_then(|address| host.function(address)) {
            axvm_pci::quarantine(host.config.shared(), function);
        }
        stop_mastering(host, device)
    }

    fn charge(&self, vm: VmId, device: &DevicePlan) {
        protection::with(Protection::Charge, || security::charge(self.host, vm, device));
    }

    fn pause(&self) {
        arch::delay_us(CLOSE_PAUSE_US);
    }

    fn keep_off_bus(&self, vm: VmId, device: &DevicePlan) -> Result<(), HalError> {
        let host = self.host;
        if let (Some(function), Some(vm)) = (device.pci, host.vm(vm)) {
            for bridge in &vm.ends().bridges {
                // One of the bridges has it, and keeps its guest from turning it on again; the others say that they don't know it.
                let _ = bridge.quarantine(function);
            }
        }
        stop_mastering(host, device)
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), HalError> {
        let host = self.host;
        if let Some(function) = device.pci.and_then(|address| host.function(address))
            && let Some(method) = device.reset
        {
            // A reset of its bus takes all that is there, which the plan has given to the same VM.
            let neighbours = host.neighbours(function);
            axvm_pci::reset(host.config.shared(), function, &neighbours, method, &Ticks)?;
            axvm_pci::confirm_silent(&host.config, function.address)?;
        }
        Ok(())
    }

    fn attach(&self, _: VmId, device: &DevicePlan) -> Result<(), HalError> {
        let host = self.host;
        if let Some(function) = device.pci.and_then(|address| host.pci_device(address)) {
            host.forwarding.lock().open(&host.config, function.function.address, &function.bridges);
        }
        Ok(())
    }

    fn detach(&self, _: VmId, device: &DevicePlan) -> Result<(), HalError> {
        match &device.msi {
            Some(messages) => Ok(self.host.irqchip.forget_messages(messages)?),
            None => Ok(()),
        }
    }
}

impl Forward for Hal {
    type Backing = Hpa;

    #[inline(always)]
    fn forward_read(&self, at: &Hpa, offset: u64, width: Width) -> Result<u64, Aborted> {
        // SAFETY: registers that the plan gives to the VM; building the VM mapped them here. An abort is caught, and so is an
        // address that isn't mapped.
        unsafe { arch::probe_read(at.0.wrapping_add(offset), width.bytes()) }.map_err(|_| Aborted)
    }

    #[inline(always)]
    fn forward_write(&self, at: &Hpa, offset: u64, width: Width, value: u64) -> Result<(), Aborted> {
        // SAFETY: as for reads.
        unsafe { arch::probe_write(at.0.wrapping_add(offset), width.bytes(), value) }.map_err(|_| Aborted)
    }

    fn forward_port_read(&self, port: u16, width: Width) -> u32 {
        arch::read_port(port, width)
    }

    fn forward_port_write(&self, port: u16, width: Width, value: u32) {
        arch::write_port(port, width, value);
    }
}

/// Zeroes RAM that is, or was, a VM's.
fn clear(hpa: Hpa, bytes: u64) -> Result<(), HalError> {
    if protection::lets_be(Protection::Zero, || true) {
        return Ok(());
    }
    let gpa = Span::new(Gpa(hpa.0), bytes).map_err(|_| HalError::Unknown)?;
    // SAFETY: the plan takes RAM of VMs, in whole blocks, from what is free: not the hypervisor's, and nobody else's.
    unsafe { GuestRam::new(alloc::vec![RamPiece { gpa, hpa }]) }.clear().map_err(|_| HalError::Unknown)
}

/// What tags a VM's translations, for CPUs and IOMMUs alike (a VMID); 0 is nobody's.
fn tag(vm: VmId) -> u16 {
    vm.0 + 1
}

/// What a VM's two spaces have before it has anything: an empty map for each IOMMU that one of its devices is behind.
fn fill_spaces(
    host: &Host,
    plan: &VmPlan,
    space: &GuestSpace,
    maps: &mut Vec<DmaSpace>,
) -> Result<(), HalError> {
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    let memory = &host.platform.memory;
    protection::open_memory(Protection::Stage2, memory, &plan.ram, |span, hpa| space.map(span, hpa, flags))?;
    for iommu in plan.devices.iter().flat_map(|device| &device.sources).map(|source| source.iommu) {
        if !maps.iter().any(|map| map.iommu() == iommu) {
            let mut map = DmaSpace::new(iommu, plan.address_bits, host.iommus.output_bits(), tag(plan.id))?;
            protection::open_memory(Protection::Smmu, memory, &plan.ram, |span, hpa| {
                match Span::new(Iova(span.start().0), span.size()) {
                    Ok(span) => map.map(span, hpa, flags),
                    Err(_) => Ok(()),
                }
            })?;
            maps.push(map);
        }
    }
    Ok(())
}

impl AxVMHal for Hal {
    type Space = Space;
    type Dma = Dma;
    type Iommu = Iommus;
    type Messages = Messages;
    type Irqchip = GuestIrqchip;
    type Vcpu<'a> = Running<'a>;
    type Ends = Ends;

    fn create(&self, plan: &VmPlan) -> Result<(Space, Dma), HalError> {
        let host = self.host;
        // They have 8 bits here: more aren't there on every CPU and IOMMU.
        if tag(plan.id) > 0xff {
            return Err(HalError::TooManyVms);
        }
        let space = GuestSpace::new(plan.address_bits, tag(plan.id))?;
        let mut maps = Vec::new();
        let made = fill_spaces(host, plan, &space, &mut maps);
        let (space, dma) = (Space(space), Dma { maps: Mutex::new(maps), iommus: &host.iommus });
        match made {
            Ok(()) => Ok((space, dma)),
            Err(error) => {
                // Their tables don't go by themselves.
                self.destroy(plan.id, space, dma);
                Err(error)
            }
        }
    }

    fn revoke(&self, vm: VmId, space: &Space) {
        if let Some(Err(error)) = protection::with(Protection::Revoke, || space.0.revoke()) {
            log::error!("VM {vm}: its second stage couldn't be revoked: {error}");
        }
    }

    fn shut(&self, vm: VmId, space: &Space) {
        if let Some(Err(error)) = protection::with(Protection::Revoke, || space.0.shut()) {
            log::error!("VM {vm}: its second stage couldn't be shut: {error}");
        }
    }

    fn open(&self, _: VmId, space: &Space) {
        space.0.open();
    }

    fn destroy(&self, vm: VmId, space: Space, dma: Dma) {
        let host = self.host;
        if let Err(error) = space.0.destroy() {
            log::error!("VM {vm}: the tables of its second stage stay allocated: {error}");
        }
        for map in dma.maps.into_inner() {
            if let Err(error) = map.destroy(&host.iommus) {
                log::error!("VM {vm}: the tables of its DMA map stay allocated: {error}");
            }
        }
    }

    fn withhold(&self, vm: VmId, space: Space, dma: Dma, ram: Vec<Hpa>) {
        log::error!(
            "VM {vm}: a device of it couldn't be taken off the bus: its RAM is given to nobody any more"
        );
        self.host.claims.lock().withhold_ram(vm);
        // Dropping a mapper leaves its tables allocated, which is what is wanted: a walker may still read them.
        drop((space, dma, ram));
    }

    fn ram(&self, _: VmId, piece: &RamPiece) -> Result<Hpa, HalError> {
        clear(piece.hpa, piece.gpa.size())?;
        Ok(piece.hpa)
    }

    fn release_ram(&self, vm: VmId, backing: Hpa, bytes: u64) {
        // Taking it does that, too; done here so that nothing of a VM outlives it.
        if let Err(error) = clear(backing, bytes) {
            log::error!("VM {vm}: its RAM at {backing} isn't zeroed: {error}");
        }
    }

    fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Hpa, HalError> {
        let known = match resource.region {
            Region::Registers(_) => resource.planned(plan),
            Region::Bar(bar) => {
                self.host.bar(plan, resource.device, bar).and_then(|bar| bar.checked_add(resource.offset))
            }
        };
        known.ok_or(HalError::Unknown)
    }

    fn doorbell(&self, _: VmId, doorbell: &Doorbell) -> Result<Option<Hpa>, HalError> {
        Ok(Some(doorbell.hpa))
    }

    fn route_line(&self, _: VmId, route: &LineRoute) -> Result<(), HalError> {
        self.host.irqchip.route_line(route);
        Ok(())
    }

    fn unroute_line(&self, _: VmId, route: &LineRoute) {
        self.host.irqchip.unroute_line(route);
        protection::leak_line(self.host, route);
    }

    fn iommu(&self) -> &Iommus {
        &self.host.iommus
    }

    fn messages(&self) -> &Messages {
        &self.host.messages
    }

    fn equip(&self, ground: &Arc<Ground<Self>>) -> Result<Equipment<Self>, HalError> {
        Ok(crate::vm::equip(ground).map_err(Box::new)?)
    }

    fn reside<'a>(
        &'a self,
        vm: &'a Vm,
        vcpu: VcpuId,
        start: Start,
        seat: Seat,
        run: impl FnOnce(&mut Running<'a>),
    ) -> Resided<Self> {
        let seat = arch::reside(vm, vcpu, start, seat, |running| {
            self.host.note_first_entry();
            run(running);
        });
        Resided { seat, result: Ok(()) }
    }

    fn kick(&self, vm: VmId, vcpu: VcpuId) {
        if protection::lets_be(Protection::Call, || self.host.vm(vm).is_some_and(|vm| vm.must_leave())) {
            return;
        }
        if let Some(cpu) = self.host.cpu_of(vm, vcpu).and_then(cpus::get) {
            cpu.kick(&self.host.irqchip);
        }
        // It may sleep until an event comes.
        arch::send_event();
    }

    fn now_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn record(&self, violation: Violation) {
        self.host.record(violation);
    }
}
