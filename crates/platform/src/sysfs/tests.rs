//! Linux's files, as it would have them on QEMU's q35 with AMD's IOMMU.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_pci::Virtio;

use super::{Files, Ids, Use, read};
use crate::fake;

/// Files and links by their paths.
#[derive(Clone, Default)]
struct Tree {
    files: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
}

impl Files for Tree {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).cloned()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let all = self.files.keys().chain(self.links.keys());
        let names = all.filter_map(|it| it.strip_prefix(&prefix)?.split('/').next());
        let mut names: Vec<String> = names.map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        names
    }

    fn link(&self, path: &str) -> Option<String> {
        self.links.get(path).cloned()
    }
}

impl Tree {
    fn file(&mut self, path: &str, content: impl AsRef<[u8]>) -> &mut Self {
        self.files.insert(path.into(), content.as_ref().to_vec());
        self
    }

    fn link_to(&mut self, path: &str, target: &str) -> &mut Self {
        self.links.insert(path.into(), target.into());
        self
    }

    /// A function with this config space and the lines of `resource`.
    fn function(&mut self, address: &str, config: Vec<u8>, resource: &str) -> &mut Self {
        let folder = format!("sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/config"), config).file(&format!("{folder}/resource"), resource)
    }
}

/// Config space of a type 0 function without capabilities.
fn config(vendor: u16, device: u16, class: u32, bar: u32) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..2].copy_from_slice(&vendor.to_le_bytes());
    bytes[2..4].copy_from_slice(&device.to_le_bytes());
    bytes[8..12].copy_from_slice(&(class << 8).to_le_bytes());
    bytes[0x10..0x14].copy_from_slice(&bar.to_le_bytes());
    bytes
}

/// A bridge to another bus, with a port's Express capability.
fn port(secondary: u8, subordinate: u8) -> Vec<u8> {
    let mut bytes = config(0x1b36, 0xc, 0x06_04_00, 0);
    bytes[6] = 0x10;
    bytes[0xe] = 1;
    bytes[0x18..0x1b].copy_from_slice(&[0, secondary, subordinate]);
    bytes[0x34] = 0x40;
    bytes[0x40..0x44].copy_from_slice(&[0x10, 0, 0x42, 0]);
    bytes
}

const MEMORY_16K: &str = "0x00000000febf0000 0x00000000febf3fff 0x0000000000040200\n";

fn q35() -> Tree {
    let mut tree = Tree::default();
    let pc = fake::q35_amd();
    for (_, bytes) in pc.contents.iter().filter(|(_, bytes)| !bytes.starts_with(b"RS")) {
        let name = String::from_utf8_lossy(&bytes[..4]).to_string();
        tree.file(&format!("sys/firmware/acpi/tables/{name}"), bytes);
    }
    for (entry, start, end, kind) in
        [(0, "0x0", "0x9fbff", "System RAM"), (1, "0x100000", "0x7ffdefff", "System RAM")]
    {
        let folder = format!("sys/firmware/memmap/{entry}");
        tree.file(&format!("{folder}/start"), format!("{start}\n"));
        tree.file(&format!("{folder}/end"), format!("{end}\n"));
        tree.file(&format!("{folder}/type"), format!("{kind}\n"));
    }
    tree.function("0000:00:02.0", config(0x1b36, 0x10, 0x01_08_02, 0xfebf_0004), MEMORY_16K);
    // Firmware has left a bus number out.
    tree.function("0000:00:03.0", port(2, 2), "");
    tree.function("0000:02:00.0", config(0x8086, 0x10d3, 0x02_00_00, 0xfea0_0000), MEMORY_16K);
    for (address, driver, group) in
        [("0000:00:02.0", "nvme", "3"), ("0000:00:03.0", "pcieport", "4"), ("0000:02:00.0", "e1000e", "4")]
    {
        let folder = format!("sys/bus/pci/devices/{address}");
        tree.link_to(&format!("{folder}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        tree.link_to(&format!("{folder}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
    }
    tree.file("sys/bus/pci/devices/0000:00:02.0/reset_method", "flr bus\n")
        .file("sys/bus/pci/devices/0000:00:02.0/vendor", "0x1b36\n")
        .file("sys/bus/pci/devices/0000:00:02.0/device", "0x0010\n")
        .file("sys/bus/pci/devices/0000:00:02.0/class", "0x010802\n");
    tree
}

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

#[test]
fn a_machine_is_what_its_files_say() {
    let machine = read(&q35()).unwrap();
    let platform = &machine.platform;
    assert_eq!(platform.iommus.len(), 1);
    let memory: Vec<_> = platform.memory.iter().map(ToString::to_string).collect();
    assert_eq!(memory, ["0x0-0x9fbff", "0x100000-0x7ffdefff"]);
    let functions = platform.functions.as_ref().unwrap();
    let addresses: Vec<_> = functions.iter().map(|it| it.function.address.to_string()).collect();
    assert_eq!(addresses, ["0000:00:02.0", "0000:00:03.0", "0000:01:00.0"]);
    assert_eq!(functions[0].function.bars[0].size, 0x4000);
    assert_eq!(functions[2].bridges, [at("0000:00:03.0")]);

    let [nvme, bridge, nic] = &machine.functions[..] else { panic!("{:?}", machine.functions) };
    assert_eq!((nvme.linux, nvme.address), (at("0000:00:02.0"), Some(at("0000:00:02.0"))));
    assert_eq!((nvme.driver.as_deref(), nvme.group, &nvme.with[..]), (Some("nvme"), Some(3), &[][..]));
    assert_eq!(nvme.resets, ["flr", "bus"]);
    assert_eq!(nvme.ids(), Ids { vendor: 0x1b36, device: 0x10, class: 0x01_08_02 });
    assert_eq!((nic.linux, nic.address), (at("0000:02:00.0"), Some(at("0000:01:00.0"))));
    assert_eq!((&nic.with[..], &bridge.with[..]), (&[bridge.linux][..], &[nic.linux][..]));
}

#[test]
fn what_a_function_is_used_for_is_found_through_partitions_and_what_is_made_of_them() {
    let mut tree = q35();
    let (nvme, nic) =
        ("../devices/pci0000:00/0000:00:02.0", "../../devices/pci0000:00/0000:00:03.0/0000:02:00.0");
    tree.link_to("sys/block/nvme0n1", &format!("{nvme}/nvme/nvme0/nvme0n1"))
        .link_to("sys/block/dm-0", "../devices/virtual/block/dm-0")
        .file("sys/block/nvme0n1/dev", "259:0\n")
        .file("sys/block/nvme0n1/nvme0n1p1/partition", "1\n")
        .file("sys/block/nvme0n1/nvme0n1p1/dev", "259:1\n")
        .file("sys/block/nvme0n1/nvme0n1p2/partition", "2\n")
        .file("sys/block/nvme0n1/nvme0n1p2/holders/dm-0", "")
        .file("sys/block/nvme0n1/nvme0n1p3/partition", "3\n")
        .file("sys/block/dm-0/dm/name", "system-root\n")
        .file("sys/block/nvme0n1/queue/partition", "no partition of its\n")
        .file(
            "proc/self/mountinfo",
            "22 1 0:20 / / rw - btrfs /dev/mapper/system-root rw\n30 22 259:1 / /boot rw shared:1 - ext4 /dev/root rw\n",
        )
        .file("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p3 partition 1 0 -2\n")
        .link_to("sys/class/net/eth0", &format!("{nic}/net/eth0"))
        .link_to("sys/class/net/lo", "../../devices/virtual/net/lo")
        .file("proc/self/net/route", "Iface Destination\neth0 0000000A\neth0 00000000 0102000A\n");
    let machine = read(&tree).unwrap();
    let said = |index: usize| -> Vec<String> {
        machine.functions[index].uses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said(0),
        [
            "nvme0n1p1 is mounted on /boot",
            "dm-0 is mounted on /",
            "nvme0n1p2 is a part of dm-0 (system-root)",
            "nvme0n1p3 is swapped to",
        ]
    );
    assert!(machine.functions[0].uses.iter().all(Use::is_in_use));
    assert_eq!(said(2), ["network interface eth0, which has the default route"]);
    // A volume that is open is one also where nobody uses it now.
    tree.file("proc/self/mountinfo", "")
        .file("proc/swaps", "")
        .file("proc/self/net/route", "\neth0 0000000A\n");
    let volume = Use::Part { disk: "nvme0n1p2".into(), of: "dm-0 (system-root)".into() };
    assert_eq!(read(&tree).unwrap().functions[0].uses, [volume]);
    // Nothing but a disk, and an interface that packets go by for some networks only.
    tree.files.remove("sys/block/nvme0n1/nvme0n1p2/holders/dm-0");
    let machine = read(&tree).unwrap();
    assert_eq!(machine.functions[0].uses, [Use::Disk { disk: "nvme0n1".into() }]);
    assert!(!machine.functions.iter().flat_map(|it| &it.uses).any(Use::is_in_use));
}

/// A disk of its own, with what else is there.
fn disk() -> Tree {
    let mut tree = q35();
    tree.link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .file("sys/block/nvme0n1/dev", "259:0\n");
    tree
}

fn said_of_disk(tree: &Tree) -> Vec<String> {
    read(tree).unwrap().functions[0].uses.iter().map(ToString::to_string).collect()
}

#[test]
fn files_on_a_disk_that_the_kernel_swaps_to_or_has_as_disks_are_uses_of_it() {
    let mut tree = disk();
    tree.file(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 259:0 / /my\\040disk rw - ext4 /dev/nvme0n1 rw\n\
         31 30 0:30 / /my\\040disk/other rw - tmpfs none rw\n40 22 7:1 / /srv rw - ext4 /dev/loop1 rw\n",
    )
    .file("proc/swaps", "Filename Type\n/my\\040disk/swap file\n/my\\040disk/other/swap file\n/swap file\n")
    .file("sys/block/loop0/loop/backing_file", "/elsewhere\n")
    .file("sys/block/loop1/loop/backing_file", "/my disk/image\n")
    .file("sys/block/loop1/dev", "7:1\n")
    .file("sys/block/loop2/loop/backing_file", "/my disk/other/image\n")
    .file("sys/block/loop3/loop/backing_file", "/my diskette\n");
    assert_eq!(
        said_of_disk(&tree),
        [
            "nvme0n1 is mounted on /my disk",
            "/my disk/swap is swapped to",
            "loop1 is mounted on /srv",
            "nvme0n1 is a part of loop1 (/my disk/image)",
        ]
    );
    // One that has the disk itself as its file.
    let mut tree = disk();
    tree.file("sys/block/loop0/loop/backing_file", "/dev/nvme0n1\n");
    assert_eq!(said_of_disk(&tree), ["nvme0n1 is a part of loop0 (/dev/nvme0n1)"]);
}

/// What holds a disk without a word in sysfs, as ZFS does, is a use nevertheless.
#[test]
fn a_disk_that_the_kernel_has_open_for_itself_is_in_use() {
    struct Claimed(Tree, &'static str);
    impl Files for Claimed {
        fn read(&self, path: &str) -> Option<Vec<u8>> {
            self.0.read(path)
        }
        fn list(&self, path: &str) -> Vec<String> {
            self.0.list(path)
        }
        fn link(&self, path: &str) -> Option<String> {
            self.0.link(path)
        }
        fn is_claimed(&self, disk: &str) -> bool {
            disk == self.1
        }
    }
    let used = |disk_of: &'static str| {
        let machine = read(&Claimed(disk(), disk_of)).unwrap();
        machine.functions[0].uses.iter().any(Use::is_in_use)
    };
    assert!(used("nvme0n1") && !used("nvme1n1"));
}

/// A process with mounts and a network of its own, as a service or a container has them, is told of the machine's.
#[test]
fn uses_are_the_machine_s_and_not_those_of_the_process_that_asks() {
    let mut tree = q35();
    tree.link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .file("sys/block/nvme0n1/dev", "259:0\n")
        .file("proc/self/mountinfo", "22 1 0:20 / / rw - overlay overlay rw\n")
        .file("proc/1/mountinfo", "22 1 259:0 / / rw - ext4 /dev/root rw\n")
        .link_to("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/0000:02:00.0/net/eth0")
        .file("proc/self/net/route", "Iface Destination\n")
        .file("proc/1/net/route", "Iface Destination\neth0 00000000 0102000A\n");
    let machine = read(&tree).unwrap();
    assert!([0, 2].iter().all(|index| machine.functions[*index].uses.iter().all(Use::is_in_use)));
    assert_eq!(machine.functions[0].uses, [Use::Mounted { disk: "nvme0n1".into(), at: "/".into() }]);
}

/// Linux's NVMe multipath: the disk that is mounted is its subsystem's, and its controller's own is hidden.
#[test]
fn a_disk_of_an_nvme_subsystem_is_that_of_its_controllers() {
    let mut tree = q35();
    let nvme = "../devices/pci0000:00/0000:00:02.0/nvme/nvme0";
    tree.link_to("sys/block/nvme0c0n1", &format!("{nvme}/nvme0c0n1"))
        .file("sys/block/nvme0c0n1/hidden", "1\n")
        .link_to("sys/block/nvme0n1", "../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1")
        .file("sys/block/nvme0n1/hidden", "0\n")
        .file("sys/block/nvme0n1/dev", "259:1\n")
        .file("sys/class/nvme-subsystem/nvme-subsys0/model", "QEMU NVMe Ctrl\n")
        .link_to("sys/class/nvme-subsystem/nvme-subsys0/nvme0", "../../../pci0000:00/0000:00:02.0/nvme/nvme0")
        .file("proc/self/mountinfo", "30 22 259:1 / /srv rw shared:1 - ext4 /dev/nvme0n1 rw\n");
    let machine = read(&tree).unwrap();
    assert_eq!(machine.functions[0].uses, [Use::Mounted { disk: "nvme0n1".into(), at: "/srv".into() }]);
    tree.file("proc/self/mountinfo", "");
    let machine = read(&tree).unwrap();
    assert_eq!(machine.functions[0].uses, [Use::Disk { disk: "nvme0n1".into() }]);
}

#[test]
fn an_interface_that_is_a_part_of_the_one_with_the_default_route_is_in_use() {
    let nic = "../../devices/pci0000:00/0000:00:03.0/0000:02:00.0";
    let mut tree = q35();
    tree.link_to("sys/class/net/eth0", &format!("{nic}/net/eth0"))
        .file("sys/class/net/eth0/upper_bond0/mtu", "")
        .link_to("sys/class/net/bond0", "../../devices/virtual/net/bond0")
        .file("sys/class/net/bond0/upper_br0/mtu", "")
        .file("proc/self/net/route", "Iface Destination\nbr0 00000000 0102000A\n");
    let used = |tree: &Tree| read(tree).unwrap().functions[2].uses.iter().any(Use::is_in_use);
    assert!(used(&tree));
    tree.file("proc/self/net/route", "Iface Destination\n");
    assert!(!used(&tree));
    let zeros = "0".repeat(32);
    let route =
        |bits, interface| format!("{zeros} {bits} {zeros} 00 {zeros} 00000400 1 0 00000003 {interface}\n");
    tree.file("proc/self/net/ipv6_route", route("40", "br0") + &route("00", "lo"));
    assert!(!used(&tree));
    tree.file("proc/self/net/ipv6_route", route("00", "br0"));
    assert!(used(&tree));
}

#[test]
fn the_kernels_consoles_and_parts_of_a_btrfs_are_in_use() {
    let mut tree = q35();
    let (nvme, nic) =
        ("../devices/pci0000:00/0000:00:02.0", "../../devices/pci0000:00/0000:00:03.0/0000:02:00.0");
    tree.file("proc/consoles", "ttyS4 -W- (EC p a) 4:68\ntty0 -WU (E) 4:1\n")
        .link_to("sys/class/tty/ttyS4", &format!("{nic}/tty/ttyS4"))
        .link_to("sys/class/graphics/fb0", &format!("{nic}/graphics/fb0"))
        .link_to("sys/block/nvme0n1", &format!("{nvme}/nvme/nvme0/nvme0n1"))
        .file("sys/fs/btrfs/1234/devices/nvme0n1/size", "1");
    let machine = read(&tree).unwrap();
    let said = |index: usize| -> Vec<String> {
        machine.functions[index].uses.iter().map(ToString::to_string).collect()
    };
    assert_eq!(said(0), ["nvme0n1 is a part of the mounted Btrfs 1234"]);
    assert_eq!(said(2), ["ttyS4 is the kernel's console", "fb0 is the kernel's console"]);
    assert!(machine.functions.iter().flat_map(|it| &it.uses).all(Use::is_in_use));
}

#[test]
fn who_may_not_see_all_of_config_space_is_told_so() {
    let mut tree = q35();
    let whole = tree.files["sys/bus/pci/devices/0000:00:02.0/config"].clone();
    tree.file("sys/bus/pci/devices/0000:00:02.0/config", &whole[..64]);
    let machine = read(&tree).unwrap();
    assert_eq!(machine.platform.functions, None);
    assert!(machine.platform.unclear.iter().any(|it| it.contains("root")), "{:?}", machine.platform.unclear);
    assert_eq!(machine.functions.len(), 3);
    let none = Tree::default();
    assert!(read(&none).unwrap_err().to_string().contains("sudo"));
}

#[test]
fn a_virtual_function_is_nothing_that_bare_metal_finds() {
    let mut tree = q35();
    tree.function("0000:00:02.1", config(0xffff, 0xffff, 0, 0), MEMORY_16K)
        .link_to("sys/bus/pci/devices/0000:00:02.1/physfn", "../0000:00:02.0");
    let machine = read(&tree).unwrap();
    let virtual_one = machine.functions.iter().find(|it| it.linux == at("0000:00:02.1")).unwrap();
    assert_eq!((virtual_one.virtual_of, virtual_one.address), (Some(at("0000:00:02.0")), None));
    assert_eq!(machine.platform.functions.unwrap().len(), 3);
}

#[test]
fn what_a_virtio_device_says_of_its_dma_its_driver_knows() {
    let said = |features: Option<&str>| {
        let mut tree = q35();
        let mut device = config(0x1af4, 0x1041, 0x02_00_00, 0xfea0_0000);
        device[6] = 0x10;
        device[0x34] = 0x40;
        // Its common configuration in BAR 0, and the window on it (Virtio 1.2, 4.1.4).
        device[0x40..0x44].copy_from_slice(&[9, 0x54, 16, 1]);
        device[0x4c..0x50].copy_from_slice(&0x38u32.to_le_bytes());
        device[0x54..0x58].copy_from_slice(&[9, 0, 20, 5]);
        tree.function("0000:00:04.0", device, MEMORY_16K);
        if let Some(features) = features {
            tree.file("sys/bus/pci/devices/0000:00:04.0/virtio0/features", features);
        }
        let functions = read(&tree).unwrap().platform.functions.unwrap();
        functions.iter().find(|it| it.function.address == at("0000:00:04.0")).unwrap().function.virtio
    };
    let features =
        |on: &[usize]| -> String { (0..64).map(|bit| if on.contains(&bit) { '1' } else { '0' }).collect() };
    assert_eq!(said(None), Some(Virtio::Unknown));
    assert_eq!(said(Some(&features(&[32, 33]))), Some(Virtio::Platform));
    assert_eq!(said(Some(&features(&[32]))), Some(Virtio::Past));
    assert_eq!(said(Some(&features(&[]))), Some(Virtio::Legacy));
}

/// Most firmware's AML says its windows by memory of its own, which Linux shows nobody: Linux's own list of them counts then.
#[test]
fn windows_that_aml_makes_of_memory_are_those_that_linux_has() {
    let mut dsdt = include_bytes!("../../tests/acpi/windows-by-address.dat").to_vec();
    let at = dsdt.windows(4).position(|bytes| bytes == 0xb000_0000u32.to_le_bytes()).unwrap();
    dsdt[at..at + 4].copy_from_slice(&0x7fff_0000u32.to_le_bytes());
    dsdt[9] = 0;
    dsdt[9] = 0u8.wrapping_sub(dsdt.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    let windows = |resources: &str| {
        let mut tree = q35();
        tree.file("sys/firmware/acpi/tables/DSDT", &dsdt);
        let before = tree.files.get("proc/iomem").cloned().unwrap_or_default();
        tree.file("proc/iomem", [&before[..], resources.as_bytes()].concat());
        let platform = read(&tree).unwrap().platform;
        let windows: Vec<_> = platform.pci_hosts[0].windows.iter().map(|it| it.cpu.to_string()).collect();
        (windows, platform.unclear.iter().any(|it| it.contains("no function below it can be given")))
    };
    assert_eq!(windows(""), (vec![], true));
    let linux = "000a0000-000bffff : PCI Bus 0000:00\n\
        80000000-afffffff : PCI Bus 0000:00\n  80000000-801fffff : PCI Bus 0000:02\n\
        c0000000-cfffffff : PCI Bus 0000:80\n\
        c000000000-c7ffffffff : PCI Bus 0000:00\n";
    let own = ["0x80000000-0xafffffff", "0xc000000000-0xc7ffffffff"].map(ToString::to_string);
    assert_eq!(windows(linux), (own.to_vec(), false));
    // Who isn't root sees no addresses.
    assert_eq!(windows("00000000-00000000 : PCI Bus 0000:00\n"), (vec![], true));
}

#[test]
fn tables_are_taken_in_the_order_in_which_firmware_lists_them() {
    let names = ["SSDT10", "FACP", "SSDT2", "SSDT1", "DSDT", "SSDT"].map(ToString::to_string).to_vec();
    assert_eq!(super::sorted(names), ["DSDT", "FACP", "SSDT", "SSDT1", "SSDT2", "SSDT10"]);
}

#[test]
fn a_board_with_a_device_tree_is_read_by_that() {
    let mut tree = Tree::default();
    tree.file("sys/firmware/fdt", fake::QEMU_VIRT);
    let machine = read(&tree).unwrap();
    assert_eq!(machine.platform.pci_hosts.len(), 1);
    assert_eq!(machine.platform.functions, Some(vec![]));
    tree.file("sys/firmware/fdt", &fake::QEMU_VIRT[..100]);
    assert!(read(&tree).is_err());
}

/// A Linux that remembers which of its files were read whole.
struct Fronts<'a> {
    tree: &'a Tree,
    whole: core::cell::RefCell<Vec<String>>,
}

impl<'a> Fronts<'a> {
    fn of(tree: &'a Tree) -> Self {
        Self { tree, whole: core::cell::RefCell::default() }
    }
}

impl Files for Fronts<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.whole.borrow_mut().push(path.to_string());
        self.tree.read(path)
    }
    fn read_front(&self, path: &str, bytes: usize) -> Option<Vec<u8>> {
        let mut content = self.tree.read(path)?;
        content.truncate(bytes);
        Some(content)
    }
    fn list(&self, path: &str) -> Vec<String> {
        self.tree.list(path)
    }
    fn link(&self, path: &str) -> Option<String> {
        self.tree.link(path)
    }
}

/// QEMU leaves most of a mebibyte free behind its device tree.
#[test]
fn what_is_free_behind_a_device_tree_is_not_read() {
    const FDT: &str = "sys/firmware/fdt";
    let (mut plain, mut padded) = (Tree::default(), Tree::default());
    let mut blob = fake::QEMU_VIRT.to_vec();
    blob.resize(1 << 20, 0);
    blob[4..8].copy_from_slice(&(1u32 << 20).to_be_bytes());
    plain.file(FDT, fake::QEMU_VIRT);
    padded.file(FDT, &blob);
    let files = Fronts::of(&padded);
    let (front, whole) = (read(&files).unwrap(), read(&plain).unwrap());
    assert_eq!(front.platform, whole.platform);
    assert!(!files.whole.borrow().contains(&FDT.to_string()), "the whole of it is read");
    // Whatever its header says, it is no other tree than the whole of it is. What isn't read may be missing (the second field: how long it is).
    for field in (0..10).filter(|field| *field != 1) {
        for value in [0, 1, 40, 0x7fff_ffff, u32::MAX] {
            let mut broken = blob.clone();
            broken[field * 4..field * 4 + 4].copy_from_slice(&u32::to_be_bytes(value));
            let mut tree = Tree::default();
            tree.file(FDT, &broken);
            let (front, whole) = (read(&tree).map(|it| it.platform), crate::fdt::read(&broken));
            assert_eq!(front.is_ok(), whole.is_ok(), "field {field} {value:#x}");
        }
    }
}

/// Who asks for uses alone has no function answer for them.
#[test]
fn uses_are_found_without_reading_config_spaces() {
    let tree = disk();
    let files = Fronts::of(&tree);
    let functions = super::functions(&files);
    assert!(functions.iter().any(|function| !function.uses.is_empty()));
    assert!(!files.whole.borrow().iter().any(|path| path.ends_with("/config")), "config space is read");
}
