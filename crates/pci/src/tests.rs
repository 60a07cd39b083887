//! What enumeration, groups and resets promise, on functions made up for it.

mod aliases;
mod away;
mod clock;
mod groups;
mod recorded;
mod settle;

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use axvm_addr::{Hpa, PAGE_SIZE, PciAddress, PciBuses, PciSpace, PciWindow, Span};
use proptest::prelude::*;

use crate::fake::{FakeBus, FakeFunction};
use crate::spec::express;
use crate::spec::extended::Acs;
use crate::spec::header::{self, Command};
use crate::spec::{capability, msi};
use crate::{
    BarKind, ConfigSpace, Forwarding, Function, HostBridge, NotSilent, ResetError, ResetMethod, Virtio,
    Width, bridges_above, enumerate, groups, quarantine, requester_ids, reset,
};

const ISOLATION: u16 = Acs::ISOLATION.bits();

/// The windows of QEMU's `virt` board.
fn board() -> HostBridge {
    let window = |space, pci, size| PciWindow {
        space,
        prefetchable: false,
        pci,
        cpu: Span::new(Hpa(pci), size).unwrap(),
    };
    HostBridge {
        segment: 0,
        buses: PciBuses::new(0, 255),
        windows: vec![
            window(PciSpace::Io, 0, 0x1_0000),
            window(PciSpace::Memory32, 0x1000_0000, 0x2eff_0000),
            window(PciSpace::Memory64, 0x80_0000_0000, 0x80_0000_0000),
        ],
    }
}

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function).unwrap()
}

fn endpoints() -> FakeBus {
    FakeBus::new(0, 0)
        .with(0, 0, FakeFunction::new(0x1b36, 0x0008, 0x06_00_00))
        .with(1, 0, FakeFunction::e1000e())
        .with(2, 0, FakeFunction::nvme())
        .with(3, 0, FakeFunction::igb())
        .with(4, 0, FakeFunction::edu())
        .with(5, 0, FakeFunction::accelerator())
}

fn find(functions: &[Function], address: PciAddress) -> &Function {
    functions.iter().find(|function| function.address == address).unwrap()
}

fn command(bus: &FakeBus, address: PciAddress) -> Command {
    Command::from_bits_retain(bus.read(address, header::COMMAND, Width::B2) as u16)
}

#[test]
fn enumeration_finds_the_functions_with_what_they_can_do() {
    let bus = endpoints();
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions.len(), 6);
    let nvme = find(&functions, at(0, 2, 0));
    assert_eq!((nvme.vendor, nvme.device, nvme.class, nvme.revision), (0x1b36, 0x0010, 0x01_08_02, 2));
    let msix = nvme.msix.unwrap();
    assert_eq!((msix.vectors, msix.table, msix.pending), (65, (0, 0x2000), (0, 0x3000)));
    assert_eq!(nvme.resets, [ResetMethod::FunctionLevel]);
    assert_eq!((nvme.bars.len(), nvme.bars[0].size), (1, 0x4000));
    let nic = find(&functions, at(0, 1, 0));
    assert_eq!(nic.resets, [ResetMethod::PowerState]);
    assert_eq!(nic.msi_vectors, Some(1));
    let sizes: Vec<_> = nic.bars.iter().map(|bar| (bar.index, bar.kind.flags(), bar.size)).collect();
    assert_eq!(sizes, [(0, 0, 0x20000), (1, 0, 0x20000), (2, 1, 0x20), (3, 0, 0x4000)]);
    assert_eq!(find(&functions, at(0, 4, 0)).resets, []);
    assert!(find(&functions, at(0, 4, 0)).extended_capabilities.is_empty());
    assert_eq!(find(&functions, at(0, 3, 0)).extended_capabilities.len(), 3);
}

/// No two memory BARs share a page, each is where its kind may be, and the hardware has what the list says.
fn check_bars(bus: &FakeBus, host: &HostBridge, functions: &[Function]) {
    let mut spans = Vec::new();
    for function in functions {
        for bar in &function.bars {
            let Some(address) = bar.address else { continue };
            let low = bus.read(function.address, header::bar(bar.index), Width::B4);
            let high = if bar.kind.is_wide() {
                bus.read(function.address, header::bar(bar.index + 1), Width::B4)
            } else {
                0
            };
            assert_eq!(u64::from(high) << 32 | u64::from(low), address | u64::from(bar.kind.flags()));
            assert_eq!(address % bar.size, 0);
            assert!(host.windows.iter().any(|window| {
                window.pci <= address && address + bar.size <= window.pci + window.cpu.size()
            }));
            if bar.kind == BarKind::Io {
                continue;
            }
            assert_eq!(address % PAGE_SIZE, 0);
            assert!(bar.kind.is_wide() || address + bar.size <= 1 << 32);
            spans.push((address, address + bar.size.max(PAGE_SIZE)));
        }
    }
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:x?}");
}

#[test]
fn bars_get_pages_of_their_own_in_the_windows_of_their_kind() {
    let bus = endpoints();
    let functions = enumerate(&bus, &board(), &bus);
    assert!(functions.iter().flat_map(|function| &function.bars).all(|bar| bar.address.is_some()));
    check_bars(&bus, &board(), &functions);
    let wide = find(&functions, at(0, 5, 0)).bars.iter().find(|bar| bar.index == 2).unwrap();
    assert_eq!(
        wide.address,
        Some(0x80_0000_0000),
        "the biggest 64-bit BAR is the first in the 64-bit window"
    );
}

#[test]
fn enumerating_again_gives_the_same_places() {
    let bus = endpoints();
    let first = enumerate(&bus, &board(), &bus);
    bus.write(at(0, 2, 0), header::COMMAND, Width::B2, 0x6);
    assert_eq!(enumerate(&bus, &board(), &bus), first);
    let again = endpoints();
    assert_eq!(enumerate(&again, &board(), &again), first);
}

#[test]
fn after_enumeration_nothing_decodes_masters_the_bus_or_signals() {
    let mut noisy = FakeFunction::igb().rom(0x1000);
    noisy.set(header::COMMAND, Width::B2, 0x7);
    for (id, enable) in [(capability::MSI, msi::MSI_ENABLE), (capability::MSIX, msi::MSIX_ENABLE)] {
        let offset = noisy.find(id).unwrap() + msi::CONTROL;
        let control = noisy.get(offset, Width::B2);
        noisy.set(offset, Width::B2, control | u32::from(enable));
    }
    noisy.set(0x150 + 8, Width::B2, 0x9);
    noisy.set(header::ROM, Width::B4, 1);
    let bus = FakeBus::new(0, 0).with(3, 0, noisy);
    let functions = enumerate(&bus, &board(), &bus);
    let igb = find(&functions, at(0, 3, 0));
    assert_eq!(command(&bus, igb.address), Command::INTX_DISABLE);
    let control = |id| bus.read(igb.address, igb.capability(id).unwrap() + msi::CONTROL, Width::B2) as u16;
    assert_eq!(control(capability::MSI) & msi::MSI_ENABLE, 0);
    assert_eq!(control(capability::MSIX) & msi::MSIX_ENABLE, 0);
    let sriov = igb.extended_capability(crate::spec::extended::SRIOV).unwrap();
    assert_eq!(bus.read(igb.address, sriov + 8, Width::B2) & 9, 0);
    assert_eq!(bus.read(igb.address, header::ROM, Width::B4), 0);
}

#[test]
fn a_bar_that_fits_no_window_is_left_without_an_address() {
    let bus =
        FakeBus::new(0, 0).with(1, 0, FakeFunction::new(0x11, 2, 0).bar(0, 1 << 31, 0).bar(1, 0x1000, 0));
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions[0].bars[0].address, None);
    assert!(functions[0].bars[1].address.is_some());
}

#[test]
fn functions_behind_ports_get_bus_numbers_and_windows() {
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1], 0, 0, FakeFunction::accelerator())
        .with(2, 0, FakeFunction::root_port(0))
        .with(3, 0, FakeFunction::root_port(0))
        .with_behind(&[3], 0, 0, FakeFunction::conventional_bridge())
        .with_behind(&[3, 0], 4, 0, FakeFunction::edu())
        .with_behind(&[3, 0], 5, 0, FakeFunction::e1000e());
    let functions = enumerate(&bus, &board(), &bus);
    let addresses: Vec<_> = functions.iter().map(|function| function.address.to_string()).collect();
    let expected = ["01.0", "02.0", "03.0"].map(|end| std::format!("0000:00:{end}"));
    assert_eq!(addresses[..3], expected);
    assert_eq!(addresses[3..], ["0000:01:00.0", "0000:03:00.0", "0000:04:04.0", "0000:04:05.0"]);
    assert_eq!(functions[3].parent, Some(at(0, 1, 0)));
    assert!(functions[3].resets.contains(&ResetMethod::SecondaryBus));
    assert_eq!(functions[4].resets, [], "a bridge isn't reset: what is behind it would be");
    assert_eq!(functions[5].resets, [ResetMethod::SecondaryBus], "with its neighbour");
    assert_eq!(functions[6].resets, [ResetMethod::PowerState, ResetMethod::SecondaryBus]);
    check_bars(&bus, &board(), &functions);
    for function in functions.iter().filter(|function| function.parent.is_some()) {
        let mut bridge = function.parent;
        while let Some(address) = bridge {
            let window = |base: u16| {
                let bits = bus.read(address, base, Width::B4);
                (u64::from(bits & 0xfff0) << 16, u64::from(bits & 0xfff0_0000) | 0xf_ffff)
            };
            for bar in function.bars.iter().filter(|bar| bar.kind != BarKind::Io) {
                let (mut base, mut limit) = window(header::MEMORY_BASE);
                if bar.kind == (BarKind::Memory64 { prefetchable: true }) {
                    (base, limit) = window(header::PREFETCH_BASE);
                    base |= u64::from(bus.read(address, header::PREFETCH_BASE_UPPER, Width::B4)) << 32;
                    limit |= u64::from(bus.read(address, header::PREFETCH_LIMIT_UPPER, Width::B4)) << 32;
                }
                let start = bar.address.unwrap();
                assert!(base <= start && start + bar.size - 1 <= limit, "{bar:x?} not in {base:x}-{limit:x}");
            }
            assert!(command(&bus, address).contains(Command::MEMORY));
            assert!(!command(&bus, address).contains(Command::BUS_MASTER), "nobody has what is behind it");
            bridge = find(&functions, address).parent;
        }
    }
    assert_eq!(command(&bus, at(0, 2, 0)), Command::INTX_DISABLE, "nothing is behind this port");
    let closed = bus.read(at(0, 2, 0), header::MEMORY_BASE, Width::B4);
    assert!(closed & 0xffff > closed >> 16);
}

/// Two ports, behind the second a switch of which one port isolates and one has no ACS.
fn switched() -> FakeBus {
    FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[1], 0, 0, FakeFunction::e1000e().multifunction())
        .with_behind(&[1], 0, 1, FakeFunction::edu())
        .with(2, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[2], 0, 0, FakeFunction::switch_port(5, 0))
        .with_behind(&[2, 0], 1, 0, FakeFunction::switch_port(6, ISOLATION))
        .with_behind(&[2, 0, 1], 0, 0, FakeFunction::nvme())
        .with_behind(&[2, 0], 2, 0, FakeFunction::switch_port(6, 0))
        .with_behind(&[2, 0, 2], 0, 0, FakeFunction::nvme())
        .with_behind(&[2, 0], 3, 0, FakeFunction::switch_port(6, ISOLATION))
        .with_behind(&[2, 0, 3], 0, 0, FakeFunction::conventional_bridge())
        .with_behind(&[2, 0, 3, 0], 7, 0, FakeFunction::edu())
        .with_behind(&[2, 0, 3, 0], 8, 0, FakeFunction::edu())
}

#[test]
fn requests_arrive_with_the_ids_that_bridges_give_them() {
    let bus = switched().with(3, 0, FakeFunction::new(0x8086, 0x244e, 0x06_04_01).bridge()).with_behind(
        &[3],
        5,
        0,
        FakeFunction::edu(),
    );
    let functions = enumerate(&bus, &board(), &bus);
    let ids = |address| requester_ids(&functions, find(&functions, address)).requests;
    assert_eq!(ids(at(4, 0, 0)), [at(4, 0, 0)], "ports pass them");
    assert_eq!(ids(at(7, 8, 0)), [at(7, 8, 0), at(7, 0, 0)], "function 0 of the conventional bus");
    assert_eq!(ids(at(8, 5, 0)), [at(8, 5, 0), at(0, 3, 0)], "the bridge itself where it has no Express");
    let above: Vec<_> = bridges_above(&functions, find(&functions, at(7, 8, 0)));
    let above: Vec<_> = above.iter().map(|bridge| bridge.address).collect();
    assert_eq!(above, [at(6, 0, 0), at(3, 3, 0), at(2, 0, 0), at(0, 2, 0)]);
}

#[test]
fn bridges_forward_up_only_for_functions_that_are_someones() {
    let bus = switched();
    let functions = enumerate(&bus, &board(), &bus);
    let above = |address| -> Vec<PciAddress> {
        bridges_above(&functions, find(&functions, address)).iter().map(|bridge| bridge.address).collect()
    };
    let open = || -> Vec<PciAddress> {
        let masters = functions.iter().map(|function| function.address);
        masters.filter(|&address| command(&bus, address).contains(Command::BUS_MASTER)).collect()
    };
    assert_eq!(open(), []);
    let (first, second) = (at(4, 0, 0), at(5, 0, 0));
    let mut forwarding = Forwarding::default();
    forwarding.open(&bus, first, &above(first));
    assert_eq!(open(), [at(0, 2, 0), at(2, 0, 0), at(3, 1, 0)]);
    forwarding.open(&bus, second, &above(second));
    forwarding.close(&bus, first, &above(first), above).unwrap();
    assert_eq!(open(), [at(0, 2, 0), at(2, 0, 0), at(3, 2, 0)], "what the second needs stays");
    forwarding.close(&bus, second, &above(second), above).unwrap();
    assert_eq!(open(), []);
    // Twice does no harm.
    forwarding.close(&bus, second, &above(second), above).unwrap();
    assert_eq!(open(), []);
    // A bridge whose command register doesn't take the write is said, and the others are closed.
    forwarding.open(&bus, second, &above(second));
    bus.function(at(2, 0, 0), |bridge| bridge.forbid(header::COMMAND, Width::B2, 0xffff)).unwrap();
    let still = forwarding.close(&bus, second, &above(second), above);
    assert!(matches!(still, Err(NotSilent::Masters { function, .. }) if function == at(2, 0, 0)));
    assert_eq!(open(), [at(2, 0, 0)]);
}

#[test]
fn a_bus_reset_brings_back_every_function_on_the_bus() {
    let bus = switched();
    let functions = enumerate(&bus, &board(), &bus);
    let (one, other) = (find(&functions, at(7, 7, 0)), find(&functions, at(7, 8, 0)));
    for function in [one, other] {
        assert_eq!(function.resets, [ResetMethod::SecondaryBus]);
        bus.write(function.address, header::COMMAND, Width::B2, 0x6);
        bus.function(function.address, |fake| fake.silence_us = 300_000);
    }
    let started = bus.microseconds();
    assert_eq!(reset(&bus, one, &[other], ResetMethod::SecondaryBus, &bus), Ok(()));
    assert!(bus.microseconds() - started < 2_300_000);
    check_bars(&bus, &board(), &functions);
    for function in [one, other] {
        assert_eq!(bus.function(function.address, |fake| fake.resets), Some(1));
        assert_eq!(command(&bus, function.address), Command::INTX_DISABLE);
    }
    assert_eq!(bus.function(at(4, 0, 0), |fake| fake.resets), Some(0), "another bus");
    let control = bus.read(at(6, 0, 0), header::BRIDGE_CONTROL, Width::B2) as u16;
    assert_eq!(control & header::SECONDARY_RESET, 0, "the bus is out of reset");
    bus.function(other.address, |fake| fake.silence_us = u64::MAX / 2);
    let lost = ResetError::Lost { function: other.address, method: ResetMethod::SecondaryBus };
    assert_eq!(reset(&bus, one, &[other], ResetMethod::SecondaryBus, &bus), Err(lost));
}

#[test]
fn virtio_devices_say_whether_their_dma_passes_the_iommu() {
    let transitional = FakeFunction::new(0x1af4, 0x1001, 0x01_00_00).virtio(4, 1 << 32 | 1 << 33);
    let elsewhere = FakeFunction::new(0x1af4, 0x1110, 0x05_00_00);
    let misplaced =
        FakeFunction::new(0x1af4, 0x1042, 0x01_00_00).bar(4, 0x20, 0).virtio(4, 1 << 32 | 1 << 33);
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::virtio_disk(1 << 32 | 1 << 33))
        .with(2, 0, FakeFunction::virtio_disk(1 << 32 | 0xffff))
        .with(3, 0, FakeFunction::virtio_disk(1 << 1))
        .with(4, 0, transitional)
        .with(5, 0, elsewhere)
        .with(6, 0, FakeFunction::accelerator())
        .with(7, 0, misplaced)
        .with(8, 0, FakeFunction::nvme());
    let functions = enumerate(&bus, &board(), &bus);
    let said: Vec<_> = functions.iter().map(|function| function.virtio).collect();
    let (legacy, unknown) = (Some(Virtio::Legacy), Some(Virtio::Unknown));
    assert_eq!(
        said,
        [Some(Virtio::Platform), Some(Virtio::Past), legacy, legacy, None, unknown, unknown, None]
    );
    for device in 1..4 {
        assert_eq!(command(&bus, at(0, device, 0)), Command::INTX_DISABLE);
        let status = bus.function(at(0, device, 0), |fake| fake.virtio_status());
        assert_eq!(status, Some(Some(0)), "it was reset");
    }
}

/// Firmware has numbered the buses, as that of every PC has: in another order, with gaps, and with what it left between.
#[test]
fn bus_numbers_that_bridges_have_already_are_in_nobodys_way() {
    let addresses = |bus: &FakeBus| -> Vec<PciAddress> {
        enumerate(bus, &board(), bus).iter().map(|function| function.address).collect()
    };
    let expected = addresses(&switched());
    // Of the two ports of the root bus.
    for [first, second] in
        [[0x0001_0100, 0x0007_0200], [0x0009_0800, 0x0007_0100], [0x00ff_0100, 0x00ff_0100]]
    {
        let bus = switched();
        for (device, numbers) in [(1, first), (2, second)] {
            bus.function(at(0, device, 0), |port| port.set(header::PRIMARY_BUS, Width::B4, numbers)).unwrap();
        }
        assert_eq!(addresses(&bus), expected, "{first:#x} {second:#x}");
        // What the first time has left is in nobody's way either.
        assert_eq!(addresses(&bus), expected, "{first:#x} {second:#x}");
    }
}

#[test]
fn a_bridge_without_a_bus_number_left_shows_nothing_behind_it() {
    let bus = FakeBus::new(0, 0).with(1, 0, FakeFunction::root_port(0)).with_behind(
        &[1],
        0,
        0,
        FakeFunction::edu(),
    );
    let functions = enumerate(&bus, &HostBridge { buses: PciBuses::new(0, 0), ..board() }, &bus);
    assert_eq!(functions.len(), 1);
    assert_eq!(bus.read(at(0, 1, 0), header::PRIMARY_BUS, Width::B4), 0);
}

#[test]
fn a_reset_brings_back_the_bars_and_leaves_the_function_quiet() {
    let bus = endpoints()
        .with(6, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[6], 0, 0, FakeFunction::new(5, 2, 0).bar(0, 0x1000, 0))
        .with(7, 0, FakeFunction::new(3, 4, 0).bar(0, 0x1000, 0).advanced());
    let host = board();
    let functions = enumerate(&bus, &host, &bus);
    for (function, method) in
        functions.iter().flat_map(|function| function.resets.iter().map(move |method| (function, *method)))
    {
        let address = function.address;
        bus.write(address, header::COMMAND, Width::B2, 0x7);
        let express = function.capability(capability::EXPRESS).map(|offset| offset + express::DEVICE_CONTROL);
        if let Some(offset) = express {
            bus.write(address, offset, Width::B2, 0x2030);
        }
        let before = bus.function(address, |fake| fake.resets).unwrap();
        assert_eq!(reset(&bus, function, &[], method, &bus), Ok(()), "{address} {method:?}");
        assert_eq!(bus.function(address, |fake| fake.resets), Some(before + 1), "{address} {method:?}");
        assert_eq!(command(&bus, address), Command::INTX_DISABLE);
        if let Some(offset) = express {
            assert_eq!(bus.read(address, offset, Width::B2) & 0xe0, 0x20, "the payload size is kept");
        }
    }
    check_bars(&bus, &host, &functions);
}

#[test]
fn a_function_that_never_answers_again_is_an_error_after_bounded_time() {
    let bus = endpoints();
    let functions = enumerate(&bus, &board(), &bus);
    let nvme = find(&functions, at(0, 2, 0));
    bus.function(nvme.address, |fake| fake.silence_us = 500_000);
    assert_eq!(reset(&bus, nvme, &[], ResetMethod::FunctionLevel, &bus), Ok(()));
    bus.function(nvme.address, |fake| fake.silence_us = u64::MAX / 2);
    let started = bus.microseconds();
    let lost = ResetError::Lost { function: nvme.address, method: ResetMethod::FunctionLevel };
    assert_eq!(reset(&bus, nvme, &[], ResetMethod::FunctionLevel, &bus), Err(lost));
    assert!(bus.microseconds() - started < 1_500_000);
}

#[test]
fn a_method_that_the_function_does_not_have_is_refused() {
    let bus = endpoints();
    let functions = enumerate(&bus, &board(), &bus);
    let edu = find(&functions, at(0, 4, 0));
    bus.take_writes();
    for method in [ResetMethod::FunctionLevel, ResetMethod::PowerState, ResetMethod::SecondaryBus] {
        let refused = ResetError::Unsupported { function: edu.address, method };
        assert_eq!(reset(&bus, edu, &[], method, &bus), Err(refused));
    }
    assert!(bus.take_writes().is_empty());
}

#[test]
fn quarantine_turns_off_mastering_decoding_and_messages() {
    let bus = endpoints();
    let functions = enumerate(&bus, &board(), &bus);
    let igb = find(&functions, at(0, 3, 0));
    let msi = igb.capability(capability::MSI).unwrap() + msi::CONTROL;
    let msix = igb.capability(capability::MSIX).unwrap() + msi::CONTROL;
    bus.write(igb.address, header::COMMAND, Width::B2, 0x7);
    bus.write(igb.address, msi, Width::B2, 1);
    bus.write(igb.address, msix, Width::B2, 0x8000);
    quarantine(&bus, igb);
    assert_eq!(command(&bus, igb.address), Command::INTX_DISABLE);
    assert_eq!(bus.read(igb.address, msi, Width::B2) & 1, 0);
    assert_eq!(bus.read(igb.address, msix, Width::B2) & 0x8000, 0);
}

#[test]
fn capability_lists_that_loop_end() {
    let mut function = FakeFunction::igb();
    let first = function.find(capability::POWER).unwrap();
    let last = function.find(capability::EXPRESS).unwrap();
    function.set(last + 1, Width::B1, first.into());
    function.set(0x150, Width::B4, 0x1001_0010);
    let bus = FakeBus::new(0, 0).with(0, 0, function);
    let functions = enumerate(&bus, &board(), &bus);
    assert_eq!(functions[0].capabilities.len(), 4);
    assert_eq!(functions[0].extended_capabilities.len(), 3);
}

proptest! {
    #[test]
    fn whatever_a_device_answers_enumeration_groups_and_resets_end(
        seed in prop::collection::vec((0u16..0x200, any::<u32>(), any::<u32>()), 0..120),
        kind in 0u8..5,
    ) {
        let mut function = match kind {
            0 => FakeFunction::nvme(),
            1 => FakeFunction::igb(),
            2 => FakeFunction::accelerator(),
            3 => FakeFunction::root_port(ISOLATION),
            _ => FakeFunction::new(0x11, 2, 3),
        };
        for (offset, value, mask) in seed {
            let offset = offset & !3;
            if offset >= 8 {
                function.set(offset, Width::B4, value);
                function.allow(offset, Width::B4, mask);
            }
        }
        let bus = FakeBus::new(0, 0).with(0, 0, function).with(1, 0, FakeFunction::e1000e());
        let functions = enumerate(&bus, &board(), &bus);
        prop_assert_eq!(groups(&functions, &bus).len(), functions.len());
        for function in &functions {
            for &method in &function.resets {
                let _ = reset(&bus, function, &[], method, &bus);
            }
        }
    }

    #[test]
    fn any_mix_of_bars_is_placed_without_overlap(
        sizes in prop::collection::vec((0u32..28, 0usize..4), 1..24),
    ) {
        let mut bus = FakeBus::new(0, 0);
        for (device, (log, kind)) in (0..).zip(sizes) {
            let flags = [0b0000, 0b1000, 0b0100, 0b1100][kind];
            let function = FakeFunction::new(0x11, 2, 3).bar(1, 1 << log.max(4), flags).bar(5, 0x10, 0);
            bus = bus.with(device, 0, function);
        }
        let functions = enumerate(&bus, &board(), &bus);
        check_bars(&bus, &board(), &functions);
    }
}
