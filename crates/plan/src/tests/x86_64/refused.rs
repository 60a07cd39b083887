//! What can't be given to guests of x86_64, and why.

use super::*;

fn of_device(index: u16, key: &str) -> Item {
    Item::Device(0, index, key.into())
}

fn of_vm(key: &str) -> Item {
    Item::Vm(0, key.into())
}

#[test]
fn a_file_for_another_architecture_is_refused() {
    let mut system = demo();
    system.board.arch = Arch::Aarch64;
    assert_eq!(refusals(&system, &board()), [(Rule::Architecture, Item::Board("arch".into()))]);
    let other = crate::fixtures::refusals(&demo(), &crate::fixtures::board());
    assert!(other.contains(&(Rule::Architecture, Item::Board("arch".into()))), "{other:?}");
}

#[test]
fn a_kernel_for_another_processor_is_refused_by_what_it_is() {
    let said = |kind| {
        let problems = plan(&demo(), &board(), &images_of(kind, 1)).unwrap_err();
        assert_eq!((problems[0].rule, &problems[0].item), (Rule::Kernel, &of_vm("kernel")));
        problems[0].message.clone()
    };
    assert!(said(ImageKind::LinuxImage).contains("an arm64 Linux Image"));
    assert!(said(ImageKind::Elf).contains("an ELF file for AArch64"));
    let there = plan(&crate::fixtures::demo(), &crate::fixtures::board(), &images(1)).unwrap_err();
    assert!(there[0].message.contains("an x86 bzImage"), "{there:?}");
}

#[test]
fn passthrough_of_interrupts_needs_local_apics_that_can_be_given() {
    let mut system = demo();
    let mut board = board();
    board.limits.direct_interrupts = axvm_platform::limits::Serves::No;
    system.vms[0].interrupts = InterruptChoice::Passthrough;
    assert_eq!(refusals(&system, &board), [(Rule::InterruptMode, of_vm("interrupts"))]);
    system.vms[0].interrupts = InterruptChoice::Auto;
    let plan = planned(&system, &board);
    assert_eq!(plan.vms[0].mode, crate::config::VMInterruptMode::Emulated);
    assert!(
        plan.notes.iter().any(|note| note.contains("interrupts are emulated: the processors")),
        "{:?}",
        plan.notes
    );
    system.vms[0].interrupts = InterruptChoice::Emulated;
    let plan = planned(&system, &board);
    assert!(plan.notes.iter().all(|note| !note.contains("passthrough")), "{:?}", plan.notes);
}

#[test]
fn what_only_device_trees_have_is_refused() {
    let mut system = demo();
    system.vms[0].dtb = Some("own.dtb".into());
    system.vms[0].device_tree = Some(Gpa(0x4000_0000));
    let mut found = refusals(&system, &board());
    found.sort();
    assert_eq!(found, [(Rule::Description, of_vm("device_tree")), (Rule::Description, of_vm("dtb")),]);
}

#[test]
fn ram_begins_at_0() {
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(0x4000_0000));
    assert_eq!(refusals(&system, &board()), [(Rule::MemoryPlace, of_vm("memory_base"))]);
}

#[test]
fn more_ram_than_the_guests_machine_has_room_for_is_refused() {
    let mut platform = board();
    platform.memory.push(Span::new(Hpa(1 << 32), 1 << 40).unwrap());
    let mut system = demo();
    system.vms[0].memory = (384 << 30) - (1 << 30);
    assert!(planned(&system, &platform).vms[0].ram.len() > 1);
    system.vms[0].memory += 2 << 20;
    assert_eq!(refusals(&system, &platform), [(Rule::MemoryPlace, of_vm("memory"))]);
}

#[test]
fn a_kernel_that_doesn_t_fit_is_refused() {
    let mut system = demo();
    system.vms[0].memory = 32 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("memory"))]);
    system.vms[0].memory = 64 << 20;
    assert_eq!(refusals(&system, &board()), [(Rule::ImageFit, of_vm("initrd"))]);
    // Over what its first vCPU is handed, and over its tables.
    let mut images = images_of(ImageKind::Raw, 1);
    for at in [0x1000, 0x1_f000, 0x9_f000, 0xf_f000] {
        if let Ok(kernel) = &mut images.vms[0].kernel {
            (kernel.load, kernel.memory_size) = (Some(Gpa(at)), 0x1000);
        }
        let problems = plan(&demo(), &board(), &images).unwrap_err();
        assert_eq!((problems.len(), problems[0].rule), (1, Rule::ImageFit), "{at:#x}: {problems:?}");
    }
    if let Ok(kernel) = &mut images.vms[0].kernel {
        (kernel.load, kernel.memory_size) = (Some(Gpa(0x2_0000)), 0x1000);
    }
    assert!(plan(&demo(), &board(), &images).is_ok(), "between the two there is room");
}

#[test]
fn a_command_line_that_is_longer_than_the_kernel_takes_is_refused() {
    let mut images = images(1);
    if let Some(setup) = images.vms[0].kernel.as_mut().ok().and_then(|kernel| kernel.setup.as_mut()) {
        setup.command_line = 255;
    }
    let mut system = demo();
    system.vms[0].cmdline = "x".repeat(255);
    assert!(plan(&system, &board(), &images).is_ok());
    system.vms[0].cmdline.push('x');
    let problems = plan(&system, &board(), &images).unwrap_err();
    assert_eq!((problems.len(), problems[0].rule), (1, Rule::CommandLine));
}

#[test]
fn an_initial_ram_disk_lies_no_higher_than_the_kernel_takes_it() {
    let mut images = images(1);
    if let Some(setup) = images.vms[0].kernel.as_mut().ok().and_then(|kernel| kernel.setup.as_mut()) {
        setup.initrd_last = 0x0fff_ffff;
    }
    let plan = plan(&demo(), &board(), &images).unwrap();
    assert_eq!(plan.vms[0].load.initrd.unwrap().to_pages().end(), Gpa(0x1000_0000));
}

#[test]
fn the_hypervisors_ports_are_given_to_nobody() {
    for (first, count, whose) in [
        (0x20, 1, "the 8259"),
        (0x43, 1, "the 8254"),
        (0x64, 1, "the keyboard controller"),
        (0x80, 1, "the port of POST codes"),
        (0x92, 1, "the reset and A20 port"),
        (0xb2, 1, "by which firmware is called"),
        (0xe9, 1, "an emulator's debug port"),
        (0xf7, 1, "an emulator's exit"),
        (0x402, 1, "the firmware's debug port"),
        (0x3f8, 8, "the hypervisor's console (com1)"),
        (0x3ff, 2, "the hypervisor's console (com1)"),
        (0xcf8, 8, "PCI's config space"),
        (0xcf9, 1, "PCI's config space"),
        (0x604, 2, "ACPI's registers"),
        (0x60a, 1, "ACPI's registers"),
        (0xc01f, 1, "a BAR of 0000:00:03.0"),
        (0, 0xffff, "PCI's config space"),
    ] {
        let system = given(vec![range("odd", first, count, None)]);
        let problems = plan(&system, &board(), &images(1)).unwrap_err();
        let found = (problems[0].rule, &problems[0].item);
        assert_eq!(found, (Rule::RegisterPlace, &of_device(0, "ports")), "{first:#x}: {problems:?}");
        assert!(problems[0].message.contains(whose), "{first:#x}: {problems:?}");
    }
    assert!(plan(&given(vec![range("odd", 0xc020, 1, None)]), &board(), &images(1)).is_ok());
    for path in ["hpet", "ivhd0", "\\_SB.PCI0", "apic0"] {
        assert_eq!(refusals(&given(vec![node(path)]), &board())[0].0, Rule::DeviceReserved, "{path}");
    }
}

#[test]
fn ports_that_are_emulated_are_not_given() {
    // A board that has something there which nothing keeps.
    let mut platform = board();
    platform.firmware = Some(Firmware::Acpi(AcpiFirmware::default()));
    for (first, whose) in
        [(0x600, "ACPI's event registers"), (0x605, "ACPI's control register"), (0x60b, "ACPI's timer")]
    {
        let system = given(vec![range("odd", first, 1, None)]);
        assert_eq!(refusals(&system, &platform), [(Rule::RegisterOverlap, of_device(0, ""))]);
        assert!(lines(&system, &platform)[0].contains(whose));
    }
    // Where the VM has a function with a BAR of ports, the window is PCI's.
    let alone = given(vec![range("odd", 0x1000, 8, None)]);
    assert!(plan(&alone, &platform, &images(1)).is_ok());
    let beside = given(vec![pci(3, 0), range("odd", 0x1000, 8, None)]);
    assert_eq!(refusals(&beside, &platform), [(Rule::RegisterOverlap, of_device(1, ""))]);
    assert!(lines(&beside, &platform)[0].contains("I/O BARs"));
    let disk = given(vec![pci(2, 0), range("odd", 0x1000, 8, None)]);
    assert!(plan(&disk, &platform, &images(1)).is_ok(), "the disk has none");
}

#[test]
fn ports_are_given_once() {
    let twice = |first: Device, second: Device| {
        let mut platform = board();
        platform = crate::fixtures::for_the_whole_run(platform);
        let mut system = given(vec![first]);
        let mut other = system.vms[0].clone();
        (other.name, other.cpus, other.devices) = ("other".into(), vec![CpuId(3)], vec![second]);
        system.vms.push(other);
        let problems = plan(&system, &platform, &images(2)).unwrap_err();
        assert_eq!(
            (problems[0].rule, &problems[0].item),
            (Rule::DeviceTwice, &Item::Device(1, 0, String::new()))
        );
        problems[0].message.clone()
    };
    let said = twice(range("odd", 0x300, 8, None), range("mine", 0x307, 8, None));
    assert!(said.contains("\"linux\"") && said.contains("odd") && said.contains("mine"), "{said}");
    // Across a device that the platform knows: it is that device.
    twice(node("com2"), range("half", 0x2fc, 8, None));
    twice(range("half", 0x2f0, 9, None), node("com2"));
    let same = given(vec![range("odd", 0x300, 8, None), range("too", 0x300, 1, None)]);
    assert_eq!(refusals(&same, &board()), [(Rule::DeviceTwice, of_device(1, ""))]);
}

#[test]
fn ports_have_names_that_no_other_device_has() {
    let named = given(vec![
        range("a", 0x300, 8, None),
        range("a", 0x310, 8, None),
        range("com2", 0x320, 8, None),
        node("com2"),
    ]);
    let found = refusals(&named, &board());
    assert_eq!(found, [(Rule::DeviceTwice, of_device(1, "name")), (Rule::DeviceTwice, of_device(2, "name"))]);
    assert_eq!(
        refusals(&given(vec![range("", 0x300, 8, None)]), &board()),
        [(Rule::File, of_device(0, "name"))]
    );
    assert_eq!(
        refusals(&given(vec![range("none", 0x300, 0, None)]), &board()),
        [(Rule::Alignment, of_device(0, "ports"))]
    );
}

#[test]
fn a_line_that_no_guest_has_or_that_is_the_hypervisors_is_not_routed() {
    for irq in [0, 24, 200] {
        let found = refusals(&given(vec![range("odd", 0x300, 8, Some(irq))]), &board());
        assert_eq!(found, [(Rule::Interrupt, of_device(0, "irq"))], "{irq}");
    }
    for irq in [4, 9] {
        let found = refusals(&given(vec![range("odd", 0x300, 8, Some(irq))]), &board());
        assert_eq!(found, [(Rule::InterruptShared, of_device(0, "irq"))], "{irq}");
    }
    let mut platform = board();
    let Some(Irqchip::Apic(apic)) = &mut platform.irqchip else { panic!() };
    apic.nmis.push(Irq(7));
    let found = refusals(&given(vec![range("odd", 0x300, 8, Some(7))]), &platform);
    assert_eq!(found, [(Rule::InterruptShared, of_device(0, "irq"))]);
}

#[test]
fn registers_of_the_machine_are_given_to_nobody() {
    for (at, whose) in [
        (0xfec0_0000, "the I/O APIC 0"),
        (0xfee0_1000, "the local APICs"),
        (0xfeef_f000, "the local APICs"),
        (0xfed0_0000, "the HPET"),
        (0xfed8_0000, "the AMD-Vi IOMMU"),
        (0xb000_0000, "the PCI config space"),
    ] {
        let system = given(vec![region("odd", 0xf100_0000, at, 0x1000)]);
        assert_eq!(refusals(&system, &board()), [(Rule::RegisterPlace, of_device(0, "base_hpa"))], "{at:#x}");
        assert!(lines(&system, &board())[0].contains(whose), "{:?}", lines(&system, &board()));
    }
    // Beside what the board has, but over what the guest has.
    for at in [0xfec0_0000, 0xfee1_0000, 0x100_0000, 0xe000_0000] {
        let system = given(vec![region("odd", at, 0xfe00_0000, 0x1000)]);
        let mut platform = board();
        platform.pci_hosts[0].windows.truncate(1);
        let found = refusals(&system, &platform);
        assert_eq!(found, [(Rule::RegisterOverlap, of_device(0, "base_gpa"))], "{at:#x}");
    }
}

#[test]
fn a_device_whose_messages_nothing_bounds_is_not_given() {
    let system = given(vec![pci(2, 0)]);
    assert_eq!(refusals(&system, &without_remapping()), [(Rule::Dma, of_device(0, ""))]);
    let said = lines(&system, &without_remapping()).join("\n");
    assert!(said.contains("intremap=on"), "{said}");
    let mut platform = without_remapping();
    platform.iommus[0].kind = IommuKind::VtD { remaps_interrupts: true, address_bits: 39 };
    assert!(plan(&system, &platform, &images(1)).is_ok());
    // One of AMD's that firmware doesn't want to remap them.
    let mut platform = board();
    assert!(plan(&system, &platform, &images(1)).is_ok());
    if let IommuKind::AmdVi { remaps_interrupts, .. } = &mut platform.iommus[0].kind {
        *remaps_interrupts = false;
    }
    assert_eq!(refusals(&system, &platform), [(Rule::Dma, of_device(0, ""))]);
    // A device of the platform's that masters the bus there.
    let mut platform = without_remapping();
    platform.devices[1].sources = vec![DmaSource::new(0, 0xfa)];
    let found = refusals(&given(vec![node("com2")]), &platform);
    assert!(found.contains(&(Rule::Dma, of_device(0, ""))), "{found:?}");
}

#[test]
fn an_iommu_is_given_to_nobody() {
    let mut function = endpoint(1, 0);
    function.class = 0x08_0600;
    let platform = with(vec![function, endpoint(2, 0)]);
    assert_eq!(refusals(&given(vec![pci(1, 0)]), &platform), [(Rule::DeviceReserved, of_device(0, "pci"))]);
    assert!(plan(&given(vec![pci(2, 0)]), &platform, &images(1)).is_ok());
}

#[test]
fn what_isn_t_understood_of_a_board_is_said() {
    let mut platform = board();
    platform.unclear.push("its _CRS can't be read".into());
    let plan = planned(&demo(), &platform);
    assert!(plan.notes.iter().any(|note| note == "the board: its _CRS can't be read"), "{:?}", plan.notes);
}

#[test]
fn a_device_outside_every_iommu_is_not_given() {
    let mut platform = board();
    platform.functions.as_mut().unwrap()[1].sources.clear();
    let system = given(vec![pci(2, 0)]);
    assert_eq!(refusals(&system, &platform), [(Rule::Dma, of_device(0, "pci"))]);
    assert!(lines(&system, &platform)[0].contains("-device amd-iommu,intremap=on,dma-remap=on"));
}

#[test]
fn a_device_that_firmware_has_reach_memory_is_not_given() {
    let mut platform = board();
    platform.functions.as_mut().unwrap()[1].firmware_memory =
        vec![Span::new(Hpa(0x7f00_0000), 0x1000).unwrap()];
    let system = given(vec![pci(2, 0)]);
    assert_eq!(refusals(&system, &platform), [(Rule::Dma, of_device(0, "pci"))]);
    assert!(lines(&system, &platform)[0].contains("0x7f000000"), "{:?}", lines(&system, &platform));
}

#[test]
fn bars_of_ports_need_room_in_the_window() {
    let mut card = endpoint(3, 0);
    card.bars =
        (0..6).map(|index| Bar { index, kind: BarKind::Io, size: 0x8000, address: Some(0) }).collect();
    let system = given(vec![pci(3, 0)]);
    assert_eq!(refusals(&system, &with(vec![card])), [(Rule::NoRoom, of_device(0, "pci"))]);
}

#[test]
fn an_id_that_acpi_has_not_is_a_problem_of_the_description() {
    let mut platform = board();
    platform.devices[1].compatible = vec!["ns16550a".into()];
    let system = given(vec![node("com2")]);
    assert_eq!(refusals(&system, &platform), [(Rule::Description, of_vm(""))]);
    assert!(lines(&system, &platform)[0].contains("\"ns16550a\""));
}
