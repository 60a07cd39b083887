//! The machine under the VMs: its interrupt controller, IOMMUs and PCI, and what the hypervisor's own CPU does.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm::plan::{Plan, plan};
use axvm::report::{
    DeviceExitReport, DeviceReport, EventReport, HypervisorReport, RefusedReport, Report, SCHEMA, Verdict,
    VmReport,
};
use axvm::stats::ExitCounts;
use axvm_addr::{CpuId, Intid, PciAddress, Span, StreamId, VmId};
use axvm_guest::image::{ImageError, Images, Kernel, VmImages};
use axvm_pci::{Function, HostBridge, Space, Window};
use axvm_platform::model::{PciSpace, Platform};
use axvm_system::bundle::{Bundle, ImageKind};
use axvm_system::model::{System, ViolationPolicy};
use axvm_system::wire::{Channel, Key, Keys};
use spin::{Mutex, Once};

use crate::arch::gic::{GicError, PhysicalGic};
use crate::arch::its::{Lpis, PhysicalIts};
use crate::iommu::{self, Iommus};
use crate::pci::Config;
use crate::vm::{StopReason, Vm, VmFiles};
use crate::{arch, boot, console, cpus, memory};

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
    hypervisor_cpu: CpuId,
    vms: Mutex<Vec<Arc<Vm>>>,
    events: Mutex<Vec<EventReport>>,
    quarantined: Mutex<Vec<PciAddress>>,
    start: u64,
    first_entry: AtomicU64,
    pool: u64,
    bundle_bytes: u64,
}

static HOST: Once<Host> = Once::new();

/// The machine. Only after [`run`] has set it up.
pub fn get() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        // Nothing runs before it is set up but `run` itself.
        None => arch::psci::system_off(),
    }
}

/// Closes every IOMMU.
pub fn close_iommus(platform: &Platform) -> Result<(), axvm_smmuv3::Error> {
    // SAFETY: boot has mapped them, and nothing else drives them.
    unsafe { iommu::close(platform) }
}

fn fail(why: &dyn core::fmt::Display) -> ! {
    log::error!("{why}");
    arch::psci::system_off()
}

/// Sets the machine up, plans, runs the VMs, reports, and ends.
pub fn run(start: Start) -> ! {
    let Start { mut platform, bundle, start, pool } = start;
    // SAFETY: boot has mapped the config spaces.
    let config = unsafe { Config::new(&platform) };
    enumerate(&mut platform, &config);
    // SAFETY: boot has mapped the SMMUs.
    let iommus = match unsafe { Iommus::new(&platform) } {
        Ok(iommus) => iommus,
        Err(error) => fail(&error),
    };
    platform.address_bits = u32::from(arch::physical_address_bits()).min(iommus.output_bits()) as u8;

    let (images, files) = images(&bundle);
    let plan = match plan(bundle.system(), &platform, &images) {
        Ok(plan) => plan,
        Err(problems) => boot::refuse(problems),
    };
    if bundle.run().plan_only {
        send_report(&Report::new(Verdict::Ok));
        arch::psci::system_off()
    }
    let host = match take_over(platform, iommus, config, &plan, &bundle, start, pool) {
        Ok(host) => HOST.call_once(|| host),
        Err(error) => fail(&error),
    };
    if let Err(error) = host.init_cpu(plan.hypervisor_cpu) {
        fail(&error)
    }
    host.listen();
    console::set_names(plan.vms.iter().map(|vm| vm.name.clone()).collect());
    for note in &plan.notes {
        log::info!("{note}");
    }
    host.start_vms(plan, &files);
    host.serve(bundle.system())
}

/// Finds the PCI functions.
fn enumerate(platform: &mut Platform, config: &Config) {
    let mut functions = Vec::new();
    for host in &platform.pci_hosts {
        let windows = host
            .windows
            .iter()
            .map(|window| Window {
                space: match window.space {
                    PciSpace::Io => Space::Io,
                    PciSpace::Memory32 => Space::Memory32,
                    PciSpace::Memory64 => Space::Memory64,
                },
                prefetchable: window.prefetchable,
                start: window.pci,
                size: window.cpu.size(),
            })
            .collect();
        let bridge = HostBridge { segment: host.segment, buses: host.buses, windows };
        functions.extend(axvm_pci::enumerate(config, &bridge));
    }
    let groups = axvm_pci::groups(&functions, config);
    platform.add_functions(functions, &groups);
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
    plan: &Plan,
    bundle: &Bundle<'_>,
    start: u64,
    pool: u64,
) -> Result<Host, TakeOverError> {
    let described = platform.gic.as_ref().ok_or(TakeOverError::NoGic)?;
    let cpus: Vec<u64> = platform.cpus.iter().map(|cpu| cpu.mpidr).collect();
    // SAFETY: boot has mapped the GIC and its ITSs; nothing else drives them.
    let gic = unsafe { PhysicalGic::new(described, &cpus)? };
    let lpis = Lpis::new()?;
    let mut its = Vec::new();
    for one in &described.its {
        // SAFETY: as above.
        its.push(unsafe { PhysicalIts::new(one.registers, cpus.len())? });
    }
    Ok(Host {
        gic,
        lpis,
        its,
        iommus,
        config,
        hypervisor_cpu: plan.hypervisor_cpu,
        vms: Mutex::new(Vec::new()),
        events: Mutex::new(Vec::new()),
        quarantined: Mutex::new(Vec::new()),
        start,
        first_entry: AtomicU64::new(0),
        pool,
        bundle_bytes: bundle.length(),
        platform,
    })
}

impl Host {
    /// Brings up the calling CPU's part of the interrupt controller.
    pub fn init_cpu(&self, cpu: CpuId) -> Result<(), GicError> {
        self.gic.init_cpu(cpu, (!self.its.is_empty()).then(|| self.lpis.tables()))
    }

    /// Wakes the hypervisor's CPU, so that it looks around.
    pub fn call_hypervisor_cpu(&self) {
        if let Some(cpu) = cpus::get(self.hypervisor_cpu) {
            cpu.kick();
        }
    }

    /// Enables the lines that the hypervisor itself listens to, on its own CPU.
    fn listen(&self) {
        let Some(cpu) = cpus::get(self.hypervisor_cpu) else { return };
        for smmu in &self.platform.smmus {
            for line in [smmu.event_queue, smmu.global_error].into_iter().flatten() {
                self.gic.enable_line(line, cpu.mpidr);
            }
        }
        let console = self.platform.console.as_ref();
        if let Some(device) = self.platform.devices.iter().find(|device| Some(&device.path) == console) {
            for &line in &device.interrupts {
                self.gic.enable_line(line, cpu.mpidr);
            }
        }
    }

    /// The timers that a guest gets: the EL1 physical and virtual one (the binding's second and third).
    pub fn guest_timers(&self) -> Vec<Intid> {
        self.platform.timer.iter().skip(1).take(2).map(|timer| timer.intid).collect()
    }

    /// The PCI function at an address.
    pub fn function(&self, address: PciAddress) -> Option<&Function> {
        let mut devices = self.platform.functions.iter().flatten();
        devices.find(|device| device.function.address == address).map(|device| &device.function)
    }

    /// Remembers when a guest was entered for the first time.
    pub fn note_first_entry(&self) {
        let _ = self.first_entry.compare_exchange(0, arch::ticks(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// An interrupt that isn't a guest's: whoever waits for it looks around afterwards.
    pub fn interrupt(&self, _: Intid) {}

    fn start_vms(&self, plan: Plan, files: &[Option<VmFiles<'static>>]) {
        // Everything is built before anything runs, so that nothing is half assigned.
        let mut vms = Vec::new();
        for (vm, files) in plan.vms.into_iter().zip(files) {
            let Some(files) = files else { continue };
            let name = vm.name.clone();
            match Vm::build(vm, files) {
                Ok(vm) => vms.push(vm),
                Err(error) => fail(&format_args!("{name}: {error}")),
            }
        }
        let mut used: Vec<CpuId> =
            vms.iter().flat_map(|vm| vm.plan().cpus.iter().map(|&(cpu, _)| cpu)).collect();
        used.sort_unstable();
        used.dedup();
        for id in used {
            let Some(cpu) = cpus::get(id) else { continue };
            if let Err(error) = cpu.start() {
                fail(&format_args!("CPU {id}: {error}"));
            }
            for its in &self.its {
                if let Err(error) = its.map_collection(&self.gic, id) {
                    fail(&error);
                }
            }
        }
        *self.vms.lock() = vms.clone();
        for vm in vms.iter().filter(|vm| vm.plan().autostart) {
            vm.start();
        }
    }

    /// What the hypervisor's CPU does from then on.
    fn serve(&self, _system: &System) -> ! {
        let mut focus = 0;
        let mut keys = Keys::default();
        let mut input: Vec<u8> = Vec::new();
        let vms = self.vms.lock().clone();
        console::send(Channel::Focus(VmId(focus)), &[]);
        loop {
            crate::run::take_interrupts(None);
            self.drain_iommus();
            let mut busy = false;
            for vm in &vms {
                let bytes = vm.output().take(512);
                if !bytes.is_empty() {
                    console::send(Channel::Console(vm.plan().id), &bytes);
                    busy = true;
                    if let Some(uart) = vm.console() {
                        uart.pump();
                    }
                }
            }
            while let Some(byte) = console::receive() {
                match keys.push(byte) {
                    Some(Key::Byte(byte)) => input.push(byte),
                    Some(Key::NextVm) => {
                        focus = (focus + 1) % (vms.len().max(1) as u16);
                        input.clear();
                        console::send(Channel::Focus(VmId(focus)), &[]);
                    }
                    Some(Key::Quit) => {
                        for vm in &vms {
                            vm.stop(StopReason::RunEnded);
                        }
                    }
                    Some(Key::Shell) | None => {}
                }
            }
            if !input.is_empty()
                && let Some(uart) = vms.get(usize::from(focus)).and_then(|vm| vm.console())
            {
                let taken = uart.push_input(&input);
                input.drain(..taken);
            }
            let running = vms.iter().filter(|vm| vm.plan().autostart).any(|vm| vm.stopped().is_none());
            if !busy && !running {
                self.drain_iommus();
                self.finish(&vms)
            }
            if !busy {
                arch::wait_for_interrupt();
            }
        }
    }

    /// Ends the run.
    fn finish(&self, vms: &[Arc<Vm>]) -> ! {
        send_report(&self.report(vms));
        arch::psci::system_off()
    }

    /// Takes the records of what the SMMUs have blocked.
    fn drain_iommus(&self) {
        /// So many records in a row, then the consoles get their turn.
        const AT_ONCE: usize = 256;
        for smmu in 0..self.iommus.count() {
            let mut found = Vec::new();
            let drained = self.iommus.drain(smmu, AT_ONCE, |event| found.push(event));
            for event in found {
                let kind = match event.write {
                    Some(true) => "dma-write",
                    _ => "dma-read",
                };
                self.record_dma(smmu, event.stream, kind, event.iova.map_or(0, |iova| iova.0));
            }
            if let Some(errors) = self.iommus.take_global_errors(smmu)
                && !errors.is_empty()
            {
                log::warn!("SMMU: {errors:?}");
            }
            if drained.is_some_and(|drained| drained.overflowed) {
                log::warn!("SMMU: records of blocked accesses were lost");
            }
        }
    }

    /// Records what a device did outside its bounds, and does what the VM's policy says.
    fn record_dma(&self, smmu: usize, stream: StreamId, kind: &str, address: u64) {
        let vms = self.vms.lock().clone();
        for vm in &vms {
            let plan = vm.plan();
            let Some(device) = plan.devices.iter().find(|it| it.streams.contains(&(smmu, stream))) else {
                continue;
            };
            let action = match plan.on_violation {
                ViolationPolicy::Report => "reported",
                ViolationPolicy::QuarantineDevice => {
                    if let Err(error) = self.iommus.block(smmu, stream) {
                        log::error!("{}: {error}", device.name);
                    }
                    if let Some(function) = device.pci {
                        self.quarantined.lock().push(function);
                        for bridge in vm.bridges() {
                            // One of the bridges has it; the others say that they don't know it.
                            let _ = bridge.quarantine(function);
                        }
                    }
                    "quarantined"
                }
                ViolationPolicy::StopVm => {
                    vm.stop(StopReason::Violation);
                    "vm-stopped"
                }
            };
            return self.push_event(plan.name.clone(), device.name.clone(), kind, address, action);
        }
        self.push_event(String::new(), stream.to_string(), kind, address, "blocked");
    }

    /// Whether a function of a VM has been quarantined: it doesn't master the bus again until the VM is started anew.
    pub fn is_quarantined(&self, _: VmId, function: PciAddress) -> bool {
        self.quarantined.lock().contains(&function)
    }

    /// Records what a VM's CPU did outside its bounds.
    pub fn record(&self, vm: VmId, kind: &str, address: u64) {
        let name = self.vms.lock().iter().find(|it| it.plan().id == vm).map(|it| it.name().to_string());
        self.push_event(name.unwrap_or_default(), String::new(), kind, address, "blocked");
    }

    fn push_event(&self, vm: String, device: String, kind: &str, address: u64, action: &str) {
        const MOST: usize = 1024;
        let mut events = self.events.lock();
        if let Some(last) = events.last_mut()
            && last.vm == vm
            && last.device == device
            && last.kind == kind
        {
            last.count += 1;
            return;
        }
        if events.len() < MOST {
            log::warn!("{vm} {device}: {kind} at {address:#x}: {action}");
            let time_ns = self.nanoseconds(arch::ticks().saturating_sub(self.start));
            events.push(EventReport {
                time_ns,
                vm,
                device,
                kind: kind.to_string(),
                address: alloc::format!("{address:#x}"),
                action: action.to_string(),
                count: 1,
            });
        }
    }

    fn nanoseconds(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(arch::tick_hz())) as u64
    }

    fn report(&self, vms: &[Arc<Vm>]) -> Report {
        let layout = arch::image_layout();
        let image_bytes = layout.end.0 - arch::image_start();
        let mut report = Report {
            schema: SCHEMA,
            verdict: Verdict::Ok,
            hypervisor: HypervisorReport {
                version: env!("CARGO_PKG_VERSION").to_string(),
                image_bytes,
                ram_bytes: image_bytes + self.pool + self.bundle_bytes,
                boot_ticks: self.first_entry.load(Ordering::Relaxed).saturating_sub(self.start),
                tick_hz: arch::tick_hz(),
            },
            vms: vms.iter().map(|vm| vm_report(vm)).collect(),
            events: self.events.lock().clone(),
            problems: Vec::new(),
        };
        report.verdict = report.judge();
        report
    }
}

fn vm_report(vm: &Vm) -> VmReport {
    let plan = vm.plan();
    let reason = vm.stopped();
    let exits = vm.exits().map(|it| it.read()).fold(ExitCounts::default(), |sum, it| sum + it);
    VmReport {
        name: plan.name.clone(),
        state: match (reason, plan.autostart) {
            (Some(_), _) => "stopped",
            (None, true) => "running",
            (None, false) => "created",
        }
        .to_string(),
        reason: reason.map_or("", StopReason::name).to_string(),
        interrupts: match plan.mode {
            axvm::config::VMInterruptMode::NoIrq => "none",
            axvm::config::VMInterruptMode::Emulated => "emulated",
            axvm::config::VMInterruptMode::Passthrough => "passthrough",
        }
        .to_string(),
        exits: exits.into(),
        interrupts_injected: vm.exits().map(|it| it.injected()).sum(),
        refused: RefusedReport {
            config: vm.bridges().iter().map(|bridge| bridge.refused()).sum(),
            port: 0,
            hypercall: vm.refused().hypercall.read(),
            sysreg: vm.refused().sysreg.read(),
        },
        devices: plan
            .devices
            .iter()
            .map(|device| DeviceReport {
                device: device.name.clone(),
                group: device.group,
                reset: axvm::plan::reset_name(device.reset).to_string(),
                exits: DeviceExitReport { config: config_exits(vm, device.pci), ..Default::default() },
            })
            .collect(),
    }
}

fn config_exits(vm: &Vm, function: Option<PciAddress>) -> u64 {
    function.map_or(0, |function| vm.bridges().iter().filter_map(|bridge| bridge.accesses(function)).sum())
}

/// Sends the report to the tool. Without the tool there is a line for people.
pub fn send_report(report: &Report) {
    log::info!("verdict: {}", report.verdict);
    match postcard::to_allocvec(report) {
        Ok(bytes) => {
            console::send(Channel::Report, &bytes);
            console::send(Channel::ReportEnd, &[]);
        }
        Err(error) => log::error!("the report can't be sent: {error}"),
    }
}
