//! A VM as the hypervisor runs it: what the plan says, brought to life.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axvm::config::VMInterruptMode;
use axvm::devices::{AtOnce, AxVmDevices, Forward, Handled, Hint};
use axvm::events::Kind;
use axvm::plan::{GicPlan, VmPlan};
use axvm::report::VmReport;
use axvm::stats::{ExitCounters, ExitReason};
pub use axvm::vm::StopReason;
use axvm::vm::{AxVM, CreateError, DeviceCounters, Disposed};
use axvm_addr::{Address, CpuId, Gpa, Hpa, Intid, ItsDeviceId, Span, VcpuId, VmId};
use axvm_axdevice::Width;
use axvm_guest::image::Kernel;
use axvm_pl011::Pl011;
use axvm_vgic::{
    Distributor, HardwareLists, Its, ItsConfig, LineConfig, LineDelivery, ListRegisters, Redistributors,
    Vgic, VgicConfig,
};
use spin::Mutex;

use crate::arch::direct::{self, Direct};
use crate::arch::gic::{self, GicError};
use crate::arch::its::GUEST_LPI_ID_BITS;
use crate::hal::{Hal, HalError};
use crate::memory::GuestRam;
use crate::protection::{self, Protection};
use crate::ring::Ring;
use crate::vgic_backend::GicBackend;
use crate::vpci_backend::{Bridge, new_bridge};
use crate::{arch, cpus, host};

/// Why a vCPU can't be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOff {
    /// It runs.
    On,
    /// It is being started.
    Starting,
}

/// No device answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDevice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Off,
    Starting { entry: u64, argument: u64 },
    On,
}

/// A vCPU, as others see it.
pub struct Vcpu {
    /// Its CPU.
    cpu: CpuId,
    /// Its affinity, for the guest.
    mpidr: u64,
    power: Mutex<Power>,
}

impl Vcpu {
    /// AFFINITY_INFO (DEN 0022, 5.7): 0 on, 1 off, 2 being started.
    pub fn affinity_info(&self) -> i64 {
        match *self.power.lock() {
            Power::On => 0,
            Power::Off => 1,
            Power::Starting { .. } => 2,
        }
    }
}

/// A VM.
pub struct Vm {
    core: Arc<AxVM<Hal>>,
    devices: AxVmDevices,
    bridges: Vec<Arc<Bridge>>,
    vgic: Arc<Vgic>,
    backend: Arc<GicBackend>,
    console: Option<Arc<Pl011>>,
    output: Arc<Ring>,
    ram: GuestRam,
    vcpus: Vec<Vcpu>,
    vttbr: u64,
    vtcr: u64,
    /// Its CPUs take physical interrupts themselves.
    direct: bool,
    stopping: AtomicBool,
    /// CPUs that have still to leave it.
    busy: AtomicUsize,
}

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The core: RAM, mappings, devices.
    #[error(transparent)]
    Create(#[from] CreateError<HalError>),
    /// The virtual GIC.
    #[error("virtual GIC: {0}")]
    Gic(#[from] axvm_vgic::ConfigError),
    /// Two of its devices answer at one address.
    #[error(transparent)]
    Devices(#[from] axvm::devices::BuildError),
    /// The device tree.
    #[error("device tree: {0}")]
    DeviceTree(#[from] axvm_guest::fdt::FdtWriteError),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}")]
    Image(Gpa),
    /// The plan has no GIC for it.
    #[error("the plan has no GIC")]
    NoGic,
    /// There is no memory to map registers with.
    #[error("{0}: its registers can't be mapped for the hypervisor")]
    Registers(alloc::string::String),
    /// The virtual PCI bridge.
    #[error("virtual PCI bridge: {0}")]
    Pci(#[from] axvm_vpci::BridgeError),
}

/// The images of a VM.
pub struct VmFiles<'a> {
    /// The kernel.
    pub kernel: Kernel<'a>,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Its own device tree.
    pub device_tree: Option<&'a [u8]>,
}

impl Vm {
    /// Brings a plan to life, up to the point where the first vCPU can be started: memory loaded, devices reset and attached.
    pub fn build(plan: VmPlan, files: &VmFiles<'_>) -> Result<Arc<Self>, BuildError> {
        let host = host::get();
        let core = Arc::new(AxVM::new(plan, Arc::new(Hal), &mut host.registry.lock())?);
        match Self::around(core.clone(), files) {
            Ok(vm) => Ok(Arc::new(vm)),
            Err(error) => {
                // Nothing else has it: `around` has dropped what it made.
                if let Some(core) = Arc::into_inner(core) {
                    let _ = core.dispose(&mut host.registry.lock());
                }
                Err(error)
            }
        }
    }

    /// What the core leaves to its host: images, interrupt controller, console, PCI.
    fn around(core: Arc<AxVM<Hal>>, files: &VmFiles<'_>) -> Result<Self, BuildError> {
        let plan = core.plan();
        // SAFETY: the core has just been given this RAM: it is mapped, and nothing of the hypervisor's lies in it.
        let ram = unsafe { GuestRam::new(plan.ram.clone()) };
        load(plan, files, &ram)?;

        let gic = plan.gic.ok_or(BuildError::NoGic)?;
        let backend = Arc::new(GicBackend::new(
            plan.id,
            plan.cpus.iter().map(|&(cpu, _)| cpu).collect(),
            ram.clone(),
            gic.its.map(|(_, its)| its),
            plan.mode == VMInterruptMode::Passthrough,
        ));
        let vgic = Vgic::new(vgic_config(plan, &gic), backend.clone())?;
        let mut devices = AxVmDevices::builder();
        devices = match protection::real_distributor() {
            Some(real) => devices.forwarded(gic.distributor, real, 0, "the machine's distributor"),
            None => devices.mmio(gic.distributor, Arc::new(Distributor::new(vgic.clone()))),
        };
        devices = devices.mmio(gic.redistributors, Arc::new(Redistributors::new(vgic.clone())));
        if let (Some((span, _)), Some(its)) = (gic.its, Its::new(vgic.clone())) {
            devices = devices.mmio(span, Arc::new(its));
        }
        let output = Arc::new(Ring::new());
        let mut console = None;
        if let Some(at) = plan.console {
            let uart = Arc::new(Pl011::new(output.clone(), vgic.clone(), at.intid));
            devices = devices.mmio(at.registers, uart.clone());
            console = Some(uart);
        }
        let mut bridges = Vec::new();
        for pci in &plan.pci {
            let bridge = new_bridge(&core, pci)?;
            devices = match protection::real_config_space(pci) {
                Some(real) => devices.forwarded(pci.ecam, real, 0, "the machine's config space"),
                None => devices.mmio(pci.ecam, bridge.clone()),
            };
            bridges.push(bridge);
        }
        for block in plan.registers.iter().filter(|block| !block.direct) {
            let name = plan.devices.get(usize::from(block.device)).map_or("", |device| device.name.as_str());
            let registers = Span::new(block.hpa, block.gpa.size()).unwrap_or_default();
            arch::stage1::add_device(registers).map_err(|_| BuildError::Registers(name.into()))?;
            let (gpa, hpa) = protection::forwarded_block(block.gpa, block.hpa);
            devices = devices.forwarded(gpa, hpa, block.device, name);
        }
        let devices = devices.build()?;
        let vcpu = |&(cpu, mpidr): &(CpuId, u64)| Vcpu { cpu, mpidr, power: Mutex::new(Power::Off) };
        let vcpus = plan.cpus.iter().map(vcpu).collect();
        let direct = core.plan().mode == VMInterruptMode::Passthrough;
        let (vttbr, vtcr) = core.with_maps(|space, _| (space.0.vttbr(), space.0.vtcr()));
        Ok(Self {
            core,
            devices,
            bridges,
            vgic,
            backend,
            console,
            output,
            ram,
            vcpus,
            vttbr,
            vtcr,
            direct,
            stopping: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        })
    }

    /// Starts it: vCPU 0 at the kernel's entry with the device tree's address, the others wait for PSCI.
    pub fn start(self: &Arc<Self>) {
        if self.core.start().is_err() {
            return;
        }
        self.busy.store(self.vcpus.len(), Ordering::Release);
        let load = &self.core.plan().load;
        if let Some(first) = self.vcpus.first() {
            *first.power.lock() =
                Power::Starting { entry: load.entry.0, argument: load.device_tree.start().0 };
        }
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if let Some(cpu) = cpus::get(vcpu.cpu) {
                cpu.give(self.clone(), VcpuId(id));
            }
        }
    }

    /// Its id.
    pub fn id(&self) -> VmId {
        self.core.id()
    }

    /// Its plan.
    pub fn plan(&self) -> &VmPlan {
        self.core.plan()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.plan().name
    }

    /// Its virtual GIC.
    pub fn vgic(&self) -> &Vgic {
        &self.vgic
    }

    /// Its emulated console.
    pub fn console(&self) -> Option<&Pl011> {
        self.console.as_deref()
    }

    /// Its console's output.
    pub fn output(&self) -> &Ring {
        &self.output
    }

    /// Its virtual PCI bridges.
    pub fn bridges(&self) -> &[Arc<Bridge>] {
        &self.bridges
    }

    /// Its RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.vttbr
    }

    /// VTCR_EL2.
    pub fn vtcr(&self) -> u64 {
        self.vtcr
    }

    fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(usize::from(id.0))
    }

    /// The affinity that a vCPU sees.
    pub fn mpidr(&self, id: VcpuId) -> u64 {
        self.vcpu(id).map_or(0, |vcpu| vcpu.mpidr)
    }

    /// The vCPU with this affinity.
    pub fn vcpu_by_mpidr(&self, mpidr: u64) -> Option<&Vcpu> {
        self.vcpus.iter().find(|vcpu| vcpu.mpidr == mpidr)
    }

    /// Whether a vCPU could execute there.
    pub fn is_ram(&self, address: u64) -> bool {
        self.core.plan().ram.iter().any(|(span, _)| span.contains(Gpa(address)))
    }

    /// Has a vCPU start on its CPU.
    pub fn start_vcpu(&self, vcpu: &Vcpu, entry: u64, argument: u64) -> Result<(), NotOff> {
        let mut power = vcpu.power.lock();
        match *power {
            Power::On => Err(NotOff::On),
            Power::Starting { .. } => Err(NotOff::Starting),
            Power::Off => {
                *power = Power::Starting { entry, argument };
                drop(power);
                if let Some(cpu) = cpus::get(vcpu.cpu) {
                    cpu.kick();
                }
                Ok(())
            }
        }
    }

    /// On the vCPU's own CPU: entry and argument if it is to start now. From then on it is on.
    pub fn take_start(&self, id: VcpuId) -> Option<(u64, u64)> {
        let vcpu = self.vcpu(id)?;
        let mut power = vcpu.power.lock();
        match *power {
            Power::Starting { entry, argument } if !self.is_stopping() => {
                *power = Power::On;
                Some((entry, argument))
            }
            _ => None,
        }
    }

    /// On the vCPU's own CPU, before it starts: gives it the CPU's interrupts, where it takes them itself.
    pub fn give_interrupts(&self, id: VcpuId) -> Result<Option<Direct>, GicError> {
        match self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu)) {
            Some(cpu) if self.direct => {
                let direct = cpu.give_interrupts()?;
                self.vgic.restore_private(id);
                Ok(Some(direct))
            }
            _ => Ok(None),
        }
    }

    /// On the vCPU's own CPU, when it has left the guest for good: the other way round.
    pub fn take_interrupts_back(&self, id: VcpuId) {
        if let Some(cpu) = self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu)) {
            cpu.take_interrupts_back();
        }
    }

    /// On the vCPU's own CPU: it has left the guest for good.
    pub fn vcpu_off(&self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu(id) {
            *vcpu.power.lock() = Power::Off;
        }
        if self.vcpus.iter().all(|vcpu| *vcpu.power.lock() == Power::Off) {
            self.stop(StopReason::CpusOff);
        }
    }

    /// Stops it: every CPU leaves it soon. The first reason counts.
    pub fn stop(&self, reason: StopReason) {
        // Before the core kicks the CPUs, so that they find it.
        self.stopping.store(true, Ordering::SeqCst);
        if self.direct && !protection::is_off(Protection::Revoke) {
            // A guest that takes interrupts itself can keep any call out: it loses its memory.
            if let Err(error) = self.core.with_maps(|space, _| space.0.revoke()) {
                log::error!("{}: its second stage couldn't be revoked: {error}", self.name());
            }
        }
        self.core.stop(reason);
        if self.direct {
            arch::send_event();
        }
    }

    /// Whether it is stopping or has stopped.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A CPU has left it for good.
    pub fn parked(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
        host::get().call_hypervisor_cpu();
    }

    /// Whether it has stopped and every CPU has left it.
    pub fn is_stopped(&self) -> bool {
        self.is_stopping() && self.busy.load(Ordering::Acquire) == 0
    }

    /// What the report says of it.
    pub fn report(&self) -> VmReport {
        let mut report = self.core.report();
        report.refused.config = self.bridges.iter().map(|bridge| bridge.refused()).sum();
        for (device, plan) in report.devices.iter_mut().zip(&self.core.plan().devices) {
            if let Some(function) = plan.pci {
                device.exits.config =
                    self.bridges.iter().filter_map(|bridge| bridge.accesses(function)).sum();
            }
        }
        report
    }

    /// Takes everything back: only for a VM that every CPU has left. `None`: something still refers to it.
    pub fn dispose(self) -> Option<Disposed> {
        let Self { core, devices, bridges, vgic, .. } = self;
        // What the guest has enabled in hardware: lines that stand for no device, LPIs.
        vgic.reset();
        // The bridges refer to the core.
        drop((devices, bridges));
        Arc::into_inner(core)?.dispose(&mut host::get().registry.lock()).ok()
    }

    /// A vCPU's counters.
    pub fn exits(&self, id: VcpuId) -> Option<&ExitCounters> {
        self.core.exits(id)
    }

    /// Counts an exit of a vCPU, on its own CPU.
    pub fn count_exit(&self, id: VcpuId, reason: ExitReason) {
        if let Some(exits) = self.core.exits(id) {
            exits.count(reason);
        }
    }

    /// Counts a call that was answered NOT_SUPPORTED.
    pub fn count_refused_hypercall(&self) {
        self.core.refusals.hypercall.count();
    }

    /// Counts a system register that isn't there.
    pub fn count_refused_sysreg(&self) {
        self.core.refusals.sysreg.count();
    }

    /// Whether a BAR that isn't decoded now would be there: nobody answers, which on PCI is all ones.
    fn is_silent(&self, gpa: Gpa) -> bool {
        self.bridges.iter().any(|bridge| bridge.claims(gpa))
    }

    /// Whether an emulated or forwarded device is there.
    pub fn is_device(&self, gpa: Gpa) -> bool {
        Span::new(gpa, 1).is_ok_and(|byte| self.devices.overlaps(byte)) || self.is_silent(gpa)
    }

    /// Whether all `width` bytes at `gpa` are one device's.
    pub fn answers(&self, gpa: Gpa, width: Width) -> bool {
        self.devices.answers(gpa, width) || self.is_silent(gpa)
    }

    /// An access to the device that was accessed last, if it comes to something simple.
    #[inline]
    pub fn at_once(&self, gpa: Gpa, bytes: u64, write: bool, hint: Hint) -> Option<AtOnce> {
        self.devices.at_once(gpa, bytes, write, hint)
    }

    /// A read of forwarded registers, and what to count the exit as.
    pub fn forward_read(&self, gpa: Gpa, device: u16, hpa: Hpa, width: Width) -> (u64, ExitReason) {
        let read = Hal.forward_read(hpa, width);
        let reason = self.note_handled(gpa, Handled::Forwarded { device, aborted: read.is_err() });
        (read.unwrap_or(u64::MAX) & width.mask(), reason)
    }

    /// A write to forwarded registers, and what to count the exit as.
    pub fn forward_write(&self, gpa: Gpa, device: u16, hpa: Hpa, width: Width, value: u64) -> ExitReason {
        let written = Hal.forward_write(hpa, width, value & width.mask());
        self.note_handled(gpa, Handled::Forwarded { device, aborted: written.is_err() })
    }

    /// A trapped read.
    pub fn mmio_read(&self, vcpu: VcpuId, gpa: Gpa, width: Width, hint: &mut Hint) -> Result<u64, NoDevice> {
        let (value, reason) = self.read_device(vcpu, gpa, width, hint)?;
        self.count_exit(vcpu, reason);
        Ok(value)
    }

    /// A read that is all or part of an exit, and what to count the exit as.
    pub fn read_device(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        hint: &mut Hint,
    ) -> Result<(u64, ExitReason), NoDevice> {
        match self.devices.mmio_read(vcpu, gpa, width, hint, &Hal) {
            Some((value, handled)) => Ok((value, self.note_handled(gpa, handled))),
            None if self.is_silent(gpa) => Ok((u64::MAX, ExitReason::MmioEmulated)),
            None => Err(NoDevice),
        }
    }

    /// A trapped write.
    pub fn mmio_write(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        value: u64,
        hint: &mut Hint,
    ) -> Result<(), NoDevice> {
        let reason = self.write_device(vcpu, gpa, width, value, hint)?;
        self.count_exit(vcpu, reason);
        Ok(())
    }

    /// A write that is all or part of an exit, and what to count the exit as.
    pub fn write_device(
        &self,
        vcpu: VcpuId,
        gpa: Gpa,
        width: Width,
        value: u64,
        hint: &mut Hint,
    ) -> Result<ExitReason, NoDevice> {
        match self.devices.mmio_write(vcpu, gpa, width, value, hint, &Hal) {
            Some(handled) => Ok(self.note_handled(gpa, handled)),
            None if self.is_silent(gpa) => Ok(ExitReason::MmioEmulated),
            None => Err(NoDevice),
        }
    }

    /// A guest that takes interrupts itself has just accessed a device: if a line of the emulated ones is still high, it comes again.
    fn repeat_levels(&self) {
        if self.direct {
            self.vgic.repeat_levels();
        }
    }

    fn note_handled(&self, gpa: Gpa, handled: Handled) -> ExitReason {
        match handled {
            Handled::Emulated => {
                self.repeat_levels();
                ExitReason::MmioEmulated
            }
            Handled::Forwarded { device, aborted } => {
                if let Some(counters) = self.core.device(device) {
                    counters.registers.count();
                }
                if aborted {
                    host::get().violated(self.id(), Some(device), Kind::RegisterAbort, Some(gpa.0));
                }
                ExitReason::MmioForwarded
            }
        }
    }

    /// A write to ICC_SGI1R_EL1.
    pub fn send_sgi(&self, from: VcpuId, value: u64) {
        if protection::is_off(Protection::Sgi) {
            for vm in host::get().vms().iter().filter(|vm| vm.id() != self.id()) {
                vm.receive_foreign_sgi(value);
            }
        }
        self.vgic.send_sgi(from, value);
    }

    /// A write to ICC_SGI1R_EL1, as [`Vm::send_sgi`], if it takes no lock that is held. Whether it was done.
    #[inline(always)]
    pub fn send_sgi_at_once(
        &self,
        from: VcpuId,
        value: u64,
        lists: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        !protection::is_off(Protection::Sgi) && self.vgic.send_sgi_at_once(from, value, lists, hardware)
    }

    /// The same of a VM that takes physical interrupts itself.
    pub fn raise_sgi_at_once(&self, value: u64) -> bool {
        !protection::is_off(Protection::Sgi) && self.vgic.raise_sgi_at_once(value)
    }

    /// A software interrupt of another VM's, which gets here only without [`Protection::Sgi`].
    fn receive_foreign_sgi(&self, value: u64) {
        let all_others = value & 1 << 40 != 0;
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if all_others || value & 1 << (vcpu.mpidr & 0xf) != 0 {
                self.vgic.inject(VcpuId(id), Intid((value >> 24 & 0xf) as u32));
            }
        }
    }

    /// The counters of the device that has this line.
    pub fn device_of_line(&self, id: Intid) -> Option<&DeviceCounters> {
        let line = self.core.plan().lines.iter().find(|line| line.intid == id)?;
        self.core.device(line.device)
    }

    /// A physical interrupt was taken on the vCPU's CPU. Whether it is this VM's.
    pub fn deliver(&self, vcpu: VcpuId, id: Intid) -> bool {
        let plan = self.core.plan();
        let (injected, device) = match id.0 {
            16..32 => {
                if !self.vgic.config().hardware_ppis.contains(&id) {
                    return false;
                }
                (self.vgic.hardware_ppi(vcpu, id), None)
            }
            32..1020 => {
                let Some(line) = plan.lines.iter().find(|line| line.intid == id) else { return false };
                (self.vgic.hardware_spi(id), Some(line.device))
            }
            8192.. => {
                let Some((device, event)) = self.backend.event_of(id) else { return false };
                let sender = |plan: &axvm::plan::DevicePlan| plan.msi.is_some_and(|msi| msi.device == device);
                let position = plan.devices.iter().position(sender).map(|position| position as u16);
                (self.vgic.hardware_lpi(device, event), position)
            }
            _ => return false,
        };
        if injected {
            if let Some(exits) = self.core.exits(vcpu) {
                exits.count_injected();
            }
            if let Some(counters) = device.and_then(|device| self.core.device(device)) {
                counters.interrupts.count();
            }
        } else if id.0 < 8192 {
            // The guest has no use for it now: it doesn't stay active.
            gic::deactivate(id);
        }
        true
    }

    /// The bus aborted an access of a vCPU to what is mapped for it, at `gpa` if that is known.
    pub fn aborted(&self, gpa: Option<Gpa>) {
        let device = gpa.and_then(|gpa| self.core.device_at(gpa));
        host::get().violated(self.id(), device, Kind::RegisterAbort, gpa.map(|gpa| gpa.0));
    }

    /// A vCPU did what the plan doesn't list.
    pub fn violated(&self, kind: Kind, address: Option<u64>) {
        host::get().violated(self.id(), None, kind, address);
    }
}

/// Copies the images into RAM.
fn load(plan: &VmPlan, files: &VmFiles<'_>, ram: &GuestRam) -> Result<(), BuildError> {
    let put = |at: Gpa, bytes: &[u8]| ram.load(at, bytes).map_err(|_| BuildError::Image(at));
    for segment in files.kernel.segments() {
        // The rest of the segment is zero, as all of RAM is.
        let at = plan.load.kernel.checked_add(segment.offset).ok_or(BuildError::Image(plan.load.kernel))?;
        put(at, segment.data)?;
    }
    if let (Some(span), Some(bytes)) = (plan.load.initrd, files.initrd) {
        put(span.start(), bytes)?;
    }
    match files.device_tree {
        Some(bytes) => put(plan.load.device_tree.start(), bytes),
        None => {
            let tree = axvm_guest::fdt::write(&plan.description, None)?;
            if tree.len() as u64 > plan.load.device_tree.size() {
                return Err(BuildError::Image(plan.load.device_tree.start()));
            }
            put(plan.load.device_tree.start(), &tree)
        }
    }
}

fn vgic_config(plan: &VmPlan, shown: &GicPlan) -> VgicConfig {
    let direct = plan.mode == VMInterruptMode::Passthrough;
    let mut lines: Vec<LineConfig> = plan
        .lines
        .iter()
        .map(|line| LineConfig {
            guest: line.intid,
            host: Some(line.intid),
            edge: line.trigger == axvm_platform::model::Trigger::Edge,
            delivery: match line.masked && !protection::is_off(Protection::LineEnd) {
                true => LineDelivery::MaskUntilEnd,
                false => LineDelivery::Hardware,
            },
        })
        .collect();
    if let Some(console) = plan.console {
        lines.push(LineConfig {
            guest: console.intid,
            host: None,
            edge: false,
            delivery: LineDelivery::default(),
        });
    }
    let devices: Vec<_> = plan.devices.iter().filter_map(|device| device.msi).collect();
    let most = devices.iter().map(|msi| msi.events).max().unwrap_or(1);
    // Functions behind a bridge to conventional PCI have one id together.
    let mut ids: Vec<ItsDeviceId> = devices.iter().map(|msi| msi.device).collect();
    ids.sort_unstable();
    ids.dedup();
    VgicConfig {
        vcpus: plan.cpus.iter().map(|&(_, mpidr)| mpidr).collect(),
        spis: u32::from(shown.spis),
        lines,
        hardware_ppis: host::get().guest_timers(),
        list_registers: arch::list_registers(),
        priority_bits: if direct { direct::priority_bits().max(4) } else { arch::priority_bits() },
        its: shown.its.map(|_| ItsConfig {
            devices: match protection::is_off(Protection::Its) {
                true => (0..256).map(ItsDeviceId).collect(),
                false => ids,
            },
            event_bits: u32::from(most.max(2)).next_power_of_two().trailing_zeros(),
            // LPIs delivered directly have the guest's numbers in hardware, and these are set apart for them.
            lpi_id_bits: if direct { GUEST_LPI_ID_BITS } else { 16 },
        }),
        direct: direct.then_some(axvm_vgic::Direct { reserved_sgis: gic::reserved_sgis() }),
    }
}
