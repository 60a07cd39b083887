//! Against a Linux that keeps the contract of its sysfs.

use std::fs;
use std::path::Path;

use axvm_rebind::fake::{Fault, Linux, is_taken};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use axvm_platform::sysfs::Files;
use axvm_rebind::{Former, Sysfs, WriteError, take};

use super::{Duty, Nodes, Record, Released, USERS, release, serve};
use crate::vfio::way::{self, Way};

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

/// A Linux, with nodes for the groups of which vfio-pci has a function, and for functions where it gives them, each with its owner.
struct Fake {
    linux: Linux,
    /// Nodes that aren't root's.
    owners: RefCell<BTreeMap<String, u32>>,
}

impl From<Linux> for Fake {
    fn from(linux: Linux) -> Self {
        Self { linux, owners: RefCell::default() }
    }
}

impl Fake {
    fn driver_of(&self, function: &str) -> Option<String> {
        self.linux.driver_of(function)
    }

    /// Whether there is such a node.
    fn has_node(&self, node: &str) -> bool {
        let functions = self.linux.list("sys/bus/pci/devices");
        let taken = functions.iter().filter(|function| is_taken(&self.linux, function));
        let mut nodes = taken.flat_map(|function| {
            [Way::Groups, Way::Devices].map(|way| way::node(&self.linux, way, function.parse().unwrap()))
        });
        nodes.any(|it| it.as_deref() == Some(node))
    }
}

impl Files for Fake {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.linux.read(path)
    }

    fn list(&self, path: &str) -> Vec<String> {
        self.linux.list(path)
    }

    fn link(&self, path: &str) -> Option<String> {
        self.linux.link(path)
    }
}

impl Sysfs for Fake {
    fn write(&self, path: &str, text: &str) -> Result<(), WriteError> {
        let written = self.linux.write(path, text);
        // A group's node goes with its last function, a function's own with that, and its owner with it.
        self.owners.borrow_mut().retain(|node, _| self.has_node(node));
        written
    }

    fn unmount(&self, at: &str) -> Result<(), WriteError> {
        self.linux.unmount(at)
    }

    fn swap_off(&self, disk: &str) -> Result<(), WriteError> {
        self.linux.swap_off(disk)
    }
}

impl Nodes for Fake {
    fn owner(&self, node: &str) -> Option<u32> {
        self.has_node(node).then(|| self.owners.borrow().get(node).copied().unwrap_or(0))
    }

    fn give(&self, node: &str, user: u32) -> io::Result<()> {
        if !self.has_node(node) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.owners.borrow_mut().insert(node.into(), user);
        Ok(())
    }
}

fn machine() -> Fake {
    let linux = Linux::new().driver("nvme").driver("e1000e").driver("vfio-pci");
    linux.function(DISK, Some("nvme")).function(CARD, Some("e1000e")).into()
}

/// What a guard may be asked for here, for root.
fn duty() -> Duty {
    let functions = [DISK, CARD].map(|it| it.parse().unwrap()).into();
    Duty { functions, processors: vec![2, 3], ..Duty::default() }
}

/// What a guard answers to these lines, and whether anything is left to give back.
fn answers(machine: &Fake, duty: &Duty, folder: &Path, asked: &str) -> (Vec<String>, Option<Record>) {
    let mut answers = Vec::new();
    let left = serve(machine, duty, folder, asked.as_bytes(), &mut answers).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    (answers.lines().map(str::to_string).collect(), left)
}

fn records(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn what_is_asked_for_is_taken_and_at_the_end_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine();
    let asked = format!("take {DISK}\ntake {DISK}\nwhat\n");
    let (lines, left) = answers(&machine, &duty(), folder.path(), &asked);
    assert_eq!(lines, ["ok", "ok", "error \"what\" isn't understood", &format!("back {DISK}"), "end"]);
    assert!(left.is_none());
    assert!(machine.linux.written().iter().any(|path| path.ends_with("nvme/unbind")), "taken in between");
    assert_eq!(machine.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(records(folder.path()), 0);
}

/// A Linux in which the disk has two messages, and the card has one.
fn with_messages(denied: Option<WriteError>) -> Fake {
    let mut linux = machine().linux;
    for (function, interrupt) in [(DISK, 40), (DISK, 41), (CARD, 42)] {
        linux = linux
            .file(&format!("sys/bus/pci/devices/{function}/msi_irqs/{interrupt}"), "msix\n")
            .file(&format!("proc/irq/{interrupt}/smp_affinity_list"), "0-3\n");
    }
    match denied {
        Some(why) => linux.denied(why).into(),
        None => linux.into(),
    }
}

/// The processors to which an interrupt comes.
fn processors_of(machine: &Fake, interrupt: u32) -> String {
    let text = machine.read(&format!("proc/irq/{interrupt}/smp_affinity_list")).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn messages_of_a_function_come_to_the_processors_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let machine = with_messages(None);
    let asked = format!("take {DISK}\naim {DISK} 2,3\n");
    let (lines, _) = answers(&machine, &duty(), folder.path(), &asked);
    assert_eq!(lines[..2], ["ok", "ok"]);
    assert_eq!([40, 41, 42].map(|it| processors_of(&machine, it)), ["2,3", "2,3", "0-3\n"]);
}

/// Nor do they come to processors that no VM of the run has, nor those of functions that it hasn't.
#[test]
fn messages_are_led_for_the_functions_and_to_the_processors_of_the_run_only() {
    let folder = tempfile::tempdir().unwrap();
    let machine = with_messages(None);
    let only = Duty { functions: vec![CARD.parse().unwrap()], ..duty() };
    let asked = format!("aim {CARD} 2\ntake {CARD}\naim {CARD} 1\naim {DISK} 2\naim {CARD}\naim {CARD} x\n");
    let (lines, _) = answers(&machine, &only, folder.path(), &asked);
    let refused = [
        format!("error {CARD}: it isn't taken"),
        "ok".to_owned(),
        format!("error {CARD}: no VM of the run has processor 1"),
        format!("error {DISK}: no VM of the run has it"),
        format!("error \"aim {CARD}\" isn't understood"),
        format!("error \"aim {CARD} x\" isn't understood"),
    ];
    assert_eq!(lines[..6], refused);
    assert_eq!([40, 41, 42].map(|it| processors_of(&machine, it)), ["0-3\n"; 3]);
}

#[test]
fn where_messages_cannot_be_led_it_is_said_why() {
    let function = DISK.parse().unwrap();
    let of = |why| super::aim::aim(&with_messages(Some(why)), function, &[2]);
    let said = of(WriteError::ReadOnly).unwrap_err();
    assert!(said.starts_with("0000:00:02.0: its interrupts come to whichever processor"), "{said}");
    assert!(
        said.ends_with("/proc/irq/40/smp_affinity_list can't be written: it is read-only here"),
        "{said}"
    );
    // A controller that leads them to the guest itself; an interrupt that has gone.
    assert_eq!(of(WriteError::Other(libc::EINVAL)), Ok(()));
    assert_eq!(of(WriteError::Missing), Ok(()));
    assert!(of(WriteError::Other(libc::EIO)).is_err());
}

/// Whoever asks may have been taken over by a guest: it gets what its plan has and no more.
#[test]
fn what_no_vm_of_the_run_has_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine();
    let only = Duty { functions: vec![CARD.parse().unwrap()], ..Duty::default() };
    let (lines, _) = answers(&machine, &only, folder.path(), &format!("take {DISK}\n"));
    assert_eq!(lines[0], format!("error {DISK}: no VM of the run has it"));
    assert!(machine.linux.written().is_empty());
}

#[test]
fn a_function_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let absent = Duty { functions: vec!["0000:00:09.0".parse().unwrap()], ..Duty::default() };
    let (lines, _) = answers(&machine(), &absent, folder.path(), "take 0000:00:09.0\n");
    assert_eq!(lines[0], "error 0000:00:09.0: this machine has no such PCI function");
}

/// By one of VFIO's ways, and its nodes of disk and card: they are the user's who opens them while they are taken, and those of the other way are not.
fn belongs(way: Way, [disk, card]: [&str; 2], others: [&str; 2]) {
    let folder = tempfile::tempdir().unwrap();
    // Of the card vfio-pci was the driver before, so that its node stays.
    let linux = Linux::new().driver("nvme").driver("vfio-pci").gives_nodes();
    let machine: Fake = linux.function(DISK, Some("nvme")).function(CARD, Some("vfio-pci")).into();
    let user = Some(USERS.start);
    let duty = Duty { user, way, ..duty() };
    let mut record = Record::new(folder.path()).unwrap();
    for function in [DISK, CARD] {
        super::perform(&machine, &duty, &mut record, &format!("take {function}")).unwrap();
    }
    assert_eq!((machine.owner(disk), machine.owner(card)), (user, user));
    assert_eq!(others.map(|node| machine.owner(node)), [Some(0), Some(0)]);
    record.give_back(&machine, |result| assert!(result.is_ok()));
    assert_eq!((machine.owner(disk), machine.owner(card)), (None, Some(0)));
    // One that was somebody's stays theirs.
    machine.give(card, 1000).unwrap();
    answers(&machine, &duty, folder.path(), &format!("take {CARD}\n"));
    assert_eq!(machine.owner(card), Some(1000));
}

const GROUPS: [&str; 2] = ["dev/vfio/0", "dev/vfio/1"];
const DEVICES: [&str; 2] = ["dev/vfio/devices/vfio0", "dev/vfio/devices/vfio1"];

#[test]
fn a_group_belongs_to_who_opens_it_while_it_is_taken() {
    belongs(Way::Groups, GROUPS, DEVICES);
}

#[test]
fn a_function_s_own_node_belongs_to_who_opens_it_while_it_is_taken() {
    belongs(Way::Devices, DEVICES, GROUPS);
}

#[test]
fn what_is_not_given_back_stays_in_the_record_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let linux = Linux::new().faulty("nvme", Fault::Refuses).driver("vfio-pci").function(DISK, Some("nvme"));
    let machine = linux.into();
    let (lines, left) = answers(&machine, &duty(), folder.path(), &format!("take {DISK}\n"));
    assert!(lines.iter().any(|line| line.contains("nvme doesn't take it again")), "{lines:?}");
    // The guard has ended.
    drop(left.unwrap());
    let found = release(&machine, folder.path());
    assert!(matches!(&found[..], [Released::Not(line)] if line.starts_with(DISK)), "{found:?}");
    assert_eq!(records(folder.path()), 1);
}

#[test]
fn what_its_driver_does_not_let_go_of_is_said_and_given_back_when_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let linux = Linux::new().faulty("nvme", Fault::Hangs).driver("vfio-pci").function(DISK, Some("nvme"));
    let machine: Fake = linux.into();
    let (lines, left) = answers(&machine, &duty(), folder.path(), &format!("take {DISK}\ntake {DISK}\n"));
    assert!(lines[0].contains("the driver nvme doesn't let go of it: something uses it"), "{lines:?}");
    assert_eq!(lines[1], format!("error {DISK}: its driver hasn't let go of it yet"));
    assert!(lines[2].contains("as soon as it has, the function is given back to it"), "{lines:?}");
    assert_eq!(lines[3], "end");
    // As long as the guard is there others leave it alone; and who was killed has left a record.
    let mut record = left.unwrap();
    assert_eq!(release(&machine, folder.path()), [Released::InUse(record.path.clone())]);
    machine.linux.let_go(DISK);
    record.held.clear();
    record.give_back(&machine, |result| assert!(result.is_ok()));
    assert_eq!(machine.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!((machine.linux.only_of(DISK), records(folder.path())), (None, 0));
}

/// A guard that is killed: its record stays, and nobody has it locked.
fn killed(machine: &Fake, way: Way, folder: &Path, functions: &[&str]) {
    let mut record = Record::new(folder).unwrap();
    let duty = Duty { user: Some(USERS.start + 7), way, ..duty() };
    for function in functions {
        super::perform(machine, &duty, &mut record, &format!("take {function}")).unwrap();
    }
}

#[test]
fn what_a_killed_guard_has_left_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let linux = machine();
    killed(&linux, Way::Groups, folder.path(), &[DISK, CARD]);
    assert!(is_taken(&linux.linux, DISK) && is_taken(&linux.linux, CARD));
    let back = |function: &str| Released::Back(function.parse().unwrap());
    assert_eq!(release(&linux, folder.path()), [back(DISK), back(CARD)]);
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(linux.driver_of(CARD).as_deref(), Some("e1000e"));
    assert_eq!(records(folder.path()), 0);
    assert!(release(&linux, folder.path()).is_empty());
}

#[test]
fn a_node_that_a_killed_guard_has_handed_over_is_root_s_again() {
    for (way, node) in [(Way::Groups, "dev/vfio/0"), (Way::Devices, "dev/vfio/devices/vfio0")] {
        let folder = tempfile::tempdir().unwrap();
        let linux = Linux::new().driver("vfio-pci").gives_nodes();
        let machine: Fake = linux.function(CARD, Some("vfio-pci")).into();
        killed(&machine, way, folder.path(), &[CARD]);
        assert!(machine.owner(node).is_some_and(|owner| USERS.contains(&owner)));
        assert_eq!(release(&machine, folder.path()), [Released::Back(CARD.parse().unwrap())]);
        assert_eq!(machine.owner(node), Some(0));
        // Also where the next guard comes before that, and another user opens it.
        machine.give(node, USERS.start + 7).unwrap();
        let next = Duty { user: Some(USERS.start + 8), way, ..duty() };
        answers(&machine, &next, folder.path(), &format!("take {CARD}\n"));
        assert_eq!(machine.owner(node), Some(0));
    }
}

#[test]
fn what_a_run_has_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let linux = machine();
    let mut record = Record::new(folder.path()).unwrap();
    let former = Former::of(&linux, DISK.parse().unwrap()).unwrap();
    record.add(former.clone()).unwrap();
    take(&linux, &former).unwrap();
    assert_eq!(release(&linux, folder.path()), [Released::InUse(record.path.clone())]);
    assert!(is_taken(&linux.linux, DISK));
}

#[test]
fn a_record_that_nobody_understands_is_said_and_nothing_of_it_done() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("taken-1"), "0000:00:02.0\t../../x\t\n").unwrap();
    let linux = machine();
    let found = release(&linux, folder.path());
    assert!(matches!(&found[..], [Released::Not(_)]), "{found:?}");
    assert!(linux.linux.written().is_empty());
}

/// The machine, whose disk is mounted.
fn busy() -> Linux {
    machine()
        .linux
        .file("sys/block/nvme0n1/dev", "259:0")
        .link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .file("proc/self/mountinfo", "36 35 259:0 / /mnt rw - ext4 /dev/nvme0n1 rw")
}

#[test]
fn what_came_in_use_since_the_run_began_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let machine: Fake = busy().into();
    let (lines, _) = answers(&machine, &duty(), folder.path(), &format!("take {DISK}\n"));
    assert_eq!(lines[0], "error 0000:00:02.0 is in use: nvme0n1 is mounted on /mnt");
    assert!(machine.linux.written().is_empty());
}

#[test]
fn one_that_is_taken_all_the_same_is_unmounted_before_its_driver_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let machine: Fake = busy().into();
    let duty = Duty { in_use: vec![DISK.parse().unwrap()], ..duty() };
    let (lines, left) = answers(&machine, &duty, folder.path(), &format!("take {DISK}\n"));
    assert_eq!(lines[0], "ok");
    assert!(left.is_none());
    let written = machine.linux.written();
    let at = |end: &str| written.iter().position(|path| path.ends_with(end)).unwrap();
    assert!(at("unmount") < at("nvme/unbind"));
    assert_eq!(machine.driver_of(DISK).as_deref(), Some("nvme"));
}

#[test]
fn one_that_can_not_be_unmounted_stays_with_its_driver() {
    let folder = tempfile::tempdir().unwrap();
    let machine: Fake = busy().held("/mnt").into();
    let duty = Duty { in_use: vec![DISK.parse().unwrap()], ..duty() };
    let (lines, _) = answers(&machine, &duty, folder.path(), &format!("take {DISK}\n"));
    assert!(lines[0].starts_with("error 0000:00:02.0 isn't taken: nvme0n1 is mounted on /mnt"), "{lines:?}");
    assert!(!machine.linux.written().iter().any(|path| path.ends_with("unbind")));
}
