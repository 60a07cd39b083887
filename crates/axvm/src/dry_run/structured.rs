//! Boards that no one would build, read from their device trees, and systems that give away what is there: an answer, and no panic.

use proptest::prelude::*;

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::*;
use axvm_pci::*;
use axvm_plan::fixtures::*;
use axvm_plan::*;
use axvm_platform::fake::any;
use axvm_platform::fdt;
use axvm_platform::model::*;
use axvm_system::model::*;

use super::dry_run;

/// Where a raw region lies: over something that the board has, or beside it, or anywhere.
#[derive(Clone, Debug)]
struct Place {
    pick: prop::sample::Index,
    offset: u64,
    length: Option<u64>,
    moved: u64,
}

fn place() -> impl Strategy<Value = Place> {
    let offset = prop_oneof![4 => Just(0u64), 1 => 0u64..0x3000, 1 => any::<u64>()];
    let moved =
        prop_oneof![2 => Just(0u64), 1 => (0u64..0x1000).prop_map(|page| page << 12), 1 => any::<u64>()];
    (any::<prop::sample::Index>(), offset, prop::option::of(prop_oneof![1u64..0x4000, any::<u64>()]), moved)
        .prop_map(|(pick, offset, length, moved)| Place { pick, offset, length, moved })
}

fn spans(platform: &Platform) -> Vec<Span<Hpa>> {
    let mut spans: Vec<Span<Hpa>> =
        platform.pci_hosts.iter().flat_map(|host| host.windows.iter().map(|window| window.cpu)).collect();
    spans.extend(platform.pci_hosts.iter().map(|host| host.ecam));
    spans.extend(platform.devices.iter().flat_map(|device| device.registers.iter().copied()));
    spans.extend(platform.memory.iter().copied());
    spans.push(Span::new(Hpa(0x0c00_0000), 0x1000).unwrap());
    spans
}

fn region_at(number: usize, place: &Place, platform: &Platform) -> Device {
    let spans = spans(platform);
    let span = spans[place.pick.index(spans.len())];
    let start = span.start().0.wrapping_add(place.offset);
    Device::Region {
        name: alloc::format!("raw{number}"),
        base_gpa: Gpa(start.wrapping_add(place.moved)),
        // Registers that are free, shown at a place that something else has: that is what reaches furthest.
        base_hpa: if place.moved & 0x1000 == 0 { Hpa((number as u64 + 1) << 40) } else { Hpa(start) },
        length: place.length.unwrap_or(span.size()),
        irq: None,
        access: RegisterAccess::Direct,
        dma: Dma::None,
        accept: vec![],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_board_and_every_system_has_an_answer(
        blob in any::board(),
        places in prop::collection::vec(place(), 0..3),
        nodes in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        functions in prop::collection::vec((0u8..32, 0u8..8, 0usize..4), 0..4),
        (memory, base) in (prop_oneof![Just(512u64 << 20), any::<u64>()], prop::option::of(any::<u64>())),
        bits in prop_oneof![Just(0u8), Just(44), any::<u8>()],
    ) {
        let Ok(mut platform) = fdt::read(&blob) else { return Ok(()) };
        platform.address_bits = bits;
        let mut found: Vec<Function> = Vec::new();
        for &(device, function, kind) in &functions {
            let made = match kind {
                0 => Function { address: address(device, function), ..port(device) },
                1 => behind(device, 1, function),
                _ => endpoint(device, function),
            };
            if found.iter().all(|other| other.address != made.address) {
                found.push(made);
            }
        }
        let groups: Vec<Membership> = (0u32..).take(found.len()).map(Membership::from).collect();
        let given = found.iter().map(|it| Device::Pci { address: it.address, without_reset: false, without_intx: false, in_use: InUse::Keep });
        let mut devices: Vec<Device> = given.collect();
        if !functions.is_empty() {
            platform.add_functions(found, &groups);
        }
        devices.extend((0..).zip(&places).map(|(number, place)| region_at(number, place, &platform)));
        if !platform.devices.is_empty() {
            devices.extend(nodes.iter().map(|pick| node(&platform.devices[pick.index(platform.devices.len())].path)));
        }
        let mut vm = vm("a", &[1], devices);
        (vm.memory, vm.memory_base) = (memory, base.map(Gpa));
        let file = system(vec![vm]);
        match plan(&file, &platform, &images(1)) {
            Ok(plan) => {
                let built = dry_run(&plan, &platform);
                prop_assert!(built.is_ok(), "{built:?}");
            }
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}
