//! A guest machine that isn't the board's mirror, beside the mirror of the same board.

use axvm_addr::{DmaSource, PciSpace, PciWindow};
use axvm_platform::limits::GuestMachine;

use super::*;

fn own(mut platform: Platform) -> Platform {
    platform.limits.guest_machine = GuestMachine::Own;
    platform
}

/// A board on which nothing is where [`board`] has it.
fn elsewhere() -> Platform {
    let mut platform = with_functions(vec![endpoint(7, 0), card(9)], &[0, 1]);
    raise(&mut platform);
    let moved =
        |span: &mut Span<Hpa>| *span = Span::new(Hpa(span.start().0 + (1 << 36)), span.size()).unwrap();
    let gic = platform.gic_mut().unwrap();
    moved(&mut gic.distributor);
    gic.redistributors.iter_mut().for_each(moved);
    gic.its.iter_mut().for_each(|its| moved(&mut its.registers));
    for host in &mut platform.pci_hosts {
        moved(&mut host.ecam);
        for window in &mut host.windows {
            moved(&mut window.cpu);
            window.pci += 1 << 36;
        }
        host.buses = PciBuses::new(0, 15);
    }
    for device in &mut platform.devices {
        device.registers.iter_mut().for_each(moved);
    }
    platform
}

fn card(device: u8) -> Function {
    let mut card = board().functions.unwrap().swap_remove(2).function;
    card.address = address(device, 0);
    card
}

/// The demo's file for a board with its functions in these slots.
fn file(disk: u8, network: u8) -> System {
    let mut file = demo();
    file.vms[0].devices[..2].clone_from_slice(&[pci(disk, 0), pci(network, 0)]);
    file
}

/// Where a guest sees what it has.
#[derive(Debug, PartialEq)]
struct Seen {
    ram: Vec<Span<Gpa>>,
    registers: Vec<Span<Gpa>>,
    emulated: Vec<Span<Gpa>>,
    doorbells: Vec<Iova>,
    windows: Vec<PciWindow<Gpa>>,
    buses: Vec<PciBuses>,
    functions: Vec<PciAddress>,
    segments: Vec<u16>,
    load: LoadPlan,
}

fn seen(vm: &VmPlan) -> Seen {
    Seen {
        ram: vm.ram.iter().map(|piece| piece.gpa).collect(),
        registers: vm.registers.iter().map(|block| block.gpa).collect(),
        emulated: vm.emulated(),
        doorbells: vm.doorbells.iter().map(|page| page.iova).collect(),
        windows: vm.pci.iter().flat_map(|bridge| bridge.windows.clone()).collect(),
        buses: vm.pci.iter().map(|bridge| bridge.buses).collect(),
        functions: vm.devices.iter().filter_map(|device| device.shown).collect(),
        segments: vm.description.pci.iter().map(|bridge| bridge.segment).collect(),
        load: vm.load,
    }
}

#[test]
fn a_machine_of_its_own_is_the_same_on_every_board_and_a_mirror_is_not() {
    let boards = [(board(), file(2, 3)), (elsewhere(), file(7, 9))];
    let [mirror, other_mirror] = boards.clone().map(|(board, file)| seen(&planned(&file, &board).vms[0]));
    let [one, other] = boards.map(|(board, file)| seen(&planned(&file, &own(board)).vms[0]));
    assert_eq!(one, other);
    assert_ne!(mirror, other_mirror);
    assert_eq!(one.functions, [address(1, 0), address(2, 0)]);
    assert_eq!(one.ram[0].start(), Gpa(0x8000_0000));
}

#[test]
fn no_address_of_a_machine_of_its_own_is_the_boards() {
    let starts = |seen: Seen| {
        let spans = seen.ram.into_iter().chain(seen.registers).chain(seen.emulated);
        let mut starts: Vec<u64> = spans.map(|span| span.start().0).collect();
        starts.extend(seen.doorbells.iter().map(|page| page.0));
        starts.extend(seen.windows.iter().map(|window| window.cpu.start().0));
        starts
    };
    let of_board = starts(seen(&planned(&demo(), &board()).vms[0]));
    let own = starts(seen(&planned(&demo(), &own(board())).vms[0]));
    assert_eq!(own.len(), of_board.len());
    assert!(own.iter().all(|at| !of_board.contains(at)), "{own:#x?} {of_board:#x?}");
}

#[test]
fn what_is_behind_it_is_the_boards_all_the_same() {
    let [mirror, own] = [board(), own(board())].map(|platform| planned(&demo(), &platform).vms.remove(0));
    assert_eq!(own.ram[0].hpa, mirror.ram[0].hpa);
    let hosts = |vm: &VmPlan| vm.registers.iter().map(|block| (block.device, block.hpa)).collect::<Vec<_>>();
    assert_eq!(hosts(&own), hosts(&mirror));
    assert_eq!(own.doorbells[0].hpa, mirror.doorbells[0].hpa);
    assert_eq!(
        (&own.lines, own.devices[0].sources.as_slice()),
        (&mirror.lines, &[DmaSource::new(0, 0x10)][..])
    );
    // MSIs go where the guest has its own ITS.
    let its = own.aarch64().unwrap().gic.unwrap().its.unwrap();
    assert_eq!(own.doorbells[0].iova.0, its.registers.start().0 + 0x1_0000);
}

#[test]
fn its_device_tree_says_where_it_has_everything() {
    let vm = planned(&demo(), &own(board())).vms.remove(0);
    let tree = axvm_platform::fdt::read(&vm.blobs[0].bytes).unwrap();
    let here = |span: Span<Hpa>| Span::new(Gpa(span.start().0), span.size()).unwrap();
    let (gic, planned) = (tree.gic().unwrap(), vm.aarch64().unwrap().gic.unwrap());
    assert_eq!(here(gic.distributor).start(), planned.distributor.start());
    assert_eq!(here(gic.redistributors[0]), planned.redistributors);
    assert_eq!(here(gic.its[0].registers).start(), planned.its.unwrap().registers.start());
    assert_eq!(here(tree.memory[0]), vm.ram[0].gpa);
    let bridge = &tree.pci_hosts[0];
    assert_eq!((here(bridge.ecam), bridge.buses), (vm.pci[0].ecam, PciBuses::new(0, 0)));
    let windows: Vec<_> = bridge.windows.iter().map(|window| (here(window.cpu), window.pci)).collect();
    let planned: Vec<_> = vm.pci[0].windows.iter().map(|window| (window.cpu, window.pci)).collect();
    assert_eq!((windows.len(), windows), (2, planned));
    let clock = tree.devices.iter().find(|device| device.path.contains("pl031")).unwrap();
    assert_eq!(here(clock.registers[0]), vm.registers[0].gpa);
    let console = tree.devices.iter().find(|device| Some(&device.path) == tree.console.as_ref()).unwrap();
    assert_eq!(here(console.registers[0]), vm.console.unwrap().at.registers().unwrap());
}

fn with_window(pci: u64, size: u64) -> Platform {
    let mut platform = own(board());
    platform.pci_hosts[0].windows.push(PciWindow {
        space: PciSpace::Memory64,
        prefetchable: false,
        pci,
        cpu: Span::new(Hpa(0x90_0000_0000), size).unwrap(),
    });
    platform
}

#[test]
fn ram_is_clear_of_what_the_boards_bridges_keep_devices_from() {
    // A device's DMA to bus addresses of its bridge's window never reaches the IOMMU.
    let platform = with_window(0x8800_0000, 256 << 20);
    assert_eq!(planned(&demo(), &platform).vms[0].ram[0].gpa.start(), Gpa(0x9800_0000));
    let mut small = demo();
    small.vms[0].memory = 128 << 20;
    assert_eq!(planned(&small, &platform).vms[0].ram[0].gpa.start(), Gpa(0x8000_0000), "it fits before");
    let mut asked = demo();
    asked.vms[0].memory_base = Some(Gpa(0x8000_0000));
    assert_eq!(refusals(&asked, &platform), [(Rule::MemoryPlace, Item::Vm(0, "memory_base".into()))]);
    assert!(lines(&asked, &platform)[0].contains("as devices see it"));
    // Registers are the CPUs' business, and the mirror has nothing to do with it.
    planned(&small, &with_window(0x0600_0000, 16 << 20));
}

#[test]
fn a_page_for_msis_that_the_boards_bridges_keep_devices_from_is_refused() {
    let platform = with_window(0x0200_0000, 1 << 20);
    assert_eq!(refusals(&demo(), &platform), [(Rule::Platform, Item::Vm(0, "".into()))]);
    let mut silent = demo();
    silent.vms[0].devices.drain(..2);
    planned(&silent, &platform);
}

#[test]
fn bars_that_its_windows_cannot_hold_are_refused() {
    let with_bar = |size: u64| {
        let mut big = endpoint(4, 0);
        big.bars[0].kind = BarKind::Memory32 { prefetchable: false };
        big.bars[0].size = size;
        with_functions(vec![big], &[0])
    };
    let file = system(vec![vm("a", &[1], vec![pci(4, 0)])]);
    planned(&file, &own(with_bar(512 << 20)));
    planned(&file, &with_bar(1 << 30));
    assert_eq!(refusals(&file, &own(with_bar(1 << 30))), [(Rule::NoRoom, Item::Device(0, 0, "pci".into()))]);
}

#[test]
fn platform_devices_lie_around_the_regions_that_the_file_places() {
    let gpio = region("gpio", 0x0600_0000, 0x0903_0000, 0x1000);
    let file = system(vec![
        vm("a", &[1], vec![node("/pl031@9010000"), gpio]),
        vm("b", &[2], vec![node("/pl011@9040000")]),
    ]);
    let mut platform = own(board());
    let serial = platform.devices.iter_mut().find(|device| device.path == "/pl031@9010000").unwrap().clone();
    platform.devices.push(PlatformDevice {
        path: "/pl011@9040000".into(),
        registers: vec![Span::new(Hpa(0x0904_0000), 0x1000).unwrap()],
        interrupts: vec![],
        ..serial
    });
    let plan = planned(&file, &platform);
    assert_eq!(plan.vms[0].registers[0].gpa.start(), Gpa(0x0601_0000));
    assert_eq!(plan.vms[0].registers[1].gpa.start(), Gpa(0x0600_0000), "what the file says");
    assert_eq!(plan.vms[1].registers[0].gpa.start(), Gpa(0x0600_0000), "each VM has a map of its own");
}
