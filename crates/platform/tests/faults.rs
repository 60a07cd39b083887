//! Trees with one fault each, of the kinds that boards' have: what isn't understood is never taken for absent.

mod tree;

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt::{self, FdtError};
use axvm_platform::model::{BusSpan, Platform, PlatformDevice, Reserved};

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
