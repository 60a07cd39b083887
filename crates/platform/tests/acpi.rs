//! ACPI's tables of QEMU's q35, read; and tables of machines that there are none of.

use axvm_addr::{
    DmaSource, Hpa, Interrupt, Irq, MsiSource, PciAddress, PciBuses, PciSpace, PciWindow, Ports, Span,
    Trigger,
};
use axvm_pci::spec::express::PortType;
use axvm_pci::{Function, Membership, lspci};
use axvm_platform::acpi::dump::Dump;
use axvm_platform::acpi::outline::Outline;
use axvm_platform::acpi::{self, AcpiError, MemoryKind, MemoryMap, MemoryRange};
use axvm_platform::fake::{self, Pc};
use axvm_platform::memory::merge;
use axvm_platform::model::*;
use axvm_platform::snapshot;
use axvm_platform::uart::UartPlace;
use proptest::prelude::*;

fn span(start: u64, end: u64) -> Span<Hpa> {
    Span::new(Hpa(start), end - start).unwrap()
}

fn level(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Level }
}

fn edge(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Edge }
}

fn device<'a>(platform: &'a Platform, path: &str) -> &'a PlatformDevice {
    platform.devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!("{path}"))
}

fn both() -> [Platform; 2] {
    [fake::q35_amd(), fake::q35_intel()].map(|pc| pc.platform().unwrap())
}

#[test]
fn a_pc_is_what_linux_finds_there() {
    for platform in both() {
        assert_eq!((platform.model.as_str(), &platform.unclear[..]), ("BOCHS BXPC", &[][..]));
        assert_eq!(platform.cpus.iter().map(|cpu| cpu.hardware_id).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(platform.cpus.iter().all(|cpu| cpu.usable));
        // "System RAM" in /proc/iomem, its lowest page aside.
        let ram = [span(0, 0x9_fc00), span(0x10_0000, 0x7ffd_f000), span(0x1_0000_0000, 0x1_8000_0000)];
        assert_eq!(platform.memory, ram);
        let free = [span(0x1000, 0x9_f000), span(0x10_0000, 0x7ffd_f000), span(0x1_0000_0000, 0x1_8000_0000)];
        assert_eq!(platform.free_memory(), free);
        for kept in
            [0xa_0000, 0xb_ffff, 0xc_0000, 0xf_5230, 0x7ffe_0040, 0xb000_0000, 0xfed0_0000, 0xfee0_0000]
        {
            assert!(platform.kept.iter().any(|it| it.span.contains(Hpa(kept))), "{kept:#x}");
        }

        let apic = platform.apic().unwrap();
        assert!(apic.legacy_8259 && platform.gic().is_none());
        assert_eq!(apic.local.start(), Hpa(0xfee0_0000));
        assert_eq!((apic.io_apics[0].registers.start(), apic.io_apics[0].gsi_base), (Hpa(0xfec0_0000), 0));
        assert_eq!(apic.pin(Irq(21)).map(|(io_apic, pin)| (io_apic.id, pin)), Some((0, 21)));
        // The timer's ISA interrupt is at pin 2; PCI's links are active high here, and what isn't known is low.
        assert_eq!(apic.isa(0).line, edge(2));
        assert_eq!((apic.isa(4).line, apic.isa(4).polarity), (edge(4), Polarity::High));
        assert_eq!(apic.line(Irq(20), Trigger::Level).polarity, Polarity::High);
        assert_eq!(apic.line(Irq(33), Trigger::Level).polarity, Polarity::Low);

        let acpi = platform.acpi().unwrap();
        let port = |port, bits| Register { place: Place::Port(port), bits };
        let a = SleepRegister { register: port(0x604, 16), sleep_type: 0 };
        assert_eq!(acpi.power_off, Some(PowerOff::Pm1 { a, b: None }));
        assert_eq!(acpi.reset, Some(AcpiReset { register: port(0xcf9, 8), value: 0x0f }));
        assert_eq!((acpi.timer, acpi.event), (Some(port(0x608, 24)), Some(level(9))));
        assert_eq!(platform.psci(), None);
    }
}

#[test]
fn pci_has_the_windows_and_lines_of_the_dsdt() {
    for platform in both() {
        let [host] = &platform.pci_hosts[..] else { panic!() };
        assert_eq!((host.path.as_str(), host.segment, host.buses), ("\\_SB.PCI0", 0, PciBuses::new(0, 255)));
        assert_eq!(host.ecam, span(0xb000_0000, 0xc000_0000));
        let window =
            |space, start, end| PciWindow { space, prefetchable: false, pci: start, cpu: span(start, end) };
        assert_eq!(
            host.windows,
            [
                window(PciSpace::Memory32, 0x8000_0000, 0xb000_0000),
                window(PciSpace::Memory32, 0xc000_0000, 0xfec0_0000),
                window(PciSpace::Memory64, 0xc0_0000_0000, 0xc8_0000_0000),
            ]
        );
        assert_eq!(host.ports, [Ports::new(0, 0xcf7).unwrap(), Ports::new(0xd00, 0xffff).unwrap()]);
        let line = |device, pin| {
            let found = host.lines.iter().find(|route| (route.device, route.pin) == (device, pin));
            found.map(|route| route.line)
        };
        // As Linux says when the drivers of that machine ask for lines: e1000e at 00:04.0, AHCI at 00:1f.2.
        assert_eq!(
            (line(0, 1), line(4, 1), line(31, 1)),
            (Some(level(20)), Some(level(20)), Some(level(16)))
        );
        assert_eq!(host.lines.len(), 32 * 4);
    }
}

#[test]
fn devices_have_a_pc_s_names_and_isa_s_lines() {
    for platform in both() {
        assert_eq!(platform.console.as_deref(), Some("com1"));
        let com1 = device(&platform, "com1");
        let ports = |first, count| Ports::of(first, count).unwrap();
        assert_eq!((&com1.ports[..], &com1.interrupts[..]), (&[ports(0x3f8, 8)][..], &[edge(4)][..]));
        assert_eq!(com1.compatible, ["PNP0501"]);
        assert!(com1.uart().is_some() && com1.enabled && com1.bus_master == Some(false));
        assert_eq!(com1.uart_place(), Some(UartPlace::Ports(ports(0x3f8, 8))));
        assert_eq!(
            (&device(&platform, "rtc").ports[..], &device(&platform, "rtc").interrupts[..]),
            (&[ports(0x70, 8)][..], &[edge(8)][..])
        );
        assert_eq!(device(&platform, "keyboard").interrupts, [edge(1)]);
        // It writes to memory for whoever asks it.
        assert_eq!(device(&platform, "\\_SB.PCI0.FWCF").bus_master, Some(true));
        for port in [
            0x20, 0x43, 0x64, 0x92, 0xa1, 0xb2, 0x4d0, 0x600, 0x605, 0x608, 0x62f, 0xcc0, 0xcd8, 0xcf8,
            0xcf9, 0xcff,
        ] {
            assert!(platform.kept_ports.iter().any(|kept| kept.ports.contains(port)), "{port:#x}");
        }
        for port in [0x2f8, 0x3f8, 0x70, 0x1000] {
            assert!(!platform.kept_ports.iter().any(|kept| kept.ports.contains(port)), "{port:#x}");
        }
        let bytes = snapshot::save(&platform).unwrap();
        assert_eq!(snapshot::load(&bytes), Ok(platform));
    }
}

fn function(bus: u8, slot: u8, number: u8, parent: Option<PciAddress>) -> Function {
    Function {
        address: PciAddress::new(0, bus, slot, number).unwrap(),
        parent,
        interrupt_pin: 1,
        ..fake_function()
    }
}

/// What is behind the addresses that the IVRS and the DMAR name: an NVMe, an e1000e, and an igb behind a root port.
fn functions(port: u8) -> Vec<Function> {
    let above = PciAddress::new(0, 0, port, 0);
    let mut bridge = function(0, port, 0, None);
    (bridge.bridge, bridge.port) = (true, Some(PortType::RootPort));
    vec![function(0, 3, 0, None), bridge, function(1, 0, 0, above), function(0, 9, 0, None)]
}

#[test]
fn amd_s_iommu_serves_what_the_ivrs_names_and_nothing_else() {
    let mut platform = fake::q35_amd().platform().unwrap();
    let [iommu] = &platform.iommus[..] else { panic!() };
    assert_eq!(
        (iommu.path.as_str(), iommu.registers.start(), iommu.name()),
        ("ivhd0", Hpa(0xfed8_0000), "AMD-Vi IOMMU")
    );
    let function = PciAddress::new(0, 0, 2, 0).unwrap();
    let kind = IommuKind::AmdVi {
        function,
        capability: 0x40,
        control: 1,
        features: Some(0x29d3),
        remaps_interrupts: true,
    };
    assert_eq!((iommu.kind, iommu.lines().count()), (kind, 0));
    assert_eq!(platform.apic().unwrap().io_apics[0].source, Some(DmaSource::new(0, 0xa0)));
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    let seen: Vec<_> =
        platform.functions.iter().flatten().map(|it| (it.sources.clone(), it.msi, it.line)).collect();
    let served = |id, line| (vec![DmaSource::new(0, id)], Some(MsiSource::new(0, id)), Some(level(line)));
    assert_eq!(
        seen,
        [served(0x18, 23), served(0x28, 21), served(0x100, 21), (vec![], None, Some(level(21)))],
        "00:09.0 isn't in the table"
    );
}

/// So is the table of a machine whose firmware doesn't want interrupts remapped.
#[test]
fn where_amd_s_table_does_not_name_an_io_apic_no_messages_are_remapped() {
    let mut pc = fake::q35_amd();
    let (_, ivrs) = pc.contents.iter_mut().find(|(_, bytes)| bytes.starts_with(b"IVRS")).unwrap();
    // A "special device" entry that is I/O APIC 0's (48882, 5.2.2.1): now it is another one's.
    let entries: Vec<usize> = ivrs
        .windows(8)
        .enumerate()
        .filter(|(_, it)| matches!(it, [0x48, 0, 0, 0, 0, 0xa0, 0, 1]))
        .map(|(at, _)| at)
        .collect();
    assert!(!entries.is_empty());
    for at in entries {
        ivrs[at + 4] = 7;
        ivrs[9] = ivrs[9].wrapping_sub(7);
    }
    let mut platform = pc.platform().unwrap();
    assert!(!platform.iommus[0].remaps_messages());
    assert!(
        platform.unclear.iter().any(|it| it.contains("doesn't name I/O APIC 0")),
        "{:?}",
        platform.unclear
    );
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    assert!(platform.functions.iter().flatten().all(|it| it.msi.is_none()));
}

#[test]
fn intel_s_iommu_serves_what_the_dmar_s_paths_lead_to() {
    let mut platform = fake::q35_intel().platform().unwrap();
    let kind = IommuKind::VtD { remaps_interrupts: true, address_bits: 48 };
    assert_eq!((platform.iommus[0].kind, platform.iommus[0].registers.start()), (kind, Hpa(0xfed9_0000)));
    assert_eq!(platform.apic().unwrap().io_apics[0].source, Some(DmaSource::new(0, 0xff00)));
    // 00:04.0 is a root port there, with all that is behind it.
    platform.add_functions(functions(4), &[0, 1, 2, 3].map(Membership::from));
    let seen: Vec<_> = platform.functions.iter().flatten().map(|it| (it.sources.clone(), it.msi)).collect();
    let served = |id| (vec![DmaSource::new(0, id)], Some(MsiSource::new(0, id)));
    assert_eq!(seen, [served(0x18), served(0x20), served(0x100), (vec![], None)]);
}

#[test]
fn without_interrupt_remapping_messages_arrive_nowhere() {
    let mut platform = fake::q35_intel().platform().unwrap();
    platform.iommus[0].kind = IommuKind::VtD { remaps_interrupts: false, address_bits: 48 };
    platform.add_functions(functions(4), &[0, 1, 2, 3].map(Membership::from));
    let functions = platform.functions.unwrap();
    assert!(functions.iter().all(|it| it.msi.is_none()));
    assert_eq!(functions[0].sources, [DmaSource::new(0, 0x18)]);
}

#[test]
fn functions_that_firmware_needs_memory_for_say_so() {
    let mut platform = fake::q35_amd().platform().unwrap();
    let region = span(0x7000_0000, 0x7001_0000);
    let step = |device| PciStep { device, function: 0 };
    let behind = PciScope::Path { segment: 0, bus: 0, steps: vec![step(5), step(0)], below: false };
    platform.firmware_dma = vec![
        FirmwareDma { span: region, functions: behind },
        FirmwareDma {
            span: span(0, 0x1000),
            functions: PciScope::Ids { segment: 1, first: 0, last: u16::MAX },
        },
    ];
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    let seen: Vec<_> = platform.functions.iter().flatten().map(|it| it.firmware_memory.clone()).collect();
    assert_eq!(seen, [vec![], vec![], vec![region], vec![]]);
}

#[test]
fn a_bridge_s_own_routes_come_before_the_turning_of_pins() {
    let mut platform = fake::q35_amd().platform().unwrap();
    let bridge = vec![PciStep { device: 5, function: 0 }];
    let lines = vec![PinRoute { device: 0, pin: 1, line: level(17) }];
    platform.pci_hosts[0].bridge_lines = vec![BridgeLines { bridge, lines }];
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    assert_eq!(platform.functions.unwrap()[2].line, Some(level(17)));
}

#[test]
fn the_outline_agrees_with_the_reading() {
    for pc in [fake::q35_amd(), fake::q35_intel()] {
        let platform = pc.platform().unwrap();
        let outline = Outline::open(&pc, pc.rsdp, MemoryMap::Ranges(&pc.map)).unwrap();
        assert_eq!((outline.cpus, outline.iommus), (4, 1));
        let console = outline.console().unwrap();
        assert_eq!(Some(console.place), device(&platform, "com1").uart_place());
        assert_eq!(Some(console.uart), device(&platform, "com1").uart());
        // As high as can be.
        assert_eq!(outline.free(0x20_0000, 0x20_0000, &[]), Ok(Some(span(0x1_7fe0_0000, 0x1_8000_0000))));
        let taken = [span(0x1_0000_0000, 0x1_8000_0000), span(0x7fc1_0000, 0x7fc2_0000)];
        assert_eq!(outline.free(0x20_0000, 0x20_0000, &taken), Ok(Some(span(0x7fa0_0000, 0x7fc0_0000))));
        assert_eq!(outline.free(1 << 40, 0x1000, &[]), Ok(None));
        assert_eq!(outline.read().unwrap(), platform);
    }
}

#[test]
fn tables_in_ram_are_nobody_s() {
    // PVH's loader, or a GRUB, may have them in memory that the map calls usable.
    let mut pc = fake::q35_amd();
    for range in &mut pc.map {
        if range.span.contains(Hpa(0x7ffe_0040)) {
            range.kind = MemoryKind::Usable;
        }
    }
    let platform = pc.platform().unwrap();
    let free = platform.free_memory();
    assert!(free.iter().any(|it| it.contains(Hpa(0x7ffd_f000))));
    for (at, bytes) in &pc.contents {
        let table = Span::new(*at, bytes.len() as u64).unwrap();
        assert!(!free.iter().any(|it| it.overlaps(&table)), "{at:#x}");
    }
    let taken = [span(0x1_0000_0000, 0x1_8000_0000)];
    let outline = Outline::open(&pc, pc.rsdp, MemoryMap::Ranges(&pc.map)).unwrap();
    let found = outline.free(0x2_0000, 0x2_0000, &taken).unwrap().unwrap();
    assert!(free.iter().any(|it| it.encloses(&found)), "{found}");
}

#[test]
fn memory_maps_are_read_as_loaders_leave_them() {
    let entry = |start: u64, size: u64, kind: u32| {
        [&start.to_le_bytes()[..], &size.to_le_bytes(), &kind.to_le_bytes(), &[0; 4]].concat()
    };
    let bytes = [
        entry(0, 0x9_fc00, 1),
        entry(0x10_0000, 0x10_0000, 1),
        entry(0x18_0000, 0x1000, 4),
        entry(0x20_0000, 0x1000, 3),
        entry(0x30_0000, 0, 1),
        entry(0xffff_ffff_ffff_0000, u64::MAX, 7),
    ]
    .concat();
    let ranges = MemoryMap::E820 { bytes: &bytes, entry: 24 }.ranges();
    let kinds: Vec<_> = ranges.iter().map(|range| range.kind).collect();
    use MemoryKind::{AcpiNvs, AcpiTables, Reserved, Usable};
    assert_eq!(kinds, [Usable, Usable, AcpiNvs, AcpiTables, Reserved], "what is empty is nothing");
    assert_eq!(ranges[4].span.end(), Hpa(u64::MAX));

    let entry = |kind: u32, start: u64, pages: u64, attributes: u64| {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&start.to_le_bytes());
        bytes[24..32].copy_from_slice(&pages.to_le_bytes());
        bytes[32..40].copy_from_slice(&attributes.to_le_bytes());
        bytes
    };
    let bytes = [
        entry(7, 0, 16, 0xf),
        entry(3, 0x1_0000, 1, 0xf),
        entry(9, 0x2_0000, 1, 0xf),
        entry(10, 0x3_0000, 1, 0xf),
        entry(11, 0x4_0000, 1, 1),
        entry(7, 0x5_0000, 1, 1),
        entry(7, 0x6_0000, 1, 0x4_000f),
        entry(5, 0x7_0000, 1, 1 << 63 | 0xf),
    ]
    .concat();
    let ranges = MemoryMap::Efi { bytes: &bytes, entry: 48 }.ranges();
    let kinds: Vec<_> = ranges.iter().map(|range| range.kind).collect();
    assert_eq!(kinds, [Usable, Usable, AcpiTables, AcpiNvs, Reserved, Reserved, Reserved, Reserved]);
    assert_eq!(ranges[0].span, span(0, 0x1_0000));
}

#[test]
fn memory_that_one_entry_calls_reserved_is_none_whatever_another_says() {
    let mut pc = fake::q35_amd();
    pc.map.push(MemoryRange { span: span(0x1000_0000, 0x1010_0001), kind: MemoryKind::Bad });
    let platform = pc.platform().unwrap();
    assert!(!platform.memory.iter().any(|memory| memory.overlaps(&span(0x1000_0000, 0x1010_0001))));
    // The page of the last bad byte isn't free either.
    assert!(!platform.free_memory().iter().any(|free| free.overlaps(&span(0x1010_0000, 0x1010_1000))));
}

#[test]
fn what_the_machine_rests_on_must_be_whole() {
    // The position of each table among those of the machine, and where its bytes begin to count.
    for (name, position) in [("FACP", 1), ("APIC", 2), ("MCFG", 4), ("IVRS", 5)] {
        let mut pc = fake::q35_amd();
        pc.contents[position].1[40] ^= 1;
        let error = pc.platform().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    // Without a DSDT there would be no windows.
    let mut pc = fake::q35_amd();
    pc.contents[0].1[40] ^= 1;
    assert!(pc.platform().is_err());
    // What nothing rests on is told.
    let mut pc = fake::q35_amd();
    pc.contents[3].1[40] ^= 1;
    let unclear = pc.platform().unwrap().unclear;
    assert!(unclear.len() == 1 && unclear[0].contains("HPET"), "{unclear:?}");
}

fn tables(names: &[&str]) -> acpi::Tables {
    let pc = fake::q35_amd();
    let all = pc.contents.iter().filter_map(|(_, bytes)| acpi::Table::new(bytes.clone()).ok());
    acpi::Tables::of(all.filter(|table| names.contains(&table.signature().to_string().as_str())).collect())
}

#[test]
fn a_dump_is_read_as_the_machine_is() {
    let pc = fake::q35_amd();
    let read = acpi::read_dump(
        &tables(&["DSDT", "FACP", "APIC", "HPET", "MCFG", "IVRS"]),
        &pc.map,
        &acpi::no_config,
    )
    .unwrap();
    assert_eq!(read, pc.platform().unwrap());
    assert_eq!(
        acpi::read_dump(&tables(&["DSDT", "FACP"]), &[], &acpi::no_config).unwrap_err(),
        AcpiError::Missing("APIC", "which CPUs and interrupt controllers there are")
    );
    // What is missing is said, and costs what rests on it.
    let platform = acpi::read_dump(&tables(&["FACP", "APIC", "MCFG"]), &pc.map, &acpi::no_config).unwrap();
    assert!(platform.pci_hosts.is_empty() && platform.devices.is_empty() && platform.console.is_none());
    assert!(platform.kept.iter().any(|kept| kept.span == span(0xb000_0000, 0xc000_0000)));
    assert!(platform.acpi().unwrap().power_off.is_none());
    assert!(platform.unclear.iter().any(|it| it.contains("DSDT")), "{:?}", platform.unclear);
}

#[test]
fn what_lspci_has_printed_beside_the_tables_are_the_machines_functions() {
    let mut dump = Dump::default();
    for (_, bytes) in &fake::q35_amd().contents {
        dump.add(bytes);
    }
    assert!(dump.add(lspci::Q35.as_bytes()));
    let platform = dump.platform().unwrap();
    let functions = platform.functions.as_ref().unwrap();
    let of = |bus, device, function| {
        let address = PciAddress::new(0, bus, device, function).unwrap();
        functions.iter().find(|it| it.function.address == address).unwrap()
    };
    let (nvme, igb) = (of(0, 3, 0), of(1, 0, 0));
    assert_eq!(nvme.sources, [DmaSource::new(0, 0x18)]);
    assert_eq!((nvme.function.bars[0].size, nvme.function.msix.unwrap().vectors), (16 << 10, 65));
    assert!(nvme.function.bars[0].address.is_some());
    assert_eq!(
        (igb.sources.as_slice(), &igb.bridges[..]),
        (&[DmaSource::new(0, 0x100)][..], &[of(0, 5, 0).function.address][..])
    );
    assert_eq!(igb.line, Some(level(21)));
    assert!(functions.iter().all(|it| it.group != nvme.group || std::ptr::eq(it, nvme)));
    assert_eq!(of(0, 0x1f, 0).group, of(0, 0x1f, 3).group);
    assert!(
        !platform.unclear.iter().any(|it| it.contains("lspci") || it.contains("recorded")),
        "{:?}",
        platform.unclear
    );
}

#[test]
fn a_window_that_a_register_of_config_space_decides_is_known_where_that_is() {
    let mut pc = fake::q35_amd();
    pc.contents[0].1 = include_bytes!("acpi/windows.dat").to_vec();
    let dump = |lspci: &str| {
        let mut dump = Dump::default();
        pc.contents.iter().for_each(|(_, bytes)| {
            dump.add(bytes);
        });
        dump.add(lspci.as_bytes());
        dump.platform().unwrap()
    };
    let windows = |platform: &Platform| {
        platform.pci_hosts.iter().flat_map(|host| &host.windows).map(|window| window.cpu).collect::<Vec<_>>()
    };
    let without = dump("");
    assert_eq!(windows(&without), []);
    assert!(
        without.unclear.iter().any(|it| it.contains("_CRS depends on hardware")),
        "{:?}",
        without.unclear
    );
    // PCIEXBAR says that config space is at 0xb0000000.
    assert_eq!(windows(&dump(lspci::Q35)), [span(0xc000_0000, 0xfeb0_0000)]);
    // The same by the config space of the machine that it runs on.
    let asked = std::cell::RefCell::new(Vec::new());
    let ask = |function: PciAddress, offset: u16, bytes: u8| {
        asked.borrow_mut().push((function.to_string(), offset, bytes));
        Some(0x9000_0001)
    };
    let all = pc.contents.iter().filter_map(|(_, bytes)| acpi::Table::new(bytes.clone()).ok());
    let platform = acpi::read_dump(&acpi::Tables::of(all.collect()), &pc.map, &ask).unwrap();
    assert_eq!(windows(&platform), [span(0xa000_0000, 0xfeb0_0000)]);
    assert_eq!(asked.into_inner(), [("0000:00:00.0".to_string(), 0x60, 4)]);
}

#[test]
fn a_register_of_config_space_may_be_asked_for_by_its_address() {
    // The same, by a region of memory at 0xb0000060.
    let mut pc = fake::q35_amd();
    pc.contents[0].1 = include_bytes!("acpi/windows-by-address.dat").to_vec();
    let mut dump = Dump::default();
    pc.contents.iter().for_each(|(_, bytes)| {
        dump.add(bytes);
    });
    dump.add(lspci::Q35.as_bytes());
    let platform = dump.platform().unwrap();
    let windows: Vec<_> = platform.pci_hosts[0].windows.iter().map(|window| window.cpu).collect();
    assert_eq!(windows, [span(0xc000_0000, 0xfeb0_0000)]);
}

/// Firmware that keeps what it has found out in its ROM's place below 1 MiB: that is memory on every PC, whatever the map says of it.
#[test]
fn firmware_s_rom_may_be_asked() {
    let mut dsdt = include_bytes!("acpi/windows-by-address.dat").to_vec();
    let at = dsdt.windows(4).position(|bytes| bytes == 0xb000_0000u32.to_le_bytes()).unwrap();
    dsdt[at..at + 4].copy_from_slice(&0xe_1000u32.to_le_bytes());
    dsdt[9] = 0;
    dsdt[9] = 0u8.wrapping_sub(dsdt.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    let mut pc = fake::q35_amd();
    pc.contents[0].1 = dsdt;
    pc.contents.push((Hpa(0xe_1060), 0xb000_0000u32.to_le_bytes().to_vec()));
    let platform = pc.platform().unwrap();
    let windows: Vec<_> = platform.pci_hosts[0].windows.iter().map(|window| window.cpu).collect();
    assert_eq!(windows, [span(0xc000_0000, 0xfeb0_0000)]);
}

#[test]
fn a_timer_that_only_the_dsdt_has_is_kept_whether_or_not_it_says_that_it_is_there() {
    // Its `_STA` reads its registers.
    let platform =
        acpi::read_dump(&tables(&["DSDT", "FACP", "APIC", "MCFG"]), &fake::q35_amd().map, &acpi::no_config)
            .unwrap();
    assert!(
        platform.kept.iter().any(|kept| kept.owner.contains("HPET") && kept.span.contains(Hpa(0xfed0_0000)))
    );
}

/// A table that adds to what isn't there is one line, however often it does.
#[test]
fn what_of_the_namespace_cannot_be_read_is_said_once() {
    let pc = fake::q35_amd();
    let mut all: Vec<_> =
        pc.contents.iter().filter_map(|(_, bytes)| acpi::Table::new(bytes.clone()).ok()).collect();
    // Scope (\NOPE) {}, three times.
    let ssdt = table(b"SSDT", 2, &b"\x10\x06\\NOPE".repeat(3));
    all.push(acpi::Table::new(ssdt).unwrap());
    let platform = acpi::read_dump(&acpi::Tables::of(all), &pc.map, &acpi::no_config).unwrap();
    let said: Vec<_> = platform.unclear.iter().filter(|it| it.contains("namespace can't be read")).collect();
    let [one] = &said[..] else { panic!("{said:?}") };
    assert_eq!(*one, "at least 3 parts of \\ in ACPI's namespace can't be read: a name stands for nothing");
}

/// A table with this body, whole.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend((36 + body.len() as u32).to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.resize(36, 0);
    bytes.extend(body);
    bytes[9] = 0u8.wrapping_sub(bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    bytes
}

/// The q35 with another table in the place of one.
fn q35_with(position: usize, table: Vec<u8>) -> Pc {
    let mut pc = fake::q35_amd();
    // Behind all others, so that it may be larger.
    let at = Hpa(0x7fff_0000);
    let old = pc.contents[position].0;
    pc.contents[position] = (at, table);
    let rsdt = pc.contents.iter_mut().find(|(_, bytes)| bytes.starts_with(b"RSDT")).unwrap();
    for entry in rsdt.1[36..].chunks_exact_mut(4) {
        if entry == (old.0 as u32).to_le_bytes() {
            entry.copy_from_slice(&(at.0 as u32).to_le_bytes());
        }
    }
    rsdt.1[9] = 0;
    rsdt.1[9] = 0u8.wrapping_sub(rsdt.1.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
    pc
}

/// An IVRS with one IOMMU for segment 0, with these entries, and with these blocks of memory.
fn ivrs(entries: &[u8], memory: &[u8]) -> Pc {
    let mut body = vec![0; 12];
    body.extend([0x10, 0]);
    body.extend((24 + entries.len() as u16).to_le_bytes());
    body.extend([0x10, 0, 0x40, 0]);
    body.extend(0xfed8_0000u64.to_le_bytes());
    body.extend([0; 8]);
    body.extend(entries);
    body.extend(memory);
    q35_with(5, table(b"IVRS", 2, &body))
}

fn sources(pc: &Pc) -> Vec<Vec<u32>> {
    let mut platform = pc.platform().unwrap();
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    let functions = platform.functions.unwrap();
    functions.iter().map(|it| it.sources.iter().map(|source| source.id.0).collect()).collect()
}

#[test]
fn the_last_entry_that_names_a_device_counts() {
    // All; then 00:03.0 comes as 00:14.0.
    let entries = [1, 0, 0, 0, 0x42, 0x18, 0, 0, 0, 0xa0, 0, 0];
    assert_eq!(sources(&ivrs(&entries, &[])), [vec![0xa0], vec![0x28], vec![0x100], vec![0x48]]);
    // The other way round.
    let entries = [0x42, 0x18, 0, 0, 0, 0xa0, 0, 0, 1, 0, 0, 0];
    assert_eq!(sources(&ivrs(&entries, &[]))[0], [0x18]);
    // Bus 1 comes as 01:00.0, each of its functions.
    let entries = [0x43, 0, 1, 0, 0, 0, 1, 0, 4, 0xff, 1, 0];
    assert_eq!(sources(&ivrs(&entries, &[])), [vec![], vec![], vec![0x100], vec![]]);
}

#[test]
fn an_entry_that_is_not_known_makes_none_assignable() {
    let entries = [1, 0, 0, 0, 0x3f, 0, 0, 0];
    let pc = ivrs(&entries, &[]);
    assert_eq!(sources(&pc), [const { Vec::<u32>::new() }; 4]);
    assert!(pc.platform().unwrap().unclear[0].contains("ivhd0"));
}

#[test]
fn firmware_s_memory_is_reserved_and_its_devices_are_named() {
    // IVMD of 00:03.0: 0x10000000, one page, unity, readable and writable.
    let mut memory = vec![0x21, 7, 32, 0, 0x18, 0, 0, 0];
    memory.extend([0; 8]);
    memory.extend(0x1000_0000u64.to_le_bytes());
    memory.extend(0x1000u64.to_le_bytes());
    let mut platform = ivrs(&[1, 0, 0, 0], &memory).platform().unwrap();
    let region = span(0x1000_0000, 0x1000_1000);
    assert!(!platform.free_memory().iter().any(|free| free.overlaps(&region)));
    platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    let seen: Vec<_> = platform.functions.iter().flatten().map(|it| it.firmware_memory.clone()).collect();
    assert_eq!(seen, [vec![region], vec![], vec![], vec![]]);
}

#[test]
fn two_makers_are_none() {
    let (pc, other) = (fake::q35_amd(), fake::q35_intel());
    let all = pc.contents.iter().chain(&other.contents);
    let tables = all.filter_map(|(_, bytes)| acpi::Table::new(bytes.clone()).ok()).collect();
    let tables = acpi::Tables::of(tables);
    assert_eq!(acpi::read_dump(&tables, &pc.map, &acpi::no_config).unwrap_err(), AcpiError::TwoMakers);
}

/// What nobody needs to be told of in these tests.
fn fake_function() -> Function {
    Function {
        address: PciAddress::default(),
        parent: None,
        vendor: 0x1b36,
        device: 0x10,
        class: 0x01_0802,
        revision: 2,
        bridge: false,
        port: None,
        multifunction: false,
        bars: Vec::new(),
        capabilities: Vec::new(),
        extended_capabilities: Vec::new(),
        msix: None,
        msi_vectors: None,
        interrupt_pin: 0,
        virtio: None,
        intx_disable: true,
        stuck: None,
        resets: Vec::new(),
    }
}

/// Everything that can be asked of tables, whatever they are.
fn ask(pc: &Pc) {
    let whole = pc.platform();
    if let Ok(outline) = Outline::open(pc, pc.rsdp, MemoryMap::Ranges(&pc.map)) {
        let free = outline.free(0x20_0000, 0x1000, &[]).unwrap();
        outline.console();
        outline.tables(&mut |_| ());
        if let (Ok(platform), Some(free)) = (&whole, free) {
            assert!(platform.cpus.len() <= outline.cpus);
            assert!(platform.iommus.len() <= outline.iommus);
            assert!(merge(platform.free_memory()).iter().any(|span| span.encloses(&free)), "{free}");
        }
    }
    if let Ok(mut platform) = whole {
        platform.add_functions(functions(5), &[0, 1, 2, 3].map(Membership::from));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Tables whose sums are right and whose contents aren't.
    #[test]
    fn damaged_tables_do_no_harm(
        intel in any::<bool>(),
        changes in prop::collection::vec((0..6usize, any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut pc = if intel { fake::q35_intel() } else { fake::q35_amd() };
        for (position, at, byte) in changes {
            let bytes = &mut pc.contents[position].1;
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes[9] = 0;
            bytes[9] = 0u8.wrapping_sub(bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)));
        }
        ask(&pc);
    }

    #[test]
    fn tables_that_are_cut_off_do_no_harm(position in 0..8usize, at in any::<prop::sample::Index>()) {
        let mut pc = fake::q35_amd();
        let bytes = &mut pc.contents[position].1;
        bytes.truncate(at.index(bytes.len()));
        ask(&pc);
    }

    #[test]
    fn any_memory_map_does_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        entry in 0..60usize,
        uefi in any::<bool>(),
    ) {
        let map = if uefi { MemoryMap::Efi { bytes: &bytes, entry } } else { MemoryMap::E820 { bytes: &bytes, entry } };
        let pc = fake::q35_amd();
        let outline = Outline::open(&pc, pc.rsdp, map).unwrap();
        let free = outline.free(0x1000, 0x1000, &[]).unwrap();
        let platform = acpi::read(&pc, pc.rsdp, &map, &acpi::no_config).unwrap();
        if let Some(free) = free {
            prop_assert!(platform.free_memory().iter().any(|span| span.encloses(&free)), "{free}");
        }
    }
}

/// A table as acpidump writes it.
fn as_text(bytes: &[u8]) -> String {
    let mut text = format!("{} @ 0x0000000000000000\n", String::from_utf8_lossy(&bytes[..4]));
    for (number, row) in bytes.chunks(16).enumerate() {
        let digits: Vec<String> = row.iter().map(|byte| format!("{byte:02X}")).collect();
        let shown: String =
            row.iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '.' }).collect();
        text += &format!("    {:04X}: {:<47}  {shown}\n", number * 16, digits.join(" "));
    }
    text + "\n"
}

#[test]
fn dumps_are_read_in_each_of_their_forms() {
    let pc = fake::q35_amd();
    let whole = pc.platform().unwrap();
    let log = "\
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.000000] BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
[    0.000000] BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x000000007ffdefff] usable
[    0.000000] BIOS-e820: [mem 0x000000007ffdf000-0x000000007fffffff] reserved
[    0.000000] BIOS-e820: [mem 0x00000000b0000000-0x00000000bfffffff] reserved
[    0.000000] BIOS-e820: [mem 0x00000000fed1c000-0x00000000fed1ffff] reserved
[    0.000000] BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x000000017fffffff] usable
";
    // Files of their own, with the boot log.
    let mut dump = Dump::default();
    let is_table = |bytes: &[u8]| !bytes.starts_with(b"RSDT");
    for (_, bytes) in pc.contents.iter().filter(|(_, bytes)| is_table(bytes)) {
        assert!(dump.add(bytes));
    }
    assert!(dump.add(b"FACS") && dump.add(log.as_bytes()) && !dump.add(b"something else"));
    assert_eq!(dump.platform().unwrap(), whole);
    // acpidump's text, with the log behind it in one file.
    let text: String =
        pc.contents.iter().filter(|(_, bytes)| is_table(bytes)).map(|(_, bytes)| as_text(bytes)).collect();
    let mut dump = Dump::default();
    assert!(dump.add((text.clone() + log).as_bytes()));
    assert_eq!(dump.platform().unwrap(), whole);
    // /proc/iomem says less of what is reserved, and the same of memory.
    let iomem = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000a0000-000bffff : PCI Bus 0000:00
00100000-7ffdefff : System RAM
  4cc00000-4dbfffff : Kernel code
100000000-17fffffff : System RAM
";
    let mut dump = Dump::default();
    assert!(dump.add(text.as_bytes()) && dump.add(iomem.as_bytes()));
    let platform = dump.platform().unwrap();
    assert_eq!(platform.free_memory(), whole.free_memory());
    // Without one there is no memory, and that is said.
    let mut dump = Dump::default();
    dump.add(text.as_bytes());
    let platform = dump.platform().unwrap();
    assert!(platform.memory.is_empty() && platform.unclear[0].contains("memory map"));
    // A table that is cut off isn't one that isn't there.
    let ivrs = &pc.contents[5].1;
    let cut = as_text(ivrs);
    for file in [ivrs[..100].to_vec(), cut.as_bytes()[..cut.len() - 200].to_vec()] {
        let mut dump = Dump::default();
        assert!(dump.add(&file) && dump.add(&pc.contents[1].1) && dump.add(&pc.contents[2].1));
        let error = dump.platform().unwrap_err();
        assert!(error.to_string().contains("IVRS"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_file_is_a_dump_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[ -~\n]{0,300}") {
        let mut dump = Dump::default();
        dump.add(&bytes);
        dump.add(text.as_bytes());
        let _ = dump.platform();
    }
}
