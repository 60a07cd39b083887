//! Trees with one fault each, of the kinds that boards' have: what isn't understood is never taken for absent.

mod tree;

use axvm_addr::{Hpa, Irq, Span};
use axvm_platform::fdt::{self, FdtError};
use axvm_platform::model::{
    BusSpan, ForeignInterrupt, Interrupt, Platform, PlatformDevice, Reserved, Trigger,
};
use axvm_platform::roles::Role;

use tree::{Node, node, root};

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn read(root: &Node) -> Platform {
    fdt::read(&root.blob()).unwrap()
}

fn device<'a>(platform: &'a Platform, path: &str) -> &'a PlatformDevice {
    platform.devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!("no {path}"))
}

fn memory() -> Node {
    node("memory@80000000").text("device_type", "memory").cells("reg", &[0x8000_0000, 0x4000_0000])
}

#[test]
fn reserved_memory_is_kept_whatever_its_node_forgets() {
    let firmware = || node("firmware@90000000").cells("reg", &[0x9000_0000, 0x10_0000]).flag("no-map");
    let cells = |node: Node| node.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let whole = node("reserved-memory").bus().with(firmware());
    let without_ranges = cells(node("reserved-memory")).with(firmware());
    let without_cells = node("reserved-memory").with(firmware());
    let past_ranges = cells(node("reserved-memory")).cells("ranges", &[0, 0, 0x1000_0000]).with(firmware());
    for reserved in [whole, without_ranges, without_cells, past_ranges] {
        let platform = read(&root().with(memory()).with(reserved));
        let kept = Reserved {
            span: span(0x9000_0000, 0x10_0000),
            owner: "/reserved-memory/firmware@90000000".into(),
            no_map: true,
        };
        assert_eq!(platform.reserved, [kept]);
        assert_eq!(platform.free_memory(), [span(0x8000_0000, 0x1000_0000), span(0x9010_0000, 0x2ff0_0000)]);
    }
    let unreadable = node("reserved-memory").cells("#size-cells", &[0]).with(firmware());
    assert!(matches!(
        fdt::read(&root().with(memory()).with(unreadable).blob()),
        Err(FdtError::Property { .. })
    ));
}

#[test]
fn memory_that_is_somebody_elses_is_neither_free_nor_mapped() {
    let secure = node("memory@e000000")
        .text("device_type", "memory")
        .cells("reg", &[0xe00_0000, 0x100_0000])
        .text("status", "disabled")
        .text("secure-status", "okay");
    let platform = read(&root().with(memory()).with(secure));
    assert_eq!(platform.memory, [span(0x8000_0000, 0x4000_0000)]);
    assert_eq!(platform.reserved[0].span, span(0xe00_0000, 0x100_0000));
    assert!(platform.reserved[0].no_map);
}

#[test]
fn registers_past_their_bus_keep_what_the_cpu_reaches_and_say_the_rest() {
    let cells = |node: Node| node.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let bus = |ranges: &[u32]| {
        let uart = node("uart@f000").text("compatible", "arm,pl011").cells("reg", &[0xf000, 0x2000]);
        read(&root().with(cells(node("soc")).cells("ranges", ranges).with(uart)))
    };
    let seen = |platform: &Platform| {
        let uart = device(platform, "/soc/uart@f000");
        (uart.registers.clone(), uart.lost.clone())
    };
    let entry = BusSpan { start: 0xf000, size: 0x2000 };
    // The range ends in the middle.
    assert_eq!(seen(&bus(&[0, 0x4000_0000, 0x1_0000])), (vec![span(0x4000_f000, 0x1000)], vec![entry]));
    // Two ranges side by side are one place,
    let joined = [0, 0x4000_0000, 0x1_0000, 0x1_0000, 0x4001_0000, 0x1_0000];
    assert_eq!(seen(&bus(&joined)), (vec![span(0x4000_f000, 0x2000)], vec![]));
    // and two apart are two places.
    let torn = [0, 0x4000_0000, 0x1_0000, 0x1_0000, 0x5000_0000, 0x1_0000];
    let both = vec![span(0x4000_f000, 0x1000), span(0x5000_0000, 0x1000)];
    assert_eq!(seen(&bus(&torn)), (both, vec![entry]));
    // No range at all.
    assert_eq!(seen(&bus(&[0x2_0000, 0x4000_0000, 0x1_0000])), (vec![], vec![entry]));
}

#[test]
fn registers_of_the_hypervisors_own_are_not_taken_one_for_another() {
    // Without its first entry the redistributors would be the distributor.
    let gic = node("gic@0")
        .text("compatible", "arm,gic-v3")
        .flag("interrupt-controller")
        .cells("#interrupt-cells", &[3])
        .cells("reg", &[0x10_0000, 0x1_0000, 0x1_0000, 0x2_0000, 0x4_0000, 0x2_0000]);
    let soc = node("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    let tree = root().with(soc.cells("ranges", &[0, 0x800_0000, 0x10_0000]).with(gic));
    let expected = FdtError::Property { path: "/soc/gic@0".into(), property: "reg".into() };
    assert_eq!(fdt::read(&tree.blob()), Err(expected));
}

/// A UART at an address, on no bus.
fn uart() -> Node {
    node("uart@9000").text("compatible", "arm,pl011").cells("reg", &[0x9000, 0x1000])
}

/// What a device needs: by which property, and whom.
fn needs(platform: &Platform, path: &str) -> Vec<(String, String)> {
    let providers = &device(platform, path).providers;
    providers.iter().map(|provider| (provider.property.clone(), provider.path.clone())).collect()
}

fn pair(property: &str, path: &str) -> Vec<(String, String)> {
    vec![(property.into(), path.into())]
}

#[test]
fn what_the_buses_above_need_the_device_needs() {
    let power = || node("power").cells("#power-domain-cells", &[1]).cells("phandle", &[77]);
    let soc = |bus: Node| root().with(power()).with(node("soc").bus().with(bus.bus().with(uart())));
    let powered = node("bus").text("compatible", "simple-pm-bus").cells("power-domains", &[77, 3]);
    let platform = read(&soc(powered));
    assert_eq!(needs(&platform, "/soc/bus/uart@9000"), pair("power-domains of /soc/bus", "/power"));
    // And of the one above that.
    let outer = node("soc").bus().cells("power-domains", &[77, 4]);
    let platform = read(&root().with(power()).with(outer.with(node("bus").bus().with(uart()))));
    assert_eq!(needs(&platform, "/soc/bus/uart@9000"), pair("power-domains of /soc", "/power"));
    // A vendor's property of the bus.
    let platform = read(&soc(node("bus").cells("vendor,gate", &[0, 77])));
    assert_eq!(needs(&platform, "/soc/bus/uart@9000"), pair("vendor,gate of /soc/bus", "/power"));
    // What only tells it its interrupts, or is data, is none.
    let platform = read(&soc(node("bus").cells("interrupt-map", &[0, 77, 1]).cells("nvmem-cells", &[77])));
    assert_eq!(needs(&platform, "/soc/bus/uart@9000"), []);
    // A bus with registers drives what is on it, unless it says that it is transparent.
    let wrapper = || node("qup@8000").cells("reg", &[0x8000, 0x1000]);
    let platform = read(&soc(wrapper()));
    assert_eq!(needs(&platform, "/soc/qup@8000/uart@9000"), pair("parent", "/soc/qup@8000"));
    let platform = read(&soc(wrapper().text("compatible", "simple-mfd")));
    assert_eq!(needs(&platform, "/soc/qup@8000/uart@9000"), []);
}

#[test]
fn what_the_nodes_below_need_the_device_needs() {
    let supply = || node("regulator").cells("phandle", &[77]);
    let with = |child: Node| read(&root().with(supply()).with(uart().with(child)));
    let bluetooth = || node("bluetooth");
    let platform = with(bluetooth().cells("vdd-supply", &[77]));
    assert_eq!(needs(&platform, "/uart@9000"), pair("vdd-supply of /uart@9000/bluetooth", "/regulator"));
    let deeper = with(node("port").with(bluetooth().cells("vdd-supply", &[77])));
    assert_eq!(needs(&deeper, "/uart@9000"), pair("vdd-supply of /uart@9000/port/bluetooth", "/regulator"));
    // Its line goes to a controller elsewhere, which the guest doesn't have.
    let controller = node("gpio").cells("#interrupt-cells", &[1]).cells("phandle", &[78]);
    let child = bluetooth().cells("interrupts", &[5]).cells("interrupt-parent", &[78]);
    let platform = read(&root().with(controller).with(uart().with(child)));
    assert_eq!(needs(&platform, "/uart@9000"), pair("interrupts of /uart@9000/bluetooth", "/gpio"));
    // One that isn't in use needs nothing, and the guest doesn't see it.
    let platform = with(bluetooth().cells("vdd-supply", &[77]).text("status", "disabled"));
    assert_eq!(
        (needs(&platform, "/uart@9000").len(), device(&platform, "/uart@9000").children.len()),
        (0, 0)
    );
}

#[test]
fn a_number_that_may_be_a_phandle_is_a_dependency_and_does_not_go_to_the_guest() {
    let with = |uart: Node| {
        let grf = node("grf@8000").text("compatible", "syscon").cells("reg", &[0x8000, 0x1000]);
        read(&root().with(grf.cells("phandle", &[3])).with(uart))
    };
    let platform = with(uart().cells("vendor,grf", &[3, 0x20]));
    assert_eq!(needs(&platform, "/uart@9000"), pair("vendor,grf", "/grf@8000"));
    assert!(device(&platform, "/uart@9000").properties.iter().all(|(name, _)| name != "vendor,grf"));
    assert!(device(&platform, "/grf@8000").roles().contains(&Role::Provider));
    // Wherever it is in the list.
    assert_eq!(needs(&with(uart().cells("vendor,mux", &[9, 9, 3])), "/uart@9000").len(), 1);
    // What its binding says is a number is none, nor is what no node has as its phandle.
    let numbers = uart().cells("reg-shift", &[3]).cells("vendor,delay-us", &[3]).cells("vendor,mode", &[4]);
    let platform = with(numbers);
    assert_eq!(needs(&platform, "/uart@9000"), []);
    assert!(device(&platform, "/uart@9000").properties.iter().any(|(name, _)| name == "vendor,mode"));
    // A phandle that nobody has, in a list that is known to be one.
    assert_eq!(needs(&with(uart().cells("resets", &[9, 1])), "/uart@9000").len(), 1);
}

#[test]
fn nodes_below_are_the_devices_and_may_refer_to_each_other() {
    let phy = node("phy@1").cells("reg", &[1]).cells("phandle", &[9]);
    let mdio = node("mdio").cells("#address-cells", &[1]).cells("#size-cells", &[0]).with(phy);
    let both = uart().cells("phy-handle", &[9]).cells("vendor,phy", &[9]);
    let platform = read(&root().with(both.with(mdio)));
    let ethernet = device(&platform, "/uart@9000");
    assert_eq!((needs(&platform, "/uart@9000").len(), ethernet.referenced), (0, false));
    for kept in ["phy-handle", "vendor,phy"] {
        assert!(ethernet.properties.iter().any(|(name, _)| name == kept), "{kept}");
    }
    let phy = &ethernet.children[0].children[0];
    assert!(phy.name == "phy@1" && phy.properties.iter().any(|(name, _)| name == "phandle"));
    // Devices of their own, behind `ranges`, are no part of it; others' references to a part make it a provider.
    let inner = node("dwc@9000").cells("reg", &[0x9000, 0x100]);
    let glue = node("usb@8000").cells("reg", &[0x8000, 0x100]).bus().with(inner);
    let user = node("sink@a000").cells("reg", &[0xa000, 0x100]).cells("pinctrl-0", &[5]);
    let pins = node("pins@b000").cells("reg", &[0xb000, 0x100]).with(node("state").cells("phandle", &[5]));
    let platform = read(&root().with(glue).with(user).with(pins));
    assert_eq!(device(&platform, "/usb@8000").children, []);
    assert_eq!(device(&platform, "/usb@8000").roles(), [Role::Bus]);
    assert_eq!(device(&platform, "/pins@b000").roles(), [Role::Provider]);
    assert_eq!(device(&platform, "/sink@a000").roles(), []);
}

#[test]
fn what_moves_data_by_itself_or_for_others_masters_the_bus() {
    let smmu = || {
        node("smmu@100000")
            .text("compatible", "arm,smmu-v3")
            .cells("reg", &[0x10_0000, 0x2_0000])
            .cells("#iommu-cells", &[1])
            .cells("phandle", &[42])
    };
    let masters = |uart: Node| {
        let platform = read(&root().with(smmu()).with(uart));
        let device = device(&platform, "/uart@9000");
        (device.bus_master, device.sources.iter().map(|source| source.id.0).collect::<Vec<_>>())
    };
    assert_eq!(masters(uart()), (Some(false), vec![]));
    for property in ["dmas", "#dma-cells", "dma-channels", "#iommu-cells", "iommu-map", "memory-region"] {
        assert_eq!(masters(uart().cells(property, &[1])), (Some(true), vec![]), "{property}");
    }
    // A part of it does so.
    assert_eq!(masters(uart().with(node("core").cells("iommus", &[42, 7]))), (Some(true), vec![7]));
}

#[test]
fn ids_that_a_map_sends_to_an_iommu_that_is_off_reach_none_whatever_comes_later() {
    let smmu = |name, phandle: u32, on: &str| {
        node(name)
            .text("compatible", "arm,smmu-v3")
            .cells("reg", &[0x10_0000 * phandle, 0x2_0000])
            .cells("#iommu-cells", &[1])
            .cells("phandle", &[phandle])
            .text("status", on)
    };
    let pcie = node("pcie@40000000")
        .text("compatible", "pci-host-ecam-generic")
        .text("device_type", "pci")
        .cells("reg", &[0x4000_0000, 0x100_0000])
        .cells("bus-range", &[0, 15])
        .cells("iommu-map", &[0, 1, 0, 0x100, 0, 2, 0, 0x1_0000]);
    let platform =
        read(&root().with(smmu("a@100000", 1, "disabled")).with(smmu("b@200000", 2, "okay")).with(pcie));
    let host = &platform.pci_hosts[0];
    assert_eq!(host.iommu_map[0].target, None);
    assert_eq!(host.dma_source(0x10), None);
    assert_eq!(host.dma_source(0x110), Some(axvm_addr::DmaSource::new(0, 0x110)));
}

#[test]
fn entries_of_one_interrupt_map_have_parents_of_their_own() {
    let gic = node("intc@1000000")
        .text("compatible", "arm,gic-v3")
        .bus()
        .cells("#interrupt-cells", &[3])
        .cells("reg", &[0x100_0000, 0x1_0000, 0x110_0000, 0x4_0000])
        .cells("phandle", &[1]);
    let other = node("gpio").cells("#interrupt-cells", &[2]).cells("phandle", &[2]);
    let map = [[5, 2, 7, 1].as_slice(), &[6, 1, 0, 0, 40, 4], &[7, 2, 8, 1], &[8, 1, 0, 0, 41, 1]].concat();
    let nexus = node("nexus")
        .cells("#address-cells", &[0])
        .cells("#interrupt-cells", &[1])
        .cells("phandle", &[3])
        .cells("interrupt-map", &map);
    let uart = node("uart@9000")
        .cells("reg", &[0x9000, 0x1000])
        .cells("interrupt-parent", &[3])
        .cells("interrupts", &[8, 5, 6, 9]);
    let platform = read(&root().with(gic).with(other).with(nexus).with(uart));
    let uart = device(&platform, "/uart@9000");
    let line = |irq, trigger| Interrupt { irq: Irq(irq), trigger };
    assert_eq!(uart.interrupts, [line(73, Trigger::Edge), line(72, Trigger::Level)]);
    let elsewhere = |path: &str| ForeignInterrupt::Elsewhere(path.into());
    assert_eq!(uart.foreign_interrupts, [elsewhere("/gpio"), elsewhere("/nexus")]);
}

#[test]
fn a_device_is_referred_to_by_who_is_outside_of_it() {
    let clock = |phandle| node("clock").cells("phandle", &[phandle]).cells("#clock-cells", &[0]);
    let part = |name, phandle| node(name).cells("reg", &[0x1000, 0x100]).with(clock(phandle));
    let user = |name, phandle| node(name).cells("reg", &[0x2000, 0x100]).cells("clocks", &[phandle]);
    let block = |name| node(name).bus().cells("reg", &[0x4000, 0x1000]);
    // One block has all that refer to its parts, of the other somebody else's device does.
    let first = block("first@4000").with(part("part@1000", 5)).with(user("user@2000", 5));
    let second = block("second@4000").with(part("part@1000", 6)).with(part("spare@1000", 7));
    let platform = read(&root().with(first).with(second).with(user("user@2000", 6)));
    let referenced: Vec<&str> =
        platform.devices.iter().filter(|device| device.referenced).map(|device| &*device.path).collect();
    assert_eq!(referenced, ["/first@4000/part@1000", "/second@4000", "/second@4000/part@1000"]);
}
