//! A VM's own device tree, held against what the VM is given.

use axvm_guest::Description;

use super::*;
use crate::own_tree::check;

/// The demo's VM with a tree of its own, and what is said of it: problems, then notes.
struct Own {
    system: System,
    images: Images,
    plan: Plan,
}

impl Own {
    fn new() -> Self {
        let mut system = demo();
        system.vms[0].dtb = Some("own.dtb".into());
        let mut images = images(1);
        images.vms[0].dtb_len = Some(10_000);
        let plan = plan(&system, &board(), &images).unwrap();
        Self { system, images, plan }
    }

    fn said(&self, blob: &[u8]) -> (Vec<String>, Vec<String>) {
        let mut plan = self.plan.clone();
        plan.notes.clear();
        let problems = check(&self.system, &self.images, &mut plan, &[(0, blob)]).err().unwrap_or_default();
        assert!(
            problems.iter().all(|it| it.item == Item::Vm(0, "dtb".into()) && it.rule == Rule::Description)
        );
        (problems.into_iter().map(|problem| problem.message).collect(), plan.notes)
    }

    /// What is said of the tree that AxVM would write, changed so.
    fn changed(&self, change: impl FnOnce(&mut Description)) -> (Vec<String>, Vec<String>) {
        let mut description = self.plan.vms[0].description.clone();
        change(&mut description);
        self.said(&axvm_guest::fdt::write(&description, None).unwrap())
    }

    fn problem(&self, change: impl FnOnce(&mut Description)) -> String {
        let (problems, _) = self.changed(change);
        let [problem] = &problems[..] else { panic!("{problems:#?}") };
        problem.clone()
    }

    fn note(&self, change: impl FnOnce(&mut Description)) -> String {
        let (problems, notes) = self.changed(change);
        assert!(problems.is_empty(), "{problems:#?}");
        let [note] = &notes[..] else { panic!("{notes:#?}") };
        note.clone()
    }
}

fn gpa(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

#[test]
fn the_tree_that_axvm_would_write_has_nothing_wrong() {
    let own = Own::new();
    assert_eq!(own.changed(|_| {}), (vec![], vec![]));
}

#[test]
fn what_is_not_a_device_tree_is_a_problem() {
    let own = Own::new();
    let whole = axvm_guest::fdt::write(&own.plan.vms[0].description, None).unwrap();
    for blob in [&b"not a device tree"[..], &[], &whole[..whole.len() / 2]] {
        let (problems, _) = own.said(blob);
        assert!(matches!(&problems[..], [problem] if problem.contains("can't be used")), "{problems:?}");
    }
}

#[test]
fn memory_that_the_vm_does_not_have_is_a_problem_and_less_is_a_note() {
    let own = Own::new();
    let ram = own.plan.vms[0].ram[0].0;
    let more = gpa(ram.start().0, ram.size() + 0x1000);
    assert!(own.problem(|it| it.memory = vec![more]).contains("memory at"));
    assert!(own.problem(|it| it.memory.push(gpa(0x20_0000_0000, 0x1000))).contains("0x2000000000"));
    assert!(own.problem(|it| it.memory.clear()).contains("names no memory"));
    let behind = gpa(ram.start().0 + (256 << 20), 256 << 20);
    assert!(own.problem(|it| it.memory = vec![behind]).contains("where the kernel is"));
    assert!(own.note(|it| it.memory = vec![gpa(ram.start().0, 256 << 20)]).contains("unused"));
}

#[test]
fn other_cpus_are_a_note() {
    let own = Own::new();
    assert!(own.note(|it| it.cpus.push(7)).contains("doesn't have: /cpus/cpu@7"));
    assert!(own.note(|it| it.cpus.truncate(1)).contains("1 of the VM's 2"));
    let (problems, notes) = own.changed(|it| it.cpus = vec![1]);
    assert!(problems.is_empty() && notes[0].contains("the CPU that starts"), "{notes:?}");
}

#[test]
fn interrupt_controllers_elsewhere_are_a_problem() {
    let own = Own::new();
    let elsewhere = gpa(0x0b00_0000, 0x1_0000);
    let distributor = own.problem(|it| it.gic.as_mut().unwrap().distributor = elsewhere);
    assert!(distributor.contains("distributor at 0xb000000"), "{distributor}");
    let redistributors =
        own.problem(|it| it.gic.as_mut().unwrap().redistributors = gpa(0x0b00_0000, 0x4_0000));
    assert!(redistributors.contains("redistributors"), "{redistributors}");
    let small = gpa(own.plan.vms[0].gic.unwrap().redistributors.start().0, 0x2_0000);
    assert!(own.problem(|it| it.gic.as_mut().unwrap().redistributors = small).contains("fewer CPUs"));
    let its = own.problem(|it| it.gic.as_mut().unwrap().its = Some(gpa(0x0b00_0000, 0x2_0000)));
    assert!(its.contains("an ITS at 0xb000000"), "{its}");
    assert!(own.problem(|it| it.timer[2] = 20).contains("virtual timer at INTID 20"));
}

#[test]
fn devices_that_the_vm_does_not_have_are_a_problem_where_linux_looks() {
    let mut own = Own::new();
    let away = |it: &mut Description| it.devices[0].registers = vec![gpa(0x0b00_0000, 0x1000)];
    assert!(own.problem(away).contains("in use at"));
    let host = own.problem(|it| {
        let mut other = it.pci[0].clone();
        (other.segment, other.ecam) = (9, gpa(0x0b00_0000, 0x100_0000));
        it.pci.push(other);
    });
    assert!(host.contains("a PCI host bridge at"), "{host}");
    let window = own.note(|it| it.pci[0].windows[0].cpu = gpa(0x0c00_0000, 0x100_0000));
    assert!(window.contains("a PCI window"), "{window}");
    assert!(own.note(|it| it.pci.clear()).contains("doesn't see its functions"));
    own.images.vms[0].kernel.as_mut().unwrap().kind = ImageKind::Elf;
    assert!(own.note(away).contains("in use at"));
}

#[test]
fn a_console_that_is_not_told_is_a_note() {
    let own = Own::new();
    let (registers, intid) = own.plan.vms[0].description.console.unwrap();
    let other = own.note(|it| it.console = Some((registers, Intid(intid.0 + 1))));
    assert!(other.contains("the console's line"), "{other}");
    let (problems, notes) = own.changed(|it| it.console = None);
    assert!(problems.is_empty() && notes.iter().any(|note| note.contains("name the console")), "{notes:?}");
}

#[test]
fn what_is_chosen_is_compared_with_what_is_loaded() {
    let own = Own::new();
    let initrd = own.plan.vms[0].load.initrd.unwrap();
    assert!(own.note(|it| it.initrd = None).contains(&alloc::format!("lies at {initrd}")));
    let elsewhere = gpa(initrd.start().0 + 0x1000, initrd.size());
    assert!(own.problem(|it| it.initrd = Some(elsewhere)).contains("it lies at"));
    assert!(own.note(|it| it.cmdline = "quiet".into()).contains("another command line"));
    let (problems, _) = own.changed(|it| it.cmdline = "x".repeat(2048));
    assert!(problems.iter().any(|problem| problem.contains("2047")), "{problems:?}");
}
