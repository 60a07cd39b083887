//! Devices judged for what they are, and for what lies in their registers.

use axvm_addr::DmaSource;
use axvm_platform::model::{ChildNode, IdMapping, PlatformDevice, Provider};

use super::*;

const CLOCK: &str = "/pl031@9010000";

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn accepting(path: &str, accept: &[Hazard]) -> System {
    let device = Device::Node {
        path: path.into(),
        access: RegisterAccess::Direct,
        dma: Dma::None,
        accept: accept.to_vec(),
    };
    system(vec![vm("a", &[1], vec![device])])
}

/// The board, on which the clock has been changed, and a copy of it added.
fn changed(clock: impl FnOnce(&mut PlatformDevice), copy: Option<PlatformDevice>) -> Platform {
    let mut platform = board();
    clock(platform.devices.iter_mut().find(|device| device.path == CLOCK).unwrap());
    platform.devices.extend(copy);
    platform
}

/// Another device, of no interest by itself.
fn other(path: &str, registers: Span<Hpa>) -> PlatformDevice {
    let platform = board();
    let mut other = platform.devices.iter().find(|device| device.path == CLOCK).unwrap().clone();
    (other.path, other.registers) = (path.into(), vec![registers]);
    other.interrupts.clear();
    other
}

/// The rules that giving the clock breaks.
fn rules(platform: &Platform, accept: &[Hazard]) -> Vec<Rule> {
    let system = accepting(CLOCK, accept);
    match plan(&system, platform, &images(1)) {
        Ok(_) => vec![],
        Err(problems) => problems.iter().map(|problem| problem.rule).collect(),
    }
}

#[test]
fn what_lies_in_a_nodes_registers_must_be_givable_and_goes_to_the_same_vm() {
    // A block of 64 KiB over the page of another device.
    let wide = |clock: &mut PlatformDevice| clock.registers = vec![span(0x0b00_0000, 0x1_0000)];
    let dma = || other("/dma@b004000", span(0x0b00_4000, 0x1000));
    assert_eq!(rules(&changed(wide, Some(dma())), &[]), []);
    let mut master = dma();
    master.bus_master = Some(true);
    assert_eq!(rules(&changed(wide, Some(master.clone())), &[]), [Rule::Dma]);
    let said = lines(&accepting(CLOCK, &[]), &changed(wide, Some(master.clone())));
    assert!(said[0].contains("/dma@b004000, which lies in its registers, masters the bus"), "{said:?}");
    // With a stream it is confined, and the stream is the VM's; but not if the file says that there is no DMA.
    master.sources = vec![DmaSource::new(0, 0x99)];
    let platform = changed(wide, Some(master.clone()));
    let plan = planned(&system(vec![vm("a", &[1], vec![node(CLOCK)])]), &platform);
    assert_eq!(plan.vms[0].devices[0].sources, [DmaSource::new(0, 0x99)]);
    assert_eq!(rules(&platform, &[]), [Rule::Dma]);
    let mut off = dma();
    off.enabled = false;
    assert_eq!(rules(&changed(wide, Some(off)), &[]), [Rule::DeviceDisabled]);
    let mut watchdog = dma();
    watchdog.path = "/watchdog@b004000".into();
    assert_eq!(rules(&changed(wide, Some(watchdog.clone())), &[]), [Rule::Hazard]);
    assert_eq!(rules(&changed(wide, Some(watchdog)), &[Hazard::Watchdog]), []);
    let two = system(vec![vm("a", &[1], vec![node(CLOCK)]), vm("b", &[2], vec![node("/dma@b004000")])]);
    let platform = for_the_whole_run(changed(wide, Some(dma())));
    assert_eq!(refusals(&two, &platform), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
    let said = lines(&two, &platform);
    assert!(said[0].contains("vm \"a\" has it already, as /pl031@9010000"), "{said:?}");
}

#[test]
fn one_block_described_as_several_kinds_is_the_one_that_is_in_use() {
    let mut alias = other("/spi@9010000", span(0x0901_0000, 0x1000));
    alias.enabled = false;
    assert_eq!(rules(&changed(|_| (), Some(alias.clone())), &[]), []);
    assert_eq!(
        refusals(&accepting("/spi@9010000", &[]), &changed(|_| (), Some(alias.clone())))[0].0,
        Rule::DeviceDisabled
    );
    // It is one piece of hardware, and what one node says of its DMA is true.
    alias.bus_master = Some(true);
    assert_eq!(rules(&changed(|_| (), Some(alias)), &[]), [Rule::Dma]);
}

#[test]
fn a_bus_whose_registers_are_a_window_is_not_what_is_on_it() {
    let mut bus = other("/bus@9000000", span(0x0900_8000, 0x1_0000));
    bus.ranges = true;
    let on_bus = |clock: &mut PlatformDevice| clock.path = "/bus@9000000/clock@9010000".into();
    let platform = changed(on_bus, Some(bus));
    planned(&accepting("/bus@9000000/clock@9010000", &[]), &platform);
    // Who has the bus has all of that.
    assert_eq!(refusals(&accepting("/bus@9000000", &[]), &platform)[0].0, Rule::Hazard);
    let two = system(vec![
        vm("a", &[1], accepting("/bus@9000000/clock@9010000", &[]).vms[0].devices.clone()),
        vm("b", &[2], accepting("/bus@9000000", &[Hazard::Bus]).vms[0].devices.clone()),
    ]);
    let platform = for_the_whole_run(platform);
    assert_eq!(refusals(&two, &platform), [(Rule::DeviceTwice, Item::Device(1, 0, String::new()))]);
}

/// What is changed of a device.
type Change<'a> = &'a dyn Fn(&mut PlatformDevice);

#[test]
fn who_has_power_over_others_is_given_only_where_the_file_accepts_that_by_name() {
    let property = |clock: &mut PlatformDevice, name: &str| clock.properties.push((name.into(), vec![0; 4]));
    let kind = |clock: &mut PlatformDevice, kind: &str| {
        clock.properties.iter_mut().find(|(name, _)| name == "compatible").unwrap().1 =
            [kind.as_bytes(), &[0]].concat();
    };
    let cases: [(Hazard, Change<'_>); 13] = [
        (Hazard::Provider, &|clock| property(clock, "#clock-cells")),
        (Hazard::Provider, &|clock| property(clock, "#power-domain-cells")),
        (Hazard::Provider, &|clock| property(clock, "gpio-controller")),
        (Hazard::Provider, &|clock| property(clock, "interrupt-controller")),
        (Hazard::Provider, &|clock| kind(clock, "vendor,grf\0syscon")),
        (Hazard::Provider, &|clock| clock.referenced = true),
        (Hazard::Provider, &|clock| {
            let property = (String::from("#reset-cells"), vec![0, 0, 0, 1]);
            clock.children.push(ChildNode {
                name: "reset".into(),
                properties: vec![property],
                children: vec![],
            });
        }),
        (Hazard::Bus, &|clock| clock.ranges = true),
        (Hazard::Iommu, &|clock| property(clock, "#iommu-cells")),
        (Hazard::Flash, &|clock| kind(clock, "cfi-flash")),
        (Hazard::Flash, &|clock| {
            let property = (String::from("compatible"), b"jedec,spi-nor\0".to_vec());
            clock.children.push(ChildNode {
                name: "chip@0".into(),
                properties: vec![property],
                children: vec![],
            });
        }),
        (Hazard::Watchdog, &|clock| kind(clock, "arm,sbsa-gwdt")),
        (Hazard::Debug, &|clock| kind(clock, "arm,coresight-cpu-debug")),
    ];
    for (hazard, change) in cases {
        let platform = changed(change, None);
        assert_eq!(rules(&platform, &[]), [Rule::Hazard], "{hazard:?}");
        let others: Vec<Hazard> =
            Hazard::ALL.iter().map(|(_, any)| *any).filter(|any| *any != hazard).collect();
        assert_eq!(rules(&platform, &others), [Rule::Hazard], "{hazard:?} isn't any of the others");
        assert_eq!(rules(&platform, &[hazard]), [], "{hazard:?}");
        // The tests' regions accept providers.
        if hazard != Hazard::Provider {
            let raw = region("raw", 0x0a10_0000, 0x0901_0000, 0x1000);
            let said = lines(&system(vec![vm("a", &[1], vec![raw])]), &platform);
            assert!(said[0].contains("[hazard]"), "{hazard:?} as a raw region: {said:?}");
        }
    }
}

#[test]
fn a_dependency_stays_as_it_is_where_the_file_accepts_that_and_the_guest_is_not_told_of_it() {
    let platform = changed(
        |clock| {
            let gate = Provider { property: "clocks".into(), path: "/clocks@1".into(), fixed_clock: None };
            clock.providers.insert(0, gate);
        },
        None,
    );
    assert_eq!(rules(&platform, &[]), [Rule::Provider]);
    let plan = planned(&accepting(CLOCK, &[Hazard::Dependency]), &platform);
    assert!(plan.notes.iter().any(|note| note.contains("/clocks@1 (clocks)")));
    // One of two clocks alone would be taken for the other.
    assert_eq!(plan.vms[0].description.devices[0].clocks, []);
}

#[test]
fn the_nodes_below_a_device_go_to_its_guest_with_it() {
    let child = ChildNode {
        name: "part@3".into(),
        properties: vec![("reg".into(), vec![0, 0, 0, 3])],
        children: vec![ChildNode { name: "deeper".into(), properties: vec![], children: vec![] }],
    };
    let plan = planned(&accepting(CLOCK, &[]), &changed(|clock| clock.children.push(child), None));
    let [part] = &plan.vms[0].description.devices[0].children[..] else { panic!() };
    assert_eq!((part.name.as_str(), part.properties.len(), part.children.len()), ("part@3", 1, 1));
}

#[test]
fn a_stream_that_somebody_else_masters_the_bus_with_too_is_not_given_alone() {
    let stream = vec![DmaSource::new(0, 0x99)];
    let mut twin = other("/twin@b004000", span(0x0b00_4000, 0x1000));
    (twin.sources, twin.bus_master) = (stream.clone(), Some(true));
    let platform =
        changed(|clock| (clock.sources, clock.bus_master) = (stream.clone(), Some(true)), Some(twin));
    let alone = system(vec![vm("a", &[1], vec![node(CLOCK)])]);
    assert_eq!(refusals(&alone, &platform), [(Rule::Group, Item::Device(0, 0, String::new()))]);
    assert!(lines(&alone, &platform)[0].contains("/twin@b004000"));
    planned(&system(vec![vm("a", &[1], vec![node(CLOCK), node("/twin@b004000")])]), &platform);
    // A PCI function that nobody is given.
    let mut platform = board();
    platform.functions.as_mut().unwrap()[2].sources = vec![DmaSource::new(0, 0x10)];
    let disk = system(vec![vm("a", &[1], vec![pci(2, 0)])]);
    assert_eq!(refusals(&disk, &platform), [(Rule::Group, Item::Device(0, 0, String::new()))]);
    assert!(lines(&disk, &platform)[0].contains("0000:00:03.0"));
}

#[test]
fn functions_that_nobody_has_seen_are_behind_an_iommu_or_refused() {
    let disk = system(vec![vm("a", &[1], vec![pci(2, 0)])]);
    let mut platform = board();
    platform.functions = None;
    assert!(planned(&disk, &platform).incomplete);
    let whole = platform.pci_hosts[0].iommu_map[0];
    // Without a map, with one to an IOMMU that is off or another's, and with one that says so first.
    let nowhere = IdMapping { target: None, ..whole };
    for map in [vec![], vec![nowhere], vec![nowhere, whole]] {
        platform.pci_hosts[0].iommu_map = map;
        assert_eq!(refusals(&disk, &platform), [(Rule::Dma, Item::Device(0, 0, "pci".into()))]);
    }
}
