//! What is refused, and how it is said: one line a fault.

use axvm_addr::{DmaSource, Irq, SourceId};
use axvm_guest::image::ImageError;
use axvm_pci::{Lack, Reach};
use axvm_platform::model::{Kept, Provider};

use super::*;

fn given(device: Device) -> System {
    system(vec![vm("linux", &[1], vec![device])])
}

/// Items of the first VM and its first device.
fn of_vm(key: &str) -> Item {
    Item::Vm(0, key.into())
}

fn of_device(key: &str) -> Item {
    Item::Device(0, 0, key.into())
}

#[test]
fn each_problem_is_one_line_that_names_the_vm_the_device_and_both_parties() {
    let system = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(2, 0)])]);
    let [line] = &lines(&system, &board())[..] else { panic!() };
    for word in ["vm \"b\"", "0000:00:02.0", "vm \"a\"", "[device-twice]"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    assert!(!line.contains('\n'));
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let mut first = vm("a", &[0, 9], vec![node("/nothing@0")]);
    first.memory = 3 << 20;
    let second = vm("a", &[1, 1], vec![pci(0, 0), node("/pl011@9000000")]);
    assert_eq!(
        refusals(&system(vec![first, second]), &board()),
        [
            (Rule::Alignment, of_vm("memory")),
            (Rule::ImageFit, of_vm("memory")),
            (Rule::VmName, Item::Vm(1, "name".into())),
            (Rule::CpuReserved, Item::Cpu(0, 0)),
            (Rule::CpuAbsent, Item::Cpu(0, 1)),
            (Rule::CpuTwice, Item::Cpu(1, 1)),
            (Rule::DeviceAbsent, of_device("node")),
            (Rule::DeviceUnsupported, Item::Device(1, 0, "pci".into())),
            (Rule::DeviceReserved, Item::Device(1, 1, "node".into())),
        ]
    );
}

#[test]
fn ram_must_be_whole_blocks_at_a_multiple_of_a_block() {
    let mut system = demo();
    system.vms[0].memory = (512 << 20) + 4096;
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_vm("memory"))]);
    assert!(lines(&system, &board())[0].contains("\"514M\""));
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(0x4010_0000));
    assert_eq!(refusals(&system, &board()), [(Rule::Alignment, of_vm("memory_base"))]);
}

#[test]
fn ram_must_fit_into_what_the_hypervisor_and_earlier_vms_leave() {
    let mut system = system(vec![vm("a", &[1], vec![]), vm("b", &[2], vec![])]);
    system.vms[0].memory = 1 << 30;
    system.vms[1].memory = 1 << 30;
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryFit, Item::Vm(1, "memory".into()))]);
}

#[test]
fn ram_must_not_lie_over_anything_of_the_boards() {
    for (base, what) in [(0x0800_0000, "GIC"), (0x3000_0000, "PCI window"), (0x40_0000_0000, "config space")]
    {
        let mut system = demo();
        system.vms[0].memory_base = Some(Gpa(base));
        let lines = lines(&system, &board());
        assert!(
            lines.iter().any(|line| line.contains(what) && line.contains("[memory-place]")),
            "{what}: {lines:?}"
        );
    }
}

#[test]
fn ram_must_lie_within_the_address_bits() {
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(1 << 44));
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryPlace, of_vm("memory_base"))]);
    system.vms[0].memory_base = Some(Gpa(!0x1f_ffff));
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryPlace, of_vm("memory_base"))]);
}

#[test]
fn the_hypervisors_own_cpu_and_console_must_be_there() {
    let mut system = demo();
    system.hypervisor.cpu = Some(CpuId(11));
    system.hypervisor.console = Some("/pl011@9000001".into());
    assert_eq!(
        refusals(&system, &board()),
        [
            (Rule::Hypervisor, Item::Hypervisor("console".into())),
            (Rule::Hypervisor, Item::Hypervisor("cpu".into())),
        ]
    );
    assert!(lines(&system, &board())[0].contains("did you mean \"/pl011@9000000\""));
}

#[test]
fn a_cpu_that_cannot_be_started_is_refused() {
    let mut platform = board();
    platform.cpus[1].usable = false;
    assert_eq!(refusals(&given(pci(2, 0)), &platform), [(Rule::CpuAbsent, Item::Cpu(0, 0))]);
}

#[test]
fn a_board_that_lacks_what_axvm_needs_is_refused_naming_each() {
    let mut platform = board();
    platform.irqchip = None;
    platform.firmware = None;
    platform.timer.clear();
    let rules = refusals(&system(vec![vm("a", &[1], vec![])]), &platform);
    assert_eq!(rules.iter().filter(|(rule, _)| *rule == Rule::Platform).count(), 3);
}

#[test]
fn other_architectures_and_ports_are_refused() {
    let mut system = given(Device::Ports { name: "com2".into(), base: 0x2f8, count: 8, irq: None });
    assert_eq!(refusals(&system, &board()), [(Rule::Ports, of_device("ports"))]);
    system.board.arch = Arch::X86_64;
    assert!(refusals(&system, &board()).contains(&(Rule::Architecture, Item::Board("arch".into()))));
}

#[test]
fn a_kernel_that_is_missing_or_cannot_be_started_is_refused_with_its_reason() {
    let mut images = images(1);
    images.vms[0].kernel = Err(ImageError::Empty);
    let problems = plan(&demo(), &board(), &images).unwrap_err();
    assert_eq!((problems.len(), problems[0].rule, &problems[0].item), (1, Rule::Kernel, &of_vm("kernel")));
    assert!(problems[0].message.contains("the kernel is empty"));
    let problems = plan(&demo(), &board(), &Images::default()).unwrap_err();
    assert_eq!((problems.len(), problems[0].rule), (1, Rule::Kernel));
}

#[test]
fn images_must_fit_into_ram() {
    let mut system = demo();
    system.vms[0].memory = 32 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("memory"))]);
    system.vms[0].memory = 56 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("initrd"))]);
}

#[test]
fn a_place_for_the_device_tree_is_in_ram_and_clear_of_the_kernel() {
    let mut system = demo();
    let wrong = [
        (0x4f00_0004, Rule::Alignment, "multiple of 8"),
        (0x3fff_f000, Rule::ImageFit, "RAM is 0x40000000"),
        (0x6000_0000, Rule::ImageFit, "RAM is"),
        (!7, Rule::ImageFit, "RAM is"),
        // The kernel's first and last bytes.
        (0x4000_0000, Rule::ImageFit, "the kernel takes"),
        (0x42ff_fff8, Rule::ImageFit, "the kernel takes"),
        // Less than the tree takes before the end of RAM.
        (0x5fff_fff8, Rule::ImageFit, "room for 8 at"),
    ];
    for (at, rule, text) in wrong {
        system.vms[0].device_tree = Some(Gpa(at));
        assert_eq!(refusals(&system, &board()), [(rule, of_vm("device_tree"))], "{at:#x}");
        assert!(lines(&system, &board())[0].contains(text), "{:?}", lines(&system, &board()));
    }
    // The guest's own tree, of a size that the file tells.
    system.vms[0].dtb = Some("own.dtb".into());
    system.vms[0].device_tree = Some(Gpa(0x5fff_0000));
    let mut images = images(1);
    images.vms[0].dtb_len = Some(64 << 10);
    assert!(plan(&system, &board(), &images).is_ok());
    images.vms[0].dtb_len = Some((64 << 10) + 1);
    let problems = plan(&system, &board(), &images).unwrap_err();
    assert_eq!(problems.iter().map(|problem| &problem.item).collect::<Vec<_>>(), [&of_vm("device_tree")]);
}

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
    paths.extend(platform.console.clone());
    paths.push(platform.pci_hosts[0].path.clone());
    paths.push(platform.cpus[1].path.clone());
    paths.push("/timer".into());
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
fn a_function_outside_the_iommu_is_refused() {
    let mut platform = board();
    platform.functions.as_mut().unwrap()[1].sources.clear();
    assert_eq!(refusals(&given(pci(2, 0)), &platform), [(Rule::Dma, of_device("pci"))]);
}

#[test]
fn bridges_stay_the_hypervisors() {
    let platform = with_functions(vec![port(4)], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::DeviceUnsupported, of_device("pci"))]);
}

#[test]
fn virtio_devices_are_given_if_they_say_that_the_iommu_is_on_their_way() {
    for (device, said) in [Virtio::Past, Virtio::Legacy, Virtio::Unknown].into_iter().enumerate() {
        let virtio = Function { virtio: Some(said), ..endpoint(device as u8 + 1, 0) };
        let file = given(pci(device as u8 + 1, 0));
        let platform = with_functions(vec![virtio], &[0]);
        assert_eq!(refusals(&file, &platform), [(Rule::Dma, of_device("pci"))]);
        let line = &lines(&file, &platform)[0];
        assert!(line.contains("iommu_platform=on,disable-legacy=on"), "{line}");
    }
    let virtio = Function { virtio: Some(Virtio::Platform), ..endpoint(1, 0) };
    planned(&given(pci(1, 0)), &with_functions(vec![virtio], &[0]));
}

#[test]
fn a_function_without_a_reset_is_refused_unless_the_file_says_so() {
    let mut edu = endpoint(4, 0);
    edu.resets.clear();
    let platform = with_functions(vec![edu], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::Reset, of_device("reset"))]);
}

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
    };
    let plan = planned(&system(vec![vm("a", &[1], vec![on_bus(1, 0), other])]), &platform);
    assert_eq!(plan.vms[0].devices[1].reset, Some(ResetMethod::SecondaryBus));
    let unreset = Device::Pci {
        address: PciAddress::new(0, 1, 0, 0).unwrap(),
        without_reset: true,
        without_intx: false,
    };
    planned(&given(unreset), &platform);
}

#[test]
fn a_function_whose_errors_reach_the_firmware_is_refused() {
    let mut functions = vec![port(4), behind(4, 1, 0)];
    functions[0].stuck = Some(0x3e);
    let platform = with_functions(functions.clone(), &[0, 1]);
    assert_eq!(refusals(&given(on_bus(1, 0)), &platform), [(Rule::DeviceUnsupported, of_device("pci"))]);
    assert!(lines(&given(on_bus(1, 0)), &platform)[0].contains("register 0x3e of 0000:00:04.0"));
    functions[0].stuck = None;
    planned(&given(on_bus(1, 0)), &with_functions(functions, &[0, 1]));
}

#[test]
fn a_bar_for_which_no_window_has_room_is_a_problem() {
    let mut card = endpoint(4, 0);
    card.bars[0].address = None;
    let platform = with_functions(vec![card], &[0]);
    assert_eq!(refusals(&given(pci(4, 0)), &platform), [(Rule::NoRoom, of_device("pci"))]);
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
    two.vms[1].devices =
        vec![Device::Pci { address: address(6, 0), without_reset: false, without_intx: true }];
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
    platform.kept.push(Kept { span, owner: "/pcie@0".into() });
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
fn two_regions_over_the_same_registers_are_one_device_given_twice() {
    let two = system(vec![
        vm("a", &[1], vec![region("one", 0x0a10_0000, 0x0a20_0000, 0x2000)]),
        vm("b", &[2], vec![region("other", 0x0a10_0000, 0x0a20_1000, 0x1000)]),
    ]);
    assert_eq!(refusals(&two, &board()), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
    let disguised = system(vec![
        vm("a", &[1], vec![node("/pl031@9010000")]),
        vm("b", &[2], vec![region("clock", 0x0a10_0000, 0x0901_0000, 0x1000)]),
    ]);
    assert_eq!(refusals(&disguised, &board()), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
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
fn what_its_executors_cannot_hold_is_refused_before() {
    use axvm_platform::limits::{Limits, MsiLimits};
    let file = given(pci(2, 0));
    let with = |limits: Limits| {
        let mut platform = board();
        platform.limits = limits;
        lines(&file, &platform)
    };
    let one = |limits: Limits, says: &str| {
        let said = with(limits);
        assert!(said.len() == 1 && said[0].contains(says) && said[0].ends_with("[limit]"), "{said:#?}");
    };
    let least = |source_bits, message_bits| vec![MsiLimits { source_bits, message_bits }];
    // The disk is stream and device 0x10, sends 65 MSIs by a block of 128, and has a line.
    one(
        Limits { source_bits: vec![4], ..Limits::default() },
        "stream 0x10 is above those that SMMU 0 can serve",
    );
    one(Limits { msi: least(4, 16), ..Limits::default() }, "device id 0x10 is above those that ITS 0");
    one(Limits { msi: least(16, 6), ..Limits::default() }, "can send 65, but ITS 0 tells 64 apart");
    one(Limits { lines: 32..37, ..Limits::default() }, "its interrupt 37 is above the lines");
    one(Limits { guest_messages: 127, ..Limits::default() }, "can send 128 MSIs");
    one(Limits { table_bytes: 128 << 10, ..Limits::default() }, "the hypervisor has 128K for them");
    one(Limits { vcpus: 0, ..Limits::default() }, "a virtual interrupt controller serves 0");
    let mut platform = board();
    platform.limits = Limits {
        source_bits: vec![5],
        msi: least(5, 7),
        lines: 32..38,
        guest_messages: 128,
        ..Limits::default()
    };
    planned(&file, &platform);
}

#[test]
fn what_vms_share_is_held_against_their_sum() {
    let mut platform = board();
    let mut file = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
    for vm in &mut file.vms {
        vm.interrupts = InterruptChoice::Emulated;
    }
    // 128 of the disk's, 8 of the network card's.
    platform.limits.messages = 135;
    let said = &lines(&file, &platform)[0];
    assert!(
        said.contains("vm \"b\"") && said.contains("can send 8 MSIs and those of the VMs before it 128"),
        "{said}"
    );
    platform.limits.messages = 136;
    let plan = planned(&file, &platform);
    assert_eq!([&plan.vms[0].messages, &plan.vms[1].messages], [&(0..128), &(128..136)], "each has its own");
}

#[test]
fn there_are_as_many_vms_as_vmids() {
    let many =
        |count: usize| system((0..count).map(|id| vm(&alloc::format!("vm{id}"), &[1], vec![])).collect());
    let limits = |file: &System| {
        let found = refusals(file, &board()).into_iter();
        found.filter(|(rule, _)| *rule == Rule::Limit).map(|(_, item)| item).collect::<Vec<_>>()
    };
    assert_eq!(limits(&many(255)), []);
    assert_eq!(limits(&many(256)), [Item::Vm(255, "".into())]);
}

#[test]
fn a_command_line_is_one_that_a_kernel_takes_as_a_whole() {
    let with = |cmdline: alloc::string::String| {
        let mut file = given(pci(2, 0));
        file.vms[0].cmdline = cmdline;
        file
    };
    let refused = [(Rule::CommandLine, Item::Vm(0, "cmdline".into()))];
    assert_eq!(refusals(&with("quiet\0 rw".into()), &board()), refused);
    assert_eq!(refusals(&with("x".repeat(2048)), &board()), refused);
    assert_eq!(refusals(&with("x".repeat(3 << 20)), &board()), refused);
    planned(&with("x".repeat(2047)), &board());
}

#[test]
fn what_cannot_be_emulated_at_the_boards_places_is_refused() {
    let refused = |change: fn(&mut Platform)| {
        let mut platform = board();
        change(&mut platform);
        let found = refusals(&given(pci(2, 0)), &platform);
        assert!(!found.is_empty() && found.iter().all(|(rule, _)| *rule == Rule::Platform), "{found:?}");
    };
    let span = |start: u64, size: u64| Span::new(Hpa(start), size).unwrap();
    // The ITS in the distributor, no distributor, a timer by SPIs.
    refused(|platform| {
        let gic = platform.gic_mut().unwrap();
        gic.its[0].registers = Span::new(gic.distributor.start(), 0x2_0000).unwrap();
    });
    refused(|platform| platform.gic_mut().unwrap().distributor = Span::new(Hpa(0x0800_0000), 0).unwrap());
    refused(|platform| platform.timer[1].irq.0 = 40);
    // Windows askew, and two for one place.
    let window = |at: u64, pci: u64, size: u64| {
        let mut platform = board();
        let windows = &mut platform.pci_hosts[0].windows;
        let position = windows.iter().position(|w| w.space == axvm_addr::PciSpace::Memory32).unwrap();
        windows[position].pci = pci;
        windows[position].cpu = span(at, size);
        let twin = axvm_addr::PciWindow { cpu: span(0x2000_0000, 0x100_0000), ..windows[position] };
        windows.push(twin);
        refusals(&given(pci_function()), &platform)
    };
    fn pci_function() -> Device {
        pci(2, 0)
    }
    let (start, size) = (0x1000_0000, 0x100_0000);
    for found in [window(start + 0x800, start, size), window(start, start, size)] {
        assert!(found.contains(&(Rule::Platform, Item::Vm(0, "".into()))), "{found:?}");
    }
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

#[test]
fn a_node_whose_properties_no_tree_can_say_is_refused() {
    let mut platform = board();
    let device = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap();
    let twice = device.properties[0].clone();
    device.properties.push(twice);
    let file = given(node("/pl031@9010000"));
    assert_eq!(refusals(&file, &platform), [(Rule::Description, Item::Vm(0, "".into()))]);
}
