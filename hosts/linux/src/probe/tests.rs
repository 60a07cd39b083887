use std::path::Path;

use axvm_addr::CpuId;
use axvm_platform::model::{Cpu, Platform};
use axvm_platform::sysfs::Files;

use super::{apic_ids, cpus, numbers};

/// Files by their paths; links begin with `->`.
struct Fake(Vec<(&'static str, &'static str)>);

impl Files for Fake {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let found = self.0.iter().find(|(name, text)| *name == path && !text.starts_with("->"));
        found.map(|(_, text)| text.as_bytes().to_vec())
    }

    fn list(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn link(&self, path: &str) -> Option<String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found.and_then(|(_, text)| text.strip_prefix("->")).map(str::to_string)
    }
}

fn platform(cpus: &[(&str, u64)]) -> Platform {
    let cpu = |&(path, hardware_id): &(&str, u64)| Cpu { path: path.into(), hardware_id, usable: true };
    Platform { cpus: cpus.iter().map(cpu).collect(), ..Platform::default() }
}

#[test]
fn lists_of_cpus_are_read_as_sysfs_writes_them() {
    assert_eq!(numbers("0-3,5\n"), [0, 1, 2, 3, 5]);
    assert_eq!(numbers("7"), [7]);
    assert_eq!(numbers(""), [0usize; 0]);
}

#[test]
fn local_apics_are_read_from_cpuinfo() {
    let text = "processor\t: 0\napicid\t\t: 0\n\nprocessor\t: 1\nphysical id : 0\napicid\t\t: 4\n";
    assert_eq!(apic_ids(text), [(0, 0), (1, 4)]);
}

/// Linux need not count CPUs as the firmware does, and has some offline.
#[test]
fn cpus_are_found_by_what_the_hardware_calls_them() {
    let files = Fake(vec![
        ("sys/devices/system/cpu/online", "0-1"),
        ("proc/cpuinfo", "processor: 0\napicid: 4\nprocessor: 1\napicid: 0\n"),
        ("sys/devices/system/cpu/cpu0/of_node", "->../../../../firmware/devicetree/base/cpus/cpu@100"),
        ("sys/devices/system/cpu/cpu1/of_node", "->../../../../firmware/devicetree/base/cpus/cpu@0"),
    ]);
    let platform = platform(&[("/cpus/cpu@0", 0), ("/cpus/cpu@1", 2), ("/cpus/cpu@100", 4)]);
    assert_eq!(cpus(&files, &platform), [(CpuId(2), 0), (CpuId(0), 1)]);
}

#[test]
fn a_folder_without_any_of_it_is_no_machine() {
    assert!(super::machine(Path::new("/nonexistent")).is_err());
}
