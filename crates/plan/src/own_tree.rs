//! What a VM's own device tree says, against what the VM is given.
//!
//! The tree is used as it is, so that what it says wrong the guest believes. A kernel that is told of memory or registers that
//! aren't there touches them and is given an abort: that can't work, and is a problem. What is merely left unused, or done
//! otherwise than usual, is a note. Only Linux is known to believe all of its tree; for other kernels all but the worst is a note.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Gpa, Hpa, PciSpace, Span};
use axvm_guest::image::{ImageKind, Images};
use axvm_platform::fdt::{self, FdtError, blob::Tree};
use axvm_platform::model::Platform;
use axvm_system::model::{System, Vm};

use super::findings::{Findings, VmRef};
use super::load;
use super::model::{Plan, VmPlan};
use crate::problem::{Problem, Rule};

/// Looks into the device trees that the VMs of a plan bring, by position in the system file. Notes are added to the plan's.
///
/// # Errors
///
/// Every problem that there is.
pub fn check(
    system: &System,
    images: &Images,
    plan: &mut Plan,
    trees: &[(u16, &[u8])],
) -> Result<(), Vec<Problem>> {
    let mut findings = Findings::default();
    for &(index, blob) in trees {
        let of = |vm: &&VmPlan| vm.id.0 == index;
        let (Some(config), Some(vm)) = (system.vms.get(usize::from(index)), plan.vms.iter().find(of)) else {
            continue;
        };
        let kernel = images.vms.get(usize::from(index)).and_then(|images| images.kernel.as_ref().ok());
        let linux = kernel.is_some_and(|kernel| kernel.kind == ImageKind::LinuxImage);
        let size = kernel.map_or(0, |kernel| kernel.memory_size);
        let kernel = Span::new(vm.load.kernel, size).unwrap_or_default();
        Look { vm: VmRef::of(system, index), config, plan: vm, linux, kernel, findings: &mut findings }
            .at(blob);
    }
    let Findings { problems, notes } = findings;
    plan.notes.extend(notes);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// As [`check`], but for the two things with which no kernel can run, whatever it is: a tree that isn't one, and memory that isn't there.
/// It is what the hypervisor asks before it starts a VM, where words cost memory.
///
/// # Errors
///
/// Every such problem.
pub fn check_memory(system: &System, plan: &mut Plan, trees: &[(u16, &[u8])]) -> Result<(), Vec<Problem>> {
    let mut findings = Findings::default();
    for &(index, blob) in trees {
        let of = |vm: &&VmPlan| vm.id.0 == index;
        let (Some(config), Some(vm)) = (system.vms.get(usize::from(index)), plan.vms.iter().find(of)) else {
            continue;
        };
        let (linux, kernel) = (false, Span::default());
        let vm_ref = VmRef::of(system, index);
        let mut look = Look { vm: vm_ref, config, plan: vm, linux, kernel, findings: &mut findings };
        if let Ok(Some(tree)) = look.read(blob) {
            look.banks(&tree);
        }
    }
    let Findings { problems, notes } = findings;
    plan.notes.extend(notes);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// It is no device tree that anybody could use.
struct Unusable;

/// One VM's tree while it is looked at.
pub(crate) struct Look<'a> {
    vm: VmRef<'a>,
    config: &'a Vm,
    pub(crate) plan: &'a VmPlan,
    linux: bool,
    kernel: Span<Gpa>,
    findings: &'a mut Findings,
}

impl Look<'_> {
    pub(crate) fn note(&mut self, what: impl fmt::Display) {
        self.findings.note(format_args!("{}: its own device tree {what}", self.vm));
    }

    fn problem(&mut self, what: impl fmt::Display) {
        let what = format!("its own device tree {what}");
        self.findings.vm(self.vm, "dtb", Rule::Description, what);
    }

    /// Something with which Linux can't run; another kernel may not look.
    pub(crate) fn wrong(&mut self, what: impl fmt::Display) {
        if self.linux { self.problem(what) } else { self.note(what) }
    }

    fn at(&mut self, blob: &[u8]) {
        let Ok(tree) = self.read(blob) else { return };
        if let Some(tree) = tree {
            self.memory(&tree);
            self.processors(&tree);
            self.plan.machine.machine().look(self, &tree);
            self.registers(&tree);
            self.bridges(&tree);
        }
        self.chosen(blob);
    }

    /// What the tree says, if it can be followed.
    fn read(&mut self, blob: &[u8]) -> Result<Option<Platform>, Unusable> {
        // A plan for a machine that has none was refused before.
        let Some(said) = self.plan.machine.machine().read_own(blob) else { return Ok(None) };
        match said {
            Ok(tree) => Ok(Some(tree)),
            Err(error @ (FdtError::Blob(_) | FdtError::Overlay(_) | FdtError::Architecture(_))) => {
                self.problem(format_args!("can't be used: {error}"));
                Err(Unusable)
            }
            // A kernel may be less strict, or never look there.
            Err(error) => {
                self.note(format_args!("can't be looked into: {error}"));
                Ok(None)
            }
        }
    }

    fn ram(&self) -> Vec<Span<Gpa>> {
        self.plan.ram.iter().map(|piece| piece.gpa).collect()
    }

    /// Memory that the VM doesn't have.
    fn banks(&mut self, tree: &Platform) {
        let ram = self.ram();
        for bank in tree.memory.iter().map(|&bank| here(bank)) {
            if !covers(&ram, bank) {
                self.problem(format_args!(
                    "says that there is memory at {bank}; the VM's is {}",
                    Spans(&ram)
                ));
            }
        }
    }

    fn memory(&mut self, tree: &Platform) {
        let ram = self.ram();
        if tree.memory.is_empty() {
            return self.wrong("names no memory");
        }
        self.banks(tree);
        let said: Vec<Span<Gpa>> = tree.memory.iter().map(|&bank| here(bank)).collect();
        if !covers(&said, self.kernel) {
            let kernel = self.kernel;
            self.wrong(format_args!("says nothing of memory where the kernel is ({kernel})"));
        } else if !ram.iter().all(|&piece| covers(&said, piece)) {
            self.note(format_args!("leaves memory unused: the VM's is {}", Spans(&ram)));
        }
    }

    fn processors(&mut self, tree: &Platform) {
        let known = |id: u64| self.plan.cpus.iter().any(|vcpu| vcpu.hardware_id == id);
        let strange: Vec<&str> =
            tree.cpus.iter().filter(|cpu| !known(cpu.hardware_id)).map(|cpu| cpu.path.as_str()).collect();
        let (named, strange) = (tree.cpus.len() - strange.len(), strange.join(", "));
        let has = self.plan.cpus.len();
        let first = self.plan.cpus.first().map(|vcpu| vcpu.hardware_id);
        if !tree.cpus.iter().any(|cpu| Some(cpu.hardware_id) == first) {
            self.note("doesn't name the CPU that starts: Linux starts no others then");
        }
        if !strange.is_empty() {
            self.note(format_args!("names CPUs that the VM doesn't have: {strange}"));
        }
        if named < has {
            self.note(format_args!("names {named} of the VM's {has} CPUs"));
        }
    }

    /// All that the VM may touch beside RAM.
    fn places(&self) -> Vec<Span<Gpa>> {
        let plan = self.plan;
        let mut places: Vec<Span<Gpa>> = plan.registers.iter().map(|block| block.gpa).collect();
        places.extend(plan.emulated());
        places
    }

    fn registers(&mut self, tree: &Platform) {
        let places = self.places();
        for device in tree.devices.iter().filter(|device| device.enabled) {
            let mut spans = device.registers.iter().map(|&span| here(span));
            if let Some(span) = spans.find(|&span| !covers(&places, span)) {
                self.wrong(format_args!(
                    "has {} in use at {span}, where the VM has nothing: take it out, say `status = \"disabled\"` there, or give the \
                     VM the device",
                    device.path
                ));
            }
        }
        for iommu in &tree.iommus {
            self.wrong(format_args!("has an {} in use ({}): a VM has none", iommu.name(), iommu.path));
        }
        self.console(tree);
        self.watchdog(tree);
    }

    fn console(&mut self, tree: &Platform) {
        let Some(console) = self.plan.console else { return };
        let Some(registers) = console.at.registers() else { return };
        let words = self.plan.machine.words();
        let here = tree.devices.iter().find(|device| {
            device.enabled && device.registers.iter().any(|&span| here(span).start() == registers.start())
        });
        match here {
            None => self.note(format_args!(
                "doesn't name the console, {} at {}, {} {}",
                words.console,
                registers.start(),
                words.irq,
                console.irq
            )),
            Some(device) if !device.interrupts.iter().any(|line| line.irq == console.irq) => {
                self.note(format_args!(
                    "doesn't give {} the console's line, {} {}",
                    device.path, words.irq, console.irq
                ));
            }
            Some(_) => {}
        }
    }

    /// A watchdog that nobody tells the guest of is never switched on.
    fn watchdog(&mut self, tree: &Platform) {
        let Some(watchdog) = self.plan.watchdog else { return };
        let pages = [watchdog.control.start(), watchdog.refresh.start()];
        let named = tree.devices.iter().filter(|device| device.enabled).any(|device| {
            let starts: Vec<Gpa> = device.registers.iter().map(|&span| here(span).start()).collect();
            starts == pages
        });
        if !named {
            self.note(format_args!(
                "doesn't name the watchdog, {} with control page {} and refresh page {}",
                self.plan.machine.words().watchdog,
                watchdog.control.start(),
                watchdog.refresh.start()
            ));
        }
    }

    fn bridges(&mut self, tree: &Platform) {
        for host in &tree.pci_hosts {
            let ecam = here(host.ecam);
            let Some(bridge) = self.plan.pci.iter().find(|bridge| bridge.ecam.start() == ecam.start()) else {
                self.wrong(format_args!("has a PCI host bridge at {}, where the VM has none", ecam.start()));
                continue;
            };
            if !bridge.ecam.encloses(&ecam) {
                self.wrong(format_args!("has config space at {ecam}; the VM's is {}", bridge.ecam));
            }
            let windows: Vec<Span<Gpa>> = bridge.windows.iter().map(|window| window.cpu).collect();
            let memory = host.windows.iter().filter(|it| it.space != PciSpace::Io);
            for window in memory.map(|window| here(window.cpu)) {
                if !covers(&windows, window) {
                    self.note(format_args!(
                        "has a PCI window {window} that isn't all the VM's ({}): BARs outside don't answer",
                        Spans(&windows)
                    ));
                }
            }
        }
        for bridge in &self.plan.pci {
            if !tree.pci_hosts.iter().any(|host| here(host.ecam).start() == bridge.ecam.start()) {
                self.findings.note(format_args!(
                    "{}: its own device tree doesn't name the PCI host bridge at {}: the guest doesn't see its functions",
                    self.vm,
                    bridge.ecam.start()
                ));
            }
        }
    }

    fn chosen(&mut self, blob: &[u8]) {
        if Tree::parse(blob).is_err() {
            return;
        }
        let arguments = fdt::bootargs(blob).ok().flatten().unwrap_or_default();
        if !load::is_command_line(&arguments) {
            let what = "has a command line (/chosen/bootargs) of more than 2047 bytes: Linux cuts off what is more without a word";
            self.problem(what);
        }
        if !self.config.cmdline.is_empty() && self.config.cmdline != arguments {
            self.note("has another command line (/chosen/bootargs) than `cmdline`, which isn't put into it");
        }
        let Ok(said) = fdt::initrd(blob) else {
            return self.wrong("has an initial RAM disk that ends before it begins (/chosen)");
        };
        match (said.map(here), self.plan.load.initrd) {
            (said, planned) if said == planned => {}
            (None, Some(planned)) => self.note(format_args!(
                "doesn't name the initial RAM disk, which lies at {planned} (linux,initrd-start, linux,initrd-end)"
            )),
            (Some(said), Some(planned)) => {
                self.wrong(format_args!("has the initial RAM disk at {said}; it lies at {planned}"));
            }
            (Some(said), None) => {
                self.note(format_args!("names an initial RAM disk at {said}, but the file has no `initrd`"));
            }
            (None, None) => {}
        }
    }
}

/// What the tree calls the CPU's addresses are the guest's.
pub(crate) fn here(span: Span<Hpa>) -> Span<Gpa> {
    Span::new(Gpa(span.start().0), span.size()).unwrap_or_default()
}

/// Whether pieces hold all of a span.
fn covers(pieces: &[Span<Gpa>], span: Span<Gpa>) -> bool {
    let mut at = span.start();
    while at < span.end() {
        let Some(piece) = pieces.iter().find(|piece| piece.contains(at)) else { return false };
        at = piece.end();
    }
    true
}

struct Spans<'a>(&'a [Span<Gpa>]);

impl fmt::Display for Spans<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, span) in self.0.iter().enumerate() {
            write!(f, "{}{span}", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
