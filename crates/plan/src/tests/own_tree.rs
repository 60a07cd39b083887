//! A VM's own device tree, held against what the VM is given.

use axvm_guest::Description;

use super::*;
use crate::own_tree::{check, check_memory};

/// The demo's VM with a tree of its own, and what is said of it: problems, then notes.
struct Own {
    system: System,
    images: Images,
    plan: Plan,
}

impl Own {
    fn new() -> Self {
        Self::of(demo(), images(1))
    }

    fn of(mut system: System, mut images: Images) -> Self {
        system.vms[0].dtb = Some("own.dtb".into());
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

    /// What is said of the tree that AxVM would write, with bytes exchanged that are there once or several times.
    fn patched(&self, bytes: &[(&[u8], &[u8])]) -> (Vec<String>, Vec<String>) {
        let mut blob = axvm_guest::fdt::write(&self.plan.vms[0].description, None).unwrap();
        let mut places = Vec::new();
        for (from, to) in bytes {
            assert_eq!(from.len(), to.len());
            let found = (0..blob.len()).filter(|&at| blob[at..].starts_with(from)).map(|at| (at, *to));
            let before = places.len();
            places.extend(found);
            assert!(places.len() > before, "{from:?} isn't there");
        }
        for (at, to) in places {
            blob[at..at + to.len()].copy_from_slice(to);
        }
        self.said(&blob)
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
fn what_cannot_be_followed_is_a_note() {
    let (problems, notes) = Own::new().patched(&[(b"\0reg\0", b"\0rag\0")]);
    assert!(problems.is_empty() && notes.len() == 1, "{problems:?} {notes:?}");
    assert!(notes[0].contains("can't be looked into"), "{notes:?}");
}

#[test]
fn ram_in_two_pieces_side_by_side_is_one_memory() {
    let mut own = Own::new();
    let RamPiece { gpa: whole, hpa } = own.plan.vms[0].ram[0];
    let half = whole.size() / 2;
    let first = RamPiece { gpa: gpa(whole.start().0, half), hpa };
    let second = RamPiece { gpa: gpa(whole.start().0 + half, half), hpa: Hpa(hpa.0 + (1 << 30)) };
    own.plan.vms[0].ram = vec![first, second];
    assert_eq!(own.changed(|_| {}), (vec![], vec![]));
}

#[test]
fn memory_that_the_vm_does_not_have_is_a_problem_and_less_is_a_note() {
    let own = Own::new();
    let ram = own.plan.vms[0].ram[0].gpa;
    let more = gpa(ram.start().0, ram.size() + 0x1000);
    assert!(own.problem(|it| it.memory = vec![more]).contains("memory at"));
    assert!(own.problem(|it| it.memory.push(gpa(0x20_0000_0000, 0x1000))).contains("0x2000000000"));
    assert!(own.problem(|it| it.memory.clear()).contains("names no memory"));
    let behind = gpa(ram.start().0 + (256 << 20), 256 << 20);
    assert!(own.problem(|it| it.memory = vec![behind]).contains("where the kernel is"));
    assert!(own.note(|it| it.memory = vec![gpa(ram.start().0, 256 << 20)]).contains("unused"));
}

#[test]
fn what_no_kernel_can_run_with_is_found_without_looking_at_the_rest() {
    let own = Own::new();
    let found = |change: &dyn Fn(&mut Description)| {
        let mut description = own.plan.vms[0].description.clone();
        change(&mut description);
        let blob = axvm_guest::fdt::write(&description, None).unwrap();
        check_memory(&own.system, &mut own.plan.clone(), &[(0, &blob)]).err().unwrap_or_default()
    };
    assert_eq!(found(&|_| {}), []);
    let wrong = found(&|it| {
        it.memory.push(gpa(0x20_0000_0000, 0x1000));
        it.gic.as_mut().unwrap().distributor = gpa(0x0b00_0000, 0x1_0000);
    });
    let [problem] = &wrong[..] else { panic!("{wrong:?}") };
    assert!(problem.message.contains("memory at 0x2000000000") && problem.rule == Rule::Description);
    assert_eq!(problem.item, Item::Vm(0, "dtb".into()));
    let no_tree = check_memory(&own.system, &mut own.plan.clone(), &[(0, b"no tree")]).unwrap_err();
    assert!(no_tree[0].message.contains("can't be used"), "{no_tree:?}");
}

#[test]
fn other_cpus_are_a_note() {
    let own = Own::new();
    assert!(own.note(|it| it.cpus.push(7)).contains("doesn't have: /cpus/cpu@7"));
    assert!(own.note(|it| it.cpus.truncate(1)).contains("1 of the VM's 2"));
    let (problems, notes) = own.changed(|it| it.cpus = vec![1]);
    assert!(problems.is_empty() && notes[0].contains("the CPU that starts"), "{notes:?}");
    let (problems, notes) = own.patched(&[(b"arm,psci", b"arm,psXX")]);
    assert!(problems.is_empty() && notes.iter().any(|note| note.contains("no PSCI")), "{notes:?}");
    let (problems, notes) = own.patched(&[(b"enable-method\0", b"enable-nothing")]);
    assert!(problems.is_empty() && notes[0].contains("aren't started by PSCI"), "{notes:?}");
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
    let small = gpa(own.plan.vms[0].aarch64().unwrap().gic.unwrap().redistributors.start().0, 0x2_0000);
    assert!(own.problem(|it| it.gic.as_mut().unwrap().redistributors = small).contains("fewer CPUs"));
    let its = own.problem(|it| it.gic.as_mut().unwrap().its = Some(gpa(0x0b00_0000, 0x2_0000)));
    assert!(its.contains("an ITS at 0xb000000"), "{its}");
    assert!(own.problem(|it| it.timer[2] = 20).contains("virtual timer at INTID 20"));
    let (problems, notes) = own.patched(&[(b"arm,gic-v3-its", b"arm,gic-vX-its")]);
    assert!(problems.is_empty() && notes.iter().any(|note| note.contains("no ITS")), "{notes:?}");
    let (problems, _) = own.patched(&[(b"arm,gic-v3\0", b"arm,gic-vX\0")]);
    assert!(problems[0].contains("no GICv3"), "{problems:?}");
    let (problems, notes) = own.patched(&[(b"arm,armv8-timer", b"arm,armvX-timer")]);
    assert!(problems.is_empty() && notes.iter().any(|note| note.contains("no timer")), "{notes:?}");
}

#[test]
fn devices_that_the_vm_does_not_have_are_a_problem_where_linux_looks() {
    let mut own = Own::new();
    let away = |it: &mut Description| it.devices[0].registers = vec![gpa(0x0b00_0000, 0x1000)];
    assert!(own.problem(away).contains("in use at"));
    let unused = own.changed(|it| {
        away(it);
        it.devices[0].properties.push(("status".into(), b"disabled\0".to_vec()));
    });
    assert_eq!(unused, (vec![], vec![]));
    let kind: (&[u8], &[u8]) = (b"arm,pl031\0arm,primecell\0", b"arm,smmu-v3\0no-primecel\0");
    let (problems, _) = own.patched(&[kind]);
    assert!(problems.iter().any(|problem| problem.contains("an SMMU in use")), "{problems:?}");
    let ecam = own.problem(|it| it.pci[0].ecam = gpa(it.pci[0].ecam.start().0, it.pci[0].ecam.size() * 2));
    assert!(ecam.contains("has config space at"), "{ecam}");
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
    let other = own.note(|it| it.console.as_mut().unwrap().irq.0 += 1);
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
    let (start, end) = (initrd.start().0.to_be_bytes(), initrd.end().0.to_be_bytes());
    let (problems, _) = own.patched(&[(&start, &end), (&end, &start)]);
    assert!(problems[0].contains("ends before it begins"), "{problems:?}");
    let (mut system, mut images) = (demo(), images(1));
    (system.vms[0].initrd, images.vms[0].initrd_len) = (None, None);
    assert!(Own::of(system, images).note(|it| it.initrd = Some(initrd)).contains("no `initrd`"));
}
