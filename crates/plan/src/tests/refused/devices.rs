//! Platform devices, for what they are.

use super::*;

#[test]
fn a_device_that_does_not_exist_is_refused_with_the_nearest() {
    assert_eq!(refusals(&given(node("/pl031@9010001")), &board()), [(Rule::DeviceAbsent, of_device("node"))]);
    assert!(lines(&given(node("/pl031@9010001")), &board())[0].contains("did you mean \"/pl031@9010000\""));
    assert_eq!(refusals(&given(pci(9, 0)), &board()), [(Rule::DeviceAbsent, of_device("pci"))]);
    assert!(lines(&given(pci(9, 0)), &board())[0].contains("0000:00:03.0 (8086:10d3)"));
}

#[test]
fn the_hypervisors_own_devices_are_refused_by_name() {
    let platform = board();
    let gic = platform.gic().cloned().unwrap();
    let mut paths = vec![gic.path.clone(), gic.its[0].path.clone(), platform.iommus[0].path.clone()];
    paths.push(platform.pci_hosts[0].path.clone());
    paths.push(platform.cpus[1].path.clone());
    paths.push("/timer".into());
    // Its console it lends, but for one that it couldn't take back.
    let mut kept = board();
    let console = kept.console.clone().unwrap();
    kept.devices.iter_mut().filter(|device| device.path == console).for_each(|device| {
        device.compatible = vec!["arm,sbsa-uart".into()];
    });
    assert_eq!(refusals(&given(node(&console)), &kept), [(Rule::DeviceReserved, of_device("node"))]);
    for path in paths {
        assert_eq!(
            refusals(&given(node(&path)), &platform),
            [(Rule::DeviceReserved, of_device("node"))],
            "{path}"
        );
    }
}

#[test]
fn masters_of_the_bus_outside_every_iommu_are_refused_whatever_the_file_says() {
    let platform = board();
    let fw_cfg = platform.devices.iter().find(|device| device.path.contains("fw")).unwrap().path.clone();
    for path in ["/virtio_mmio@a000000", &fw_cfg] {
        for dma in [Dma::Unstated, Dma::None, Dma::Streams(vec![SourceId(3)])] {
            let device =
                Device::Node { path: path.into(), access: RegisterAccess::Trap, dma, accept: vec![] };
            assert_eq!(refusals(&given(device), &platform), [(Rule::Dma, of_device(""))], "{path}");
        }
        let hidden = platform.devices.iter().find(|device| device.path == path).unwrap().registers[0];
        let raw = region("raw", 0x0a10_0000, hidden.start().0, hidden.size());
        assert_eq!(refusals(&given(raw), &platform), [(Rule::Dma, of_device(""))], "{path} as a raw region");
    }
}

#[test]
fn a_device_that_may_master_the_bus_needs_the_authors_word() {
    let mut platform = board();
    let clock = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap();
    clock.bus_master = None;
    assert_eq!(refusals(&given(node("/pl031@9010000")), &platform), [(Rule::Dma, of_device(""))]);
    let said = |dma| Device::Node {
        path: "/pl031@9010000".into(),
        access: RegisterAccess::Direct,
        dma,
        accept: vec![],
    };
    planned(&given(said(Dma::None)), &platform);
    let plan = planned(&given(said(Dma::Streams(vec![SourceId(7)]))), &platform);
    assert_eq!(plan.vms[0].devices[0].sources, [DmaSource::new(0, 7)]);
}

#[test]
fn a_device_that_needs_a_provider_or_another_controller_is_refused_naming_it() {
    let mut platform = board();
    let clock = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap();
    clock.providers.push(Provider { property: "resets".into(), path: "/reset@1".into(), fixed_clock: None });
    clock.foreign_interrupts.push(axvm_platform::model::ForeignInterrupt::Elsewhere("/gpio@2".into()));
    let system = given(node("/pl031@9010000"));
    assert_eq!(
        refusals(&system, &platform),
        [(Rule::Interrupt, of_device("node")), (Rule::Provider, of_device("node"))]
    );
    assert!(lines(&system, &platform)[0].contains("/gpio@2"));
    assert!(lines(&system, &platform)[1].contains("/reset@1 (resets)"));
}

#[test]
fn a_disabled_device_is_refused() {
    let mut platform = board();
    platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap().enabled = false;
    assert_eq!(
        refusals(&given(node("/pl031@9010000")), &platform),
        [(Rule::DeviceDisabled, of_device("node"))]
    );
}
