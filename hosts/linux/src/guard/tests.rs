//! Against a Linux that keeps the contract of its sysfs.

use std::fs;
use std::path::Path;

use axvm_rebind::fake::{Fault, Linux, is_taken};

use super::{Record, Released, release, serve};
use axvm_rebind::{Former, take};

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

fn machine() -> Linux {
    let linux = Linux::new().driver("nvme").driver("e1000e").driver("vfio-pci");
    linux.function(DISK, Some("nvme")).function(CARD, Some("e1000e"))
}

fn records(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn what_is_asked_for_is_taken_and_at_the_end_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let linux = machine();
    let mut answers = Vec::new();
    let asked = format!("take {DISK}\ntake {DISK}\ntake 0000:00:09.0\nwhat\n");
    assert!(serve(&linux, folder.path(), asked.as_bytes(), &mut answers).unwrap());
    let answers = String::from_utf8(answers).unwrap();
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(&lines[..2], ["ok", "ok"]);
    assert!(lines[2].starts_with("error 0000:00:09.0: this machine has no such PCI function"), "{answers}");
    assert_eq!(lines[3], "error \"what\" isn't understood");
    assert!(linux.written().iter().any(|path| path.ends_with("nvme/unbind")), "it was taken in between");
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(records(folder.path()), 0);
}

#[test]
fn what_is_not_given_back_stays_in_the_record_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let linux = Linux::new().faulty("nvme", Fault::Refuses).driver("vfio-pci").function(DISK, Some("nvme"));
    let mut answers = Vec::new();
    let whole = serve(&linux, folder.path(), format!("take {DISK}\n").as_bytes(), &mut answers).unwrap();
    assert!(!whole);
    assert!(String::from_utf8(answers).unwrap().contains("nvme doesn't take it again"));
    let found = release(&linux, folder.path());
    assert!(matches!(&found[..], [Released::Not(line)] if line.starts_with(DISK)), "{found:?}");
    assert_eq!(records(folder.path()), 1);
}

/// A guard that is killed: its record stays, and nobody has it locked.
fn killed(linux: &Linux, folder: &Path, functions: &[&str]) {
    let mut record = Record::new(folder).unwrap();
    for function in functions {
        let former = Former::of(linux, function.parse().unwrap()).unwrap();
        record.add(former.clone()).unwrap();
        take(linux, &former).unwrap();
    }
}

#[test]
fn what_a_killed_guard_has_left_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let linux = machine();
    killed(&linux, folder.path(), &[DISK, CARD]);
    assert!(is_taken(&linux, DISK) && is_taken(&linux, CARD));
    let back = |function: &str| Released::Back(function.parse().unwrap());
    assert_eq!(release(&linux, folder.path()), [back(DISK), back(CARD)]);
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(linux.driver_of(CARD).as_deref(), Some("e1000e"));
    assert_eq!(records(folder.path()), 0);
    assert!(release(&linux, folder.path()).is_empty());
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
    assert!(is_taken(&linux, DISK));
}

#[test]
fn a_record_that_nobody_understands_is_said_and_nothing_of_it_done() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("taken-1"), "0000:00:02.0\t../../x\t\n").unwrap();
    let linux = machine();
    let found = release(&linux, folder.path());
    assert!(matches!(&found[..], [Released::Not(_)]), "{found:?}");
    assert!(linux.written().is_empty());
}
