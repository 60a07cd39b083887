//! What is planned.

use alloc::string::ToString;

use axvm_addr::{DmaSource, Irq, MsiSource, VcpuId};
use axvm_platform::model::Trigger;

use super::*;
use crate::config::VMInterruptMode;

#[test]
fn the_demos_vm_gets_its_cpus_its_ram_at_the_boards_address_and_the_first_memory_that_is_free() {
    let mut demo = demo();
    demo.vms[0].interrupts = InterruptChoice::Emulated;
    let plan = planned(&demo, &board());
    let vm = &plan.vms[0];
    assert_eq!(plan.hypervisor_cpu, Some(CpuId(0)));
    assert_eq!(plan.console.as_deref(), Some("/pl011@9000000"));
    let vcpu = |cpu, hardware_id| VcpuPlan { cpu: CpuId(cpu), hardware_id };
    assert_eq!(vm.cpus, [vcpu(1, 0), vcpu(2, 1)]);
    let gpa = Span::new(Gpa(0x4000_0000), 512 << 20).unwrap();
    assert_eq!(vm.ram, [RamPiece { gpa, hpa: Hpa(0x4100_0000) }]);
    assert_eq!(vm.mode, VMInterruptMode::Emulated);
    assert!(!plan.incomplete);
}

#[test]
fn the_demos_functions_have_their_streams_their_msis_and_their_resets() {
    let plan = planned(&demo(), &board());
    let [disk, card, clock] = &plan.vms[0].devices[..] else { panic!() };
    assert_eq!(disk.sources, [DmaSource::new(0, 0x10)]);
    assert_eq!(disk.msi, Some(MsiPlan { source: MsiSource::new(0, 0x10), messages: 65 }));
    assert_eq!(reset_name(disk.reset), "flr");
    assert_eq!(card.msi.map(|msi| msi.messages), Some(5));
    assert_eq!(reset_name(card.reset), "d3hot");
    assert_eq!((clock.name.as_str(), clock.pci, clock.msi), ("/pl031@9010000", None, None));
    assert!(clock.sources.is_empty());
}

#[test]
fn the_clock_is_mapped_where_the_board_has_it_and_its_line_is_routed() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    let [clock] = &vm.registers[..] else { panic!() };
    assert_eq!((clock.device, clock.hpa, clock.direct), (2, Hpa(0x0901_0000), true));
    assert_eq!(clock.gpa, Span::new(Gpa(0x0901_0000), 0x1000).unwrap());
    let line = vm.lines.iter().find(|line| line.irq == Irq(34)).unwrap();
    assert_eq!((line.device, line.trigger, line.vcpu), (2, Trigger::Level, VcpuId(0)));
}

#[test]
fn dma_may_go_to_the_doorbell_page_which_is_not_in_the_cpus_map() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    assert_eq!(
        vm.doorbells.iter().map(|d| (d.iova.0, d.hpa.0)).collect::<Vec<_>>(),
        [(0x0809_0000, 0x0809_0000)]
    );
    assert!(vm.registers.iter().all(|block| !block.gpa.contains(Gpa(0x0809_0000))));
}

#[test]
fn the_emulated_gic_and_console_are_where_the_board_has_its_own() {
    let mut demo = demo();
    demo.vms[0].interrupts = InterruptChoice::Emulated;
    let plan = planned(&demo, &board());
    let vm = &plan.vms[0];
    let gic = vm.aarch64().unwrap().gic.unwrap();
    assert_eq!(gic.distributor.start(), Gpa(0x0800_0000));
    assert_eq!(gic.redistributors, Span::new(Gpa(0x080a_0000), 2 * 0x2_0000).unwrap());
    assert_eq!(gic.its.map(|its| (its.registers.start(), its.host.0)), Some((Gpa(0x0808_0000), 0)));
    assert_eq!(gic.spis, 32, "lines up to INTID 38");
    let console = vm.console.unwrap();
    assert_eq!((console.at.registers().unwrap().start(), console.irq), (Gpa(0x0900_0000), Irq(33)));
    assert_eq!(vm.address_bits, 40, "the high PCI window ends at 1 TiB");
}

#[test]
fn the_device_tree_says_what_the_plan_says() {
    let plan = planned(&demo(), &board());
    let description = &plan.vms[0].description;
    assert_eq!(description.cpus, [0, 1]);
    assert_eq!(description.memory, [Span::new(Gpa(0x4000_0000), 512 << 20).unwrap()]);
    assert_eq!(description.timer, [29, 30, 27, 26]);
    assert_eq!(description.cmdline, "console=ttyAMA0");
    let [bridge] = &description.pci[..] else { panic!() };
    let senders: Vec<_> = bridge.msi.iter().map(|sender| (sender.requester, sender.id.0)).collect();
    assert_eq!(senders, [(0x10, 0x10), (0x18, 0x18)]);
    assert!(bridge.coherent);
    assert_eq!(bridge.windows.len(), 2, "memory windows, no ports");
    assert_eq!(bridge.lines.len(), 2);
    let [clock] = &description.devices[..] else { panic!() };
    assert_eq!(clock.name, "pl031@9010000");
    assert_eq!(clock.interrupts, [Interrupt { irq: Irq(34), trigger: Trigger::Level }]);
    assert_eq!(clock.clocks.iter().map(|clock| clock.frequency).collect::<Vec<_>>(), [24_000_000]);
    assert!(
        clock.properties.iter().any(|(name, value)| name == "compatible" && value.starts_with(b"arm,pl031"))
    );
}

#[test]
fn images_lie_in_ram_beside_each_other_as_linux_wants_them() {
    let plan = planned(&demo(), &board());
    let vm = &plan.vms[0];
    let load = &vm.load;
    assert_eq!((load.kernel, load.entry), (Gpa(0x4000_0000), Gpa(0x4000_0000)));
    assert_eq!(load.description, Span::new(Gpa(0x4300_0000), 2 << 20).unwrap());
    let initrd = load.initrd.unwrap();
    assert_eq!((initrd.start(), initrd.size()), (Gpa(0x4320_0000), 10_000_001));
}

#[test]
fn a_device_tree_lies_where_the_guest_looks_for_it_and_the_rest_beside_it() {
    let (mut system, mut images) = (demo(), images(1));
    // As U-Boot for `virt` wants it: the tree at the start of RAM.
    let load = Gpa(0x4020_0000);
    images.vms[0].kernel = ImageInfo::parse(&[0; 1 << 20], Some((load, load)));
    system.vms[0].device_tree = Some(Gpa(0x4000_0000));
    let placed = |system: &System| plan(system, &board(), &images).unwrap().vms.remove(0).load;
    let there = placed(&system);
    assert_eq!(there.description, Span::new(Gpa(0x4000_0000), 2 << 20).unwrap());
    assert_eq!(there.kernel, load);
    assert!(there.initrd.unwrap().start() >= Gpa(0x4030_0000));
    // Behind the kernel, and up to the end of RAM.
    system.vms[0].device_tree = Some(Gpa(0x4030_0008));
    assert_eq!(placed(&system).description, Span::new(Gpa(0x4030_0008), 2 << 20).unwrap());
    system.vms[0].device_tree = Some(Gpa(0x5fff_0000));
    let there = placed(&system);
    assert_eq!(there.description, Span::new(Gpa(0x5fff_0000), 64 << 10).unwrap());
    assert!(!there.initrd.unwrap().overlaps(&there.description));
}

#[test]
fn ram_may_be_elsewhere_for_the_guest_than_for_the_host() {
    let mut system = demo();
    system.vms[0].memory_base = Some(Gpa(0x1_0000_0000));
    let vm = &planned(&system, &board()).vms[0];
    assert_eq!(vm.ram[0].gpa.start(), Gpa(0x1_0000_0000));
    assert_eq!(vm.ram[0].hpa, Hpa(0x4100_0000));
    assert_eq!(vm.load.kernel, Gpa(0x1_0000_0000));
}

#[test]
fn two_vms_have_ram_of_their_own_at_the_same_guest_address() {
    let system = system(vec![vm("a", &[1], vec![pci(2, 0)]), vm("b", &[2], vec![pci(3, 0)])]);
    let plan = planned(&system, &board());
    assert_eq!(plan.vms[0].ram[0].gpa, plan.vms[1].ram[0].gpa);
    assert_eq!(plan.vms[1].ram[0].hpa, Hpa(0x4100_0000 + (512 << 20)));
}

#[test]
fn a_raw_region_is_mapped_from_its_host_address_to_its_guest_address() {
    let system =
        system(vec![vm("a", &[1], vec![region("gpio", 0x1800_0000_0000 >> 8, 0x0903_0000, 0x1000)])]);
    let vm = &planned(&system, &board()).vms[0];
    assert_eq!((vm.registers[0].gpa.start(), vm.registers[0].hpa), (Gpa(0x18_0000_0000), Hpa(0x0903_0000)));
    assert!(vm.aarch64().unwrap().gic.unwrap().its.is_none(), "nothing sends messages");
    assert!(vm.doorbells.is_empty());
}

#[test]
fn a_block_smaller_than_its_page_is_trapped_with_a_note() {
    let system = system(vec![vm("a", &[1], vec![region("half", 0x0a10_0000, 0x0a10_0000, 0x800)])]);
    let plan = planned(&system, &board());
    assert!(!plan.vms[0].registers[0].direct);
    assert!(plan.notes.iter().any(|note| note.contains("half") && note.contains("forwarded")));
    // Wherever in its page the guest wants to see it.
    let moved = super::system(vec![vm("a", &[1], vec![region("half", 0x0a10_0400, 0x0a10_0000, 0x80)])]);
    assert!(!planned(&moved, &board()).vms[0].registers[0].direct);
}

#[test]
fn a_raw_region_takes_its_place_from_a_window_for_bars() {
    let gpio = || region("gpio", 0x1000_0000, 0x0903_0000, 0x1000);
    let alone = planned(&system(vec![vm("a", &[1], vec![gpio()])]), &board());
    assert_eq!(alone.vms[0].registers[0].gpa.start(), Gpa(0x1000_0000));
    let beside = planned(&system(vec![vm("a", &[1], vec![pci(2, 0), gpio()])]), &board());
    let vm = &beside.vms[0];
    let low = vm.pci[0].windows.iter().find(|window| window.space == PciSpace::Memory32).unwrap();
    assert_eq!((low.pci, low.cpu), (0x1010_0000, Span::new(Gpa(0x1010_0000), 0x2eef_0000).unwrap()));
    assert_eq!(vm.description.pci[0].windows[0].cpu, low.cpu, "the guest's device tree says the same");
}

#[test]
fn a_trapped_region_need_not_be_aligned_and_may_share_its_page() {
    let mut device = region("flash", 0x0a10_0010, 0x0901_1004, 0x20);
    if let Device::Region { access, .. } = &mut device {
        *access = RegisterAccess::Trap;
    }
    let system = system(vec![vm("a", &[1], vec![device])]);
    let block = planned(&system, &board()).vms[0].registers[0];
    assert_eq!((block.gpa.start(), block.hpa, block.direct), (Gpa(0x0a10_0010), Hpa(0x0901_1004), false));
}

#[test]
fn a_vm_without_interrupts_has_no_routes_and_no_doorbell() {
    let mut system = demo();
    system.vms[0].interrupts = InterruptChoice::None;
    let vm = &planned(&system, &board()).vms[0];
    assert_eq!(vm.mode, VMInterruptMode::NoIrq);
    assert!(
        vm.lines.is_empty()
            && vm.doorbells.is_empty()
            && vm.devices.iter().all(|device| device.msi.is_none())
    );
    assert!(vm.console.is_some(), "console and timer remain");
}

#[test]
fn a_function_that_cannot_be_reset_is_given_where_the_file_says_so() {
    let mut edu = endpoint(4, 0);
    edu.resets.clear();
    let platform = with_functions(vec![edu], &[0]);
    let device =
        Device::Pci { address: address(4, 0), without_reset: true, without_intx: false, in_use: InUse::Keep };
    let plan = planned(&system(vec![vm("a", &[1], vec![device])]), &platform);
    assert_eq!(plan.vms[0].devices[0].reset, None);
    assert!(plan.notes.iter().any(|note| note.contains("without a reset")));
}

#[test]
fn an_its_behind_something_that_forges_its_senders_is_not_used_and_that_is_said() {
    let mut platform = board();
    let its = &mut platform.gic_mut().unwrap().its[0];
    assert!(!planned(&demo(), &board()).notes.iter().any(|note| note.contains("pre-its")));
    its.pre_its = Some(Span::new(Hpa(0x5800_0000), 0x20_0000).unwrap());
    let path = its.path.clone();
    let notes = planned(&demo(), &platform).notes;
    assert!(notes.iter().any(|note| note.starts_with(&path) && note.contains("pre-its")), "{notes:?}");
}

#[test]
fn a_group_that_goes_to_one_vm_as_a_whole_is_given() {
    let platform = with_functions(vec![endpoint(4, 0), endpoint(4, 1)], &[7, 7]);
    let plan = planned(&system(vec![vm("a", &[1], vec![pci(4, 0), pci(4, 1)])]), &platform);
    assert_eq!(plan.vms[0].devices.len(), 2);
    assert_eq!(plan.vms[0].lines.len(), 1, "both have pin A of one slot: one line, routed once");
}

#[test]
fn without_a_list_of_functions_the_plan_says_that_it_is_incomplete() {
    let mut platform = board();
    platform.functions = None;
    let plan = planned(&demo(), &platform);
    assert!(plan.incomplete);
    assert!(plan.notes.iter().any(|note| note.contains("incomplete")));
    assert_eq!(plan.vms[0].devices[0].sources, [DmaSource::new(0, 0x10)]);
}

#[test]
fn a_board_whose_console_is_no_pl011_gets_an_emulated_one_on_a_free_page() {
    let mut platform = board();
    let console = platform.devices.iter_mut().find(|device| device.path == "/pl011@9000000").unwrap();
    console.compatible = vec!["ns16550a".into()];
    let plan = planned(&demo(), &platform);
    let console = plan.vms[0].console.unwrap().at.registers().unwrap();
    assert!(console.is_aligned(4096));
    assert!(plan.vms[0].registers.iter().all(|block| !block.gpa.overlaps(&console)));
    assert!(plan.vms[0].lines.iter().all(|line| line.irq != plan.vms[0].console.unwrap().irq));
    assert!(!plan.vms[0].aarch64().unwrap().gic.unwrap().distributor.overlaps(&console));
}

#[test]
fn seventeen_vcpus_have_affinities_that_an_sgi_can_name() {
    let mut platform = board();
    let cpu = platform.cpus[0].clone();
    platform.cpus.resize(20, cpu);
    let cpus: Vec<u16> = (1..18).collect();
    let plan = planned(&system(vec![vm("a", &cpus, vec![])]), &platform);
    assert_eq!(plan.vms[0].cpus[16].hardware_id, 0x100);
    assert_eq!(plan.vms[0].aarch64().unwrap().gic.unwrap().redistributors.size(), 17 * 0x2_0000);
}

#[test]
fn a_plan_in_lines_names_everything_that_was_given() {
    let text = planned(&demo(), &board()).to_string();
    for word in
        ["CPU 0", "vm \"linux\"", "0000:00:02.0", "reset flr", "/pl031@9010000", "interrupt 34", "RAM"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn a_plan_travels_as_it_is() {
    let plan = planned(&demo(), &board());
    let packed = postcard::to_allocvec(&plan).unwrap();
    let mut unpacked = postcard::from_bytes::<Plan>(&packed).unwrap();
    for (vm, packed) in unpacked.vms.iter_mut().zip(&plan.vms) {
        // It follows from the description, and isn't packed.
        vm.blobs = crate::machine::write(vm).unwrap();
        assert_eq!(vm.blobs, packed.blobs);
    }
    assert_eq!(unpacked, plan);
}

#[test]
fn a_function_behind_a_port_is_seen_in_the_ports_place() {
    let platform = with_functions(
        vec![port(1), port(2), endpoint(3, 0), behind(1, 1, 0), behind(2, 2, 0)],
        &[0, 1, 2, 3, 4],
    );
    let devices = vec![pci(3, 0), on_bus(2, 0), on_bus(1, 0)];
    let plan = planned(&system(vec![vm("linux", &[1], devices)]), &platform);
    let shown: Vec<_> = plan.vms[0].devices.iter().map(|device| device.shown.unwrap()).collect();
    assert_eq!(shown, [address(3, 0), address(2, 0), address(1, 0)]);
    let bridge = &plan.vms[0].description.pci[0];
    let sender = |requester, id| axvm_guest::MsiSender { requester, id: SourceId(id) };
    assert!(
        bridge.msi.contains(&sender(0x08, 0x100)) && bridge.msi.contains(&sender(0x10, 0x200)),
        "{:?}",
        bridge.msi
    );
    assert!(bridge.lines.iter().any(|pin| pin.function == address(1, 0)));
    assert!(plan.to_string().contains("0000:01:00.0, seen at 0000:00:01.0"), "{plan}");
}

#[test]
fn functions_of_a_conventional_bus_get_slots_of_their_own_and_one_device_id() {
    let functions = vec![conventional(4), endpoint(5, 0), behind(4, 1, 6), behind(4, 1, 7), behind(4, 1, 8)];
    let platform = with_functions(functions, &[0, 1, 0, 0, 0]);
    let devices = vec![on_bus(1, 8), on_bus(1, 7), on_bus(1, 6), pci(5, 0)];
    let plan = planned(&system(vec![vm("linux", &[1], devices)]), &platform);
    let devices = &plan.vms[0].devices;
    let shown: Vec<_> = devices.iter().map(|device| device.shown.unwrap()).collect();
    assert_eq!(shown, [address(2, 0), address(1, 0), address(4, 0), address(5, 0)]);
    for device in &devices[..3] {
        let msi = device.msi.unwrap();
        assert_eq!((msi.source.id.0, msi.messages), (0x100, 3 * 65));
        assert!(device.sources.contains(&DmaSource::new(0, 0x100)));
    }
}

#[test]
fn functions_of_a_slot_stay_together_and_one_of_them_is_function_0() {
    let platform = with_functions(vec![endpoint(4, 0), endpoint(4, 1), endpoint(4, 3)], &[0, 1, 2]);
    let plan = planned(&system(vec![vm("linux", &[1], vec![pci(4, 3), pci(4, 1)])]), &platform);
    let shown: Vec<_> = plan.vms[0].devices.iter().map(|device| device.shown.unwrap()).collect();
    assert_eq!(shown, [address(4, 3), address(4, 0)]);
}

#[test]
fn a_function_that_sends_as_another_has_that_ones_stream_too_and_nobody_else_has() {
    let (mut disk, mut twin) = (endpoint(4, 0), endpoint(4, 1));
    (disk.vendor, disk.device) = (0x1b4b, 0x9230);
    let alone = system(vec![vm("a", &[1], vec![pci(4, 0)])]);
    // A function 1 that isn't there is nobody's.
    let plan = planned(&alone, &with_functions(vec![disk.clone()], &[0]));
    assert_eq!(plan.vms[0].devices[0].sources, [DmaSource::new(0, 0x20), DmaSource::new(0, 0x21)]);
    assert_eq!(plan.vms[0].devices[0].msi.unwrap().source.id.0, 0x20);
    assert!(plan.notes.iter().any(|note| note.contains("other requester ids") && note.contains("Marvell")));
    // One that is goes to the same VM, whatever the two do with each other.
    let platform = with_functions(vec![disk, twin.clone()], &[0, 1]);
    planned(&system(vec![vm("a", &[1], vec![pci(4, 0), pci(4, 1)])]), &platform);
    assert_eq!(refusals(&alone, &platform), [(Rule::Group, Item::Device(0, 0, String::new()))]);
    let two = system(vec![vm("a", &[1], vec![pci(4, 0)]), vm("b", &[2], vec![pci(4, 1)])]);
    // Their line is said, too.
    assert_eq!(refusals(&two, &platform)[0], (Rule::Group, Item::Device(1, 0, String::new())));
    // One that sends as function 0.
    (twin.vendor, twin.device) = (0x1180, 0xe832);
    let platform = with_functions(vec![endpoint(4, 0), twin], &[0, 1]);
    assert_eq!(refusals(&two, &platform)[0], (Rule::Group, Item::Device(1, 0, String::new())));
}

#[test]
fn isolation_that_rests_on_a_makers_word_is_said() {
    let mut above = port(1);
    (above.vendor, above.device) = (0x17cb, 0x0401);
    let platform = |above: Function| with_functions(vec![above, behind(1, 1, 0)], &[0, 1]);
    let file = system(vec![vm("a", &[1], vec![on_bus(1, 0)])]);
    let said = |above: Function| {
        let notes = planned(&file, &platform(above)).notes;
        notes.into_iter().find(|note| note.contains("its maker's word"))
    };
    assert_eq!(said(port(1)), None);
    let note = said(above.clone()).unwrap();
    assert!(note.contains("0000:00:01.0") && note.contains("Qualcomm"), "{note}");
    above.extended_capabilities.push((axvm_pci::spec::extended::ACS, 0x100));
    assert_eq!(said(above), None);
}
