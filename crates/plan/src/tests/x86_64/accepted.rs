//! What a guest of x86_64 gets.

use axvm_acpi::{Memory, Tables, fadt::Fadt, madt::Madt};
use axvm_guest::Place;
use axvm_platform::limits::Serves;

use super::*;

/// A guest's RAM, as its host lays the plan into it.
struct Ram(Vec<(u64, Vec<u8>)>);

impl Ram {
    fn of(vm: &VmPlan) -> Self {
        Self(vm.blobs.iter().map(|blob| (blob.at.0, blob.bytes.clone())).collect())
    }

    fn bytes(&self, at: u64, count: usize) -> Option<&[u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(count)?)
        })
    }

    fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).unwrap().try_into().unwrap())
    }

    fn double(&self, at: u64) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 4)) << 32
    }
}

impl Memory for Ram {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        self.bytes(at.0, into.len()).map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

#[test]
fn ram_is_near_the_cpus_where_that_is_known_and_enough() {
    // CPUs 0 and 1 with the first GiB, CPUs 2 and 3 with the second.
    let host = |start: u64, size: u64| Span::new(Hpa(start), size).unwrap();
    let domain = |domain: u32, start: u64| Proximity {
        domain,
        cpus: vec![CpuId(2 * domain as u16), CpuId(2 * domain as u16 + 1)],
        memory: vec![host(start, 1 << 30)],
    };
    let mut near = board();
    near.proximity = vec![domain(0, 0), domain(1, 1 << 30)];
    let mut system = demo();
    let planned = |system: &System, platform: &Platform| {
        let plan = planned(system, platform);
        let note = plan.notes.iter().any(|note| note.contains("not all of its RAM is near its CPUs"));
        (plan.vms[0].ram.first().unwrap().hpa, note)
    };
    system.vms[0].cpus = vec![CpuId(2), CpuId(3)];
    system.vms[0].memory = 512 << 20;
    assert_eq!(planned(&system, &near), (Hpa(1 << 30), false));
    assert!(planned(&system, &board()).0 < Hpa(1 << 30), "where nobody says, the first there is");
    // More than there is near.
    system.vms[0].memory = 1200 << 20;
    let (first, is_said) = planned(&system, &near);
    assert!(first < Hpa(1 << 30) && is_said);
    // CPUs of both: memory of both is near.
    system.vms[0].cpus = vec![CpuId(1), CpuId(2)];
    assert!(!planned(&system, &near).1);
}

#[test]
fn the_demo_is_planned_as_a_machine_of_its_own() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    let machine = vm.x86_64().unwrap();
    assert!(vm.aarch64().is_none());
    assert_eq!(vm.ram.iter().map(|piece| piece.gpa).collect::<Vec<_>>(), [span(0, 512 << 20)]);
    assert_eq!(
        (machine.local_apic, machine.io_apic.registers),
        (span(0xfee0_0000, 0x1000), span(0xfec0_0000, 0x1000))
    );
    assert_eq!((machine.io_apic.pins, machine.power.sci), (24, Irq(9)));
    assert_eq!(vm.console, Some(ConsolePlan { at: Place::Ports(ports(0x3f8, 8)), irq: Irq(4) }));
    assert_eq!(vm.cpus.iter().map(|vcpu| vcpu.hardware_id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(vm.mode, config::VMInterruptMode::Passthrough);
    assert!(plan.notes.iter().any(|note| note.contains("interrupts are passthrough")), "{:?}", plan.notes);
    assert!(vm.doorbells.is_empty(), "nothing that messages are sent to is memory");
    assert_eq!(vm.ports, [PortPlan { device: 2, ports: ports(0x2f8, 8), direct: true }]);
    let routed: Vec<(u16, Irq, Trigger)> =
        vm.lines.iter().map(|it| (it.device, it.irq, it.trigger)).collect();
    assert_eq!(
        routed,
        [(0, Irq(18), Trigger::Level), (1, Irq(19), Trigger::Level), (2, Irq(3), Trigger::Edge)]
    );
    let messages: Vec<_> = vm.devices.iter().filter_map(|device| device.msi).collect();
    assert!(vm.messages.is_empty(), "what the two can send has the guest's own vectors");
    let mut injected = demo();
    injected.vms[0].interrupts = InterruptChoice::Emulated;
    assert_eq!(planned(&injected, &board()).vms[0].messages, 0..70, "what the two can send");
    assert_eq!(messages[0], MsiPlan { source: MsiSource::new(0, 0x10), messages: 65 });
    let bridge = &vm.pci[0];
    assert_eq!((bridge.ecam, bridge.buses), (span(0xe000_0000, 1 << 20), PciBuses::new(0, 0)));
    let windows: Vec<(PciSpace, Span<Gpa>)> = bridge.windows.iter().map(|it| (it.space, it.cpu)).collect();
    assert_eq!(
        windows,
        [
            (PciSpace::Memory32, span(0xc000_0000, 0x2000_0000)),
            (PciSpace::Memory64, span(0x60_0000_0000, 0x20_0000_0000)),
        ]
    );
    assert_eq!(bridge.ports, Some(ports(0x1000, 0xf000)), "the card has a BAR there");
}

#[test]
fn ram_goes_on_above_4_gib_where_there_is_no_room_below() {
    let mut platform = board();
    platform.memory.push(Span::new(Hpa(1 << 32), 8 << 30).unwrap());
    let mut system = demo();
    system.vms[0].memory = 5 << 30;
    let plan = planned(&system, &platform);
    let vm = &plan.vms[0];
    assert_eq!(vm.description.memory, [span(0, 3 << 30), span(4 << 30, 2 << 30)]);
    let sum: u64 = vm.ram.iter().map(|piece| piece.gpa.size()).sum();
    assert_eq!(sum, 5 << 30);
    assert!(vm.ram.iter().all(|piece| piece.gpa.is_aligned(2 << 20) && piece.hpa.0.is_multiple_of(2 << 20)));
    assert!(vm.ram.iter().all(|piece| piece.gpa.end().0 <= 3 << 30 || piece.gpa.start().0 >= 4 << 30));
    for (piece, next) in vm.ram.iter().zip(&vm.ram[1..]) {
        assert!(piece.gpa.end() <= next.gpa.start());
        assert_eq!(piece.hpa.0 + piece.gpa.size(), next.hpa.0, "one piece of the board's, cut in two");
    }
}

#[test]
fn a_bzimage_is_handed_its_boot_parameters() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    let load = &vm.load;
    let initrd = load.initrd.unwrap();
    assert_eq!((load.kernel, load.entry, load.argument), (Gpa(0x100_0000), Gpa(0x100_0200), Gpa(0x8000)));
    assert_eq!(initrd, span(0x2000_0000 - 10_002_432, 10_000_001), "at the end of RAM, from a page on");
    let EntryPlan::Linux64(setup) = &vm.x86_64().unwrap().entry else { panic!() };
    assert_eq!(setup.command_line, 2047);
    let ram = Ram::of(vm);
    assert_eq!(ram.bytes(load.argument.0 + 0x202, 4).unwrap(), b"HdrS");
    assert_eq!(ram.double(load.argument.0 + 0x70), load.description.start().0);
    assert_eq!(u64::from(ram.word(load.argument.0 + 0x218)), initrd.start().0);
    let command_line = u64::from(ram.word(load.argument.0 + 0x228));
    assert_eq!(ram.bytes(command_line, 14).unwrap(), b"console=ttyS0\0");
    // RAM, what is below 1 MiB, RAM, config space.
    assert_eq!(ram.bytes(load.argument.0 + 0x1e8, 1).unwrap(), [4]);
    let range = |number: u64| {
        let at = load.argument.0 + 0x2d0 + number * 20;
        (ram.double(at), ram.double(at + 8), ram.word(at + 16))
    };
    assert_eq!(range(0), (0, 0x9_fc00, 1));
    assert_eq!(range(1), (0x9_fc00, 0x6_0400, 2));
    assert_eq!(range(2), (0x10_0000, 0x1ff0_0000, 1));
    assert_eq!(range(3), (0xe000_0000, 0x10_0000, 2));
    let machine = vm.x86_64().unwrap();
    assert_eq!(ram.double(machine.page_tables.0) & !0xfff, machine.page_tables.0 + 0x1000);
    assert_eq!(ram.double(machine.gdt.start().0 + 0x10), 0x00af_9b00_0000_ffff);
}

#[test]
fn what_is_handed_over_lies_in_ram_apart_from_each_other() {
    for kind in [ImageKind::BzImage, ImageKind::PvhElf, ImageKind::ElfX86, ImageKind::Raw] {
        let plan = plan(&demo(), &board(), &images_of(kind, 1)).unwrap();
        let vm = &plan.vms[0];
        let mut spans: Vec<Span<Gpa>> =
            vm.blobs.iter().map(|blob| span(blob.at.0, blob.bytes.len() as u64)).collect();
        spans.extend(vm.load.initrd);
        spans.push(span(vm.load.kernel.0, crate::fixtures::KERNEL_SIZE));
        for (position, one) in spans.iter().enumerate() {
            assert!(vm.ram.iter().any(|piece| piece.gpa.encloses(one)), "{kind:?}: {one}");
            assert!(spans[..position].iter().all(|other| !other.overlaps(one)), "{kind:?}: {one}");
        }
    }
}

#[test]
fn other_kernels_are_handed_a_start_info() {
    for (kind, entry) in [
        (ImageKind::PvhElf, EntryPlan::Pvh),
        (ImageKind::ElfX86, EntryPlan::Long),
        (ImageKind::Raw, EntryPlan::Long),
    ] {
        let plan = plan(&demo(), &board(), &images_of(kind, 1)).unwrap();
        let vm = &plan.vms[0];
        assert_eq!(vm.x86_64().unwrap().entry, entry);
        let ram = Ram::of(vm);
        let at = vm.load.argument.0;
        assert_eq!((ram.word(at), ram.word(at + 12)), (0x336e_c578, 1));
        assert_eq!(ram.double(at + 32), vm.load.description.start().0);
        let modules = ram.double(at + 16);
        assert_eq!(
            (ram.double(modules), ram.double(modules + 8)),
            (vm.load.initrd.unwrap().start().0, 10_000_001)
        );
        assert_eq!(
            vm.blobs.iter().any(|blob| blob.at == vm.x86_64().unwrap().page_tables),
            entry == EntryPlan::Long
        );
    }
}

#[test]
fn the_acpi_tables_say_what_the_plan_says() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    let ram = Ram::of(vm);
    let tables = Tables::read(&ram, Hpa(vm.load.description.start().0)).unwrap();
    assert_eq!(tables.damaged(), []);
    let madt = Madt::read(tables.find(b"APIC").unwrap()).unwrap();
    assert_eq!(madt.cpus.iter().map(|cpu| cpu.apic).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((madt.io_apics[0].registers.0, madt.io_apics[0].first), (0xfec0_0000, 0));
    let found = axvm_acpi::mcfg::read(tables.find(b"MCFG").unwrap()).unwrap();
    assert_eq!((found[0].base.0, found[0].buses), (0xe000_0000, PciBuses::new(0, 0)));
    let fadt = Fadt::read(tables.find(b"FACP").unwrap()).unwrap();
    assert!(fadt.no_cmos_clock);
    let dsdt = fadt.dsdt(&ram).unwrap();
    let has = |bytes: &[u8]| dsdt.bytes().windows(bytes.len()).any(|window| window == bytes);
    // PNP0501, as AML packs it, of the console and of the UART that it is given; the latter's ports and line.
    assert_eq!(dsdt.bytes().windows(4).filter(|it| *it == [0x41, 0xd0, 0x05, 0x01]).count(), 2);
    assert!(has(&[0x47, 1, 0xf8, 0x02, 0xf8, 0x02, 1, 8]) && has(&[0x89, 6, 0, 0b11, 1, 3, 0, 0, 0]));
    // The pins of slots 2 and 3.
    assert!(has(&[0x0c, 0xff, 0xff, 1, 0, 0, 0, 0x0a, 18]) && has(&[0x0c, 0xff, 0xff, 2, 0, 0, 0, 0x0a, 19]));
}

#[test]
fn a_clock_and_a_range_of_ports_are_given_and_the_console_makes_room() {
    let mut system = given(vec![node("rtc"), range("uart", 0x2e8, 8, Some(5))]);
    system.hypervisor.console = Some("com2".into());
    system.vms[0].devices.push(node("com1"));
    let vm = &planned(&system, &board()).vms[0];
    let direct = |device, first, count| PortPlan { device, ports: ports(first, count), direct: true };
    assert_eq!(vm.ports, [direct(0, 0x70, 2), direct(1, 0x2e8, 8), direct(2, 0x3f8, 8)]);
    assert_eq!(vm.devices[1].id, DeviceId::Ports(ports(0x2e8, 8)));
    // How the board's line 5 signals is known.
    assert!(vm.lines.iter().any(|line| (line.irq, line.trigger) == (Irq(5), Trigger::Edge)));
    // The first UART's ports are given, and the line of the third is too.
    assert_eq!(vm.console, Some(ConsolePlan { at: Place::Ports(ports(0x2f8, 8)), irq: Irq(3) }));
    let ram = Ram::of(vm);
    let tables = Tables::read(&ram, Hpa(vm.load.description.start().0)).unwrap();
    assert!(!Fadt::read(tables.find(b"FACP").unwrap()).unwrap().no_cmos_clock);
}

#[test]
fn ports_are_trapped_where_the_file_says_so() {
    let mut system = given(vec![range("uart", 0x2e8, 8, None)]);
    let Device::Ports { access, .. } = &mut system.vms[0].devices[0] else { panic!() };
    *access = RegisterAccess::Trap;
    let Device::Node { path, access, dma, accept } = node("com2") else { panic!() };
    assert_eq!(access, RegisterAccess::Direct);
    system.vms[0].devices.push(Device::Node { path, access: RegisterAccess::Trap, dma, accept });
    assert!(planned(&system, &board()).vms[0].ports.iter().all(|block| !block.direct));
}

#[test]
fn events_of_acpi_have_a_line_that_no_device_has() {
    let mut platform = board();
    let Some(Firmware::Acpi(firmware)) = &mut platform.firmware else { panic!() };
    firmware.event = None;
    let vm = &planned(&given(vec![range("odd", 0x300, 8, Some(9))]), &platform).vms[0];
    assert_eq!(vm.x86_64().unwrap().power.sci, Irq(23));
}

#[test]
fn a_watchdog_has_pages_of_its_own_and_no_line() {
    let mut system = demo();
    system.vms[0].watchdog = Some(AfterEnd::Restart);
    let mut without = board();
    without.limits.watchdogs = axvm_platform::limits::Serves::No;
    assert_eq!(refusals(&system, &without), [(Rule::Limit, Item::Vm(0, "watchdog".into()))]);
    let plan = planned(&system, &board());
    let plan = &plan.vms[0];
    let watchdog = plan.watchdog.unwrap();
    assert_eq!((watchdog.irq, watchdog.then), (None, AfterEnd::Restart));
    for page in [watchdog.control, watchdog.refresh] {
        let mut others = VmPlan { watchdog: None, ..plan.clone() }.emulated();
        others.extend(plan.ram.iter().map(|piece| piece.gpa));
        others.extend(plan.pci.iter().flat_map(|bridge| bridge.windows.iter().map(|window| window.cpu)));
        others.extend(plan.pci.iter().map(|bridge| bridge.ecam));
        assert!(others.iter().all(|other| !other.overlaps(&page)), "{page}");
        assert!(plan.emulated().contains(&page));
    }
    let described = plan.description.watchdog.unwrap();
    assert_eq!((described.control, described.refresh), (watchdog.control, watchdog.refresh));
}

#[test]
fn without_interrupts_a_vm_has_neither_lines_nor_messages() {
    let mut system = demo();
    system.vms[0].interrupts = InterruptChoice::None;
    let vm = &planned(&system, &board()).vms[0];
    assert_eq!(vm.mode, config::VMInterruptMode::NoIrq);
    assert!(vm.lines.is_empty() && vm.devices.iter().all(|device| device.msi.is_none()));
}

#[test]
fn vms_take_turns_with_ports_as_with_other_devices() {
    let mut system = demo();
    system.vms[0].devices = vec![node("com2"), range("odd", 0x300, 8, None)];
    let mut other = system.vms[0].clone();
    (other.name, other.cpus, other.autostart) = ("other".into(), vec![CpuId(3)], false);
    other.devices = vec![range("mine", 0x304, 4, None), range("too", 0x2fc, 2, None)];
    system.vms.push(other);
    let plan = planned(&system, &board());
    let running =
        Running { holders: vec![Holder { vm: VmId(0), devices: vec![0, 1] }], ..Running::default() };
    let refusal = replan(&plan.vms, &running, &Change::Start(VmId(1))).unwrap_err();
    let said = refusal.say(&plan.vms);
    assert!(matches!(refusal, Refusal::Held(VmId(0), _)) && said.contains("ports"), "{said}");
    assert!(replan(&plan.vms, &Running::default(), &Change::Start(VmId(1))).is_ok());
    // Without its UART the first VM's guest isn't told of one.
    let without = plan_with(&plan.vms[0], &[1]).unwrap();
    assert_eq!(without.ports, [PortPlan { device: 1, ports: ports(0x300, 8), direct: true }]);
    assert!(without.description.devices.is_empty());
    assert_ne!(without.blobs[0], plan.vms[0].blobs[0]);
    assert_eq!(without.blobs[1..], plan.vms[0].blobs[1..]);
}

#[test]
fn a_plan_survives_being_packed() {
    let plan = planned(&demo(), &board());
    let packed = postcard::to_allocvec(&plan).unwrap();
    let mut unpacked = postcard::from_bytes::<Plan>(&packed).unwrap();
    for (vm, packed) in unpacked.vms.iter_mut().zip(&plan.vms) {
        vm.blobs = crate::machine::write(vm).unwrap();
        assert_eq!(vm.blobs, packed.blobs);
    }
    assert_eq!(unpacked, plan);
    assert!(serde_json::to_string(&plan).unwrap().contains("\"X86_64\""));
}

#[test]
fn a_plan_in_lines_is_in_the_machines_words() {
    let said = alloc::format!("{}", planned(&demo(), &board()));
    for expected in [
        "  ACPI tables at 0xe0000",
        "  console ports 0x3f8-0x3ff (emulated), interrupt 4",
        "    ports 0x2f8-0x2ff, direct",
        "requester id 0x10 of IOMMU 0",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_board_lacks_what_it_can_t_do_without() {
    let mut platform = board();
    platform.limits.processors = Serves::No;
    platform.firmware = None;
    let Some(Irqchip::Apic(apic)) = &mut platform.irqchip else { panic!() };
    apic.io_apics.clear();
    platform.memory.clear();
    platform.cpus.clear();
    let said = lines(&given(vec![]), &platform).join("\n");
    for expected in ["SVM", "FADT", "I/O APIC", "CPU in its ACPI", "memory in its ACPI"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn what_an_emulated_vtd_lacks_is_said_where_a_device_is_behind_it() {
    let vtd = IommuKind::VtD { remaps_interrupts: true, address_bits: 48 };
    let notes = |system: &System, model: &str, kind: Option<IommuKind>| {
        let mut platform = board();
        platform.model = model.into();
        platform.iommus[0].kind = kind.unwrap_or(platform.iommus[0].kind);
        let said = planned(system, &platform).notes;
        said.iter().filter(|note| note.contains("QEMU's VT-d lets devices")).count()
    };
    assert_eq!(notes(&demo(), "BOCHS BXPC", Some(vtd)), 1);
    assert_eq!(notes(&demo(), "BOCHS BXPC", None), 0, "AMD-Vi there does");
    assert_eq!(notes(&demo(), "ALASKA A M I", Some(vtd)), 0, "so does a machine's");
    assert_eq!(notes(&given(vec![]), "BOCHS BXPC", Some(vtd)), 0, "nobody has a device");
}

#[test]
fn vms_that_have_their_local_apics_themselves_run_side_by_side() {
    // Each has the console that every PC has, with the line that every PC's has: a virtual one.
    let mut system = given(Vec::new());
    system.vms[0].interrupts = InterruptChoice::Passthrough;
    system.vms[0].cpus = vec![CpuId(1)];
    let mut second = system.vms[0].clone();
    (second.name, second.cpus) = ("second".into(), vec![CpuId(2)]);
    system.vms.push(second);
    let plan = planned(&system, &board());
    assert!(plan.vms.iter().all(|vm| vm.mode == config::VMInterruptMode::Passthrough));
    let first = replan::replan(&plan.vms, &Default::default(), &replan::Change::Start(VmId(0))).unwrap();
    let both = replan::replan(&plan.vms, &first.running, &replan::Change::Start(VmId(1)));
    assert_eq!(both.map(|both| both.running.holders.len()), Ok(2));
}

#[test]
fn the_first_serial_port_is_given_though_the_hypervisor_speaks_there() {
    let mut system = given(vec![node("com1")]);
    let plan = planned(&system, &board());
    assert_eq!(plan.console.as_deref(), Some("com1"));
    // The guest has it as its console, in place of an emulated one, and the hypervisor speaks at the second meanwhile.
    assert_eq!(plan.vms[0].console, None);
    assert_eq!(plan.vms[0].ports, [PortPlan { device: 0, ports: ports(0x3f8, 8), direct: true }]);
    let aside = |plan: &Plan| plan.console_lent.as_ref().unwrap().aside.clone();
    assert_eq!(aside(&plan).as_deref(), Some("com2"));
    // It does not where that is given too, be it by its ports.
    system.vms[0].devices.push(range("second", 0x2f8, 8, Some(3)));
    assert_eq!(aside(&planned(&system, &board())), None);
}
