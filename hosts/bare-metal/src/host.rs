//! The machine under the VMs: its interrupt controller, IOMMUs and PCI, and what the hypervisor's own CPU does.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm::events::{Action, Kind, Violation};
use axvm::ownership::Registry;
use axvm::report::{HypervisorReport, Report, Verdict};
use axvm_addr::{CpuId, IommuId, PciAddress, VcpuId, VmId};
use axvm_guest::image::{ImageError, Images, Kernel, VmImages};
use axvm_pci::{Forwarding, Function, HostBridge};
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{Plan, VmPlan, own_tree, plan};
use axvm_platform::limits::Limits;
use axvm_platform::model::{Interrupt, IommuKind, PciDevice, Platform};
use axvm_smmuv3::Domain;
use axvm_system::bundle::{Bundle, ImageKind};
use axvm_system::model::Item;
use axvm_vgic::Intid;
use spin::{Mutex, Once};

use crate::arch::gic::{self, GicError, PhysicalGic};
use crate::arch::its::PhysicalIts;
use crate::arch::lpis::Lpis;
use crate::arch::vpe;
use crate::cpus::Cpu;
use crate::iommu::{self, Iommus};
use crate::lock::Held;
use crate::log;
use crate::pci::{Config, Ticks};
use crate::security::Security;
use crate::vm::{Vm, VmFiles};
use crate::{arch, boot, console, cpus, memory, protection, report, serve};

/// What boot hands over.
pub struct Start {
    /// The hardware, without PCI functions.
    pub platform: Platform,
    /// What the boot loader carried.
    pub bundle: Bundle<'static>,
    /// When the first instruction was executed.
    pub start: u64,
    /// Bytes of heap and stacks.
    pub pool: u64,
}

/// The machine.
pub struct Host {
    /// The hardware.
    pub platform: Platform,
    /// The interrupt controller.
    pub gic: PhysicalGic,
    /// LPIs.
    pub lpis: Lpis,
    /// ITSs, by position in the platform.
    pub its: Vec<PhysicalIts>,
    /// SMMUs.
    pub iommus: Iommus,
    /// PCI config space.
    pub config: Config,
    /// Which PCI bridges forward requests up.
    pub forwarding: Held<Forwarding>,
    /// Who owns which device.
    pub registry: Held<Registry>,
    /// What was tried beyond the plans.
    pub security: Security,
    /// What the VMs were planned to be: it outlives them.
    pub plans: Vec<Arc<VmPlan>>,
    /// What each SMMU's streams of a VM are attached to.
    domains: Mutex<Vec<(VmId, IommuId, Domain)>>,
    vms: Mutex<Vec<Arc<Vm>>>,
    hypervisor_cpu: CpuId,
    /// The device-tree path of the hypervisor's console.
    console: Option<String>,
    /// An SMMU has no line by which it could call.
    polls: AtomicBool,
    /// The VMs have been started.
    started: AtomicBool,
    start: u64,
    first_entry: AtomicU64,
    /// Of the ticks until then, those that guests' RAM took.
    filling: AtomicU64,
    /// RAM that the hypervisor holds beside its image: heap, stacks, bundle.
    held: u64,
    /// CPUs that didn't leave a VM that was stopped.
    lost: Mutex<Vec<CpuId>>,
}

/// How often an SMMU is looked at that can't call.
const SMMU_POLL_US: u64 = 10_000;

/// The hypervisor's own timer among the platform's: the binding's fourth.
const HYPERVISOR_TIMER: usize = 3;

/// Bytes of the heap that aren't for tables: plans, records, consoles.
const OBJECTS: u64 = 1 << 20;

static HOST: Once<Host> = Once::new();

/// The machine. Only after [`run`] has set it up.
pub fn get() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        None => boot::last_words(&"the machine isn't set up yet"),
    }
}

/// Closes every IOMMU.
pub fn close_iommus(platform: &Platform) -> Result<(), axvm_smmuv3::Error> {
    // SAFETY: boot has mapped them, and nothing else drives them.
    unsafe { iommu::close(platform) }
}

fn fail(why: &dyn core::fmt::Display) -> ! {
    boot::last_words(why)
}

/// Sets the machine up, plans, runs the VMs, reports, and ends.
pub fn run(start: Start) -> ! {
    let Start { mut platform, bundle, start, pool } = start;
    if let Err(problem) = protection::choose(bundle.run().protection_off.as_deref()) {
        boot::refuse(alloc::vec![problem])
    }
    protection::test_restart();
    // SAFETY: boot has mapped the config spaces.
    let config = unsafe { Config::new(&platform) };
    enumerate(&mut platform, &config);
    // SAFETY: boot has mapped the SMMUs.
    let iommus = match unsafe { Iommus::new(&platform) } {
        Ok(iommus) => iommus,
        Err(error) => fail(&error),
    };
    if let Some(gic) = platform.gic_mut() {
        // SAFETY: boot has mapped the GIC.
        gic.virtual_lpis = Some(unsafe { vpe::offered(gic) });
    }
    leave_out_cpus(&mut platform);
    limits(&mut platform, &iommus);
    platform.address_bits = u32::from(arch::physical_address_bits()).min(iommus.output_bits()) as u8;

    let (images, files) = images(&bundle);
    let plan = plan(bundle.system(), &platform, &images);
    if bundle.run().plan_only {
        report::send_platform(&platform);
        match plan {
            Ok(_) => report::send(&Report::new(Verdict::Ok)),
            Err(problems) => report::send(&Report::bad_input(problems)),
        }
        arch::psci::system_off()
    }
    let trees = |(id, files): (u16, &Option<VmFiles<'static>>)| Some((id, files.as_ref()?.device_tree?));
    let trees: Vec<(u16, &[u8])> = (0..).zip(&files).filter_map(trees).collect();
    let looked =
        plan.and_then(|mut plan| own_tree::check_memory(bundle.system(), &mut plan, &trees).map(|()| plan));
    let plan = match looked {
        Ok(plan) => plan,
        Err(problems) => boot::refuse(problems),
    };
    if plan.console != driven_first(&platform) {
        let started = plan.console.as_deref().is_none_or(|path| boot::start_console(&platform, path));
        if !started {
            let why = "the hypervisor: its console can't be driven: name another, or none";
            boot::refuse(alloc::vec![Problem::new(Item::Hypervisor("console".into()), Rule::Hypervisor, why)])
        }
    }
    for note in &plan.notes {
        log::info!("{note}");
    }
    let held = pool + bundle.length();
    let host = match take_over(platform, iommus, config, plan, start, held) {
        Ok(host) => HOST.call_once(|| host),
        Err(error) => fail(&error),
    };
    console::set_names(host.plans.iter().map(|vm| vm.name.clone()).collect());
    let Some(this) = cpus::current() else { fail(&"the device tree has no node for the CPU that booted") };
    this.bring_up(host);
    if host.hypervisor_cpu != this.id {
        host.start_cpu(host.hypervisor_cpu);
    }
    host.listen();
    host.start_vms(&files);
    host.started.store(true, Ordering::Release);
    if host.hypervisor_cpu == this.id {
        serve::serve(host)
    }
    // The CPU that booted isn't the hypervisor's: from here on it is a VM's, or idle.
    host.call_hypervisor_cpu();
    this.run_vcpus(host)
}

/// The console that boot has begun with: the platform's, if it is one that can be driven.
fn driven_first(platform: &Platform) -> Option<String> {
    let path = platform.console.as_ref()?;
    let device = platform.devices.iter().find(|device| device.path == *path)?;
    device.uart().map(|_| path.clone())
}

/// Finds the PCI functions.
fn enumerate(platform: &mut Platform, config: &Config) {
    let mut functions = Vec::new();
    for host in &platform.pci_hosts {
        let bridge = HostBridge { segment: host.segment, buses: host.buses, windows: host.windows.clone() };
        functions.extend(axvm_pci::enumerate(config.shared(), &bridge, &Ticks));
    }
    let groups = axvm_pci::groups(&functions, config.shared());
    platform.add_functions(functions, &groups);
}

/// Marks the CPUs that can't be used because the GIC doesn't serve them: a VM that names one is refused.
fn leave_out_cpus(platform: &mut Platform) {
    let Some(gic) = platform.gic() else { return };
    // SAFETY: boot has mapped the GIC.
    let without = unsafe { gic::without_redistributor(gic, platform.cpus.iter().map(|cpu| cpu.hardware_id)) };
    for (cpu, _) in platform.cpus.iter_mut().zip(without).filter(|it| it.1) {
        log::warn!("{}: it has no redistributor in the GIC's regions, and can't be used", cpu.path);
        cpu.usable = false;
    }
}

/// Fills in what the machine can't go beyond, as far as its registers and the memory left say it.
fn limits(platform: &mut Platform, iommus: &Iommus) {
    let mut found = Limits { source_bits: iommus.stream_bits().to_vec(), ..Limits::default() };
    let mut its = 0;
    if let Some(gic) = platform.gic() {
        let doorbells = if gic.virtual_lpis == Some(true) { platform.cpus.len() } else { 0 };
        // SAFETY: boot has mapped the GIC and its ITSs.
        let of_gic = unsafe { arch::limits::of(gic, doorbells) };
        its = gic.its.len();
        found.lines.end = found.lines.end.min(of_gic.lines.into());
        (found.messages, found.msi) = (of_gic.lpis, of_gic.its);
    }
    found.list_registers = arch::list_registers() as u8;
    let later = arch::limits::bytes_at_take_over(platform.cpus.len(), its) + OBJECTS;
    found.table_bytes = memory::free_bytes().saturating_sub(later);
    platform.limits = found;
}

/// What the bundle has for each VM: the part that the plan needs, and the content.
fn images(bundle: &Bundle<'static>) -> (Images, Vec<Option<VmFiles<'static>>>) {
    let mut images = Images::default();
    let mut files = Vec::new();
    for (id, vm) in (0..).zip(&bundle.system().vms) {
        let of = |kind| bundle.image(VmId(id), kind);
        let raw = vm.load.zip(vm.entry);
        let kernel = match of(ImageKind::Kernel) {
            Some(bytes) => Kernel::parse(bytes, raw),
            None => Err(ImageError::Unreadable("the bundle hasn't got it".into())),
        };
        let (initrd, device_tree) = (of(ImageKind::Initrd), of(ImageKind::DeviceTree));
        images.vms.push(VmImages {
            kernel: kernel.as_ref().map(|kernel| kernel.info.clone()).map_err(Clone::clone),
            initrd_len: initrd.map(|bytes| bytes.len() as u64),
            dtb_len: device_tree.map(|bytes| bytes.len() as u64),
        });
        files.push(kernel.ok().map(|kernel| VmFiles { kernel, initrd, device_tree }));
    }
    (images, files)
}

/// A machine that can't be taken over.
#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    #[error(transparent)]
    Gic(#[from] GicError),
    #[error(transparent)]
    Its(#[from] crate::arch::its::ItsError),
    #[error("the platform has no GICv3")]
    NoGic,
}

fn take_over(
    platform: Platform,
    iommus: Iommus,
    config: Config,
    plan: Plan,
    start: u64,
    held: u64,
) -> Result<Host, TakeOverError> {
    let described = platform.gic().ok_or(TakeOverError::NoGic)?;
    let cpus: Vec<u64> = platform.cpus.iter().map(|cpu| cpu.hardware_id).collect();
    // SAFETY: boot has mapped the GIC and its ITSs; nothing else drives them.
    let gic = unsafe { PhysicalGic::new(described, &platform.compatible, &cpus)? };
    let doorbells = if described.virtual_lpis == Some(true) { cpus.len() } else { 0 };
    let lpis = Lpis::new(gic.id_bits(), doorbells)?;
    let mut its = Vec::new();
    for one in &described.its {
        // SAFETY: as above.
        its.push(unsafe { PhysicalIts::new(one, &platform.compatible, cpus.len())? });
    }
    let registry = Registry::new(plan.vms.iter().flat_map(|vm| &vm.devices));
    Ok(Host {
        gic,
        lpis,
        its,
        iommus,
        config,
        forwarding: Held::for_hardware("the bridges", Forwarding::default()),
        registry: Held::for_hand_over("the registry of devices", registry),
        security: Security::new(cpus.len(), plan.vms.iter().map(|vm| vm.devices.len())),
        domains: Mutex::new(Vec::new()),
        vms: Mutex::new(Vec::new()),
        hypervisor_cpu: plan.hypervisor_cpu,
        console: plan.console,
        polls: AtomicBool::new(false),
        started: AtomicBool::new(false),
        plans: plan.vms.into_iter().map(Arc::new).collect(),
        start,
        first_entry: AtomicU64::new(0),
        filling: AtomicU64::new(0),
        held,
        lost: Mutex::new(Vec::new()),
        platform,
    })
}

impl Host {
    /// Brings up the calling CPU's part of the interrupt controller.
    pub fn init_cpu(&self, cpu: CpuId) -> Result<(), GicError> {
        self.gic.init_cpu(cpu, self.has_lpis().then(|| self.lpis.properties()))
    }

    /// Makes a CPU's own interrupts ready for a VM, which it has until [`Host::leave_cpu`]. `injected`: by list registers.
    pub fn prepare_cpu(&self, cpu: CpuId, injected: bool) {
        // It brings a vCPU out of its guest when a level is to be looked at again, or when list registers are free for what waits.
        if let Some(maintenance) = self.platform.gic().and_then(|gic| gic.maintenance) {
            self.gic.enable_private(cpu, maintenance.irq.into(), injected);
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
    pub fn leave_cpu(&self, cpu: CpuId) -> Result<(), GicError> {
        gic::take_interface();
        if self.has_lpis() {
            self.gic.start_lpis(cpu)?;
        }
        self.gic.reset_private(cpu)
    }

    fn has_lpis(&self) -> bool {
        !self.its.is_empty()
    }

    /// Wakes the hypervisor's CPU, so that it looks around.
    pub fn call_hypervisor_cpu(&self) {
        if let Some(cpu) = cpus::get(self.hypervisor_cpu) {
            cpu.kick(&self.gic);
        }
    }

    /// Enables the lines that the hypervisor itself listens to, on its own CPU.
    fn listen(&self) {
        let Some(cpu) = cpus::get(self.hypervisor_cpu) else { return };
        // For what has to be looked at by the clock.
        let timer = self.platform.timer.get(HYPERVISOR_TIMER);
        if let Some(timer) = timer {
            self.gic.enable_private(cpu.id, timer.irq.into(), true);
        }
        for smmu in &self.platform.iommus {
            let IommuKind::SmmuV3 { event_queue, global_error } = smmu.kind;
            let heard =
                |line: Option<Interrupt>| line.is_some_and(|line| self.gic.enable_line(line, cpu.mpidr));
            // Both, also if the first one isn't heard.
            if !(heard(event_queue) & heard(global_error)) {
                let pause = SMMU_POLL_US / 1000;
                log::warn!(
                    "{}: not all of its lines reach the GIC: it is looked at every {pause} ms",
                    smmu.path
                );
                self.polls.store(true, Ordering::Relaxed);
            }
        }
        if self.polls.load(Ordering::Relaxed) && timer.is_none() {
            fail(&"an SMMU must be looked at by the clock, and the hypervisor's timer has no interrupt")
        }
        let console = &self.console;
        if let Some(device) =
            self.platform.devices.iter().find(|device| Some(&device.path) == console.as_ref())
        {
            for &line in &device.interrupts {
                self.gic.enable_line(line, cpu.mpidr);
            }
        }
    }

    /// On the hypervisor's CPU: sleeps until something has happened, or, where an SMMU can't call, or something else is to be
    /// looked at after so many microseconds, for a while.
    pub fn wait(&self, most_us: Option<u64>) {
        let polled = self.polls.load(Ordering::Relaxed).then_some(SMMU_POLL_US);
        match polled.into_iter().chain(most_us).min() {
            Some(most) => arch::wait_for_interrupt_or_us(most),
            None => arch::wait_for_interrupt(),
        }
    }

    /// Whether the hypervisor's console has a line.
    pub fn console_has_line(&self) -> bool {
        let mut devices = self.platform.devices.iter();
        let device = devices.find(|device| Some(&device.path) == self.console.as_ref());
        device.is_some_and(|device| !device.interrupts.is_empty())
    }

    /// The timers that a guest gets: the EL1 physical and virtual one (the binding's second and third).
    pub fn guest_timers(&self) -> Vec<Intid> {
        self.platform.timer.iter().skip(1).take(2).map(|timer| timer.irq.into()).collect()
    }

    /// The PCI function at an address, with what the platform adds to it.
    pub fn pci_device(&self, address: PciAddress) -> Option<&PciDevice> {
        let mut devices = self.platform.functions.iter().flatten();
        devices.find(|device| device.function.address == address)
    }

    /// The PCI function at an address.
    pub fn function(&self, address: PciAddress) -> Option<&Function> {
        self.pci_device(address).map(|device| &device.function)
    }

    /// The other functions on the bus behind the bridge that a function is behind.
    pub fn neighbours(&self, function: &Function) -> Vec<&Function> {
        let all = self.platform.functions.iter().flatten().map(|device| &device.function);
        let behind = all.filter(|other| function.parent.is_some() && other.parent == function.parent);
        behind.filter(|other| other.address != function.address).collect()
    }

    /// Remembers when a guest was entered for the first time.
    pub fn note_first_entry(&self) {
        let first = self.first_entry.compare_exchange(0, arch::ticks(), Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() {
            self.filling.store(memory::filling_ticks(), Ordering::Relaxed);
        }
    }

    fn start_vms(&'static self, files: &[Option<VmFiles<'static>>]) {
        let mut used: Vec<CpuId> = self.plans.iter().flat_map(|vm| &vm.cpus).map(|vcpu| vcpu.cpu).collect();
        used.sort_unstable();
        used.dedup();
        for id in used {
            self.start_cpu(id);
            for its in &self.its {
                if let Err(error) = its.map_collection(&self.gic, id) {
                    fail(&error);
                }
            }
        }
        // Everything is built before anything runs, so that nothing is half assigned.
        let mut vms = Vec::new();
        for (plan, files) in self.plans.iter().zip(files) {
            let Some(files) = files else { continue };
            let before = memory::free_bytes();
            match Vm::build(self, plan.clone(), files) {
                Ok(vm) => vms.push(vm),
                Err(error) => fail(&format_args!("{}: {error}", plan.name)),
            }
            // What the plan reckons with is what its promise to the others rests on.
            let taken = before.saturating_sub(memory::free_bytes());
            let of = if taken > plan.table_bytes { "more than the plan's" } else { "of the plan's" };
            log::info!(
                "{}: building took {} KiB {of} {} KiB for tables",
                plan.name,
                taken >> 10,
                plan.table_bytes >> 10
            );
        }
        *self.vms.lock() = vms.clone();
        for vm in vms.iter().filter(|vm| vm.plan().autostart) {
            vm.start();
        }
    }

    fn start_cpu(&self, id: CpuId) {
        if let Some(Err(error)) = cpus::get(id).map(Cpu::start) {
            fail(&format_args!("CPU {id}: {error}"));
        }
    }

    /// The hypervisor's own CPU.
    pub fn hypervisor_cpu(&self) -> CpuId {
        self.hypervisor_cpu
    }

    /// Whether all VMs that start at boot have been started.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The VMs that there are now.
    pub fn vms(&self) -> Vec<Arc<Vm>> {
        self.vms.lock().clone()
    }

    /// A VM.
    pub fn vm(&self, id: VmId) -> Option<Arc<Vm>> {
        self.vms.lock().iter().find(|vm| vm.id() == id).cloned()
    }

    /// Takes a VM out of the list, so that nothing finds it any more.
    pub fn forget_vm(&self, id: VmId) {
        self.vms.lock().retain(|vm| vm.id() != id);
    }

    /// The plan of a VM.
    pub fn plan(&self, id: VmId) -> Option<&VmPlan> {
        self.plans.get(usize::from(id.0)).map(Arc::as_ref)
    }

    /// The physical CPU of a vCPU.
    pub fn cpu_of(&self, vm: VmId, vcpu: VcpuId) -> Option<CpuId> {
        self.plan(vm)?.cpus.get(usize::from(vcpu.0)).map(|vcpu| vcpu.cpu)
    }

    /// Remembers what the streams of a VM at an SMMU are attached to.
    pub fn add_domain(&self, vm: VmId, smmu: IommuId, domain: Domain) {
        self.domains.lock().push((vm, smmu, domain));
    }

    /// Forgets what [`Host::add_domain`] remembered of a VM.
    pub fn remove_domains(&self, vm: VmId) {
        self.domains.lock().retain(|&(it, ..)| it != vm);
    }

    /// What the streams of a VM at an SMMU are attached to.
    pub fn domain(&self, vm: VmId, smmu: IommuId) -> Option<Domain> {
        let domains = self.domains.lock();
        domains.iter().find(|&&(it, at, _)| (it, at) == (vm, smmu)).map(|&(.., domain)| domain)
    }

    /// Whether a function is assigned to a VM, by the registry. Not for what a guest can call: the registry is locked while another
    /// VM's devices change hands.
    pub fn is_assigned(&self, vm: VmId, function: PciAddress) -> bool {
        let device = self.plan(vm).and_then(|plan| plan.devices.iter().find(|it| it.pci == Some(function)));
        device.is_some_and(|device| self.registry.lock().may_master(&device.id, vm).is_some())
    }

    /// Whether a VM's function may master the bus: it has it, and not in quarantine.
    pub fn may_master(&self, vm: VmId, function: PciAddress) -> bool {
        let device =
            self.plan(vm).and_then(|plan| plan.devices.iter().position(|it| it.pci == Some(function)));
        device.is_some_and(|device| !self.security.is_quarantined(vm, device as u16))
    }

    /// Nanoseconds since the first instruction.
    pub fn now_ns(&self) -> u64 {
        arch::ticks_as(arch::ticks().saturating_sub(self.start), 1_000_000_000)
    }

    /// Records a violation of a VM's CPU, or of a device that is emulated or forwarded for it.
    pub fn violated(&self, vm: VmId, device: Option<u16>, kind: Kind, address: Option<u64>) {
        let time_ns = self.now_ns();
        let action = Action::Reported;
        self.record(Violation { time_ns, vm: Some(vm), device, kind, address, action, count: 1 });
    }

    /// Hands a violation to the hypervisor's CPU, which decides what it leads to.
    pub fn record(&self, violation: Violation) {
        self.security.record(violation);
        self.call_hypervisor_cpu();
    }

    /// Notes CPUs that didn't leave a VM that was stopped.
    pub fn add_lost_cpus(&self, cpus: &[CpuId]) {
        self.lost.lock().extend_from_slice(cpus);
    }

    /// The hypervisor's own figures.
    pub fn figures(&self) -> HypervisorReport {
        let layout = arch::image_layout();
        let image_bytes = layout.end.0 - arch::image_start();
        HypervisorReport {
            version: env!("CARGO_PKG_VERSION").to_string(),
            image_bytes,
            ram_bytes: image_bytes + self.held,
            boot_ticks: self.first_entry.load(Ordering::Relaxed).saturating_sub(self.start),
            boot_filling_ticks: self.filling.load(Ordering::Relaxed),
            tick_hz: arch::tick_hz(),
            lost_cpus: self.lost.lock().iter().map(|cpu| cpu.0).collect(),
        }
    }
}
