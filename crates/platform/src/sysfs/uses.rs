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
    /// A disk of its is a part of something that the kernel has made of it and has open: a file system on several disks, an array, a volume.
    Part {
        /// The disk or partition.
        disk: String,
        /// What that is.
        of: String,
    },
    /// The kernel speaks and listens there.
    Console {
        /// The serial port, or the screen.
        name: String,
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
            Self::Mounted { .. } | Self::Swap { .. } | Self::Part { .. } | Self::Console { .. } => true,
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
            Self::Part { disk, of } => write!(f, "{disk} is a part of {of}"),
            Self::Console { name } => write!(f, "{name} is the kernel's console"),
            Self::Disk { disk } => write!(f, "disk {disk}"),
            Self::Network { interface, default_route: false } => write!(f, "network interface {interface}"),
            Self::Network { interface, default_route: true } => {
                write!(f, "network interface {interface}, which has the default route")
            }
        }
    }
}

/// What `/proc` says of the machine: by the first process, whose namespaces are the machine's; who may not ask that has only its own.
fn of_machine(files: &impl Files, what: &str) -> Option<String> {
    files.text(&format!("proc/1/{what}")).or_else(|| files.text(&format!("proc/self/{what}")))
}

/// Finds what each function is used for.
pub(super) fn find(files: &impl Files, functions: &mut [Function]) {
    let busy = Busy {
        mounts: of_machine(files, "mountinfo").unwrap_or_default(),
        swaps: files.text("proc/swaps").unwrap_or_default(),
        loops: loops(files),
    };
    for disk in sorted(files.list("sys/block")) {
        // A path to a disk that has another name for who uses it (NVMe's multipath).
        if files.text(&format!("sys/block/{disk}/hidden")).is_some_and(|hidden| hidden != "0") {
            continue;
        }
        let owners = owners(files, &format!("sys/block/{disk}"), functions);
        if owners.is_empty() {
            continue;
        }
        let mut found = Vec::new();
        busy.find(files, &format!("sys/block/{disk}"), &disk, MOST_DEEP, &mut found);
        if found.is_empty() {
            found.push(match files.is_claimed(&disk) {
                true => {
                    Use::Part { disk, of: "something that the kernel has open (a ZFS pool, a target)".into() }
                }
                false => Use::Disk { disk },
            });
        }
        add(functions, &owners, &found);
    }
    let routed = interfaces_of_default_routes(files);
    for interface in sorted(files.list("sys/class/net")) {
        let owners = owners(files, &format!("sys/class/net/{interface}"), functions);
        let default_route = leads_to(files, &interface, &routed, MOST_DEEP);
        add(functions, &owners, &[Use::Network { interface, default_route }]);
    }
    let consoles = files.text("proc/consoles").unwrap_or_default();
    for name in consoles.lines().filter_map(|line| line.split_whitespace().next()) {
        add(
            functions,
            &owners(files, &format!("sys/class/tty/{name}"), functions),
            &[Use::Console { name: name.to_string() }],
        );
        // A virtual terminal is on every screen.
        let is_virtual =
            name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|it| it.is_ascii_digit()));
        for screen in sorted(files.list("sys/class/graphics")).into_iter().filter(|_| is_virtual) {
            let owners = owners(files, &format!("sys/class/graphics/{screen}"), functions);
            add(functions, &owners, &[Use::Console { name: screen }]);
        }
    }
}

/// Adds uses to functions, by their positions.
fn add(functions: &mut [Function], owners: &[usize], uses: &[Use]) {
    for owner in owners {
        if let Some(function) = functions.get_mut(*owner) {
            function.uses.extend_from_slice(uses);
        }
    }
}

/// The interfaces by which packets for all other networks go.
fn interfaces_of_default_routes(files: &impl Files) -> Vec<String> {
    let of = |path| of_machine(files, path).unwrap_or_default();
    let (old, new) = (of("net/route"), of("net/ipv6_route"));
    let old = old.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next()?;
        (words.next() == Some("00000000")).then(|| interface.to_string())
    });
    // Where to, and how many bits of that count; the last word is the interface. What is refused goes to `lo`.
    let new = new.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let to = words.next()?;
        let all = to.bytes().all(|digit| digit == b'0') && words.next() == Some("00");
        Some(words.last()?.to_string()).filter(|interface| all && interface != "lo")
    });
    old.chain(new).collect()
}

/// Whether packets of one of these interfaces go by this one: it is one of them, or a part of one (a bridge's, a bond's, a VLAN's).
fn leads_to(files: &impl Files, interface: &str, routed: &[String], deep: u8) -> bool {
    if routed.iter().any(|it| it == interface) {
        return true;
    }
    let Some(deeper) = deep.checked_sub(1) else { return false };
    let entries = files.list(&format!("sys/class/net/{interface}"));
    let mut above = entries.iter().filter_map(|entry| entry.strip_prefix("upper_"));
    above.any(|upper| leads_to(files, upper, routed, deeper))
}

/// The functions that a device is below, by what the link to it says; their positions. A disk of NVMe's is below its subsystem, and each
/// controller of that is a way to it.
fn owners(files: &impl Files, link: &str, functions: &[Function]) -> Vec<usize> {
    let Some(path) = files.link(link) else { return Vec::new() };
    let mut paths = alloc::vec![path.clone()];
    if let Some(subsystem) =
        path.split('/').find(|part| part.starts_with("nvme-subsys") && *part != "nvme-subsystem")
    {
        let folder = format!("sys/class/nvme-subsystem/{subsystem}");
        paths.extend(files.list(&folder).iter().filter_map(|name| files.link(&format!("{folder}/{name}"))));
    }
    let mut found = Vec::new();
    for path in paths {
        let address = path.rsplit('/').find_map(|part| part.parse::<PciAddress>().ok());
        let position = functions.iter().position(|function| Some(function.linux) == address);
        found.extend(position.filter(|position| !found.contains(position)));
    }
    found
}

/// A path of that file as it is: what would end a word there is written as three octal digits.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|it| first == b'\\' && it.iter().all(|it| (b'0'..b'8').contains(it)));
        let code = digits.map(|it| it.iter().fold(0, |code: u32, it| code * 8 + u32::from(it - b'0')));
        let code = code.and_then(|code| u8::try_from(code).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What block devices are used for.
struct Busy {
    mounts: String,
    swaps: String,
    loops: Vec<Loop>,
}

/// A block device that is made of a file, or of another block device as if that were one.
struct Loop {
    /// Its name.
    name: String,
    /// The file.
    file: String,
}

fn loops(files: &impl Files) -> Vec<Loop> {
    let names = sorted(files.list("sys/block")).into_iter().filter(|name| name.starts_with("loop"));
    let of = |name: String| {
        let file = files.text(&format!("sys/block/{name}/loop/backing_file"))?;
        Some(Loop { name, file })
    };
    names.filter_map(of).collect()
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
        let is_of = |it: &Mount| number.as_deref() == Some(it.number) || is_it(it.device);
        // At several places, perhaps, and one over the other.
        for mount in self.mounts().filter(is_of) {
            found.push(Use::Mounted { disk: disk.to_string(), at: unescaped(mount.at) });
        }
        // What is below `/dev` is a device, whatever `/` is on.
        let has = |file: &str| !file.starts_with("/dev/") && self.mount_of(file).is_some_and(|it| is_of(&it));
        for swap in self.swaps.lines().filter_map(|line| line.split_whitespace().next()) {
            let file = unescaped(swap);
            if is_it(swap) {
                found.push(Use::Swap { disk: disk.to_string() });
            } else if has(&file) {
                found.push(Use::Swap { disk: file });
            }
        }
        let part = |of: &String| !files.list(&format!("sys/fs/btrfs/{of}/devices/{disk}")).is_empty();
        if let Some(of) = files.list("sys/fs/btrfs").into_iter().find(part)
            && found.iter().all(|it| !matches!(it, Use::Mounted { disk: known, .. } if known == disk))
        {
            found.push(Use::Part { disk: disk.to_string(), of: format!("the mounted Btrfs {of}") });
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
            // Also where nobody uses that now: it would be broken.
            let name = files.text(&format!("sys/block/{holder}/dm/name"));
            let of = name.map_or_else(|| holder.clone(), |name| format!("{holder} ({name})"));
            found.push(Use::Part { disk: disk.to_string(), of });
        }
        for Loop { name, file } in self.loops.iter().filter(|it| is_it(&it.file) || has(&it.file)) {
            self.find(files, &format!("sys/block/{name}"), name, deeper, found);
            found.push(Use::Part { disk: disk.to_string(), of: format!("{name} ({file})") });
        }
    }

    fn mounts(&self) -> impl DoubleEndedIterator<Item = Mount<'_>> {
        self.mounts.lines().filter_map(Mount::of)
    }

    /// Where a file is mounted: of all mounts that it is below, the one whose path is the longest, and of several there the last.
    fn mount_of(&self, file: &str) -> Option<Mount<'_>> {
        let below = |it: &Mount| {
            let at = unescaped(it.at);
            let rest = file.strip_prefix(at.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        self.mounts().filter(below).max_by_key(|it| unescaped(it.at).len())
    }
}
