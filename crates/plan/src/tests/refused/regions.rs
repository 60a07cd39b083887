//! Raw regions.

use super::*;

#[test]
fn raw_regions_over_what_is_not_a_device_are_refused() {
    let platform = board();
    let gic = platform.gic().cloned().unwrap();
    for (hpa, what) in [
        (0x4800_0000, "RAM"),
        (platform.pci_hosts[0].ecam.start().0, "config space"),
        (0x1000_0000, "PCI window"),
        (gic.distributor.start().0, "distributor"),
        (gic.redistributors[0].start().0, "redistributors"),
        (gic.its[0].registers.start().0, "ITS"),
        (platform.iommus[0].registers.start().0, "SMMU"),
    ] {
        let system = given(region("raw", 0x0a10_0000, hpa, 0x1000));
        assert_eq!(refusals(&system, &platform), [(Rule::RegisterPlace, of_device("base_hpa"))], "{what}");
        assert!(lines(&system, &platform)[0].contains(what), "{what}");
    }
    let console = given(region("raw", 0x0a10_0000, 0x0900_0000, 0x1000));
    assert_eq!(refusals(&console, &platform), [(Rule::DeviceReserved, of_device("base_hpa"))]);
}

#[test]
fn raw_regions_over_windows_of_host_bridges_that_are_not_driven_are_refused() {
    let mut platform = board();
    let system = given(region("raw", 0x0a10_0000, 0x0a30_0000, 0x1000));
    planned(&system, &platform);
    let span = Span::new(Hpa(0x0a30_0000), 0x1_0000).unwrap();
    platform.kept.push(Kept { span, what: KeptWhat::PciWindow, owner: "/pcie@0".into() });
    assert_eq!(refusals(&system, &platform), [(Rule::RegisterPlace, of_device("base_hpa"))]);
    assert!(lines(&system, &platform)[0].contains("PCI window of /pcie@0"));
}

#[test]
fn raw_regions_must_not_hide_what_the_guest_has_at_their_guest_address() {
    for (gpa, what) in [
        (0x4100_0000, "RAM"),
        (0x0900_0000, "the emulated console"),
        (0x0800_0000, "the emulated GIC's distributor"),
        (0x0809_0000, "the ITS"),
    ] {
        let system = given(region("gpio", gpa, 0x0903_0000, 0x1000));
        assert_eq!(refusals(&system, &board()), [(Rule::RegisterOverlap, of_device("base_gpa"))], "{what}");
        assert!(lines(&system, &board())[0].contains(what), "{what}");
    }
    let split =
        system(vec![vm("a", &[1], vec![pci(2, 0), region("gpio", 0x2778_0000, 0x0903_0000, 0x1000)])]);
    let refused = refusals(&split, &board());
    assert_eq!(refused, [(Rule::RegisterOverlap, Item::Device(0, 1, "base_gpa".into()))]);
    let two = system(vec![vm(
        "a",
        &[1],
        vec![
            region("one", 0x0a10_0000, 0x0903_0000, 0x1000),
            node("/pl031@9010000"),
            region("two", 0x0901_0000, 0x0a20_0000, 0x1000),
        ],
    )]);
    assert_eq!(refusals(&two, &board()), [(Rule::RegisterOverlap, Item::Device(0, 2, "base_gpa".into()))]);
}

#[test]
fn regions_that_cannot_be_mapped_are_refused() {
    let system = given(region("none", 0x0a10_0000, 0x0a10_0000, 0));
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_device("length"))]);
    let system = given(region("far", 0x0a10_0000, u64::MAX, 2));
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_device("length"))]);
    let system = given(region("askew", 0x0a10_0800, 0x0a10_0000, 0x1000));
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_device("base_gpa"))]);
    let system = given(region("past", 0x0a10_0000, 1 << 46, 0x1000));
    assert_eq!(refusals(&system, &board()), [(Rule::RegisterPlace, of_device("base_hpa"))]);
}

#[test]
fn a_region_has_no_other_devices_name_in_its_vm() {
    let named = |name: &str| region(name, 0x0a10_0000, 0x0a30_0000, 0x1000);
    for name in ["/pl031@9010000", "one"] {
        for turned in [false, true] {
            let mut devices = vec![named(name), node("/pl031@9010000")];
            devices[1] = if name == "one" {
                region("one", 0x0a20_0000, 0x0a20_0000, 0x1000)
            } else {
                devices[1].clone()
            };
            if turned {
                devices.reverse();
            }
            let found = refusals(&system(vec![vm("a", &[1], devices)]), &board());
            assert!(
                matches!(found[..], [(Rule::DeviceTwice, Item::Device(0, _, ref key))] if key == "name"),
                "{found:?}"
            );
        }
    }
    // In two VMs it is a name like others.
    let two = system(vec![
        vm("a", &[1], vec![named("regs")]),
        vm("b", &[2], vec![region("regs", 0x0a10_0000, 0x0a40_0000, 0x1000)]),
    ]);
    let plan = planned(&two, &board());
    assert_ne!(plan.vms[0].devices[0].id, plan.vms[1].devices[0].id);
}

#[test]
fn a_region_over_a_whole_window_is_refused_and_nothing_more() {
    let mut platform = board();
    platform.pci_hosts[0].windows.retain(|w| w.space == axvm_addr::PciSpace::Memory32);
    let window = platform.pci_hosts[0].windows[0].cpu;
    let whole = region("whole", window.start().0, 0x80_0000_0000, window.size());
    let file = system(vec![vm("a", &[1], vec![pci(2, 0), whole])]);
    assert_eq!(refusals(&file, &platform), [(Rule::RegisterOverlap, Item::Device(0, 1, "base_gpa".into()))]);
}
