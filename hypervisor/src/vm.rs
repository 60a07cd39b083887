//! A VM as the hypervisor runs it: what the plan says, brought to life.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axvm::plan::VmPlan;
use axvm::stats::{Counter, ExitCounters, ExitReason};
use axvm_addr::{Address, CpuId, Gpa, Intid, Span, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_guest::image::Kernel;
use axvm_pl011::Pl011;
use axvm_vgic::{Distributor, Its, ItsConfig, LineConfig, Redistributors, Vgic, VgicConfig};
use spin::Mutex;

use crate::arch::gic;
use crate::iommu::DmaSpace;
use crate::memory::GuestRam;
use crate::ring::Ring;
use crate::tables::GuestSpace;
use crate::vgic_backend::GicBackend;
use crate::vpci_backend::{Bridge, new_bridge};
use crate::{arch, cpus, host};

/// Why a VM stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It powered itself off.
    SystemOff,
    /// It asked for a reset.
    SystemReset,
    /// All its CPUs are off.
    AllCpusOff,
    /// The run ended.
    RunEnded,
    /// It violated its bounds, and its policy says so.
    Violation,
}

impl StopReason {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemOff => "system-off",
            Self::SystemReset => "system-reset",
            Self::AllCpusOff => "all-cpus-off",
            Self::RunEnded => "run-ended",
            Self::Violation => "violation",
        }
    }
}

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
    exits: ExitCounters,
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

/// Accesses that were answered as the manual says for what isn't there.
#[derive(Debug, Default)]
pub struct Refused {
    /// Calls.
    pub hypercall: Counter,
    /// System registers.
    pub sysreg: Counter,
}

/// A VM.
pub struct Vm {
    plan: VmPlan,
    ram: GuestRam,
    space: Arc<GuestSpace>,
    /// Where emulated devices answer: sorted, not overlapping.
    devices: Vec<(Span<Gpa>, Arc<dyn MmioDevice>)>,
    bridges: Vec<Arc<Bridge>>,
    vgic: Arc<Vgic>,
    backend: Arc<GicBackend>,
    console: Option<Arc<Pl011>>,
    output: Arc<Ring>,
    vcpus: Vec<Vcpu>,
    refused: Refused,
    stopping: AtomicBool,
    reason: Mutex<Option<StopReason>>,
    /// CPUs that have still to leave it.
    busy: AtomicUsize,
    /// What its devices reach, by SMMU. Kept for as long as the VM is: the streams refer to it.
    dma: Vec<(usize, DmaSpace)>,
}

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A space can't be made.
    #[error("second stage: {0}")]
    Space(#[from] crate::tables::SpaceError),
    /// No memory for tables, or a mapping that the plan should not have said.
    #[error("second stage: {0}")]
    Map(#[from] axvm_paging::MapError),
    /// The virtual GIC.
    #[error("virtual GIC: {0}")]
    Gic(#[from] axvm_vgic::ConfigError),
    /// The IOMMU.
    #[error("SMMU: {0}")]
    Iommu(#[from] axvm_smmuv3::Error),
    /// A device can't be reset.
    #[error("device {0}: {1}")]
    Reset(alloc::string::String, axvm_pci::ResetError),
    /// The device tree.
    #[error("device tree: {0}")]
    DeviceTree(#[from] axvm_guest::fdt::FdtWriteError),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}")]
    Image(Gpa),
    /// The plan has no GIC for it.
    #[error("the plan has no GIC")]
    NoGic,
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
        let vmid = plan.id.0 + 1;
        // SAFETY: the plan takes RAM of VMs from what is free: not the hypervisor's, mapped, and nobody else's.
        let ram = unsafe { GuestRam::new(plan.ram.clone()) };
        ram.clear();
        load(&plan, files, &ram)?;
        ram.clean();

        let space = Arc::new(GuestSpace::new(plan.address_bits, vmid)?);
        use axvm::config::MappingFlags as Flags;
        for &(span, hpa) in &plan.ram {
            space.map(span, hpa, Flags::READ | Flags::WRITE | Flags::EXECUTE | Flags::USER)?;
        }
        for region in plan.registers.iter().filter(|region| region.direct) {
            space.map(region.gpa, region.hpa, region.flags)?;
        }
        let gic = plan.gic.ok_or(BuildError::NoGic)?;
        let backend = Arc::new(GicBackend::new(
            plan.id,
            plan.cpus.iter().map(|&(cpu, _)| cpu).collect(),
            ram.clone(),
            gic.its.map(|(_, its)| its),
        ));
        let vgic = Vgic::new(vgic_config(&plan, &gic), backend.clone())?;
        let mut devices: Vec<(Span<Gpa>, Arc<dyn MmioDevice>)> = alloc::vec![
            (gic.distributor, Arc::new(Distributor::new(vgic.clone())) as Arc<dyn MmioDevice>),
            (gic.redistributors, Arc::new(Redistributors::new(vgic.clone()))),
        ];
        if let (Some((span, _)), Some(its)) = (gic.its, Its::new(vgic.clone())) {
            devices.push((span, Arc::new(its)));
        }
        let output = Arc::new(Ring::new());
        let mut console = None;
        if let Some(at) = plan.console {
            let uart = Arc::new(Pl011::new(output.clone(), vgic.clone(), at.intid));
            devices.push((at.registers, uart.clone()));
            console = Some(uart);
        }
        let dma = attach_devices(&plan, vmid)?;
        let mut bridges = Vec::new();
        for pci in &plan.pci {
            let bridge = new_bridge(&plan, pci, space.clone())?;
            devices.push((pci.ecam, bridge.clone()));
            bridges.push(bridge);
        }
        devices.sort_by_key(|(span, _)| span.start());
        let vcpus = plan
            .cpus
            .iter()
            .map(|&(cpu, mpidr)| Vcpu {
                cpu,
                mpidr,
                power: Mutex::new(Power::Off),
                exits: ExitCounters::default(),
            })
            .collect();
        Ok(Arc::new(Self {
            plan,
            ram,
            space,
            devices,
            bridges,
            vgic,
            backend,
            console,
            output,
            vcpus,
            refused: Refused::default(),
            stopping: AtomicBool::new(false),
            reason: Mutex::new(None),
            busy: AtomicUsize::new(0),
            dma,
        }))
    }

    /// Starts it: vCPU 0 at the kernel's entry with the device tree's address, the others wait for PSCI.
    pub fn start(self: &Arc<Self>) {
        self.busy.store(self.vcpus.len(), Ordering::Release);
        if let Some(first) = self.vcpus.first() {
            *first.power.lock() = Power::Starting {
                entry: self.plan.load.entry.0,
                argument: self.plan.load.device_tree.start().0,
            };
        }
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if let Some(cpu) = cpus::get(vcpu.cpu) {
                cpu.give(self.clone(), VcpuId(id));
            }
        }
    }

    /// Its plan.
    pub fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
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

    /// What was refused.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }

    /// VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.space.vttbr()
    }

    /// VTCR_EL2.
    pub fn vtcr(&self) -> u64 {
        self.space.vtcr()
    }

    /// Each vCPU's exits.
    pub fn exits(&self) -> impl Iterator<Item = &ExitCounters> {
        self.vcpus.iter().map(|vcpu| &vcpu.exits)
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
        self.plan.ram.iter().any(|(span, _)| span.contains(Gpa(address)))
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

    /// On the vCPU's own CPU: it has left the guest for good.
    pub fn vcpu_off(&self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu(id) {
            *vcpu.power.lock() = Power::Off;
        }
        if self.vcpus.iter().all(|vcpu| *vcpu.power.lock() == Power::Off) {
            self.stop(StopReason::AllCpusOff);
        }
    }

    /// Stops it: every CPU leaves it soon. The first reason counts.
    pub fn stop(&self, reason: StopReason) {
        let mut first = self.reason.lock();
        if first.is_some() {
            return;
        }
        *first = Some(reason);
        drop(first);
        self.stopping.store(true, Ordering::Release);
        for vcpu in &self.vcpus {
            if let Some(cpu) = cpus::get(vcpu.cpu) {
                cpu.kick();
            }
        }
    }

    /// Whether it is stopping or has stopped.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A CPU has left it for good.
    pub fn parked(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
        host::get().call_hypervisor_cpu();
    }

    /// Why it stopped, once every CPU has left it.
    pub fn stopped(&self) -> Option<StopReason> {
        if self.busy.load(Ordering::Acquire) != 0 { None } else { *self.reason.lock() }
    }

    /// Counts an exit of a vCPU, on its own CPU.
    pub fn count_exit(&self, id: VcpuId, reason: ExitReason) {
        if let Some(vcpu) = self.vcpu(id) {
            vcpu.exits.count(reason);
        }
    }

    /// Counts a call that was answered NOT_SUPPORTED.
    pub fn count_refused_hypercall(&self, _: VcpuId) {
        self.refused.hypercall.count();
    }

    /// Counts a system register that isn't there.
    pub fn count_refused_sysreg(&self, _: VcpuId) {
        self.refused.sysreg.count();
    }

    fn find(&self, gpa: Gpa) -> Option<(&Span<Gpa>, &dyn MmioDevice)> {
        let after = self.devices.partition_point(|(span, _)| span.start() <= gpa);
        let (span, device) = self.devices.get(after.checked_sub(1)?)?;
        span.contains(gpa).then_some((span, device.as_ref()))
    }

    /// Whether an emulated or forwarded device is there.
    pub fn is_device(&self, gpa: Gpa) -> bool {
        self.find(gpa).is_some() || self.bridges.iter().any(|bridge| bridge.claims(gpa))
    }

    /// A trapped read.
    pub fn mmio_read(&self, vcpu: VcpuId, gpa: Gpa, width: Width) -> Result<u64, NoDevice> {
        if let Some((span, device)) = self.find(gpa) {
            self.count_exit(vcpu, ExitReason::MmioEmulated);
            let offset = gpa.0 - span.start().0;
            return Ok(device.read(vcpu, offset, width));
        }
        if self.bridges.iter().any(|bridge| bridge.claims(gpa)) {
            // A BAR that isn't decoded now: nobody answers.
            self.count_exit(vcpu, ExitReason::MmioEmulated);
            return Ok(u64::MAX);
        }
        Err(NoDevice)
    }

    /// A trapped write.
    pub fn mmio_write(&self, vcpu: VcpuId, gpa: Gpa, width: Width, value: u64) -> Result<(), NoDevice> {
        if let Some((span, device)) = self.find(gpa) {
            self.count_exit(vcpu, ExitReason::MmioEmulated);
            let offset = gpa.0 - span.start().0;
            device.write(vcpu, offset, width, value);
            return Ok(());
        }
        if self.bridges.iter().any(|bridge| bridge.claims(gpa)) {
            self.count_exit(vcpu, ExitReason::MmioEmulated);
            return Ok(());
        }
        Err(NoDevice)
    }

    /// A write to ICC_SGI1R_EL1.
    pub fn send_sgi(&self, from: VcpuId, value: u64) {
        self.vgic.send_sgi(from, value);
    }

    /// A physical interrupt was taken on the vCPU's CPU. Whether it is this VM's.
    pub fn deliver(&self, vcpu: VcpuId, id: Intid) -> bool {
        let injected = match id.0 {
            16..32 => {
                if !self.vgic.config().hardware_ppis.contains(&id) {
                    return false;
                }
                self.vgic.hardware_ppi(vcpu, id)
            }
            32..1020 => {
                if !self.plan.lines.iter().any(|line| line.intid == id) {
                    return false;
                }
                self.vgic.hardware_spi(id)
            }
            8192.. => {
                let Some((device, event)) = self.backend.event_of(id) else { return false };
                self.vgic.hardware_lpi(device, event)
            }
            _ => return false,
        };
        if injected {
            if let Some(vcpu) = self.vcpu(vcpu) {
                vcpu.exits.count_injected();
            }
        } else if id.0 < 8192 {
            // The guest has no use for it now: it doesn't stay active.
            gic::deactivate(id);
        }
        true
    }

    /// An access to what the plan doesn't list.
    pub fn report_access(&self, _: VcpuId, gpa: Gpa, write: bool) {
        host::get().record(self.plan.id, if write { "cpu-write" } else { "cpu-read" }, gpa.0);
    }

    /// The bus aborted an access to an assigned device.
    pub fn report_bus_abort(&self, _: VcpuId, far: u64) {
        host::get().record(self.plan.id, "bus-abort", far);
    }

    /// An SError arrived while a vCPU ran.
    pub fn report_system_error(&self, _: VcpuId) {
        host::get().record(self.plan.id, "system-error", 0);
    }

    /// What its devices reach.
    pub fn dma(&self) -> &[(usize, DmaSpace)] {
        &self.dma
    }
}

/// Copies the images into RAM.
fn load(plan: &VmPlan, files: &VmFiles<'_>, ram: &GuestRam) -> Result<(), BuildError> {
    let put = |at: Gpa, bytes: &[u8]| ram.write(at, bytes).map_err(|_| BuildError::Image(at));
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

fn vgic_config(plan: &VmPlan, gic: &axvm::plan::GicPlan) -> VgicConfig {
    let mut lines: Vec<LineConfig> = plan
        .lines
        .iter()
        .map(|line| LineConfig {
            guest: line.intid,
            host: Some(line.intid),
            edge: line.trigger == axvm_platform::model::Trigger::Edge,
        })
        .collect();
    if let Some(console) = plan.console {
        lines.push(LineConfig { guest: console.intid, host: None, edge: false });
    }
    let devices: Vec<_> = plan.devices.iter().filter_map(|device| device.msi).collect();
    let most = devices.iter().map(|msi| msi.events).max().unwrap_or(1);
    VgicConfig {
        vcpus: plan.cpus.iter().map(|&(_, mpidr)| mpidr).collect(),
        spis: u32::from(gic.spis),
        lines,
        hardware_ppis: host::get().guest_timers(),
        list_registers: arch::list_registers(),
        priority_bits: arch::priority_bits(),
        its: gic.its.map(|_| ItsConfig {
            devices: devices.iter().map(|msi| msi.device).collect(),
            event_bits: u32::from(most.max(2)).next_power_of_two().trailing_zeros(),
            lpi_id_bits: 16,
        }),
    }
}

/// Takes the devices through quarantine and reset, and lets each reach the VM's RAM and its doorbell.
fn attach_devices(plan: &VmPlan, vmid: u16) -> Result<Vec<(usize, DmaSpace)>, BuildError> {
    let host = host::get();
    let mut spaces: Vec<(usize, DmaSpace)> = Vec::new();
    for device in &plan.devices {
        if let Some(function) = device.pci.and_then(|address| host.function(address)) {
            axvm_pci::quarantine(&host.config, function);
            if let Some(method) = device.reset {
                axvm_pci::reset(&host.config, function, method, &|us| arch::delay_us(us))
                    .map_err(|error| BuildError::Reset(device.name.clone(), error))?;
            }
        }
        for &(smmu, stream) in &device.streams {
            let position = match spaces.iter().position(|&(it, _)| it == smmu) {
                Some(position) => position,
                None => {
                    let mut space = DmaSpace::new(plan.address_bits, host.iommus.output_bits(), vmid)?;
                    for &(span, hpa) in &plan.ram {
                        space.map_ram(span, hpa)?;
                    }
                    for doorbell in &plan.doorbells {
                        if let Ok(page) = Span::new(Gpa(doorbell.iova.0), axvm_addr::PAGE_SIZE) {
                            space.map_doorbell(page, doorbell.hpa)?;
                        }
                    }
                    spaces.push((smmu, space));
                    spaces.len() - 1
                }
            };
            if let Some((_, space)) = spaces.get(position) {
                host.iommus.attach(smmu, stream, space)?;
            }
        }
    }
    Ok(spaces)
}
