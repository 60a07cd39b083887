//! What this machine is, and what its Linux offers.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use axvm_addr::CpuId;
use axvm_plan::problem::{Problem, Rule};
use axvm_platform::limits::{LinuxHost, Serves};
use axvm_platform::model::Platform;
use axvm_platform::sysfs::{self, Files, Machine, SysfsError};
use axvm_system::model::{Item, System, Vm};
use kvm_ioctls::Kvm;

use crate::rights::{self, Needs, Rights};
use crate::{arch, kvm, vfio};

/// Files below a folder: `/`, or a copy.
pub struct Root {
    folder: PathBuf,
    at_it: Arc<AtomicUsize>,
}

impl Root {
    /// Below this one.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), at_it: Arc::default() }
    }

    /// Where a file is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// How many writes the kernel is at.
    pub fn at_it(&self) -> Arc<AtomicUsize> {
        self.at_it.clone()
    }
}

/// Linux, include/uapi/asm-generic/errno-base.h, for a disk that somebody has for himself alone (block/bdev.c, `bd_may_claim`). A disk is, where one of its
/// partitions is.
const CLAIMED: i32 = libc::EBUSY;

impl Files for Root {
    fn is_claimed(&self, disk: &str) -> bool {
        // What is a `/` in a name in `/dev` is a `!` in sysfs.
        let path = self.folder.join("dev").join(disk.replace('!', "/"));
        // Opened to be read and closed at once: nothing of it is changed.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(path);
        opened.is_err_and(|error| error.raw_os_error() == Some(CLAIMED))
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.join(path)).ok()
    }

    fn read_front(&self, path: &str, bytes: usize) -> Option<Vec<u8>> {
        let mut content = Vec::with_capacity(bytes);
        let most = u64::try_from(bytes).unwrap_or(u64::MAX);
        File::open(self.folder.join(path)).ok()?.take(most).read_to_end(&mut content).ok()?;
        Some(content)
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.folder.join(path)).ok()?;
        Some(String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned())
    }
}

/// The machine that a Linux runs on, whose `/` is this folder.
///
/// # Errors
///
/// [`SysfsError`].
pub fn machine(root: &Path) -> Result<Machine, SysfsError> {
    sysfs::read(&Root::new(root))
}

/// The machine as this Linux can run VMs on it: with its limits, and without the CPUs that it has offline.
///
/// # Errors
///
/// [`SysfsError`].
pub fn found() -> Result<Machine, SysfsError> {
    let root = Root::new(Path::new("/"));
    let Machine { mut platform, functions } = sysfs::read(&root)?;
    // What keeps KVM from it is said by whoever runs VMs ([`lacks`]).
    platform.limits = platform.limits.of_linux(LinuxHost { guests: Serves::Yes, functions: vfio::SERVES });
    if let Ok(kvm) = &Kvm::new() {
        let most = u16::try_from(kvm.get_max_vcpus()).unwrap_or(u16::MAX);
        platform.limits.vcpus = platform.limits.vcpus.min(most);
        platform.address_bits = arch::address_bits(kvm);
    }
    let known = cpus(&root, &platform);
    for (position, cpu) in (0..).map(CpuId).zip(&mut platform.cpus) {
        cpu.usable = known.iter().any(|(known, _)| *known == position);
    }
    Ok(Machine { platform, functions })
}

/// What keeps a system's VMs from running here, whatever its file says otherwise, of what doesn't hang on the plan: rights, of which there is one line, and
/// KVM.
pub fn lacks(system: &System) -> Vec<Problem> {
    let problem = |what: String| Problem::new(Item::Board(String::new()), Rule::Platform, what);
    if let Some(what) = forbidden(system) {
        return vec![problem(what)];
    }
    kvm::open().err().map(|error| problem(error.to_string())).into_iter().collect()
}

/// What this process may not do that a run of the system needs.
fn forbidden(system: &System) -> Option<String> {
    let bytes =
        |vms: &mut dyn Iterator<Item = &Vm>| vms.fold(0, |sum: u64, vm| sum.saturating_add(vm.memory));
    let needs = Needs {
        memory: bytes(&mut system.vms.iter()),
        reached: bytes(&mut system.vms.iter().filter(|vm| !vm.devices.is_empty())),
    };
    // A kernel that doesn't say what may be done says later what may not.
    rights::say(&rights::missing(&Rights::here().ok()?, needs))
}

/// The CPUs of the platform that Linux has online, each with its number there.
pub fn cpus(files: &impl Files, platform: &Platform) -> Vec<(CpuId, usize)> {
    const FOLDER: &str = "sys/devices/system/cpu";
    let apics = apic_ids(&files.text("proc/cpuinfo").unwrap_or_default());
    let online = files.text(&format!("{FOLDER}/online")).map(|list| numbers(&list)).unwrap_or_default();
    let mut found = Vec::new();
    for number in online {
        let node = files.link(&format!("{FOLDER}/cpu{number}/of_node"));
        let apic = apics.iter().find(|(known, _)| *known == number).map(|(_, apic)| *apic);
        let mut positions = (0..platform.cpus.len()).map(|position| position as u16);
        let position =
            positions.find(|&position| arch::is_cpu(platform, position.into(), node.as_deref(), apic));
        found.extend(position.map(|position| (CpuId(position), number)));
    }
    found
}

/// A list as sysfs has them: `0-3,5`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// From `/proc/cpuinfo`: each processor's number, and the id of its local APIC.
fn apic_ids(text: &str) -> Vec<(usize, u64)> {
    let mut number = None;
    let mut ids = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "processor" => number = value.trim().parse().ok(),
            "apicid" => ids.extend(number.zip(value.trim().parse().ok())),
            _ => {}
        }
    }
    ids
}

#[cfg(test)]
mod tests;
