//! The Linux host of the core's VMs: what `axvm::AxVMHal` asks for, done with KVM and VFIO.

use std::sync::{Arc, Mutex};

use axvm::devices::{Aborted, AxVmDevices, Forward};
use axvm::events::Violation;
use axvm::hal::{AxVMHal, Equipment, Resided, Resource};
use axvm::irqchip::Lines;
use axvm::ownership::DeviceOps;
use axvm::vm::{Ground, Start};
use axvm_addr::{PciAddress, VcpuId, VmId};
use axvm_axdevice::{Console, Width};
use axvm_gwdt::Watchdog;
use axvm_monitor::Equipped;
use axvm_plan::{DevicePlan, Doorbell, LineRoute, RamPiece, VmPlan};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::error::Error;
use crate::host::Host;
use crate::irqchip::KernelIrqchip;
use crate::memory::{Pages, Place};
use crate::output::Output;
use crate::space::Space;
use crate::vcpu::Running;
use crate::{Vm, arch, vfio, watchdogs};

/// The host of the core's VMs: this process.
#[derive(Clone, Copy)]
pub struct Hal {
    host: &'static Host,
}

impl Hal {
    /// This process.
    pub const fn new(host: &'static Host) -> Self {
        Self { host }
    }

    /// The process.
    pub const fn host(&self) -> &'static Host {
        self.host
    }
}

/// The host's own ends of a VM's devices.
pub struct Ends {
    /// KVM's vCPUs, each for its thread.
    vcpus: Vec<Mutex<VcpuFd>>,
    /// What the architecture has beside the console.
    pub own: arch::Own,
    /// The virtual PCI bridges.
    pub bridges: Vec<Arc<vfio::Bridge>>,
    /// The emulated console.
    pub console: Option<Arc<dyn Console>>,
    /// The console's output.
    pub output: Arc<Output>,
    /// The emulated watchdog.
    pub watchdog: Option<Arc<Watchdog>>,
}

impl Equipped for Ends {
    fn console(&self) -> Option<&dyn Console> {
        self.console.as_deref()
    }

    fn watchdog(&self) -> Option<&Watchdog> {
        self.watchdog.as_deref()
    }

    fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    fn refused_config(&self) -> u64 {
        self.bridges.iter().map(|bridge| bridge.refused()).sum()
    }

    fn config_accesses(&self, function: PciAddress) -> u64 {
        self.bridges.iter().filter_map(|bridge| bridge.accesses(function)).sum()
    }
}

impl DeviceOps for Hal {
    type Error = Error;

    fn unbind(&self, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.unbind(device)
    }

    fn close(&self, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.close(device)
    }

    fn charge(&self, _: VmId, _: &DevicePlan) {
        // VFIO tells nobody what an IOMMU has blocked.
    }

    fn reset(&self, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.reset(device)
    }

    fn keep_off_bus(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.keep_off_bus(vm, device)
    }

    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.attach(vm, device)
    }

    fn detach(&self, vm: VmId, device: &DevicePlan) -> Result<(), Error> {
        self.host.vfio.detach(vm, device)
    }
}

impl Forward for Hal {
    type Backing = Place;

    fn forward_read(&self, at: &Place, offset: u64, width: Width) -> Result<u64, Aborted> {
        at.load(offset, width).map_err(|_| Aborted)
    }

    fn forward_write(&self, at: &Place, offset: u64, width: Width, value: u64) -> Result<(), Aborted> {
        at.store(offset, width, value).map_err(|_| Aborted)
    }

    fn forward_port_read(&self, _: u16, width: Width) -> u32 {
        // The plan gives no ports away.
        width.mask() as u32
    }

    fn forward_port_write(&self, _: u16, _: Width, _: u32) {}
}

impl AxVMHal for Hal {
    type Space = Space<Arc<VmFd>>;
    type Dma = vfio::Dma;
    type Iommu = vfio::Vfio;
    type Messages = vfio::Vfio;
    type Irqchip = KernelIrqchip;
    type Vcpu<'a> = Running<'a>;
    type Ends = Ends;

    fn create(&self, plan: &VmPlan) -> Result<(Self::Space, vfio::Dma), Error> {
        let vm = Arc::new(arch::create_vm(&self.host.kvm, plan)?);
        let dma = self.host.vfio.create(plan, &vm)?;
        Ok((Space::new(vm), dma))
    }

    fn revoke(&self, _: VmId, _: &Self::Space) {
        // A vCPU leaves its guest when its thread is called.
    }

    fn shut(&self, _: VmId, _: &Self::Space) {
        // For the same reason.
    }

    fn open(&self, _: VmId, _: &Self::Space) {}

    fn destroy(&self, _: VmId, space: Self::Space, dma: vfio::Dma) {
        drop((space, dma));
    }

    fn withhold(&self, vm: VmId, space: Self::Space, dma: vfio::Dma, ram: Vec<Place>) {
        let what = "a device of it couldn't be taken off the bus: its RAM is given to nobody any more";
        self.host.link.error(format_args!("VM {vm}: {what}"));
        crate::lock(&self.host.claims).withhold_ram(vm);
        // For as long as this process is there, and then it is the kernel's to see that no device reaches it.
        std::mem::forget((space, dma, ram));
    }

    fn ram(&self, vm: VmId, piece: &RamPiece) -> Result<Place, Error> {
        let (place, pages) = Place::allocate(piece.gpa.size())?;
        if pages == Pages::Huge {
            let name = self.host.plan(vm).map_or("", |plan| plan.name.as_str());
            self.host.link.info(format_args!("{name}: its RAM is in huge pages"));
        }
        Ok(place)
    }

    fn release_ram(&self, _: VmId, backing: Place, _: u64) {
        // The kernel gives nobody's pages to anyone before it has zeroed them.
        drop(backing);
    }

    fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Place, Error> {
        self.host.vfio.registers(plan, resource)
    }

    fn doorbell(&self, _: VmId, _: &Doorbell) -> Result<Option<Place>, Error> {
        // The kernel maps the real one where its domains have it.
        Ok(None)
    }

    fn iommu(&self) -> &vfio::Vfio {
        &self.host.vfio
    }

    fn route_line(&self, vm: VmId, route: &LineRoute) -> Result<(), Error> {
        let plan = self.host.plan(vm).ok_or(Error::Unknown)?;
        self.host.vfio.route_line(vm, plan, route)
    }

    fn unroute_line(&self, vm: VmId, route: &LineRoute) {
        let unrouted = self.host.plan(vm).map(|plan| self.host.vfio.unroute_line(vm, plan, route));
        if let Some(Err(error)) = unrouted {
            self.host.link.error(format_args!("interrupt {}: it can't be taken away: {error}", route.irq));
        }
    }

    fn messages(&self) -> &vfio::Vfio {
        &self.host.vfio
    }

    fn equip(&self, ground: &Arc<Ground<Self>>) -> Result<Equipment<Self>, Error> {
        let (plan, host) = (ground.plan(), self.host);
        let vm = ground.with_maps(|space, _| space.kernel().clone());
        let routes = host.vfio.routes(plan.id).ok_or(Error::Unknown)?;
        let (vcpus, parts) = arch::make(&host.kvm, &vm, plan, &routes)?;
        let irqchip = Arc::new(KernelIrqchip::new(vm, plan.cpus.len() as u16, parts));
        let output = Arc::new(Output::new(host.bell.clone()));
        let (mut devices, own) = arch::add_own(AxVmDevices::builder(), plan, irqchip.parts())?;
        let mut console = None;
        if let Some(at) = plan.console {
            let lines = Arc::new(Lines::new(irqchip.clone()));
            (devices, console) = arch::add_console(devices, at, output.clone(), lines);
        }
        let mut watchdog = None;
        if let Some(at) = &plan.watchdog {
            let new = watchdogs::new(host, at, Arc::new(Lines::new(irqchip.clone())));
            devices = devices.mmio(at.control, Arc::new(new.control_frame()));
            devices = devices.mmio(at.refresh, Arc::new(new.refresh_frame()));
            watchdog = Some(new);
        }
        let (devices, bridges) = host.vfio.add_bridges(devices, ground)?;
        let devices = devices.build()?;
        let vcpus = vcpus.into_iter().map(Mutex::new).collect();
        Ok(Equipment { irqchip, devices, ends: Ends { vcpus, own, bridges, console, output, watchdog } })
    }

    fn reside<'a>(
        &'a self,
        vm: &'a Vm,
        vcpu: VcpuId,
        start: Start,
        (): (),
        run: impl FnOnce(&mut Running<'a>),
    ) -> Resided<Self> {
        let found = vm.ends().vcpus.get(usize::from(vcpu.0)).zip(self.host.caller(vm.id(), vcpu));
        let Some((fd, caller)) = found else { return Resided { seat: (), result: Err(Error::Unknown) } };
        // Only its thread ever has it.
        let fd = crate::lock(fd);
        let result = arch::begin(&self.host.kvm, vm.plan(), vm.irqchip().parts(), vcpu, &fd, start);
        if result.is_ok() {
            self.host.note_first_entry();
            run(&mut Running::new(self.host, vm, vcpu, fd, caller));
        }
        Resided { seat: (), result }
    }

    fn kick(&self, vm: VmId, vcpu: VcpuId) {
        if let Some(caller) = self.host.caller(vm, vcpu) {
            caller.call();
            self.host.bell.ring();
        }
    }

    fn now_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn record(&self, violation: Violation) {
        self.host.security.record(violation);
        self.host.bell.ring();
    }
}
