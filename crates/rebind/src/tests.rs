//! Against a Linux that keeps the contract of its sysfs.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_platform::sysfs::{Function, Use};

use crate::fake::{Fault, Linux, is_taken};
use crate::{
    EndError, Former, GiveBackError, Refusal, Sysfs, TakeError, Uses, Wanted, WriteError, check, end_uses,
    fate, give_back, see_unused, take,
};

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn former(linux: &Linux, text: &str) -> Former {
    Former::of(linux, address(text)).unwrap()
}

fn machine() -> Linux {
    Linux::new().driver("nvme").driver("e1000e").driver("vfio-pci").function(DISK, Some("nvme"))
}

#[test]
fn a_function_is_taken_and_given_back() {
    let linux = machine();
    let had = former(&linux, DISK);
    take(&linux, &had).unwrap();
    assert!(is_taken(&linux, DISK));
    // The override is there before the driver is gone, so that no other gets it in between.
    let written = linux.written();
    let at = |end: &str| written.iter().position(|path| path.ends_with(end)).unwrap();
    assert!(at("driver_override") < at("nvme/unbind") && at("nvme/unbind") < at("drivers_probe"));
    give_back(&linux, &had).unwrap();
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(linux.only_of(DISK), None);
}

#[test]
fn giving_back_twice_does_no_harm_and_what_is_gone_needs_nothing() {
    let linux = machine();
    let had = former(&linux, DISK);
    take(&linux, &had).unwrap();
    give_back(&linux, &had).unwrap();
    give_back(&linux, &had).unwrap();
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    linux.unplug(DISK);
    assert_eq!(give_back(&linux, &had), Ok(()));
}

#[test]
fn one_that_had_no_driver_has_none_again() {
    let linux = machine().function(CARD, None);
    let had = former(&linux, CARD);
    take(&linux, &had).unwrap();
    assert!(is_taken(&linux, CARD));
    give_back(&linux, &had).unwrap();
    assert_eq!((linux.driver_of(CARD), linux.only_of(CARD)), (None, None));
}

#[test]
fn an_override_that_was_there_is_there_again() {
    let linux = machine().driver("other").function(CARD, Some("other")).only(CARD, "other");
    let had = former(&linux, CARD);
    take(&linux, &had).unwrap();
    give_back(&linux, &had).unwrap();
    assert_eq!(linux.driver_of(CARD).as_deref(), Some("other"));
    assert_eq!(linux.only_of(CARD).as_deref(), Some("other"));
}

#[test]
fn one_that_vfio_pci_has_already_stays_so() {
    let linux = machine().function(CARD, Some("vfio-pci")).only(CARD, "vfio-pci");
    let had = former(&linux, CARD);
    take(&linux, &had).unwrap();
    assert!(linux.written().is_empty());
    give_back(&linux, &had).unwrap();
    assert!(is_taken(&linux, CARD));
    assert_eq!(linux.only_of(CARD).as_deref(), Some("vfio-pci"));
}

#[test]
fn without_vfio_pci_nothing_is_touched() {
    let linux = Linux::new().driver("nvme").function(DISK, Some("nvme"));
    assert_eq!(take(&linux, &former(&linux, DISK)), Err(TakeError::NoVfioPci));
    assert!(linux.written().is_empty());
}

#[test]
fn a_driver_that_does_not_let_go_keeps_it_and_is_named() {
    let linux = Linux::new().faulty("nvme", Fault::Holds).driver("vfio-pci").function(DISK, Some("nvme"));
    let error = take(&linux, &former(&linux, DISK)).unwrap_err();
    assert_eq!(error, TakeError::Held { function: address(DISK), driver: "nvme".into() });
    assert!(!error.leaves_changed());
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    // Nor is it vfio-pci's when it is let go later.
    assert_eq!(linux.only_of(DISK), None);
}

/// The kernel has such a function locked: whoever writes more about it waits, too, and achieves nothing.
#[test]
fn one_that_the_kernel_is_still_at_is_left_alone_and_given_back_later() {
    let linux = Linux::new().faulty("nvme", Fault::Hangs).driver("vfio-pci").function(DISK, Some("nvme"));
    let had = former(&linux, DISK);
    let error = take(&linux, &had).unwrap_err();
    assert_eq!(error, TakeError::Holds { function: address(DISK), driver: "nvme".into() });
    assert!(error.leaves_changed() && error.to_string().contains("the driver nvme doesn't let go of it"));
    assert!(linux.written().last().is_some_and(|path| path.ends_with("nvme/unbind")), "nothing after it");
    assert!(matches!(
        give_back(&linux, &had),
        Err(GiveBackError::Write { error: WriteError::Unfinished, .. })
    ));
    linux.let_go(DISK);
    give_back(&linux, &had).unwrap();
    assert_eq!((linux.driver_of(DISK).as_deref(), linux.only_of(DISK)), (Some("nvme"), None));
}

/// Files that have to do with more than a function, above all `allow_unsafe_interrupts` of VFIO's, aren't written in any case.
#[test]
fn nothing_is_written_but_what_binds_this_function() {
    let may = |path: &str| {
        let of_function = path == format!("sys/bus/pci/devices/{DISK}/driver_override");
        let of_driver = path.strip_prefix("sys/bus/pci/drivers/").and_then(|it| it.split_once('/'));
        of_function
            || path == "sys/bus/pci/drivers_probe"
            || matches!(of_driver, Some(("nvme" | "vfio-pci", "bind" | "unbind")))
    };
    for fault in [None, Some(Fault::Holds), Some(Fault::Hangs), Some(Fault::Refuses)] {
        for vfio_fault in [None, Some(Fault::Holds), Some(Fault::Hangs), Some(Fault::Refuses)] {
            let with = |linux: Linux, name, fault| match fault {
                Some(fault) => linux.faulty(name, fault),
                None => linux.driver(name),
            };
            let linux = with(with(Linux::new(), "nvme", fault), "vfio-pci", vfio_fault);
            let linux = linux.function(DISK, Some("nvme"));
            let had = former(&linux, DISK);
            let _ = take(&linux, &had);
            let _ = give_back(&linux, &had);
            let written = linux.written();
            assert!(!written.is_empty() && written.iter().all(|path| may(path)), "{written:?}");
        }
    }
}

#[test]
fn one_that_vfio_pci_refuses_is_given_back() {
    let linux = Linux::new().driver("nvme").faulty("vfio-pci", Fault::Refuses).function(DISK, Some("nvme"));
    let error = take(&linux, &former(&linux, DISK)).unwrap_err();
    assert_eq!(error, TakeError::Refused { function: address(DISK), now: None });
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    assert_eq!(linux.only_of(DISK), None);
}

#[test]
fn who_is_not_root_is_told_so() {
    for (why, said) in [(WriteError::Denied, "only root may"), (WriteError::ReadOnly, "read-only here")] {
        let linux = machine().denied(why);
        let error = take(&linux, &former(&linux, DISK)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
    }
}

#[test]
fn a_driver_that_does_not_take_it_again_is_named_with_what_to_type() {
    let linux = Linux::new().faulty("nvme", Fault::Refuses).driver("vfio-pci").function(DISK, Some("nvme"));
    let had = former(&linux, DISK);
    take(&linux, &had).unwrap();
    let error = give_back(&linux, &had).unwrap_err();
    assert_eq!(error, GiveBackError::Refused { function: address(DISK), driver: "nvme".into() });
    assert!(error.to_string().contains("echo 0000:00:02.0 > /sys/bus/pci/drivers/nvme/bind"));
    // It isn't vfio-pci's any more, all the same.
    assert_eq!((linux.driver_of(DISK), linux.only_of(DISK)), (None, None));
    let held = Linux::new().driver("nvme").faulty("vfio-pci", Fault::Hangs).function(DISK, Some("nvme"));
    let had = former(&held, DISK);
    take(&held, &had).unwrap();
    let path = "sys/bus/pci/drivers/vfio-pci/unbind".to_string();
    let error = GiveBackError::Write { function: address(DISK), path, error: WriteError::Unfinished };
    assert_eq!(give_back(&held, &had), Err(error));
}

#[test]
fn what_it_had_is_a_line_that_is_read_again() {
    for (driver, only) in [(Some("nvme"), None), (None, Some("vfio-pci")), (None, None), (Some("a b"), None)]
    {
        let owned = |it: Option<&str>| it.map(ToString::to_string);
        let had = Former { function: address(DISK), driver: owned(driver), only: owned(only) };
        assert_eq!(had.to_string().parse(), Ok(had));
    }
    let broken = [
        "",
        "nvme",
        "0000:00:02.0",
        "0000:00:02.0\tnvme",
        "0000:00:02.0\tnvme\t\tmore",
        "0000:00:02.0\t../../../x\t",
        "0000:00:02.0\t..\t",
        "0000:00:02.0\tnvme\ta/b",
    ];
    for line in broken {
        assert!(line.parse::<Former>().is_err(), "{line}");
    }
}

/// Functions as the machine's reader finds them.
fn functions(linux: &Linux) -> Vec<Function> {
    axvm_platform::sysfs::functions(linux)
}

fn refusals(linux: &Linux, wanted: &[&str], uses: Uses) -> Vec<Refusal> {
    let wanted: Vec<Wanted> = wanted.iter().map(|text| Wanted { function: address(text), uses }).collect();
    check(linux, &functions(linux), &wanted)
}

#[test]
fn a_mounted_disk_and_the_default_route_are_not_taken_unless_the_file_says_so() {
    let linux = machine()
        .function(CARD, Some("e1000e"))
        .file("sys/block/nvme0n1/dev", "259:0")
        .link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .link_to("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/net/eth0")
        .file("proc/self/mountinfo", "36 35 259:0 / /mnt rw - ext4 /dev/nvme0n1 rw")
        .file("proc/self/net/route", "Iface Destination Gateway\neth0 00000000 0202000A");
    let mounted = Use::Mounted { disk: "nvme0n1".into(), at: "/mnt".into() };
    let network = Use::Network { interface: "eth0".into(), default_route: true };
    let found = refusals(&linux, &[DISK, CARD], Uses::Keep);
    assert_eq!(
        found,
        vec![
            Refusal::InUse { function: address(DISK), uses: vec![mounted] },
            Refusal::InUse { function: address(CARD), uses: vec![network] },
        ]
    );
    assert_eq!(found[0].to_string(), "0000:00:02.0 is in use: nvme0n1 is mounted on /mnt");
    assert!(refusals(&linux, &[DISK, CARD], Uses::End).is_empty());
}

#[test]
fn what_is_only_there_is_not_in_use() {
    let linux = machine()
        .file("sys/block/nvme0n1/dev", "259:0")
        .link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1");
    assert!(refusals(&linux, &[DISK], Uses::Keep).is_empty());
}

#[test]
fn a_member_of_its_group_that_a_driver_has_is_named_with_what_to_do() {
    let linux = machine().function(CARD, Some("e1000e")).in_group(DISK, Some(7)).in_group(CARD, Some(7));
    let found = refusals(&linux, &[DISK], Uses::Keep);
    let text = found[0].to_string();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        text.contains("group 7 with 0000:00:03.0, which the driver e1000e has")
            && text.contains("echo 0000:00:03.0 > /sys/bus/pci/drivers/e1000e/unbind"),
        "{text}"
    );
    // Taken with it, without a driver, and a port's: none of them is in the way.
    assert!(refusals(&linux, &[DISK, CARD], Uses::Keep).is_empty());
    for driver in [None, Some("pcieport"), Some("vfio-pci")] {
        let linux = machine().function(CARD, driver).in_group(DISK, Some(7)).in_group(CARD, Some(7));
        assert!(refusals(&linux, &[DISK], Uses::Keep).is_empty(), "{driver:?}");
    }
}

#[test]
fn without_an_iommu_or_a_function_or_vfio_pci_there_is_nothing_to_take() {
    let linux = machine().in_group(DISK, None);
    assert_eq!(refusals(&linux, &[DISK], Uses::End), [Refusal::NoGroup { function: address(DISK) }]);
    assert_eq!(refusals(&machine(), &[CARD], Uses::End), [Refusal::Missing { function: address(CARD) }]);
    let linux = Linux::new().driver("nvme").function(DISK, Some("nvme"));
    assert_eq!(refusals(&linux, &[DISK], Uses::Keep), [Refusal::NoVfioPci]);
    assert!(refusals(&linux, &[], Uses::Keep).is_empty());
}

/// A disk with two partitions, mounted three times and swapped to, and an interface with the default route.
fn busy() -> Linux {
    let below = "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1";
    machine()
        .function(CARD, Some("e1000e"))
        .file("sys/block/nvme0n1/dev", "259:0")
        .file("sys/block/nvme0n1/nvme0n1p1/dev", "259:1")
        .file("sys/block/nvme0n1/nvme0n1p1/partition", "1")
        .file("sys/block/nvme0n1/nvme0n1p2/dev", "259:2")
        .file("sys/block/nvme0n1/nvme0n1p2/partition", "2")
        .link_to("sys/block/nvme0n1", below)
        .link_to("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/net/eth0")
        .file(
            "proc/self/mountinfo",
            "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             36 20 259:1 / /mnt rw - ext4 /dev/nvme0n1p1 rw\n\
             37 36 259:1 /in /mnt/in rw - ext4 /dev/nvme0n1p1 rw\n\
             38 20 259:1 / /srv rw - ext4 /dev/nvme0n1p1 rw",
        )
        .file("proc/swaps", "Filename Type Size\n/dev/nvme0n1p2 partition 100")
        .file("proc/self/net/route", "Iface Destination Gateway\neth0 00000000 0202000A")
}

#[test]
fn what_is_mounted_is_unmounted_before_its_disk_is_taken_and_what_is_swapped_read_back() {
    let linux = busy();
    assert!(
        matches!(see_unused(&linux, address(DISK)), Err(EndError::InUse { uses, .. }) if uses.len() == 4)
    );
    assert!(matches!(see_unused(&linux, address(CARD)), Err(EndError::InUse { .. })));
    assert_eq!(end_uses(&linux, address(DISK)), Ok(()));
    assert_eq!(see_unused(&linux, address(DISK)), Ok(()));
    // What is below another mount goes first; what others have is as it was.
    let mounts = linux.text_of("proc/self/mountinfo");
    assert_eq!(mounts, "20 1 8:1 / / rw - ext4 /dev/sda1 rw");
    assert_eq!(linux.written(), ["swapoff", "unmount", "unmount", "unmount"]);
    assert_eq!(linux.texts_written(), ["nvme0n1p2", "/srv", "/mnt/in", "/mnt"]);
    // An interface goes with its driver.
    assert_eq!(end_uses(&linux, address(CARD)), Ok(()));
    assert_eq!(linux.written().len(), 4);
}

#[test]
fn what_does_not_let_itself_be_unmounted_is_named_and_the_disk_stays() {
    let linux = busy().held("/mnt/in");
    let error = end_uses(&linux, address(DISK)).unwrap_err();
    let text = "0000:00:02.0 isn't taken: nvme0n1p1 is mounted on /mnt/in, and that can't be ended: Linux's error 16";
    assert_eq!(error.to_string(), text);
    assert_eq!(linux.driver_of(DISK).as_deref(), Some("nvme"));
}

#[test]
fn what_linux_itself_lives_by_is_not_taken_whatever_the_file_says() {
    let root = busy().file("proc/self/mountinfo", "20 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw");
    let uses = vec![Use::Mounted { disk: "nvme0n1p1".into(), at: "/".into() }];
    assert_eq!(
        refusals(&root, &[DISK], Uses::End),
        [Refusal::Stays { function: address(DISK), uses: uses.clone() }]
    );
    assert_eq!(end_uses(&root, address(DISK)), Err(EndError::Stays { function: address(DISK), uses }));
    // A member of a file system on several disks.
    let part = machine()
        .file("sys/block/nvme0n1/dev", "259:0")
        .link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .file("sys/fs/btrfs/uuid/devices/nvme0n1/size", "1");
    assert!(matches!(&refusals(&part, &[DISK], Uses::End)[..], [Refusal::Stays { .. }]));
    assert!(matches!(end_uses(&part, address(DISK)), Err(EndError::Stays { .. })));
    assert!(root.written().is_empty() && part.written().is_empty());
}

/// A file on it that is swapped to is read back before it is unmounted; a volume that is made of it would be broken, and is left alone, mounted as it is.
#[test]
fn what_is_on_a_mounted_disk_or_made_of_it_is_not_lost() {
    let linux = busy().file("proc/swaps", "Filename Type Size\n/srv/swap file 100");
    assert_eq!(end_uses(&linux, address(DISK)), Ok(()));
    assert_eq!(linux.texts_written(), ["/srv/swap", "/srv", "/mnt/in", "/mnt"]);
    for made in ["sys/block/nvme0n1/nvme0n1p2/holders/md0", "sys/block/loop0/loop/backing_file"] {
        let linux = busy().file(made, "/srv/image");
        assert!(matches!(&refusals(&linux, &[DISK], Uses::End)[..], [Refusal::Stays { .. }]), "{made}");
        let error = end_uses(&linux, address(DISK)).unwrap_err();
        assert!(matches!(&error, EndError::Stays { .. }) && linux.written().is_empty(), "{made}: {error}");
    }
}

#[test]
fn a_linux_that_mounts_it_again_and_again_does_not_hold_the_guard_for_ever() {
    /// One that says it has unmounted, and hasn't.
    struct Stubborn(Linux);
    impl axvm_platform::sysfs::Files for Stubborn {
        fn read(&self, path: &str) -> Option<Vec<u8>> {
            self.0.read(path)
        }
        fn list(&self, path: &str) -> Vec<alloc::string::String> {
            self.0.list(path)
        }
        fn link(&self, path: &str) -> Option<alloc::string::String> {
            self.0.link(path)
        }
    }
    impl Sysfs for Stubborn {
        fn write(&self, path: &str, text: &str) -> Result<(), WriteError> {
            self.0.write(path, text)
        }
        fn unmount(&self, _: &str) -> Result<(), WriteError> {
            Ok(())
        }
        fn swap_off(&self, _: &str) -> Result<(), WriteError> {
            Ok(())
        }
    }
    assert!(matches!(end_uses(&Stubborn(busy()), address(DISK)), Err(EndError::Again { .. })));
}

#[test]
fn what_becomes_of_each_use_is_said() {
    let mounted = Use::Mounted { disk: "nvme0n1".into(), at: "/mnt".into() };
    assert_eq!(fate(&mounted), "nvme0n1 is unmounted from /mnt, and not mounted again");
    let network = Use::Network { interface: "eth0".into(), default_route: true };
    assert_eq!(fate(&network), "the network interface eth0 is gone, and what goes by it");
}
