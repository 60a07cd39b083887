//! What devices share with others.

use super::*;

#[test]
fn a_conventional_bus_goes_to_one_vm_as_a_whole_and_without_its_bridge() {
    let platform = with_functions(
        vec![conventional(4), behind(4, 1, 2), behind(4, 1, 3), endpoint(6, 0)],
        &[0, 0, 0, 1],
    );
    let whole = vec![on_bus(1, 2), on_bus(1, 3)];
    planned(&system(vec![vm("a", &[1], whole.clone())]), &platform);
    assert_eq!(refusals(&given(on_bus(1, 2)), &platform), [(Rule::Group, of_device("pci"))]);
    let said = &lines(&given(on_bus(1, 2)), &platform)[0];
    assert!(said.contains("0000:01:03.0 (not given to a VM)") && !said.contains("00:04.0"), "{said}");
}

#[test]
fn what_is_reset_with_its_bus_is_given_with_all_that_is_there() {
    let mut functions = vec![port(4), behind(4, 1, 0), behind(4, 1, 0)];
    functions[2].address = PciAddress::new(0, 1, 0, 1).unwrap();
    for function in &mut functions[1..] {
        function.resets = vec![ResetMethod::SecondaryBus];
    }
    // With ACS between the two they are groups of their own.
    let platform = with_functions(functions, &[0, 1, 2]);
    assert_eq!(refusals(&given(on_bus(1, 0)), &platform), [(Rule::Reset, of_device("reset"))]);
    assert!(lines(&given(on_bus(1, 0)), &platform)[0].contains("0000:01:00.1 (not given to a VM)"));
    let other = Device::Pci {
        address: PciAddress::new(0, 1, 0, 1).unwrap(),
        without_reset: false,
        without_intx: false,
        in_use: InUse::Keep,
    };
    let plan = planned(&system(vec![vm("a", &[1], vec![on_bus(1, 0), other])]), &platform);
    assert_eq!(plan.vms[0].devices[1].reset, Some(ResetMethod::SecondaryBus));
    let unreset = Device::Pci {
        address: PciAddress::new(0, 1, 0, 0).unwrap(),
        without_reset: true,
        without_intx: false,
        in_use: InUse::Keep,
    };
    planned(&given(unreset), &platform);
}

#[test]
fn functions_of_one_group_go_to_one_vm_or_none() {
    let platform = with_functions(vec![endpoint(4, 0), endpoint(4, 1)], &[7, 7]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::Group, of_device("pci"))]);
    assert!(lines(&given(pci(4, 0)), &platform)[0].contains("0000:00:04.1 (not given to a VM)"));
    let two = system(vec![vm("a", &[1], vec![pci(4, 0)]), vm("b", &[2], vec![pci(4, 1)])]);
    assert_eq!(refusals(&two, &platform), [(Rule::Group, Item::Device(1, 0, "pci".into()))]);
    assert!(lines(&two, &platform)[0].contains("0000:00:04.0 (vm \"a\")"));
}

#[test]
fn a_group_says_by_which_way_its_functions_reach_each_other() {
    let mut host = endpoint(1, 0);
    host.class = 0x06_0000;
    let mut platform = with_functions(vec![host, endpoint(4, 0), endpoint(5, 0)], &[7, 7, 7]);
    let way = Reach { to: address(5, 0), at: address(4, 0), lack: Lack::Source };
    platform.functions.as_mut().unwrap()[1].reaches = vec![way];
    let [line] = &lines(&given(pci(4, 0)), &platform)[..] else { panic!() };
    assert!(line.contains("(0000:00:04.0 reaches 0000:00:05.0: 0000:00:04.0 lets requests pass"), "{line}");
    assert!(
        !line.contains("0000:00:01.0"),
        "bridges stay the hypervisor's, those to the processor too: {line}"
    );
    planned(&system(vec![vm("a", &[1], vec![pci(4, 0), pci(5, 0)])]), &platform);
}

#[test]
fn two_vms_cannot_share_a_line_a_stream_or_a_device_id() {
    // Slots 2 and 6 have the same line on this board.
    let mut platform = with_functions(vec![endpoint(2, 0), endpoint(6, 0)], &[0, 1]);
    let two = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(6, 0)])]);
    assert_eq!(refusals(&two, &platform), [(Rule::InterruptShared, Item::Device(1, 0, String::new()))]);
    let [line] = &lines(&two, &platform)[..] else { panic!() };
    for word in ["0000:00:06.0", "0000:00:02.0", "vm \"a\"", "vm \"b\"", "interrupt 37", "intx = \"none\""] {
        assert!(line.contains(word), "{word} in {line}");
    }
    for function in platform.functions.as_mut().unwrap() {
        function.line = None;
    }
    planned(&two, &platform);
    platform.functions.as_mut().unwrap()[1].sources = vec![DmaSource::new(0, 0x10)];
    assert_eq!(refusals(&two, &platform), [(Rule::Group, Item::Device(1, 0, String::new()))]);
}

#[test]
fn a_line_that_a_function_does_without_may_have_another_owner() {
    let mut platform = with_functions(vec![endpoint(2, 0), endpoint(6, 0)], &[0, 1]);
    let mut two = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(6, 0)])]);
    two.vms[1].devices = vec![Device::Pci {
        address: address(6, 0),
        without_reset: false,
        without_intx: true,
        in_use: InUse::Keep,
    }];
    let plan = planned(&two, &platform);
    assert_eq!((plan.vms[0].devices[0].intx, plan.vms[1].devices[0].intx), (true, false));
    assert_eq!((plan.vms[0].lines.len(), plan.vms[1].lines.len()), (1, 0));
    assert_eq!(plan.vms[1].description.pci[0].lines, []);
    // One that can't turn its line off reaches it whatever the file says, and nobody can do without it.
    platform.functions.as_mut().unwrap()[1].function.intx_disable = false;
    assert_eq!(
        refusals(&two, &platform),
        [
            (Rule::InterruptShared, Item::Device(1, 0, String::new())),
            (Rule::Interrupt, Item::Device(1, 0, "intx".into())),
        ]
    );
    // So it is in a VM without interrupts, whose functions are silent otherwise.
    two.vms[1].interrupts = InterruptChoice::None;
    two.vms[1].devices = vec![pci(6, 0)];
    assert_eq!(refusals(&two, &platform), [(Rule::InterruptShared, Item::Device(1, 0, String::new()))]);
    platform.functions.as_mut().unwrap()[1].function.intx_disable = true;
    assert!(!planned(&two, &platform).vms[1].devices[0].intx);
    // And given to nobody.
    two.vms.pop();
    platform.functions.as_mut().unwrap()[1].function.intx_disable = false;
    assert_eq!(refusals(&two, &platform), [(Rule::InterruptShared, of_device(""))]);
    assert!(lines(&two, &platform)[0].contains("0000:00:06.0"));
}

#[test]
fn a_line_of_the_hypervisors_or_of_a_device_that_is_not_given_is_refused() {
    let with_line = |line| {
        let mut device = region("raw", 0x0a10_0000, 0x0a10_0000, 0x1000);
        if let Device::Region { irq, .. } = &mut device {
            *irq = Some(Irq(line));
        }
        given(device)
    };
    for (irq, holder) in [(33, "console"), (74 + 32, "SMMU"), (34, "/pl031@9010000")] {
        let smmu = board().iommus[0].lines().next().unwrap().irq.0;
        let irq = if holder == "SMMU" { smmu } else { irq };
        assert_eq!(refusals(&with_line(irq), &board()), [(Rule::InterruptShared, of_device("irq"))]);
        assert!(lines(&with_line(irq), &board())[0].contains(holder));
    }
    for irq in [0, 27, 1020, 8192] {
        assert_eq!(refusals(&with_line(irq), &board()), [(Rule::Interrupt, of_device("irq"))]);
    }
    planned(&with_line(200), &board());
}

#[test]
fn a_page_with_something_of_another_owner_is_not_mapped() {
    let mut platform = board();
    let mut neighbour =
        platform.devices.iter().find(|device| device.path == "/pl031@9010000").unwrap().clone();
    neighbour.path = "/neighbour@9010800".into();
    neighbour.registers = vec![Span::new(Hpa(0x0901_0800), 0x800).unwrap()];
    neighbour.interrupts.clear();
    let clock = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap();
    clock.registers = vec![Span::new(Hpa(0x0901_0000), 0x800).unwrap()];
    platform.devices.push(neighbour);
    let system = given(node("/pl031@9010000"));
    assert_eq!(refusals(&system, &platform), [(Rule::PageShared, of_device(""))]);
    assert!(lines(&system, &platform)[0].contains("/neighbour@9010800"));
    let trapped = Device::Node {
        path: "/pl031@9010000".into(),
        access: RegisterAccess::Trap,
        dma: Dma::Unstated,
        accept: vec![],
    };
    planned(&given(trapped), &platform);
    let both = given(node("/pl031@9010000"));
    let mut both = both;
    both.vms[0].devices.push(node("/neighbour@9010800"));
    assert!(planned(&both, &platform).vms[0].registers.iter().all(|block| !block.direct));
}

#[test]
fn two_regions_over_the_same_registers_are_one_device_given_twice() {
    let two = system(vec![
        vm("a", &[1], vec![region("one", 0x0a10_0000, 0x0a20_0000, 0x2000)]),
        vm("b", &[2], vec![region("other", 0x0a10_0000, 0x0a20_1000, 0x1000)]),
    ]);
    let board = for_the_whole_run(board());
    assert_eq!(refusals(&two, &board), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
    let disguised = system(vec![
        vm("a", &[1], vec![node("/pl031@9010000")]),
        vm("b", &[2], vec![region("clock", 0x0a10_0000, 0x0901_0000, 0x1000)]),
    ]);
    assert_eq!(refusals(&disguised, &board), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
}
