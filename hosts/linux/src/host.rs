//! This process as the host of VMs: what it has, which VMs there are, and how each comes and goes.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use axvm::claims::Claims;
use axvm::ownership::{Registry, Slot};
use axvm::report::{Confinement, HypervisorReport};
use axvm::restart::{Afterwards, Restarts};
use axvm::taken::{Taken, TakenReport};
use axvm::vm::{AxVM, CreateError, NotOff, Start, StopReason, Turn};
use axvm_addr::{CpuId, Gpa, VcpuId, VmId};
use axvm_monitor::{UNSETTLED, say_lost};
use axvm_plan::{Plan, VmPlan};
use axvm_platform::model::Platform;
use axvm_platform::sysfs;
use kvm_ioctls::Kvm;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Vm;
use crate::arch::Switches;
use crate::caller::Caller;
use crate::error::Error;
use crate::guard::Guard;
use crate::hal::Hal;
use crate::images::{ImageError, Images, Part};
use crate::link::Link;
use crate::memory::MemoryError;
use crate::output::Bell;
use crate::security::Security;
use crate::vfio::Vfio;
use crate::vfio::way::Source;

/// Why a VM couldn't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The core: RAM, mappings, devices.
    #[error("{0}")]
    Create(Box<CreateError<Error>>),
    /// The images don't fit where the plan puts them.
    #[error("an image doesn't fit into RAM at {0}: {1}")]
    Image(Gpa, MemoryError),
    /// They aren't what they were.
    #[error(transparent)]
    File(#[from] ImageError),
    /// It is no RAM where the plan puts an image.
    #[error("there is no RAM at {0}")]
    NoRam(Gpa),
}

/// What a [`Host`] is made of.
pub struct Parts {
    /// KVM.
    pub kvm: Kvm,
    /// The machine.
    pub platform: Platform,
    /// Its PCI functions, as Linux has them.
    pub functions: Vec<sysfs::Function>,
    /// Who takes them from their drivers; none where no VM is to have one.
    pub guard: Option<Arc<Guard>>,
    /// Where their VMs' tables are from.
    pub source: Source,
    /// The CPUs that Linux has online, with their numbers there.
    pub cpus: Vec<(CpuId, usize)>,
    /// What was planned.
    pub plan: Plan,
    /// The VMs' images.
    pub images: Images,
    /// The line to the tool.
    pub link: Link,
    /// By whom whoever looks after the VMs is called.
    pub bell: Arc<Bell>,
    /// When it was started.
    pub start: Instant,
}

/// The process.
pub struct Host {
    /// KVM.
    pub kvm: Kvm,
    /// The machine.
    pub platform: Platform,
    /// Devices.
    pub vfio: Vfio,
    guard: Option<Arc<Guard>>,
    /// Who owns which device.
    pub registry: spin::Mutex<Registry>,
    /// Who has what, from before it is built until all of it has been given back.
    pub claims: Mutex<Claims>,
    /// What was tried beyond the plans.
    pub security: Security,
    /// What the VMs were planned to be: it outlives them.
    pub plans: Vec<Arc<VmPlan>>,
    /// The line to the tool.
    pub link: Link,
    /// Calls whoever looks after the VMs.
    pub bell: Arc<Bell>,
    cpus: Vec<(CpuId, usize)>,
    images: Images,
    callers: BTreeMap<(VmId, VcpuId), Arc<Caller>>,
    /// By VM: how often it has started again.
    restarts: Mutex<Vec<Restarts>>,
    /// Nothing is started any more.
    run_ends: AtomicBool,
    vms: Mutex<Vec<Arc<Vm>>>,
    /// VMs that have stopped and aren't taken apart yet, or are being built again.
    unsettled: Mutex<Vec<VmId>>,
    /// Of these, those that have been.
    settled: Mutex<Vec<VmId>>,
    start: Instant,
    /// Nanoseconds until a guest was entered for the first time.
    first_entry: AtomicU64,
    lost: Mutex<Vec<CpuId>>,
    taken_when: Mutex<TakenReport>,
    confinement: Mutex<Option<Confinement>>,
}

impl Host {
    /// The process with these, without VMs.
    pub fn new(parts: Parts) -> Self {
        let Parts { kvm, platform, functions, guard, source, cpus, plan, images, link, bell, start } = parts;
        let registry = Registry::new(plan.vms.iter().flat_map(|vm| &vm.devices));
        let plans: Vec<Arc<VmPlan>> = plan.vms.into_iter().map(Arc::new).collect();
        let vcpus = plans.iter().flat_map(|plan| {
            let ids = (0..plan.cpus.len()).map(|vcpu| VcpuId(vcpu as u16));
            ids.map(|vcpu| ((plan.id, vcpu), Arc::new(Caller::default())))
        });
        Self {
            callers: vcpus.collect(),
            kvm,
            platform,
            vfio: Vfio::new(&functions, &plans, guard.clone(), source),
            guard,
            registry: spin::Mutex::new(registry),
            claims: Mutex::new(Claims::new(plans.clone())),
            security: Security::new(plans.iter().map(Arc::as_ref)),
            restarts: Mutex::new(plans.iter().map(|_| Restarts::default()).collect()),
            plans,
            link,
            bell,
            cpus,
            images,
            run_ends: AtomicBool::new(false),
            vms: Mutex::default(),
            unsettled: Mutex::default(),
            settled: Mutex::default(),
            start,
            first_entry: AtomicU64::new(0),
            lost: Mutex::default(),
            taken_when: Mutex::default(),
            confinement: Mutex::default(),
        }
    }

    /// Notes what this process has given up.
    pub fn note_confinement(&self, held: Confinement) {
        *crate::lock(&self.confinement) = Some(held);
    }

    /// Has the drivers have their functions again. No VM has one any more.
    pub fn give_back(&self) {
        for problem in self.guard.iter().flat_map(|guard| guard.finish()) {
            self.link.error(format_args!("{problem}"));
        }
    }

    /// Nanoseconds since it was started.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Who calls a vCPU's thread.
    pub fn caller(&self, vm: VmId, vcpu: VcpuId) -> Option<Arc<Caller>> {
        self.callers.get(&(vm, vcpu)).cloned()
    }

    /// Repeats the calls that weren't heard. Whether there are such.
    pub fn repeat_calls(&self) -> bool {
        self.callers.values().fold(false, |any, caller| caller.repeat() | any)
    }

    /// Remembers when a guest was entered for the first time.
    pub fn note_first_entry(&self) {
        let now = self.now_ns().max(1);
        let _ = self.first_entry.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The VMs that there are now.
    pub fn vms(&self) -> Vec<Arc<Vm>> {
        crate::lock(&self.vms).clone()
    }

    /// A VM.
    pub fn vm(&self, id: VmId) -> Option<Arc<Vm>> {
        crate::lock(&self.vms).iter().find(|vm| vm.id() == id).cloned()
    }

    /// The plan of a VM.
    pub fn plan(&self, id: VmId) -> Option<&VmPlan> {
        self.plans.get(usize::from(id.0)).map(Arc::as_ref)
    }

    /// Builds the VMs that are to be there from the beginning, then starts those that are to start.
    pub fn start_vms(&'static self) {
        for plan in &self.plans {
            let mut claims = crate::lock(&self.claims);
            if !plan.autostart && !claims.stands_alone(plan.id) {
                continue;
            }
            let taken = claims.take(plan.id);
            drop(claims);
            match taken {
                Ok(plan) => match self.build(&plan) {
                    Ok(vm) => crate::lock(&self.vms).push(Arc::new(vm)),
                    Err(error) => {
                        self.say_not_built(&plan, &error);
                        crate::lock(&self.claims).give_back(plan.id);
                    }
                },
                // The plan has seen to it that there is none.
                Err(refusal) => {
                    let why = refusal.say(&self.plans);
                    self.link.error(format_args!("{}: it can't be started: {why}", plan.name));
                }
            }
        }
        crate::lock(&self.taken_when).built = self.taken();
        for vm in self.vms().iter().filter(|vm| vm.plan().autostart) {
            self.start(vm);
        }
    }

    fn say_not_built(&self, plan: &VmPlan, error: &BuildError) {
        self.link.error(format_args!("{}: it can't be started: {error}", plan.name));
        let registry = self.registry.lock();
        crate::lock(&self.claims).note_failed(plan.id, &registry);
    }

    fn build(&'static self, plan: &Arc<VmPlan>) -> Result<Vm, BuildError> {
        let vm = AxVM::new(plan.clone(), Arc::new(Hal::new(self)), &self.registry)
            .map_err(|error| BuildError::Create(Box::new(error)))?;
        let images = self.images.load(plan.id, &vm.plan().load, |file, part| fill(&vm, file, part));
        let loaded =
            images.and_then(|()| plan.blobs.iter().try_for_each(|blob| put(&vm, blob.at, &blob.bytes)));
        match loaded {
            Ok(()) => Ok(vm),
            Err(error) => {
                let _ = vm.dispose(&self.registry);
                Err(error)
            }
        }
    }

    /// Starts a VM: each of its vCPUs gets its thread. Where the core doesn't switch them on and off they all wait for that in the kernel.
    pub fn start(&'static self, vm: &Arc<Vm>) {
        if vm.start().is_err() {
            return;
        }
        let in_kernel = vm.irqchip().parts().switches() == Switches::Kernel;
        let others = vm.vcpus().map(|(vcpu, _)| vcpu).filter(|vcpu| in_kernel && *vcpu != VcpuId(0));
        for vcpu in others {
            match vm.start_vcpu(vcpu, Start { entry: 0, argument: 0 }) {
                Ok(()) | Err(NotOff::On | NotOff::Starting) => {}
            }
        }
        for (vcpu, planned) in vm.vcpus() {
            let Some(caller) = self.caller(vm.id(), vcpu) else { continue };
            let (of, cpu) = (vm.clone(), planned.cpu);
            let name = format!("{}-{vcpu}", vm.name());
            let spawned = thread::Builder::new().name(name).spawn(move || self.run_vcpu(&of, vcpu, cpu));
            match spawned {
                Ok(thread) => caller.is(thread),
                Err(error) => {
                    self.link.error(format_args!("{}: {}", vm.name(), Error::Thread { cpu, error }));
                    vm.stop(StopReason::HostError);
                    vm.vcpu_gone(vcpu);
                }
            }
        }
    }

    /// A vCPU's thread, from the VM's start to its end.
    fn run_vcpu(&self, vm: &Arc<Vm>, vcpu: VcpuId, cpu: CpuId) {
        if let Err(error) = self.pin(cpu) {
            self.link.error(format_args!("{}: {error}", vm.name()));
            vm.stop(StopReason::HostError);
        }
        let Some(caller) = self.caller(vm.id(), vcpu) else { return };
        while !vm.is_stopping() {
            match vm.run_vcpu(vcpu) {
                Ok(Turn::NotStarted) => caller.wait(),
                Ok(Turn::Over) => {}
                Err(error) => {
                    self.link.error(format_args!("{}: vCPU {vcpu} can't run: {error}", vm.name()));
                }
            }
        }
        vm.vcpu_gone(vcpu);
        self.bell.ring();
    }

    /// A CPU's number in Linux.
    fn processor(&self, cpu: CpuId) -> Option<usize> {
        self.cpus.iter().find(|(known, _)| *known == cpu).map(|(_, number)| *number)
    }

    /// The numbers in Linux of a VM's CPUs.
    pub fn processors(&self, plan: &VmPlan) -> Vec<usize> {
        plan.cpus.iter().filter_map(|vcpu| self.processor(vcpu.cpu)).collect()
    }

    /// Has the calling thread run on a CPU, and nowhere else.
    fn pin(&self, cpu: CpuId) -> Result<(), Error> {
        let number = self.processor(cpu).ok_or(Error::Unknown)?;
        let mut set = CpuSet::new();
        set.set(number);
        sched_setaffinity(None, &set).map_err(|error| Error::Thread { cpu, error: error.into() })
    }

    /// Takes a VM out of the list; its threads have left it or are lost.
    pub fn forget(&self, id: VmId) {
        crate::lock(&self.vms).retain(|vm| vm.id() != id);
    }

    /// A VM has stopped, and its threads have left it: it is taken apart, and perhaps built again, by a thread of its own. Resets take seconds.
    pub fn retire(&'static self, vm: Arc<Vm>) {
        let id = vm.id();
        for (vcpu, _) in vm.vcpus() {
            if let Some(caller) = self.caller(id, vcpu) {
                caller.join();
            }
        }
        crate::lock(&self.unsettled).push(id);
        self.forget(id);
        let Some(vm) = Arc::into_inner(vm) else {
            self.link.error(format_args!(
                "VM {id}: something still refers to it: its memory and devices stay with nobody"
            ));
            crate::lock(&self.claims).withhold_all(id, &[]);
            return self.note_settled(id);
        };
        self.aside(id, move || self.take_apart(vm));
    }

    /// Does something that may take long by a thread of its own.
    fn aside(&'static self, id: VmId, work: impl FnOnce() + Send + 'static) {
        let done = move || {
            work();
            self.note_settled(id);
        };
        // Without a thread it is done here, and others wait.
        let work = Arc::new(Mutex::new(Some(done)));
        let of = work.clone();
        let run = move |work: &Mutex<Option<_>>| {
            let work: Option<_> = crate::lock(work).take();
            if let Some(work) = work {
                let work: Box<dyn FnOnce() + Send> = Box::new(work);
                work();
            }
        };
        if thread::Builder::new().spawn(move || run(&of)).is_err() {
            run(&work);
        }
    }

    fn note_settled(&self, id: VmId) {
        crate::lock(&self.settled).push(id);
        self.bell.ring();
    }

    /// Gives back all that a VM has. If it is to, it starts again from nothing.
    fn take_apart(&'static self, vm: Vm) {
        let (id, reason) = (vm.id(), vm.state().reason());
        let Ok(disposed) = vm.dispose(&self.registry) else {
            self.link.error(format_args!(
                "VM {id}: something still refers to it: its memory and devices stay with nobody"
            ));
            return crate::lock(&self.claims).withhold_all(id, &[]);
        };
        let whole = disposed.stuck.is_empty() && !disposed.ram_withheld;
        for stuck in &disposed.stuck {
            self.link.error(format_args!("{}: {}", stuck.device, stuck.why));
        }
        if !whole {
            let registry = self.registry.lock();
            crate::lock(&self.claims).note_failed(id, &registry);
        }
        let plan = &disposed.plan;
        let reason = if self.security.has_to_stop(id) { Some(StopReason::Violation) } else { reason };
        match reason.map_or(Afterwards::Stays, |reason| self.after_end(plan, reason)) {
            Afterwards::Again if whole => {
                let why = reason.map_or("", StopReason::name);
                self.link.info(format_args!("{}: it starts again ({why})", plan.name));
                self.start_again(plan);
            }
            Afterwards::TooOften => {
                self.link
                    .warn(format_args!("{}: it has ended too often in a row and stays stopped", plan.name));
            }
            Afterwards::Again | Afterwards::Stays => {}
        }
    }

    fn after_end(&self, plan: &VmPlan, reason: StopReason) -> Afterwards {
        if self.run_ends.load(Ordering::SeqCst) {
            return Afterwards::Stays;
        }
        let (mut restarts, now) = (crate::lock(&self.restarts), self.now_ns());
        restarts.get_mut(usize::from(plan.id.0)).map_or(Afterwards::Stays, |it| it.after(reason, plan, now))
    }

    fn start_again(&'static self, plan: &Arc<VmPlan>) {
        let between = self.taken();
        crate::lock(&self.taken_when).note_between(between);
        let vm = match self.build(plan) {
            Ok(vm) => Arc::new(vm),
            Err(error) => return self.say_not_built(plan, &error),
        };
        self.security.restart(plan.id, self.now_ns());
        crate::lock(&self.vms).push(vm.clone());
        // Whoever ends the run has said so before looking for VMs.
        if self.run_ends.load(Ordering::SeqCst) {
            vm.stop(StopReason::RunEnded);
        } else {
            self.start(&vm);
        }
    }

    /// Has a VM built and started.
    ///
    /// # Errors
    ///
    /// Why it can't be: a line. Nothing has changed.
    pub fn revive(&'static self, plan: &Arc<VmPlan>) -> Result<(), String> {
        let said = |what: &str| Err(format!("vm \"{}\" {what}", plan.name));
        if self.run_ends.load(Ordering::SeqCst) {
            return said("isn't started: the run ends");
        }
        if self.is_unsettled(plan.id) {
            return said(UNSETTLED);
        }
        let plan = match crate::lock(&self.claims).take(plan.id) {
            Ok(plan) => plan,
            Err(refusal) => return said(&format!("can't be started: {}", refusal.say(&self.plans))),
        };
        // From here on the run doesn't end without it. Only whoever looks after the VMs does this, so that it can't be there twice.
        crate::lock(&self.unsettled).push(plan.id);
        self.aside(plan.id, move || self.start_again(&plan));
        Ok(())
    }

    /// What those had that have been taken apart may be others' now.
    pub fn settle(&self) {
        for id in std::mem::take(&mut *crate::lock(&self.settled)) {
            let is_gone = self.vm(id).is_none();
            if is_gone {
                crate::lock(&self.claims).give_back(id);
                if let Some(plan) = self.plan(id) {
                    self.link.info(format_args!("{}: it is stopped", plan.name));
                }
            }
            crate::lock(&self.unsettled).retain(|&it| it != id);
        }
    }

    /// Whether a VM is being taken apart or built again.
    pub fn is_unsettled(&self, id: VmId) -> bool {
        crate::lock(&self.unsettled).contains(&id)
    }

    /// Whether any is.
    pub fn any_unsettled(&self) -> bool {
        !crate::lock(&self.unsettled).is_empty()
    }

    /// The run ends: VMs are stopped, and none is started again.
    pub fn end_run(&self) {
        self.run_ends.store(true, Ordering::SeqCst);
        for vm in self.vms() {
            vm.stop(StopReason::RunEnded);
        }
    }

    /// Goes on without threads that haven't left a VM in time. They keep it, and with it its memory: nobody gets that, nor its devices.
    pub fn give_up(&self, vm: Arc<Vm>, overdue: &[CpuId]) {
        say_lost(&vm, overdue, &self.link);
        crate::lock(&self.lost).extend_from_slice(overdue);
        crate::lock(&self.claims).withhold_all(vm.id(), overdue);
        self.forget(vm.id());
        std::mem::forget(vm);
    }

    /// What is taken of the machine now.
    pub fn taken(&self) -> Taken {
        let is_assigned = |slot: &Slot| matches!(slot, Slot::Assigned { .. });
        let devices = self.registry.lock().iter().filter(|(_, slot)| is_assigned(slot)).count() as u32;
        Taken { devices, ..Taken::default() }
    }

    /// The host's own figures: times in nanoseconds.
    pub fn figures(&self) -> HypervisorReport {
        HypervisorReport {
            version: axvm_system::VERSION.to_string(),
            image_bytes: 0,
            ram_bytes: 0,
            boot_ticks: self.first_entry.load(Ordering::Relaxed),
            boot_filling_ticks: 0,
            boot_waiting_ticks: 0,
            tick_hz: 1_000_000_000,
            taken: TakenReport { end: self.taken(), ..*crate::lock(&self.taken_when) },
            meanwhile: None,
            confinement: crate::lock(&self.confinement).clone(),
            lost_cpus: crate::lock(&self.lost).iter().map(|cpu| cpu.0).collect(),
        }
    }
}

/// Reads a part of a file into RAM, which may be in pieces. The file is where the part begins.
fn fill(vm: &Vm, file: &File, part: Part) -> Result<(), BuildError> {
    let Part { mut at, bytes: mut left, .. } = part;
    while left > 0 {
        let (place, room) = vm.ram_at(at).ok_or(BuildError::NoRam(at))?;
        let now = left.min(room);
        place.fill(file, now).map_err(|error| BuildError::Image(at, error))?;
        at = Gpa(at.0.saturating_add(now));
        left -= now;
    }
    Ok(())
}

/// Copies bytes into RAM, which may be in pieces.
fn put(vm: &Vm, at: Gpa, mut bytes: &[u8]) -> Result<(), BuildError> {
    let mut to = at;
    while !bytes.is_empty() {
        let (place, room) = vm.ram_at(to).ok_or(BuildError::NoRam(to))?;
        let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        place.write(0, part).map_err(|error| BuildError::Image(to, error))?;
        to = Gpa(to.0.saturating_add(part.len() as u64));
        bytes = rest;
    }
    Ok(())
}
