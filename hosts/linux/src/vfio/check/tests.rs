//! On the demo's plan, and Linuxes that use its disk and its card.

use axvm_plan::fixtures;
use axvm_platform::limits::{Limits, LinuxHost, Serves};
use axvm_platform::model::Platform;
use axvm_platform::sysfs::functions;
use axvm_rebind::fake::Linux;

use super::*;

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

/// Two VMs that name the disk, one after the other, and what each says of its uses; the first one has the card, too.
fn named(says: [InUse; 2]) -> (System, Plan) {
    let device = |device, says| {
        let Device::Pci { address, without_reset, without_intx, .. } = fixtures::pci(device, 0) else {
            unreachable!()
        };
        Device::Pci { address, without_reset, without_intx, in_use: says }
    };
    let mut second = fixtures::vm("second", &[2], vec![device(2, says[1])]);
    second.autostart = false;
    let first = fixtures::vm("first", &[1], vec![device(2, says[0]), device(3, says[0])]);
    let system = fixtures::system(vec![first, second]);
    let linux = LinuxHost { guests: Serves::Yes, functions: Serves::Yes };
    let platform = Platform { limits: Limits::default().of_linux(linux), ..fixtures::board() };
    let plan = fixtures::planned(&system, &platform);
    (system, plan)
}

fn machine() -> Linux {
    let network = "net:[4026531840]";
    let linux = Linux::new().driver("nvme").driver("e1000e").driver("vfio-pci");
    let linux = linux.link_to("proc/self/ns/pid", FIRST_PIDS).link_to("proc/self/ns/net", network);
    let linux = linux.link_to("proc/1/ns/net", network).file("dev/vfio/vfio", "");
    linux.function(DISK, Some("nvme")).function(CARD, Some("e1000e"))
}

/// Whose disk is mounted, and whose card has the default route.
fn busy() -> Linux {
    machine()
        .file("sys/block/nvme0n1/dev", "259:0")
        .link_to("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1")
        .link_to("sys/class/net/eth0", "../../devices/pci0000:00/0000:00:03.0/net/eth0")
        .file("proc/self/mountinfo", "36 35 259:0 / /mnt rw - ext4 /dev/nvme0n1 rw")
        .file("proc/self/net/route", "Iface Destination Gateway\neth0 00000000 0202000A")
}

fn found(linux: &Linux, says: [InUse; 2]) -> Found {
    let (system, plan) = named(says);
    check(linux, &functions(linux), &system, &plan)
}

#[test]
fn what_linux_uses_is_refused_with_the_use_and_the_key() {
    let found = found(&busy(), [InUse::Keep, InUse::Keep]);
    let lines: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, what) in lines.iter().zip([
        "vm \"first\": 0000:00:02.0 is in use: nvme0n1 is mounted on /mnt:",
        "vm \"second\": 0000:00:02.0 is in use: nvme0n1 is mounted on /mnt:",
        "vm \"first\": 0000:00:03.0 is in use: network interface eth0, which has the default route:",
    ]) {
        assert!(line.contains(what) && line.contains("`in_use = \"take\"`"), "{line}");
    }
    assert!(found.problems.iter().all(|it| it.rule == Rule::DeviceReserved));
    assert_eq!(found.notes, [Way::Groups.note()]);
    assert!(found.in_use.is_empty());
}

#[test]
fn what_is_taken_all_the_same_is_said_with_what_becomes_of_its_users() {
    let found = found(&busy(), [InUse::Take, InUse::Take]);
    assert_eq!(found.problems, []);
    assert_eq!(
        found.notes,
        [
            Way::Groups.note(),
            "vm \"first\": 0000:00:02.0: it is in use, and taken all the same: nvme0n1 is unmounted from /mnt, and not mounted again",
            "vm \"first\": 0000:00:03.0: it is in use, and taken all the same: the network interface eth0 is gone, and what goes by it",
            "vm \"second\": 0000:00:02.0: it is in use, and taken all the same: nvme0n1 is unmounted from /mnt, and not mounted again",
        ]
    );
    assert_eq!(found.in_use.len(), 2);
}

#[test]
fn one_that_does_not_say_so_keeps_it_for_all_that_name_it() {
    let found = found(&busy(), [InUse::Take, InUse::Keep]);
    let lines: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert!(lines.len() == 1 && lines[0].contains("vm \"second\": 0000:00:02.0 is in use"), "{lines:?}");
    assert_eq!(found.in_use.into_iter().map(|it| it.to_string()).collect::<Vec<_>>(), [CARD]);
}

#[test]
fn linux_s_own_root_is_refused_whatever_the_file_says() {
    let linux = busy().file("proc/self/mountinfo", "20 1 259:0 / / rw - ext4 /dev/nvme0n1 rw");
    let found = found(&linux, [InUse::Take, InUse::Take]);
    assert!(found.problems.iter().any(|it| it.to_string().contains("whatever `in_use` says")), "{found:?}");
}

#[test]
fn what_is_in_use_for_nothing_needs_no_word() {
    let found = found(&machine(), [InUse::Take, InUse::Keep]);
    assert!(found.problems.is_empty() && found.notes == [Way::Groups.note()], "{found:?}");
}

#[test]
fn the_way_is_said_and_where_there_is_none_no_function_is_given() {
    let says = [InUse::Keep, InUse::Keep];
    assert_eq!(found(&machine().gives_nodes(), says).notes, [Way::Devices.note()]);
    let without = machine().without("dev/vfio/vfio");
    let problems = found(&without, says).problems;
    assert!(problems.len() == 1 && problems[0].to_string().contains("/dev/iommu"), "{problems:?}");
    assert_eq!(found(&without.gives_nodes(), says).problems, []);
}

#[test]
fn a_process_in_namespaces_of_its_own_does_not_see_the_machine() {
    let with = |pid: &str, own: &str, first: &str| {
        let linux = Linux::new().link_to("proc/self/ns/pid", pid).link_to("proc/self/ns/net", own);
        unseen(&linux.link_to("proc/1/ns/net", first))
    };
    assert_eq!(with(FIRST_PIDS, "net:[4026531840]", "net:[4026531840]"), None);
    assert_eq!(with(FIRST_PIDS, "net:[4026532000]", "net:[4026531840]"), Some(UNSEEN));
    assert_eq!(with("pid:[4026532001]", "net:[4026532000]", "net:[4026532000]"), Some(UNSEEN));
    // Who may not ask doesn't know, and is told what lets him.
    let unknown = Linux::new().link_to("proc/self/ns/pid", FIRST_PIDS).link_to("proc/self/ns/net", "net:[1]");
    assert_eq!(unseen(&unknown), Some(UNKNOWN));
    assert_eq!(unseen(&Linux::new()), Some(UNSEEN));
    assert!(UNKNOWN.contains("CAP_SYS_PTRACE"));
}
