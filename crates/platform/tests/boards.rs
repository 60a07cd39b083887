//! The reader on two boards: QEMU's `virt` (dumped with `-M
//! virt,virtualization=on,gic-version=3,iommu=smmuv3, dumpdtb=...`) and one made up to have in one place
//! what real boards have in many (`made-up.dts`).

use axvm_addr::{DmaSource, Hpa, Irq, MsiSource, PciAddress, PciBuses, PciSpace, PciWindow, Span};
use axvm_pci::spec::express::PortType;
use axvm_pci::{Function, Membership};
use axvm_platform::fdt;
use axvm_platform::model::{
    BusSpan, IdMapping, Interrupt, IommuKind, PinRoute, Platform, PlatformDevice, PsciConduit, Trigger,
};

const VIRT: &[u8] = include_bytes!("qemu-virt.dtb");
const MADE_UP: &[u8] = include_bytes!("made-up.dtb");

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn smmu_v3(event_queue: Interrupt, global_error: Interrupt) -> IommuKind {
    IommuKind::SmmuV3 { event_queue: Some(event_queue), global_error: Some(global_error) }
}

fn level(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Level }
}

fn edge(irq: u32) -> Interrupt {
    Interrupt { irq: Irq(irq), trigger: Trigger::Edge }
}

fn virt() -> Platform {
    fdt::read(VIRT).unwrap()
}

fn made_up() -> Platform {
    fdt::read(MADE_UP).unwrap()
}

fn device<'a>(platform: &'a Platform, path: &str) -> &'a PlatformDevice {
    platform.devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!("no {path}"))
}

fn function(address: PciAddress, parent: Option<PciAddress>, pin: u8) -> Function {
    Function {
        address,
        parent,
        vendor: 0x1b36,
        device: 0x10,
        class: 0x01_0802,
        revision: 0,
        bridge: false,
        port: None,
        multifunction: false,
        bars: vec![],
        capabilities: vec![],
        extended_capabilities: vec![],
        msix: None,
        msi_vectors: None,
        interrupt_pin: pin,
        virtio: None,
        intx_disable: true,
        stuck: None,
        resets: vec![],
    }
}

#[test]
fn qemus_board_has_its_cpus_memory_console_and_conduit() {
    let platform = virt();
    assert_eq!(platform.model, "linux,dummy-virt");
    assert_eq!(platform.cpus.len(), 4);
    assert!(platform.cpus.iter().all(|cpu| cpu.usable));
    assert_eq!(platform.cpus[3].hardware_id, 3);
    assert_eq!(platform.memory, [span(0x4000_0000, 0x8000_0000)]);
    assert_eq!(platform.console.as_deref(), Some("/pl011@9000000"));
    assert_eq!(platform.psci(), Some(PsciConduit::Smc));
    assert_eq!(platform.timer, [level(29), level(30), level(27), level(26)]);
}

#[test]
fn qemus_gic_its_and_smmu_are_found_with_their_interrupts() {
    let platform = virt();
    let gic = platform.gic().cloned().unwrap();
    assert_eq!(gic.distributor, span(0x0800_0000, 0x1_0000));
    assert_eq!(gic.redistributors, [span(0x080a_0000, 0xf6_0000)]);
    assert_eq!(gic.maintenance, Some(level(25)));
    assert_eq!(gic.its.len(), 1);
    assert_eq!(gic.its[0].registers, span(0x0808_0000, 0x2_0000));
    let smmu = &platform.iommus[0];
    assert_eq!(smmu.registers, span(0x0905_0000, 0x2_0000));
    assert_eq!(smmu.kind, smmu_v3(edge(106), edge(109)));
    assert!(smmu.coherent);
}

#[test]
fn qemus_host_bridge_has_its_windows_maps_and_swizzled_lines() {
    let platform = virt();
    let host = &platform.pci_hosts[0];
    assert_eq!((host.segment, host.buses), (0, PciBuses::new(0, 255)));
    assert_eq!(host.ecam, span(0x40_1000_0000, 0x1000_0000));
    assert!(host.coherent);
    let window = |space, pci, cpu, size| PciWindow { space, prefetchable: false, pci, cpu: span(cpu, size) };
    assert_eq!(
        host.windows,
        [
            window(PciSpace::Io, 0, 0x3eff_0000, 0x1_0000),
            window(PciSpace::Memory32, 0x1000_0000, 0x1000_0000, 0x2eff_0000),
            window(PciSpace::Memory64, 0x80_0000_0000, 0x80_0000_0000, 0x80_0000_0000),
        ]
    );
    let whole = IdMapping { first: 0, count: 0x1_0000, target: Some(0), base: 0 };
    assert_eq!(host.iommu_map, [whole]);
    assert_eq!(host.msi_map, [whole]);
    assert_eq!(host.lines.len(), 128);
    for route in &host.lines {
        assert_eq!(route.line, level(35 + (u32::from(route.device) + u32::from(route.pin) - 1) % 4));
    }
}

#[test]
fn qemus_platform_devices_are_judged_by_what_they_can_do() {
    let platform = virt();
    let clock = device(&platform, "/pl031@9010000");
    assert_eq!(clock.registers, [span(0x0901_0000, 0x1000)]);
    assert_eq!(clock.interrupts, [level(34)]);
    assert_eq!(clock.bus_master, Some(false));
    assert_eq!(clock.providers.len(), 1);
    assert_eq!(clock.providers[0].fixed_clock.as_ref().unwrap().frequency, 24_000_000);
    let names: Vec<&str> = clock.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["clock-names", "compatible"]);
    assert_eq!(device(&platform, "/fw-cfg@9020000").bus_master, Some(true));
    let virtio: Vec<_> =
        platform.devices.iter().filter(|device| device.path.starts_with("/virtio_mmio@")).collect();
    assert_eq!(virtio.len(), 32);
    assert!(virtio.iter().all(|device| device.bus_master == Some(true) && device.interrupts.len() == 1));
    assert_eq!(device(&platform, "/flash@0").registers.len(), 2);
    let own = ["/intc", "/smmuv3", "/pcie", "/memory", "/cpus", "/its"];
    assert!(!platform.devices.iter().any(|device| own.iter().any(|own| device.path.starts_with(own))));
}

#[test]
fn functions_get_the_stream_msi_id_and_line_of_their_address() {
    let mut platform = virt();
    let at = |bus, slot, function| PciAddress::new(0, bus, slot, function).unwrap();
    let mut port = function(at(0, 3, 0), None, 1);
    port.bridge = true;
    port.port = Some(PortType::RootPort);
    let functions = vec![
        function(at(0, 2, 0), None, 1),
        port,
        function(at(1, 2, 0), Some(at(0, 3, 0)), 2),
        function(at(0, 4, 1), None, 0),
    ];
    platform.add_functions(functions, &[0, 1, 1].map(Membership::from));
    let functions = platform.functions.unwrap();
    assert_eq!(functions[0].sources, [DmaSource::new(0, 0x10)]);
    assert_eq!(functions[0].msi, Some(MsiSource::new(0, 0x10)));
    assert_eq!(functions[0].line, Some(level(37)));
    // Pin B of slot 2 becomes pin D at the port's bus, which in slot 3 is line (3 + 3) % 4.
    assert_eq!(functions[2].line, Some(level(37)));
    assert_eq!(functions[2].sources, [DmaSource::new(0, 0x110)]);
    assert_eq!(functions[3].line, None);
    assert_eq!(functions.iter().map(|device| device.group).collect::<Vec<_>>(), [0, 1, 1, u32::MAX]);
}

#[test]
fn functions_behind_conventional_bridges_get_the_ids_that_the_bridges_send_as() {
    let mut platform = virt();
    let at = |bus, slot| PciAddress::new(0, bus, slot, 0).unwrap();
    let bridge = |address, parent, port| {
        let mut bridge = function(address, parent, 0);
        bridge.bridge = true;
        bridge.port = port;
        bridge
    };
    // A root port, an Express-to-PCI bridge below it; a bridge without Express on the root bus, another behind it.
    let functions = vec![
        bridge(at(0, 1), None, Some(PortType::RootPort)),
        bridge(at(0, 2), None, None),
        bridge(at(1, 0), Some(at(0, 1)), Some(PortType::ToConventional)),
        function(at(2, 4), Some(at(1, 0)), 1),
        bridge(at(3, 5), Some(at(0, 2)), None),
        function(at(4, 6), Some(at(3, 5)), 1),
    ];
    platform.add_functions(functions, &[0; 6].map(Membership::from));
    let functions = platform.functions.unwrap();
    let streams = |position: usize| functions[position].sources.iter().map(|it| it.id.0).collect::<Vec<_>>();
    assert_eq!(streams(3), [0x220, 0x200]);
    assert_eq!(functions[3].msi, Some(MsiSource::new(0, 0x200)));
    assert_eq!(functions[3].bridges, [at(1, 0), at(0, 1)]);
    assert_eq!(streams(5), [0x430, 0x328, 0x10]);
    assert_eq!(functions[5].msi, Some(MsiSource::new(0, 0x10)));
}

#[test]
fn a_function_that_sends_as_another_has_the_streams_of_both_or_none_that_bounds_it() {
    let mut platform = virt();
    let at = |slot| PciAddress::new(0, 0, slot, 0).unwrap();
    let mut disk = function(at(2), None, 1);
    (disk.vendor, disk.device) = (0x1b4b, 0x9230);
    platform.add_functions(vec![disk.clone()], &[]);
    let found = &platform.functions.as_ref().unwrap()[0];
    assert_eq!(found.sources, [DmaSource::new(0, 0x10), DmaSource::new(0, 0x11)]);
    assert_eq!(found.msi, Some(MsiSource::new(0, 0x10)), "its messages are its own");
    // The other id passes no IOMMU: the function isn't confined by the one that its own passes.
    platform.pci_hosts[0].iommu_map[0].count = 0x11;
    platform.add_functions(vec![disk], &[]);
    assert_eq!(platform.functions.unwrap()[0].sources, []);
}

#[test]
fn a_bridge_that_is_its_own_parent_gives_no_line_and_no_endless_walk() {
    let mut platform = virt();
    let address = PciAddress::new(0, 0, 1, 0).unwrap();
    platform.add_functions(vec![function(address, Some(address), 1)], &[]);
    assert_eq!(platform.functions.unwrap()[0].line, None);
}

#[test]
fn cpus_keep_their_order_and_only_startable_ones_are_usable() {
    let cpus = made_up().cpus;
    let seen: Vec<_> = cpus.iter().map(|cpu| (cpu.hardware_id, cpu.usable)).collect();
    assert_eq!(seen, [(0, true), (0x1_0000_0100, false), (0x200, false)]);
}

#[test]
fn free_memory_is_whole_pages_without_what_is_reserved_or_off() {
    let platform = made_up();
    assert_eq!(platform.memory, [span(0x8000_0000, 0x4000_0000), span(0x8_0000_0000, 0x4000_0000)]);
    let owners: Vec<_> =
        platform.reserved.iter().map(|reserved| (reserved.owner.as_str(), reserved.no_map)).collect();
    assert_eq!(
        owners,
        [
            ("/memreserve/", false),
            ("/memory@e0000000", true),
            ("/reserved-memory/firmware@88000000", true),
            ("/reserved-memory/log@80100800", false),
        ]
    );
    assert_eq!(
        platform.free_memory(),
        [
            span(0x8001_0000, 0xf_0000),
            span(0x8010_2000, 0x7ef_e000),
            span(0x8810_0000, 0x37f0_0000),
            span(0x8_0000_0000, 0x4000_0000),
        ]
    );
}

#[test]
fn the_gic_has_its_regions_stride_and_everything_that_guests_must_not_reach() {
    let gic = made_up().gic().cloned().unwrap();
    assert_eq!(gic.redistributors, [span(0x2f10_0000, 0x20_0000), span(0x2f40_0000, 0x20_0000)]);
    assert_eq!(gic.redistributor_stride, 0x4_0000);
    assert_eq!(gic.legacy, [span(0x2c00_0000, 0x2000)]);
    let its: Vec<_> = gic.its.iter().map(|its| its.registers).collect();
    assert_eq!(its, [span(0x2f02_0000, 0x2_0000), span(0x2f04_0000, 0x2_0000)]);
}

#[test]
fn interrupt_names_outweigh_the_order() {
    let platform = made_up();
    assert_eq!(platform.timer, [level(29), level(30), level(27), edge(26)]);
    assert_eq!(platform.iommus[0].kind, smmu_v3(edge(113), edge(112)));
    assert_eq!(platform.iommus[1].kind, smmu_v3(level(114), level(114)));
    assert_eq!(platform.iommus.iter().map(|smmu| smmu.coherent).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn addresses_are_translated_through_every_bus_and_lost_where_no_range_leads() {
    let platform = made_up();
    assert_eq!(platform.console.as_deref(), Some("/soc/apb@100000/serial@2000"));
    let uart = device(&platform, "/soc/apb@100000/serial@2000");
    assert_eq!(uart.registers, [span(0x10_0010_2000, 0x1000)]);
    assert!(uart.coherent && uart.enabled);
    assert!(uart.properties.iter().any(|(name, _)| name.len() > 31));
    let lost = device(&platform, "/soc/apb@100000/lost@200000");
    assert_eq!(
        (&lost.registers[..], &lost.lost[..]),
        (&[][..], &[BusSpan { start: 0x20_0000, size: 0x100 }][..])
    );
    for absent in ["sensor", "port@", "ethernet", "pool", "apb@100000/i2c@6000/"] {
        assert!(!platform.devices.iter().any(|device| device.path.contains(absent)), "{absent}");
    }
    assert!(platform.devices.iter().any(|device| device.path == "/soc/apb@100000/i2c@6000"));
}

#[test]
fn a_device_tells_all_that_it_depends_on() {
    let platform = made_up();
    let uart = device(&platform, "/soc/apb@100000/serial@3000");
    assert!(!uart.enabled);
    assert_eq!(uart.bus_master, Some(true));
    let providers: Vec<_> = uart
        .providers
        .iter()
        .map(|provider| (provider.property.as_str(), provider.path.as_str(), provider.fixed_clock.is_some()))
        .collect();
    assert_eq!(
        providers,
        [
            ("clocks", "/soc/clock-controller@1000", false),
            ("clocks", "/osc", true),
            ("resets", "/soc/clock-controller@1000", false),
            ("pinctrl-0", "/soc/pinctrl", false),
            ("vdd-supply", "/soc/regulator", false),
            ("dmas", "/soc/dma-controller@7000", false),
            ("dmas", "/soc/dma-controller@7000", false),
        ]
    );
    let button = device(&platform, "/soc/apb@100000/button@5000");
    assert_eq!(button.bus_master, None);
    assert_eq!(button.providers[0].property, "enable-gpios");
}

#[test]
fn interrupts_are_followed_to_the_gic_or_named_as_foreign() {
    let platform = made_up();
    let button = device(&platform, "/soc/apb@100000/button@5000");
    assert_eq!(button.interrupts, []);
    assert_eq!(button.foreign_interrupts, [elsewhere("/soc/apb@100000/gpio@4000")]);
    let dma = device(&platform, "/soc/dma-controller@7000");
    assert_eq!(dma.interrupts, [edge(68)]);
    assert_eq!(dma.foreign_interrupts, [elsewhere("/soc/apb@100000/gpio@4000")]);
    assert_eq!(dma.sources, [DmaSource::new(1, 0x42), DmaSource::new(0, 0x43)]);
    assert_eq!(dma.bus_master, Some(true));
    assert_eq!(device(&platform, "/soc/mapped@8000").interrupts, [edge(73)]);
    assert_eq!(device(&platform, "/soc/apb@100000/gpio@4000").interrupts, [level(67)]);
}

#[test]
fn a_host_bridge_with_masks_and_several_targets_sends_each_function_to_its_own() {
    let mut platform = made_up();
    let host = &platform.pci_hosts[0];
    assert_eq!((host.segment, host.buses), (3, PciBuses::new(0x10, 0x1f)));
    assert_eq!(
        host.windows[0],
        PciWindow {
            space: PciSpace::Memory32,
            prefetchable: true,
            pci: 0,
            cpu: span(0x60_0000_0000, 0x1_0000_0000)
        }
    );
    let route = |device, pin, irq| PinRoute { device, pin, line: level(irq) };
    assert_eq!(host.lines, [route(0, 1, 132), route(0, 2, 133), route(2, 1, 134)]);
    assert_eq!(platform.pci_to_cpu(0, 0x5000_1000, 0x1000), Some(Hpa(0x60_5000_1000)));
    assert_eq!(platform.pci_to_cpu(0, 0xffff_f000, 0x2000), None);
    assert_eq!(platform.pci_to_cpu(0, 0x1000, 0), None);
    assert_eq!(platform.pci_to_cpu(1, 0x1000, 0x1000), None);
    let at = |bus, slot, function| PciAddress::new(3, bus, slot, function).unwrap();
    let functions = [at(0x10, 1, 3), at(0x18, 0, 1), at(0x1f, 31, 7), at(0x20, 0, 0)];
    platform.add_functions(
        functions.map(|address| function(address, None, 1)).to_vec(),
        &[0, 1, 2, 3].map(Membership::from),
    );
    let seen: Vec<_> =
        platform.functions.unwrap().iter().map(|device| (device.sources.clone(), device.msi)).collect();
    assert_eq!(
        seen,
        [
            (vec![DmaSource::new(1, 0x2_0008)], Some(MsiSource::new(1, 0x500b))),
            (vec![DmaSource::new(0, 0)], Some(MsiSource::new(1, 0x5801))),
            (vec![DmaSource::new(0, 0x7f8)], Some(MsiSource::new(1, 0x5fff))),
            (vec![], None),
        ]
    );
}

#[test]
fn the_boot_loaders_words_are_read_from_chosen() {
    assert_eq!(fdt::bootargs(MADE_UP).unwrap().as_deref(), Some("hello world"));
    assert_eq!(fdt::initrd(MADE_UP).unwrap(), Some(span(0x9000_0000, 0x1234)));
    assert_eq!(fdt::initrd(VIRT).unwrap(), None);
}

/// A line that goes to another controller than the GIC.
fn elsewhere(path: &str) -> axvm_platform::model::ForeignInterrupt {
    axvm_platform::model::ForeignInterrupt::Elsewhere(path.into())
}
