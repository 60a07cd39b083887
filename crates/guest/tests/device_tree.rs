//! The guest's device tree, read back by the reader of the host's: what was described is what is found.

use std::io::Write;
use std::process::{Command, Stdio};

use axvm_addr::{
    Address, Gpa, Hpa, Interrupt, Irq, PciAddress, PciBuses, PciSpace, PciWindow, SourceId, Span, Trigger,
};
use axvm_guest::fdt::{FdtWriteError, Seed, write};
use axvm_guest::{
    ClockDescription, ConsoleDescription, Description, DeviceDescription, GicDescription, MsiSender,
    NodeDescription, PciDescription, PinDescription, Place, WatchdogDescription,
};
use axvm_platform::fdt;
use axvm_platform::model::PsciConduit;
use proptest::prelude::*;

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

fn host(span: Span<Gpa>) -> Span<Hpa> {
    Span::new(Hpa(span.start().get()), span.size()).unwrap()
}

fn function(segment: u16, bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(segment, bus, device, function).unwrap()
}

fn line(irq: u32, edge: bool) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: if edge { Trigger::Edge } else { Trigger::Level } }
}

fn clock(frequency: u32, name: &str) -> ClockDescription {
    ClockDescription { frequency, output_name: name.into() }
}

fn sender((requester, id): (u16, u32)) -> MsiSender {
    MsiSender { requester, id: SourceId(id) }
}

/// A guest with one of everything.
fn guest() -> Description {
    Description {
        cpus: vec![0, 1],
        memory: vec![span(0x4000_0000, 0x2000_0000)],
        cmdline: "console=ttyAMA0 quiet".into(),
        initrd: Some(span(0x4800_0000, 0x12_3456)),
        acpi: None,
        gic: Some(GicDescription {
            distributor: span(0x800_0000, 0x1_0000),
            redistributors: span(0x80a_0000, 0x4_0000),
            its: Some(span(0x808_0000, 0x2_0000)),
        }),
        timer: [29, 30, 27, 26],
        console: Some(ConsoleDescription { at: Place::Memory(span(0x900_0000, 0x1000)), irq: Irq(33) }),
        stdout: None,
        watchdog: Some(WatchdogDescription {
            control: span(0x100_0000, 0x1000),
            refresh: span(0x101_0000, 0x1000),
            irq: Some(Irq(254)),
        }),
        pci: vec![PciDescription {
            segment: 0,
            ecam: span(0x40_1000_0000, 0x1000_0000),
            buses: PciBuses::new(0, 255),
            windows: vec![
                PciWindow {
                    space: PciSpace::Memory32,
                    prefetchable: false,
                    pci: 0x1000_0000,
                    cpu: span(0x1000_0000, 0x2eff_0000),
                },
                PciWindow {
                    space: PciSpace::Memory64,
                    prefetchable: true,
                    pci: 0x80_0000_0000,
                    cpu: span(0x80_0000_0000, 0x80_0000_0000),
                },
            ],
            ports: None,
            coherent: true,
            msi: [(0x18, 0x18), (0x10, 0x10), (0x11, 0x11), (0x12, 0x99)].map(sender).into(),
            lines: vec![
                PinDescription { function: function(0, 0, 2, 0), pin: 1, line: line(37, false) },
                PinDescription { function: function(0, 0, 3, 0), pin: 2, line: line(40, true) },
            ],
        }],
        devices: vec![DeviceDescription {
            name: "pl031@9010000".into(),
            registers: vec![span(0x901_0000, 0x1000)],
            ports: vec![],
            ids: vec![],
            interrupts: vec![line(34, false)],
            clocks: vec![ClockDescription { frequency: 24_000_000, output_name: "clk24mhz".into() }],
            coherent: false,
            properties: vec![
                ("compatible".into(), b"arm,pl031\0arm,primecell\0".to_vec()),
                ("clock-names".into(), b"apb_pclk\0".to_vec()),
            ],
            children: vec![],
        }],
    }
}

#[test]
fn a_guest_without_an_emulated_console_speaks_at_the_device_that_is_named() {
    let own = Description { console: None, stdout: Some("pl031@9010000".into()), ..guest() };
    let tree = write(&own, None).unwrap();
    let text = String::from_utf8_lossy(&tree);
    assert!(text.contains("/pl031@9010000\0") && text.contains("stdout-path") && !text.contains("pl011@"));
    let none = write(&Description { stdout: None, ..own }, None).unwrap();
    assert!(!String::from_utf8_lossy(&none).contains("stdout-path"));
}

#[test]
fn a_guest_finds_exactly_what_it_was_given() {
    let blob = write(&guest(), None).unwrap();
    let found = fdt::read(&blob).unwrap();
    assert_eq!(
        found.cpus.iter().map(|cpu| (cpu.hardware_id, cpu.usable)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );
    assert_eq!(found.psci(), Some(PsciConduit::Hvc));
    assert_eq!(found.console.as_deref(), Some("/pl011@9000000"));
    assert_eq!(found.timer.iter().map(|line| line.irq.0).collect::<Vec<_>>(), [29, 30, 27, 26]);
    let gic = found.gic().cloned().unwrap();
    assert_eq!(gic.its.len(), 1);
    assert_eq!(gic.redistributors, [host(span(0x80a_0000, 0x4_0000))]);
    let names: Vec<_> = found.devices.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(names, ["/pl011@9000000", "/watchdog@1000000", "/pl031@9010000"]);
    let watchdog = &found.devices[1];
    assert_eq!(watchdog.compatible, ["arm,sbsa-gwdt"]);
    // The control frame comes first.
    let frames = [0x100_0000, 0x101_0000].map(|start| host(span(start, 0x1000)));
    assert_eq!(watchdog.registers, frames);
    assert_eq!(watchdog.interrupts, [line(254, false)]);
    let clock = &found.devices[2];
    assert_eq!(clock.interrupts, [line(34, false)]);
    assert_eq!(clock.providers[0].fixed_clock.as_ref().unwrap().frequency, 24_000_000);
    assert_eq!(clock.compatible, ["arm,pl031", "arm,primecell"]);
    assert_eq!(fdt::bootargs(&blob).unwrap().as_deref(), Some("console=ttyAMA0 quiet"));
    assert_eq!(fdt::initrd(&blob).unwrap(), Some(host(span(0x4800_0000, 0x12_3456))));
}

#[test]
fn the_host_bridge_maps_msis_and_lines_of_its_functions_and_of_no_other() {
    let found = fdt::read(&write(&guest(), None).unwrap()).unwrap();
    let bridge = &found.pci_hosts[0];
    assert!(bridge.coherent);
    let spaces: Vec<_> = bridge.windows.iter().map(|window| (window.space, window.prefetchable)).collect();
    assert_eq!(spaces, [(PciSpace::Memory32, false), (PciSpace::Memory64, true)]);
    let msi: Vec<_> = bridge.msi_map.iter().map(|entry| (entry.first, entry.count, entry.base)).collect();
    assert_eq!(msi, [(0x10, 2, 0x10), (0x12, 1, 0x99), (0x18, 1, 0x18)]);
    assert!(bridge.iommu_map.is_empty());
}

#[test]
fn a_seed_is_written_only_when_given() {
    let seed = Seed { kaslr: 0x1122_3344_5566_7788, rng: [0x5a; 32] };
    let with = write(&guest(), Some(&seed)).unwrap();
    assert!(with.windows(8).any(|bytes| bytes == 0x1122_3344_5566_7788u64.to_be_bytes()));
    assert!(with.windows(32).any(|bytes| bytes == [0x5a; 32]));
    let without = write(&guest(), None).unwrap();
    assert!(!without.windows(4).any(|bytes| bytes == b"seed"));
}

#[test]
fn a_description_that_contradicts_itself_is_refused_by_name() {
    let mut twice = guest();
    twice.devices.push(twice.devices[0].clone());
    assert_eq!(write(&twice, None), Err(FdtWriteError::DuplicateNode("pl031@9010000".into())));
    let mut property = guest();
    property.devices[0].properties.push(("reg".into(), vec![0; 16]));
    let refusal = write(&property, None).unwrap_err();
    assert!(matches!(refusal, FdtWriteError::DuplicateProperty { property, .. } if property == "reg"));
    let mut interrupt = guest();
    interrupt.devices[0].interrupts[0].irq = Irq(8192);
    assert!(matches!(write(&interrupt, None), Err(FdtWriteError::Interrupt { irq: 8192, .. })));
    let mut its = guest();
    its.gic.as_mut().unwrap().its = None;
    assert!(matches!(write(&its, None), Err(FdtWriteError::NoController(name)) if name.starts_with("pcie@")));
    let mut nul = guest();
    nul.cmdline = "a\0b".into();
    assert!(matches!(write(&nul, None), Err(FdtWriteError::Format { .. })));
    let mut name = guest();
    name.devices[0].name = "a/b".into();
    assert!(matches!(write(&name, None), Err(FdtWriteError::Format { .. })));
}

#[test]
fn nodes_of_one_name_have_different_parents() {
    let port = |children| NodeDescription { name: "port".into(), properties: vec![], children };
    let with = |children| {
        let mut description = guest();
        description.devices[0].children = children;
        write(&description, None)
    };
    assert!(with(vec![port(vec![port(vec![])])]).is_ok());
    assert_eq!(with(vec![port(vec![]), port(vec![])]), Err(FdtWriteError::DuplicateNode("port".into())));
}

#[test]
fn nodes_beside_those_of_devices_have_phandles_of_their_own_or_the_tree_is_refused() {
    let with = |phandle: u32| {
        let mut description = guest();
        let own = ("phandle".to_string(), phandle.to_be_bytes().to_vec());
        description.devices[0].properties.push(own);
        write(&description, None)
    };
    // Controller, ITS, the console's clock and the device's own come after it, and 0xffff_ffff is no phandle.
    assert!(with(0xffff_fff9).is_ok());
    for phandle in [0xffff_fffb, 0xffff_fffe, u32::MAX] {
        assert_eq!(with(phandle), Err(FdtWriteError::Phandles), "{phandle:#x}");
    }
}

#[test]
fn the_device_tree_compiler_has_nothing_to_warn_of() {
    let compiler = Command::new("dtc")
        .args(["-I", "dtb", "-O", "dts", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    // It is a tool of the host, and not every host has it.
    let Ok(mut compiler) = compiler else { return };
    compiler.stdin.take().unwrap().write_all(&write(&guest(), None).unwrap()).unwrap();
    let output = compiler.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

fn device(index: u64) -> impl Strategy<Value = DeviceDescription> {
    let lines = (prop_oneof![16u32..32, 32u32..1020], any::<bool>());
    (
        prop::collection::vec(1u64..0x100, 1..3),
        prop::collection::vec(lines, 0..4),
        prop::collection::vec((1u32..5, prop::sample::select(vec!["", "a", "b"])), 0..3),
        any::<bool>(),
    )
        .prop_map(move |(pages, lines, clocks, coherent)| {
            let base = 0x1_0000_0000 + index * 0x100_0000;
            let register =
                |(position, pages): (usize, u64)| span(base + position as u64 * 0x10_0000, pages << 12);
            DeviceDescription {
                name: format!("device@{base:x}"),
                registers: pages.into_iter().enumerate().map(register).collect(),
                ports: vec![],
                ids: vec![],
                interrupts: lines.into_iter().map(|(irq, edge)| line(irq, edge)).collect(),
                clocks: clocks.into_iter().map(|(frequency, name)| clock(frequency, name)).collect(),
                coherent,
                properties: vec![("compatible".into(), b"axvm,test\0".to_vec())],
                children: vec![],
            }
        })
}

fn description() -> impl Strategy<Value = Description> {
    let cpus = prop::collection::btree_set(
        prop_oneof![0u64..0x100, (0u64..0x100).prop_map(|aff3| aff3 << 32)],
        1..8,
    );
    let devices = (0usize..6).prop_flat_map(|count| (0..count as u64).map(device).collect::<Vec<_>>());
    let msi = prop::collection::btree_map(any::<u16>(), 0u32..0x10000, 0..20);
    (cpus, devices, msi, "[ -~]{0,60}").prop_map(|(cpus, devices, msi, cmdline)| {
        let mut description = guest();
        description.cpus = cpus.into_iter().collect();
        description.devices = devices;
        description.pci[0].msi = msi.into_iter().map(sender).collect();
        description.cmdline = cmdline;
        description
    })
}

proptest! {
    #[test]
    fn every_description_is_read_back_as_it_was_written(description in description()) {
        let blob = write(&description, None).unwrap();
        let mut found = fdt::read(&blob).unwrap();
        prop_assert_eq!(found.cpus.iter().map(|cpu| cpu.hardware_id).collect::<Vec<_>>(), description.cpus.clone());
        prop_assert_eq!(fdt::bootargs(&blob).unwrap().unwrap_or_default(), description.cmdline.clone());
        found.devices.retain(|device| device.path.starts_with("/device@"));
        prop_assert_eq!(found.devices.len(), description.devices.len());
        for (found, given) in found.devices.iter().zip(&description.devices) {
            prop_assert_eq!(&found.path[1..], &given.name);
            let registers: Vec<_> = given.registers.iter().map(|&span| host(span)).collect();
            prop_assert_eq!(&found.registers, &registers);
            prop_assert_eq!(&found.interrupts, &given.interrupts);
            let clocks: Vec<_> = found
                .providers
                .iter()
                .map(|provider| provider.fixed_clock.clone().unwrap())
                .map(|clock| clock.frequency)
                .collect();
            let wanted: Vec<_> = given.clocks.iter().map(|clock| clock.frequency).collect();
            prop_assert_eq!(clocks, wanted);
            prop_assert_eq!(found.coherent, given.coherent);
        }
        let map = &found.pci_hosts[0].msi_map;
        for id in 0..=u16::MAX {
            let given = description.pci[0].msi.iter().find(|sender| sender.requester == id).map(|sender| sender.id.0);
            let mapped = map.iter().find_map(|entry| {
                let offset = u32::from(id).checked_sub(entry.first).filter(|&offset| offset < entry.count)?;
                Some(entry.base + offset)
            });
            prop_assert_eq!(mapped, given);
        }
    }
}
