//! What a running Linux uses its PCI functions for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::PciAddress;

use super::{Files, Function, sorted};

/// Block devices on block devices (LVM, RAID, encryption) that are followed.
const MOST_DEEP: u8 = 8;

/// A use that taking the function away would end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// A file system on a disk of its is mounted.
    Mounted {
        /// The disk or partition, `nvme0n1p1`.
        disk: String,
        /// Where.
        at: String,
    },
    /// Memory is swapped to a disk of its.
    Swap {
        /// The disk or partition.
        disk: String,
    },
    /// A disk of its that nothing is known to use now.
    Disk {
        /// Its name.
        disk: String,
    },
    /// A network interface.
    Network {
        /// Its name.
        interface: String,
        /// Whether packets for all other networks go there.
        default_route: bool,
    },
}

impl Use {
    /// Whether the machine would miss it.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Mounted { .. } | Self::Swap { .. } => true,
            Self::Disk { .. } => false,
            Self::Network { default_route, .. } => *default_route,
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { disk, at } => write!(f, "{disk} is mounted on {at}"),
            Self::Swap { disk } => write!(f, "{disk} is swapped to"),
            Self::Disk { disk } => write!(f, "disk {disk}"),
            Self::Network { interface, default_route: false } => write!(f, "network interface {interface}"),
            Self::Network { interface, default_route: true } => {
                write!(f, "network interface {interface}, which has the default route")
            }
        }
    }
}

/// Finds what each function is used for.
pub(super) fn find(files: &impl Files, functions: &mut [Function]) {
    let busy = Busy {
        mounts: files.text("proc/self/mountinfo").unwrap_or_default(),
        swaps: files.text("proc/swaps").unwrap_or_default(),
    };
    let routes = files.text("proc/net/route").unwrap_or_default();
    for disk in sorted(files.list("sys/block")) {
        let Some(owner) = owner(files, &format!("sys/block/{disk}"), functions) else { continue };
        let mut found = Vec::new();
        busy.find(files, &format!("sys/block/{disk}"), &disk, MOST_DEEP, &mut found);
        if found.is_empty() {
            found.push(Use::Disk { disk });
        }
        owner.uses.append(&mut found);
    }
    for interface in sorted(files.list("sys/class/net")) {
        let Some(owner) = owner(files, &format!("sys/class/net/{interface}"), functions) else { continue };
        let default_route = routes.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(interface.as_str()) && words.next() == Some("00000000")
        });
        owner.uses.push(Use::Network { interface, default_route });
    }
}

/// The function that a device is below, by what the link to it says.
fn owner<'a>(files: &impl Files, link: &str, functions: &'a mut [Function]) -> Option<&'a mut Function> {
    let path = files.link(link)?;
    let address = path.rsplit('/').find_map(|part| part.parse::<PciAddress>().ok())?;
    functions.iter_mut().find(|function| function.linux == address)
}

/// What block devices are used for.
struct Busy {
    mounts: String,
    swaps: String,
}

/// A mounted file system (Linux, Documentation/filesystems/proc.rst, 3.5).
struct Mount<'a> {
    /// Major and minor number of the block device, but for some kinds of file systems.
    number: &'a str,
    at: &'a str,
    device: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 259:2 / /mnt rw,noatime master:1 - ext4 /dev/root rw`.
    fn of(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split_whitespace().skip(2);
        let (number, at) = (before.next()?, before.nth(1)?);
        Some(Self { number, at, device: after.split_whitespace().nth(1)? })
    }
}

impl Busy {
    /// What a disk is used for, its partitions, and what is made of them.
    fn find(&self, files: &impl Files, folder: &str, disk: &str, deep: u8, found: &mut Vec<Use>) {
        // Names of what is made of disks are in a file.
        let mapped = files.text(&format!("{folder}/dm/name")).map(|name| format!("/dev/mapper/{name}"));
        let number = files.text(&format!("{folder}/dev"));
        let is_it =
            |device: &str| device.strip_prefix("/dev/") == Some(disk) || mapped.as_deref() == Some(device);
        let mut mounts = self.mounts.lines().filter_map(Mount::of);
        if let Some(mount) = mounts.find(|it| number.as_deref() == Some(it.number) || is_it(it.device)) {
            found.push(Use::Mounted { disk: disk.to_string(), at: mount.at.to_string() });
        }
        if self.swaps.lines().filter_map(|line| line.split_whitespace().next()).any(is_it) {
            found.push(Use::Swap { disk: disk.to_string() });
        }
        let Some(deeper) = deep.checked_sub(1) else { return };
        let is_partition = |name: &String| {
            name.starts_with(disk) && files.read(&format!("{folder}/{name}/partition")).is_some()
        };
        for partition in sorted(files.list(folder)).into_iter().filter(is_partition) {
            self.find(files, &format!("{folder}/{partition}"), &partition, deeper, found);
        }
        for holder in sorted(files.list(&format!("{folder}/holders"))) {
            self.find(files, &format!("sys/block/{holder}"), &holder, deeper, found);
        }
    }
}
