//! The file, the board and the hypervisor as a whole, and how problems are said.

use super::*;

#[test]
fn each_problem_is_one_line_that_names_the_vm_the_device_and_both_parties() {
    let system = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(2, 0)])]);
    for (board, rule) in [(board(), "[autostart]"), (for_the_whole_run(board()), "[device-twice]")] {
        let [line] = &lines(&system, &board)[..] else { panic!() };
        for word in ["vm \"b\"", "0000:00:02.0", "vm \"a\"", rule] {
            assert!(line.contains(word), "{word} in {line}");
        }
        assert!(!line.contains('\n'));
    }
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let mut first = vm("a", &[0, 9], vec![node("/nothing@0")]);
    first.memory = 3 << 20;
    let second = vm("a", &[1, 1], vec![pci(0, 0), node("/smmuv3@9050000")]);
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
    let mut system = given(Device::Ports {
        name: "com2".into(),
        base: 0x2f8,
        count: 8,
        irq: None,
        access: RegisterAccess::Direct,
    });
    assert_eq!(refusals(&system, &board()), [(Rule::Ports, of_device("ports"))]);
    system.board.arch = Arch::X86_64;
    assert!(refusals(&system, &board()).contains(&(Rule::Architecture, Item::Board("arch".into()))));
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
