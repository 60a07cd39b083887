//! The machine under the VMs: its interrupt controller, IOMMUs and PCI, and what the hypervisor's own CPU does.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm::claims::Claims;
use axvm::events::Violation;
use axvm::ownership::{Registry, Slot};
use axvm::report::HypervisorReport;
use axvm::restart::{Afterwards, Restarts};
use axvm::taken::{Taken, TakenReport};
use axvm_addr::{CpuId, Hpa, PciAddress, VcpuId, VmId};
use axvm_pci::{Forwarding, Function};
use axvm_plan::files::VmFiles;
use axvm_plan::{ConsoleLent, DeviceId, DevicePlan, PciPlan, Plan, VmPlan};
use axvm_platform::model::{PciDevice, Platform};
use spin::{Mutex, Once};

use crate::arch::{Iommus, Irqchip, Messages};
use crate::cpus::Cpu;
use crate::lock::Held;
use crate::log;
use crate::pci::Config;
use crate::security::Security;
use crate::vm::{self, StopReason, Vm, VmRef};
use crate::{arch, boot, console, cpus, memory, protection};

/// The machine.
pub struct Host {
    /// The hardware.
    pub platform: Platform,
    /// The interrupt controller.
    pub irqchip: Irqchip,
    /// IOMMUs.
    pub iommus: Iommus,
    /// Where messages of devices are routed.
    pub messages: Messages,
    /// PCI config space.
    pub config: Config,
    /// Which PCI bridges forward requests up.
    pub forwarding: Held<Forwarding>,
    /// Who owns which device.
    pub registry: Held<Registry>,
    /// Who has what, from before it is built until all of it has been given back.
    pub claims: Mutex<Claims>,
    /// What was tried beyond the plans.
    pub security: Security,
    /// What the VMs were planned to be: it outlives them.
    pub plans: Vec<Arc<VmPlan>>,
    /// What the boot loader has brought for each.
    files: Vec<Option<VmFiles<'static>>>,
    /// By VM: how often it has started again.
    restarts: Mutex<Vec<Restarts>>,
    /// Nothing is started any more.
    run_ends: AtomicBool,
    vms: Mutex<Vec<VmRef>>,
    /// VMs that nobody holds any more, and that are to be taken apart.
    retired: Mutex<Vec<Vm>>,
    /// VMs that have stopped and aren't taken apart yet, or are being built again.
    unsettled: Mutex<Vec<VmId>>,
    /// Of these, those that have been, and why they had stopped.
    settled: Mutex<Vec<(VmId, Option<StopReason>)>>,
    hypervisor_cpu: CpuId,
    /// The device-tree path of the hypervisor's console.
    pub console: Option<String>,
    /// Whether VMs are given it.
    pub console_lent: Option<ConsoleLent>,
    /// An IOMMU has no line by which it could call.
    polls: AtomicBool,
    /// The VMs have been started.
    started: AtomicBool,
    start: u64,
    first_entry: AtomicU64,
    /// Of the ticks until then, those that guests' RAM took.
    filling: AtomicU64,
    /// Those that CPUs were waited for that had been started.
    waiting: AtomicU64,
    /// RAM that the hypervisor holds beside its image: heap, stacks, bundle.
    held: u64,
    /// CPUs that didn't leave a VM that was stopped.
    lost: Mutex<Vec<CpuId>>,
    /// What was taken when.
    taken_when: Mutex<TakenReport>,
}

/// How often an IOMMU is looked at that can't call.
const IOMMU_POLL_US: u64 = 10_000;

static HOST: Once<Host> = Once::new();

/// The machine. Only after [`run`] has set it up.
pub fn get() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        None => boot::last_words(&"the machine isn't set up yet"),
    }
}

/// What a [`Host`] is made of.
pub struct Parts {
    /// The hardware.
    pub platform: Platform,
    /// The interrupt controller, taken over.
    pub irqchip: Irqchip,
    /// IOMMUs.
    pub iommus: Iommus,
    /// PCI config space.
    pub config: Config,
    /// What was planned.
    pub plan: Plan,
    /// What the boot loader has brought for each VM.
    pub files: Vec<Option<VmFiles<'static>>>,
    /// When the first instruction was executed.
    pub start: u64,
    /// RAM that the hypervisor holds beside its image.
    pub held: u64,
}

/// Makes it the machine, once.
pub fn set(host: Host) -> &'static Host {
    HOST.call_once(|| host)
}

impl Host {
    /// The machine of these parts, without VMs.
    pub fn new(parts: Parts) -> Self {
        let Parts { platform, irqchip, iommus, config, plan, files, start, held } = parts;
        let cpus = platform.cpus.len();
        let registry = Registry::new(plan.vms.iter().flat_map(|vm| &vm.devices));
        let plans: Vec<Arc<VmPlan>> = plan.vms.into_iter().map(Arc::new).collect();
        Self {
            irqchip,
            iommus,
            messages: Messages::new(&plans),
            config,
            forwarding: Held::for_hardware("the bridges", Forwarding::default()),
            registry: Held::for_hand_over("the registry of devices", registry),
            claims: Mutex::new(Claims::new(plans.clone())),
            security: Security::new(cpus, plans.iter().map(|vm| vm.devices.len())),
            files,
            restarts: Mutex::new(plans.iter().map(|_| Restarts::default()).collect()),
            run_ends: AtomicBool::new(false),
            vms: Mutex::new(Vec::new()),
            retired: Mutex::new(Vec::new()),
            unsettled: Mutex::new(Vec::new()),
            settled: Mutex::new(Vec::new()),
            hypervisor_cpu: plan.hypervisor_cpu.unwrap_or_default(),
            console: plan.console,
            console_lent: plan.console_lent,
            polls: AtomicBool::new(false),
            started: AtomicBool::new(false),
            plans,
            start,
            first_entry: AtomicU64::new(0),
            filling: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            held,
            lost: Mutex::new(Vec::new()),
            taken_when: Mutex::default(),
            platform,
        }
    }

    /// Wakes the hypervisor's CPU, so that it looks around.
    pub fn call_hypervisor_cpu(&self) {
        if let Some(cpu) = cpus::get(self.hypervisor_cpu) {
            cpu.kick(&self.irqchip);
        }
    }

    /// Enables the lines that the hypervisor itself listens to, on its own CPU.
    pub fn listen(&self) {
        let Some(cpu) = cpus::get(self.hypervisor_cpu) else { return };
        // For what has to be looked at by the clock.
        let has_timer = self.irqchip.listen_to_timer(cpu.id);
        let hear = |line| self.irqchip.listen(line, cpu.hardware_id);
        for unheard in arch::listen_to_iommus(&self.platform, hear) {
            let pause = IOMMU_POLL_US / 1000;
            log::warn!("{unheard}: {}: it is looked at every {pause} ms", arch::UNHEARD);
            self.polls.store(true, Ordering::Relaxed);
        }
        if self.polls.load(Ordering::Relaxed) && !has_timer {
            boot::last_words(
                &"an IOMMU must be looked at by the clock, and the hypervisor's timer has no interrupt",
            )
        }
        if self.plans.iter().any(|plan| plan.watchdog.is_some()) && !has_timer {
            boot::last_words(
                &"a watchdog must be looked at by the clock, and the hypervisor's timer has no interrupt",
            )
        }
        let console = &self.console;
        if let Some(device) =
            self.platform.devices.iter().find(|device| Some(&device.path) == console.as_ref())
        {
            for &line in &device.interrupts {
                hear(line);
            }
        }
    }

    /// On the hypervisor's CPU: sleeps until something has happened, or, where an IOMMU can't call, or something else is to be
    /// looked at after so many microseconds, for a while.
    pub fn wait(&self, most_us: Option<u64>) {
        let polled = self.polls.load(Ordering::Relaxed).then_some(IOMMU_POLL_US);
        match polled.into_iter().chain(most_us).min() {
            Some(most) => arch::wait_for_interrupt_or_us(most),
            None => arch::wait_for_interrupt(),
        }
    }

    /// Whether a device is the hypervisor's own console.
    pub fn is_console(&self, id: &DeviceId) -> bool {
        matches!(id, DeviceId::Node(path) if Some(path) == self.console.as_ref())
    }

    /// Whether the UART at which the hypervisor speaks now has a line.
    pub fn console_has_line(&self) -> bool {
        let aside = || self.console_lent.as_ref().and_then(|lent| lent.aside.as_ref());
        let path = if console::is_lent() { aside() } else { self.console.as_ref() };
        let mut devices = self.platform.devices.iter();
        let device = devices.find(|device| Some(&device.path) == path);
        device.is_some_and(|device| !device.interrupts.is_empty())
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
            self.waiting.store(cpus::waited_ticks(), Ordering::Relaxed);
        }
    }

    /// Starts the CPUs of the VMs, builds the VMs, and starts those that are to be. One that shares something with another and doesn't start
    /// by itself is built when it is started.
    pub fn start_vms(&'static self) {
        let mut used: Vec<CpuId> = self.plans.iter().flat_map(|vm| &vm.cpus).map(|vcpu| vcpu.cpu).collect();
        used.sort_unstable();
        used.dedup();
        for id in used {
            self.start_cpu(id);
            if let Err(error) = self.irqchip.add_guest_cpu(id) {
                boot::last_words(&error);
            }
        }
        // Everything is built before anything runs, so that nothing is half assigned.
        let mut vms = Vec::new();
        for (plan, files) in self.plans.iter().zip(&self.files) {
            let Some(files) = files else { continue };
            let mut claims = self.claims.lock();
            if !plan.autostart && !claims.stands_alone(plan.id) {
                continue;
            }
            let taken = claims.take(plan.id);
            drop(claims);
            let plan = match &taken {
                Ok(plan) => plan,
                // The plan has seen to it that there is none.
                Err(refusal) => {
                    log::error!("{}: it can't be started: {}", plan.name, refusal.say(&self.plans));
                    continue;
                }
            };
            protection::try_each(self, plan);
            let before = memory::free_bytes();
            match vm::build(self, plan.clone(), files) {
                Ok(vm) => vms.push(vm),
                // The machine is as before, and the others are none the worse.
                Err(error) => {
                    log::error!("{}: it can't be started: {error}", plan.name);
                    self.note_failed(plan.id);
                    self.claims.lock().give_back(plan.id);
                    console::release(self);
                }
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
        self.taken_when.lock().built = self.taken();
        *self.vms.lock() = vms.clone();
        for vm in vms.iter().filter(|vm| vm.plan().autostart) {
            vm::start(vm);
        }
    }

    /// Notes which of a VM's devices didn't come back from it.
    pub fn note_failed(&self, vm: VmId) {
        let registry = self.registry.lock();
        self.claims.lock().note_failed(vm, &registry);
    }

    /// Starts a CPU. Ends the run if it can't.
    pub fn start_cpu(&self, id: CpuId) {
        if let Some(Err(error)) = cpus::get(id).map(Cpu::start) {
            boot::last_words(&format_args!("CPU {id}: {error}"));
        }
    }

    /// The hypervisor's own CPU.
    pub fn hypervisor_cpu(&self) -> CpuId {
        self.hypervisor_cpu
    }

    /// All VMs that start at boot have been started.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether all VMs that start at boot have been started.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The VMs that there are now.
    pub fn vms(&self) -> Vec<VmRef> {
        self.vms.lock().clone()
    }

    /// A VM.
    pub fn vm(&self, id: VmId) -> Option<VmRef> {
        self.vms.lock().iter().find(|vm| vm.id() == id).cloned()
    }

    /// Takes a VM out of the list, so that nothing finds it any more.
    pub fn forget_vm(&self, id: VmId) {
        self.vms.lock().retain(|vm| vm.id() != id);
    }

    /// Lets go of a VM that has stopped: whoever else was looking at it at that moment holds it a moment longer.
    pub fn let_go(&self, vm: VmRef) {
        self.unsettled.lock().push(vm.id());
        self.forget_vm(vm.id());
    }

    /// Nobody holds this VM any more: the hypervisor's CPU has it taken apart.
    pub fn retire(&self, vm: Vm) {
        self.retired.lock().push(vm);
        self.call_hypervisor_cpu();
    }

    /// The VMs that are to be taken apart.
    pub fn take_retired(&self) -> Vec<Vm> {
        core::mem::take(&mut self.retired.lock())
    }

    /// A VM has been taken apart, or built again. What it had is others' once the hypervisor's CPU has seen to it, and the run may end
    /// then. `reason`: why it had stopped.
    pub fn note_settled(&self, id: VmId, reason: Option<StopReason>) {
        self.settled.lock().push((id, reason));
        self.call_hypervisor_cpu();
    }

    /// The VMs that have been taken apart, or built again.
    pub fn take_settled(&self) -> Vec<(VmId, Option<StopReason>)> {
        core::mem::take(&mut self.settled.lock())
    }

    /// On the hypervisor's CPU, once what these VMs' devices did has been looked at: what they had may be others'.
    pub fn settle(&self, settled: Vec<(VmId, Option<StopReason>)>) {
        for (id, reason) in settled {
            let is_gone = self.vm(id).is_none();
            if is_gone {
                self.claims.lock().give_back(id);
            }
            self.unsettled.lock().retain(|&it| it != id);
            let waits = || reason == Some(StopReason::Stopped) || !self.claims.lock().stands_alone(id);
            if is_gone && waits() {
                // Somebody has asked for that, or wants what it had, and may wait for it to go on.
                log::info!("{}: it is stopped", self.plan(id).map_or("", |plan| &plan.name));
            }
        }
    }

    /// Has a VM built and started, by a CPU of its own.
    ///
    /// # Errors
    ///
    /// Why it can't be: a line. Nothing has changed.
    pub fn revive(&self, plan: &Arc<VmPlan>) -> Result<(), String> {
        let said = |what: &str| Err(format!("vm \"{}\" {what}", plan.name));
        if self.run_ends.load(Ordering::SeqCst) {
            return said("isn't started: the run ends");
        }
        if self.is_unsettled(plan.id) {
            return said(axvm_monitor::UNSETTLED);
        }
        let Some(cpu) = plan.cpus.first().and_then(|vcpu| cpus::get(vcpu.cpu)) else {
            return said("has no CPU");
        };
        let plan = match self.claims.lock().take(plan.id) {
            Ok(plan) => plan,
            Err(refusal) => return said(&format!("can't be started: {}", refusal.say(&self.plans))),
        };
        // From here on the run doesn't end without it. Only the hypervisor's CPU does this, so that it can't be there twice.
        self.unsettled.lock().push(plan.id);
        cpu.give_to_start(plan, &self.irqchip);
        Ok(())
    }

    /// Whether a VM is being taken apart or built again.
    pub fn is_unsettled(&self, id: VmId) -> bool {
        self.unsettled.lock().contains(&id)
    }

    /// What follows the end of a VM, for that reason.
    pub fn after_end(&self, plan: &VmPlan, reason: StopReason) -> Afterwards {
        if self.run_ends.load(Ordering::SeqCst) {
            return Afterwards::Stays;
        }
        let (mut restarts, now) = (self.restarts.lock(), self.now_ns());
        restarts.get_mut(usize::from(plan.id.0)).map_or(Afterwards::Stays, |it| it.after(reason, plan, now))
    }

    /// The run ends: VMs are stopped, and none is started again.
    pub fn end_run(&self) {
        self.run_ends.store(true, Ordering::SeqCst);
        for vm in self.vms() {
            vm.stop(StopReason::RunEnded);
        }
    }

    /// Builds a VM again that has been taken apart, and starts it. On a CPU of it.
    pub fn start_again(&'static self, plan: &Arc<VmPlan>) {
        let Some(files) = self.files.get(usize::from(plan.id.0)).and_then(Option::as_ref) else { return };
        protection::try_each(self, plan);
        protection::fail_next();
        let vm = match vm::build(self, plan.clone(), files) {
            Ok(vm) => vm,
            Err(error) => {
                log::error!("{}: it can't be started: {error}", plan.name);
                self.note_failed(plan.id);
                console::release(self);
                return;
            }
        };
        self.security.restart(plan.id, self.now_ns());
        self.vms.lock().push(vm.clone());
        // Whoever ends the run has said so before looking for VMs.
        if self.run_ends.load(Ordering::SeqCst) {
            vm.stop(StopReason::RunEnded);
        } else {
            vm::start(&vm);
        }
    }

    /// Whether a VM is being taken apart or built again.
    pub fn any_unsettled(&self) -> bool {
        !self.unsettled.lock().is_empty()
    }

    /// The plan of a VM.
    pub fn plan(&self, id: VmId) -> Option<&VmPlan> {
        self.plans.get(usize::from(id.0)).map(Arc::as_ref)
    }

    /// The physical CPU of a vCPU.
    pub fn cpu_of(&self, vm: VmId, vcpu: VcpuId) -> Option<CpuId> {
        self.plan(vm)?.cpus.get(usize::from(vcpu.0)).map(|vcpu| vcpu.cpu)
    }

    /// Where a BAR of a function is that a VM of this plan has.
    pub fn bar(&self, plan: &VmPlan, device: &DevicePlan, bar: u8) -> Option<Hpa> {
        let function = device.pci?;
        let shows = |pci: &&PciPlan| {
            let mut shown = pci.functions.iter().filter_map(|&it| plan.devices.get(usize::from(it)));
            shown.any(|shown| shown.pci == Some(function))
        };
        let pci = plan.pci.iter().find(shows)?;
        let bar = self.function(function)?.bars.iter().find(|it| it.index == bar)?;
        self.platform.pci_to_cpu(pci.host, bar.address?, bar.size)
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

    /// Hands a violation to the hypervisor's CPU, which decides what it leads to.
    pub fn record(&self, violation: Violation) {
        self.security.record(violation);
        self.call_hypervisor_cpu();
    }

    /// Notes CPUs that didn't leave a VM that was stopped.
    pub fn add_lost_cpus(&self, cpus: &[CpuId]) {
        self.lost.lock().extend_from_slice(cpus);
    }

    /// Whether a VM has been built again, and none is being so.
    pub fn has_rebuilt(&self) -> bool {
        self.taken_when.lock().rebuilt != 0 && !self.any_unsettled()
    }

    /// What is taken of the machine now.
    pub fn taken(&self) -> Taken {
        let (memory_bytes, table_bytes) = memory::taken_bytes();
        let is_assigned = |slot: &Slot| matches!(slot, Slot::Assigned { .. });
        let devices = self.registry.lock().iter().filter(|(_, slot)| is_assigned(slot)).count() as u32;
        let dma_sources = self.iommus.attached();
        let mut taken = Taken { memory_bytes, table_bytes, devices, dma_sources, ..Taken::default() };
        self.irqchip.count(&mut taken);
        taken
    }

    /// A VM is about to be built, again or for the first time since boot.
    pub fn note_between(&self) {
        let now = self.taken();
        self.taken_when.lock().note_between(now);
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
            boot_waiting_ticks: self.waiting.load(Ordering::Relaxed),
            tick_hz: arch::tick_hz(),
            taken: TakenReport { end: self.taken(), ..*self.taken_when.lock() },
            meanwhile: console::meanwhile(),
            confinement: None,
            lost_cpus: self.lost.lock().iter().map(|cpu| cpu.0).collect(),
        }
    }
}
