//! The same on a machine with ports, whose guests see a machine of its own: what no plan may ever say, held against the platform itself.

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::*;
use axvm_plan::fixtures::{endpoint, for_the_whole_run, node, pci, region, vm};
use axvm_plan::*;
use axvm_platform::model::*;
use axvm_system::model::*;
use proptest::prelude::*;

use super::{DryRunError, dry_run};
use axvm_plan::fixtures::x86_64 as on;

fn device() -> impl Strategy<Value = Device> {
    let first = prop_oneof![
        any::<u16>(),
        prop::sample::select(vec![0x20u16, 0x3f0, 0x2f8, 0x2ff, 0x300, 0x600, 0x604, 0xcf8, 0x1000, 0xc000]),
    ];
    let range = (first, 1u16..0x40, prop::option::of(0u32..26), 0u8..3)
        .prop_map(|(first, count, irq, name)| on::range(&alloc::format!("raw{name}"), first, count, irq));
    let at = prop::sample::select(vec![
        0u64,
        0x1000,
        0xe_0000,
        0x10_0000,
        0x7ff0_0000,
        0xb000_0000,
        0xc000_0000,
        0xe000_0000,
        0xe010_0000,
        0xf000_0000,
        0xfec0_0000,
        0xfed0_0000,
        0xfed8_0000,
        0xfee0_0000,
        0xfeef_f000,
        0xff00_0000,
        0x60_0000_0000,
    ]);
    let region = (at.clone(), at, 1u64..4, 0u8..3)
        .prop_map(|(gpa, hpa, pages, name)| region(&alloc::format!("raw{name}"), gpa, hpa, pages << 12));
    prop_oneof![
        3 => (1u8..6).prop_map(|device| pci(device, 0)),
        2 => prop::sample::select(vec!["com1", "com2", "rtc", "hpet", "nowhere"]).prop_map(node),
        3 => range,
        2 => region,
    ]
}

fn any_system() -> impl Strategy<Value = System> {
    let one = (30u64..700, proptest::collection::vec(device(), 0..4), any::<bool>());
    proptest::collection::vec(one, 1..4).prop_map(|vms| {
        let vms = (0u16..).zip(vms).map(|(index, (blocks, devices, silent))| {
            let mut vm = vm(&alloc::format!("vm{index}"), &[index + 1], devices);
            vm.memory = blocks << 21;
            if silent {
                vm.interrupts = InterruptChoice::None;
            }
            vm
        });
        on::system(vms.collect())
    })
}

fn any_platform() -> impl Strategy<Value = Platform> {
    let slot = (prop::bool::weighted(0.8), any::<bool>());
    (proptest::collection::vec(slot, 5), any::<bool>(), any::<bool>()).prop_map(|(slots, remaps, much)| {
        let mut functions = Vec::new();
        for (device, (there, has_ports)) in (1u8..).zip(slots) {
            let mut function = endpoint(device, 0);
            if has_ports {
                let at = 0xc000 + u64::from(device) * 0x40;
                function.bars.push(axvm_pci::Bar {
                    index: 2,
                    kind: axvm_pci::BarKind::Io,
                    size: 32,
                    address: Some(at),
                });
            }
            functions.extend(there.then_some(function));
        }
        let mut platform = on::with(functions);
        if !remaps {
            platform.iommus = on::without_remapping().iommus;
        }
        if much {
            platform.memory.push(Span::new(Hpa(1 << 32), 8 << 30).unwrap());
        }
        for_the_whole_run(platform)
    })
}

/// What the hypervisor has of the board's ports: its console's too, unless it lends that to a VM.
fn kept(plan: &Plan, platform: &Platform) -> Vec<Ports> {
    let mut kept: Vec<Ports> = platform.kept_ports.iter().map(|kept| kept.ports).collect();
    kept.extend([on::ports(0xcf8, 8), on::ports(0x604, 2), on::ports(0x608, 4)]);
    kept.extend(plan.console_lent.is_none().then(|| on::ports(0x3f8, 8)));
    let bars = platform.functions.iter().flatten().flat_map(|it| &it.function.bars);
    let bars = bars.filter(|bar| bar.kind == axvm_pci::BarKind::Io);
    kept.extend(bars.map(|bar| on::ports(bar.address.unwrap() as u16, bar.size as u32)));
    kept
}

fn check(plan: &Plan, platform: &Platform) -> Result<(), TestCaseError> {
    let mut taken: Vec<Ports> = kept(plan, platform);
    let mut registers: Vec<Span<Hpa>> = platform.iommus.iter().map(|iommu| iommu.registers).collect();
    registers.extend(platform.pci_hosts.iter().map(|host| host.ecam));
    registers.extend(platform.reserved.iter().map(|reserved| reserved.span));
    registers.push(Span::new(Hpa(0xfec0_0000), 0x1000).unwrap());
    registers.push(Span::new(Hpa(0xfee0_0000), 1 << 20).unwrap());
    registers.push(Span::new(Hpa(0xfed0_0000), 0x400).unwrap());
    let mut reached: Vec<Span<Hpa>> = Vec::new();
    for vm in &plan.vms {
        for ports in vm.ports.iter().map(|block| block.ports) {
            prop_assert!(taken.iter().all(|other| !other.overlaps(&ports)), "{ports} of {}", vm.name);
            taken.push(ports);
        }
        let ram = vm.ram.iter().map(|piece| Span::new(piece.hpa, piece.gpa.size()).unwrap());
        let blocks = vm.registers.iter().map(|block| Span::new(block.hpa, block.gpa.size()).unwrap());
        for span in ram.chain(blocks) {
            prop_assert!(
                registers.iter().chain(&reached).all(|other| !other.overlaps(&span)),
                "{span} of {}",
                vm.name
            );
            reached.push(span);
        }
        for device in vm.devices.iter().filter(|device| !device.sources.is_empty()) {
            let bounded =
                |source: &DmaSource| platform.iommu(source.iommu).is_some_and(Iommu::remaps_messages);
            prop_assert!(device.sources.iter().all(bounded), "{}", device.name);
        }
        check_guest(vm)?;
    }
    Ok(())
}

/// What a guest sees, each apart from the rest, and all that it is handed in its RAM.
fn check_guest(vm: &VmPlan) -> Result<(), TestCaseError> {
    let machine = vm.x86_64().unwrap();
    let mut ports: Vec<Ports> = vm.ports.iter().map(|block| block.ports).collect();
    ports.extend(vm.console.and_then(|console| console.at.ports()));
    ports.extend([machine.power.event, machine.power.control, on::ports(0xcf8, 8)]);
    ports.extend(vm.pci.iter().filter_map(|bridge| bridge.ports));
    for (position, one) in ports.iter().enumerate() {
        prop_assert!(ports[position + 1..].iter().all(|other| !other.overlaps(one)), "{one} of {}", vm.name);
    }
    let mut lines: Vec<Irq> = vm.lines.iter().map(|line| line.irq).collect();
    lines.extend(vm.console.map(|console| console.irq));
    lines.push(machine.power.sci);
    lines.sort_unstable();
    let all = lines.len();
    lines.dedup();
    prop_assert_eq!(lines.len(), all, "each line once");
    prop_assert!(lines.iter().all(|line| (1..u32::from(machine.io_apic.pins)).contains(&line.0)));
    let mut map: Vec<Span<Gpa>> = vm.ram.iter().map(|piece| piece.gpa).collect();
    map.extend(vm.registers.iter().map(|block| block.gpa));
    map.extend(vm.emulated());
    map.extend(vm.pci.iter().flat_map(|bridge| bridge.windows.iter().map(|window| window.cpu)));
    map.push(Span::new(Gpa(0xfee0_1000), 0xf_f000).unwrap());
    for (position, one) in map.iter().enumerate() {
        prop_assert!(map[position + 1..].iter().all(|other| !other.overlaps(one)), "{one} of {}", vm.name);
    }
    let blob = |blob: &Blob| Span::new(blob.at, blob.bytes.len() as u64).unwrap();
    let mut handed: Vec<Span<Gpa>> = vm.blobs.iter().map(blob).collect();
    handed.extend(vm.load.initrd);
    handed.push(Span::new(vm.load.kernel, axvm_plan::fixtures::KERNEL_SIZE).unwrap());
    for (position, one) in handed.iter().enumerate() {
        prop_assert!(vm.description.memory.iter().any(|bank| bank.encloses(one)), "{one} of {}", vm.name);
        prop_assert!(handed[position + 1..].iter().all(|other| !other.overlaps(one)), "{one} of {}", vm.name);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_plan_gives_ports_that_are_anothers(system in any_system(), platform in any_platform()) {
        match plan(&system, &platform, &on::images(system.vms.len())) {
            Ok(plan) => {
                check(&plan, &platform)?;
                let built = dry_run(&plan, &platform);
                prop_assert!(built.is_ok(), "{built:?}");
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    let line = alloc::string::ToString::to_string(&problem);
                    prop_assert!(!line.contains('\n') && line.len() < 600 && !line.contains("  "), "{line}");
                }
            }
        }
    }
}

/// That the host which counts sees what a planner that gives ports twice would do.
#[test]
fn ports_that_two_vms_have_at_a_time_are_found() {
    let mut system = on::system(vec![]);
    for (index, first) in [(1, 0x300), (2, 0x310)] {
        system.vms.push(vm(&alloc::format!("vm{index}"), &[index], vec![on::range("odd", first, 8, None)]));
    }
    let platform = for_the_whole_run(on::board());
    let mut plan = plan(&system, &platform, &on::images(2)).unwrap();
    assert_eq!(dry_run(&plan, &platform), Ok(()));
    plan.vms[1].ports[0].ports = on::ports(0x307, 2);
    let problems = dry_run(&plan, &platform).unwrap_err();
    let expected = alloc::format!("{}", DryRunError::PortsTaken(on::ports(0x307, 2), VmId(0)));
    assert!(problems[0].message.contains(&expected), "{problems:?}");
}
