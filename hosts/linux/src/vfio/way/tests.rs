//! Both ways, on Linuxes that have one, both or none, and what VFIO's refusals by each come to.

use axvm_rebind::fake::Linux;
use vmm_sys_util::errno::Error as Number;

use super::*;

const DISK: &str = "0000:00:02.0";
const CARD: &str = "0000:00:03.0";

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

/// A Linux whose disk vfio-pci has and whose card it hasn't, with groups.
fn groups() -> Linux {
    let linux = Linux::new().driver("vfio-pci").driver("e1000e");
    linux.file("dev/vfio/vfio", "").function(DISK, Some("vfio-pci")).function(CARD, Some("e1000e"))
}

#[test]
fn nodes_of_functions_are_taken_where_the_kernel_has_all_that_they_want_and_groups_else() {
    assert_eq!(Way::of(&groups()), Some(Way::Groups));
    assert_eq!(Way::of(&groups().gives_nodes()), Some(Way::Devices));
    assert_eq!(Way::of(&Linux::new().gives_nodes()), Some(Way::Devices));
    assert_eq!(Way::of(&Linux::new()), None);
    // One without the other: a kernel that has iommufd and no nodes, a container that wasn't handed /dev/iommu.
    assert_eq!(Way::of(&groups().file("dev/iommu", "")), Some(Way::Groups));
    assert_eq!(Way::of(&groups().file("proc/devices", "511 vfio-dev\n")), Some(Way::Groups));
    assert_eq!(
        Way::of(&groups().file("dev/iommu", "").file("proc/devices", "511 vfio-dev2\n")),
        Some(Way::Groups)
    );
}

#[test]
fn a_function_has_its_node_while_vfio_pci_has_it_and_no_other_s() {
    let linux = groups().gives_nodes();
    let of = |way, function| node(&linux, way, address(function));
    assert_eq!(of(Way::Groups, DISK).as_deref(), Some("dev/vfio/0"));
    assert_eq!(of(Way::Groups, CARD).as_deref(), Some("dev/vfio/1"));
    assert_eq!(of(Way::Devices, DISK).as_deref(), Some("dev/vfio/devices/vfio0"));
    assert_eq!(of(Way::Devices, CARD), None);
    let both = Linux::new().driver("vfio-pci").gives_nodes();
    let both = both.function(DISK, Some("vfio-pci")).function(CARD, Some("vfio-pci"));
    assert_eq!(node(&both, Way::Devices, address(CARD)).as_deref(), Some("dev/vfio/devices/vfio1"));
    // Outside of every group there is none.
    assert_eq!(node(&groups().in_group(DISK, None), Way::Groups, address(DISK)), None);
}

#[test]
fn the_member_of_a_group_that_a_driver_has_is_named_and_those_without_harm_are_not() {
    let of = |linux: Linux| Others::of(&linux, address(DISK));
    assert_eq!(of(groups()), Others::Nobody);
    assert_eq!(of(groups().in_group(DISK, None)), Others::Nobody);
    let other = "0000:17:1f.7";
    let free = groups().function(other, Some("vfio-pci")).in_group(other, Some(0));
    assert_eq!(of(free), Others::Free);
    let held = groups().function(other, Some("vfio-pci")).in_group(other, Some(0)).in_group(CARD, Some(0));
    assert_eq!(of(held), Others::Held(Holder { member: address(CARD), driver: "e1000e".into() }));
}

/// What a refusal says.
fn said(error: Why, others: Others) -> String {
    refusal(address(DISK), error, others).to_string()
}

fn held() -> Others {
    Others::Held(Holder { member: address(CARD), driver: "e1000e".into() })
}

#[test]
fn what_keeps_a_function_is_told_apart_by_groups() {
    let forged = said(Why::ContainerSetIOMMU(Number::new(libc::EPERM)), Others::Nobody);
    assert!(forged.contains("forge any interrupt") && forged.contains("AxVM never sets"), "{forged}");
    let shared = said(Why::GroupViable, held());
    assert!(shared.contains("0000:00:03.0 is in its IOMMU group, and the driver e1000e has it"), "{shared}");
    assert!(shared.contains("echo 0000:00:03.0 > /sys/bus/pci/drivers/e1000e/unbind"), "{shared}");
    let busy = Why::OpenGroup(io::Error::from_raw_os_error(libc::EBUSY), "7".into());
    assert!(said(busy, Others::Nobody).contains("another program has it or its IOMMU group open"));
    let denied = Why::OpenGroup(io::Error::from_raw_os_error(libc::EACCES), "7".into());
    assert!(said(denied, Others::Nobody).contains("grant it CAP_CHOWN"));
    let other = said(Why::ContainerSetIOMMU(Number::new(libc::ENODEV)), Others::Nobody);
    assert!(other.starts_with("0000:00:02.0: VFIO doesn't give it: "), "{other}");
}

#[test]
fn what_keeps_a_function_is_told_apart_by_nodes() {
    let bind = |number| Why::VfioDeviceBindIommufd(Number::new(number));
    // Of one error of the kernel's: nobody else is there, a driver is, programs may be.
    let forged = said(bind(libc::EPERM), Others::Nobody);
    assert!(forged.contains("forge any interrupt") && forged.contains("AxVM never sets"), "{forged}");
    let shared = said(bind(libc::EPERM), held());
    assert!(shared.contains("0000:00:03.0 is in its IOMMU group, and the driver e1000e has it"), "{shared}");
    let either = said(bind(libc::EPERM), Others::Free);
    assert!(either.contains("another program has a member of its IOMMU group, or"), "{either}");
    for number in [libc::EBUSY, libc::EINVAL] {
        assert!(said(bind(number), Others::Nobody).contains("another program has it"));
    }
    assert!(said(Why::InvalidVfioDev, Others::Nobody).contains("there is no node of it"));
    let denied = Why::OpenDeviceCdev(io::Error::from_raw_os_error(libc::EACCES));
    assert!(said(denied, Others::Nobody).contains("can't be opened: Permission denied"));
}

#[test]
fn by_groups_nothing_is_opened_before() {
    assert_eq!(Source::open(Way::Groups, 3).unwrap().way(), Way::Groups);
}
