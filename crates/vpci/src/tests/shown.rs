//! A function that the guest sees elsewhere than it is: one behind a bridge.

use super::*;

/// The NVMe controller as if it were on another bus of a machine whose guest sees it at `shown`.
fn elsewhere(shown: PciAddress) -> HostBridge<Fake> {
    let port = axvm_pci::fake::FakeFunction::root_port(0);
    let bus = FakeBus::new(0, 0).with(7, 0, port).with_behind(&[7], 0, 0, FakeFunction::nvme());
    let window = PciWindow {
        space: PciSpace::Memory32,
        prefetchable: false,
        pci: LOW_PCI,
        cpu: Span::new(Hpa(LOW_PCI), LOW_SIZE).unwrap(),
    };
    let host = axvm_pci::HostBridge { segment: 0, buses: PciBuses::new(0, 1), windows: vec![window] };
    let function = enumerate(&bus, &host, &bus).pop().unwrap();
    assert_eq!(function.address, BEHIND);
    let bars = vec![(0, Hpa(function.bars[0].address.unwrap() + HPA_OFFSET))];
    let functions = vec![AssignedFunction { function, shown, bars, ports: vec![], intx: true, line: 0 }];
    let backend = Fake::new(bus);
    let config = BridgeConfig { segment: 0, buses: PciBuses::new(0, 1), windows: windows(), functions };
    HostBridge::new(config, backend).unwrap()
}

const BEHIND: PciAddress = PciAddress::from_requester_id(0, 0x100);

fn read(bridge: &HostBridge<Fake>, function: PciAddress, offset: u16) -> u32 {
    let at = u64::from(function.requester_id()) << 12 | u64::from(offset);
    bridge.read(VcpuId(0), at, Width::B4) as u32
}

#[test]
fn it_answers_where_it_is_shown_and_is_driven_where_it_is() {
    let bridge = elsewhere(NIC);
    assert_eq!(read(&bridge, NIC, 0), 0x0010_1b36);
    assert_eq!(read(&bridge, BEHIND, 0), u32::MAX, "the guest has no such bus");
    assert_eq!(read(&bridge, at(7), 0), u32::MAX, "nor the bridge");
    bridge.write(VcpuId(0), u64::from(NIC.requester_id()) << 12 | 4, Width::B2, 0x6);
    let command = |address| bridge.backend().bus.function(address, |fake| fake.get(4, Width::B2));
    assert_eq!(command(BEHIND), Some(0x6));
    assert_eq!(bridge.backend().masters.lock().unwrap()[..], [BEHIND]);
    // The hypervisor knows it by where it is.
    bridge.quarantine(BEHIND).unwrap();
    assert_eq!(command(BEHIND), Some(0x2));
    assert_eq!(bridge.quarantine(NIC), Err(crate::BridgeError::Unknown(NIC)));
    assert!(bridge.accesses(BEHIND).is_some_and(|count| count > 0));
}

#[test]
fn without_its_port_it_is_integrated_into_the_root_complex() {
    let port_type = |bridge: &HostBridge<Fake>, shown| {
        let offset = bridge.backend().bus.function(BEHIND, |fake| fake.find(0x10)).unwrap().unwrap();
        read(bridge, shown, offset) >> 20 & 0xf
    };
    assert_eq!(port_type(&elsewhere(NIC), NIC), 9);
    assert_eq!(port_type(&elsewhere(BEHIND), BEHIND), 0, "as it is, where it is");
}

#[test]
fn what_is_alone_in_its_slot_does_not_say_otherwise() {
    let alone = Guest::with(|functions| functions.retain(|function| function.address == NIC));
    assert_eq!(alone.read(NIC, 0x0e, Width::B1) & 0x80, 0);
    let (bus, functions) = machine();
    let backend = Fake::new(bus);
    let take = |position: usize, shown| AssignedFunction {
        intx: true,
        function: functions[position].clone(),
        shown: PciAddress::from_requester_id(0, shown),
        bars: vec![],
        ports: vec![],
        line: 0,
    };
    let together = vec![take(0, 0x08), take(1, 0x09)];
    let config =
        BridgeConfig { segment: 0, buses: PciBuses::new(0, 0), windows: windows(), functions: together };
    let bridge = HostBridge::new(config, backend).unwrap();
    assert_eq!(read(&bridge, NIC, 0x0c) >> 16 & 0x80, 0x80);
}
