//! What of memory and of the address space has an owner that isn't a device: whatever says so is heard.

mod tree;

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt::outline::Outline;
use axvm_platform::fdt::{self, FdtError};
use axvm_platform::model::{Platform, Reserved};

use tree::{Node, node, root};

const START: u32 = 0x8000_0000;
const SIZE: u32 = 0x4000_0000;

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn memory() -> Node {
    node("memory@80000000").text("device_type", "memory").cells("reg", &[START, SIZE])
}

fn chosen() -> Node {
    node("chosen").cells("#address-cells", &[1]).cells("#size-cells", &[1])
}

/// What is free of a tree's memory, which is what its outline leaves too.
fn free(root: &Node) -> Vec<Span<Hpa>> {
    let blob = root.blob();
    let free = fdt::read(&blob).unwrap().free_memory();
    let outline = Outline::open(&blob).unwrap();
    let mut seen = Platform::default();
    outline.memory(&mut |bank| seen.memory.push(bank)).unwrap();
    let mut keep = |span| seen.reserved.push(Reserved { span, owner: String::new(), no_map: false });
    outline.reserved(&mut keep).unwrap();
    assert_eq!(seen.free_memory(), free);
    free
}

fn unreadable(root: &Node) -> String {
    match fdt::read(&root.blob()) {
        Err(FdtError::Property { path, property }) => format!("{path}:{property}"),
        other => panic!("{other:?}"),
    }
}

fn owners(platform: &Platform) -> Vec<&str> {
    platform.reserved.iter().map(|reserved| reserved.owner.as_str()).collect()
}

#[test]
fn of_memory_only_what_is_usable_is_free() {
    let whole = || root().with(memory());
    assert_eq!(free(&whole()), [span(0x8000_0000, 0x4000_0000)]);
    // A node's own word,
    let some = memory().cells("linux,usable-memory", &[0x9000_0000, 0x1000_0000]);
    let platform = fdt::read(&root().with(some.clone()).blob()).unwrap();
    assert_eq!(platform.memory, [span(0x8000_0000, 0x4000_0000)], "the rest is memory all the same");
    assert_eq!(free(&root().with(some)), [span(0x9000_0000, 0x1000_0000)]);
    // and that of whoever started this kernel, before or after the memory in the tree.
    let range = |cells: &[u32]| chosen().cells("linux,usable-memory-range", cells);
    let two = [0x8000_0000, 0x10_0000, 0xa000_0000, 0x1000_0000];
    for tree in [whole().with(range(&two)), root().with(range(&two)).with(memory())] {
        assert_eq!(free(&tree), [span(0x8000_0000, 0x10_0000), span(0xa000_0000, 0x1000_0000)]);
    }
    assert!(free(&whole().with(range(&[0x1000, 0x1000]))).is_empty());
    for wrong in [&[][..], &[0x8000_0000], &[0x8000_0000, 0x1000, 1]] {
        assert_eq!(unreadable(&whole().with(range(wrong))), "/chosen:linux,usable-memory-range");
        assert!(
            Outline::open(&whole().with(range(wrong)).blob())
                .and_then(|it| it.free(4096, 4096, &[]))
                .is_err()
        );
    }
}

#[test]
fn what_was_left_in_memory_is_kept() {
    let rest = [span(0x8000_0000, 0x3000_0000), span(0xb010_0000, 0xff0_0000)];
    let here = [0xb000_0000, 0x10_0000];
    for name in [
        "linux,elfcorehdr",
        "linux,ima-kexec-buffer",
        "linux,tpm-kexec-buffer",
        "linux,kho-fdt",
        "linux,kho-scratch",
    ] {
        let tree = root().with(memory()).with(chosen().cells(name, &here));
        assert_eq!(free(&tree), rest, "{name}");
        assert_eq!(
            unreadable(&root().with(memory()).with(chosen().cells(name, &[1]))),
            format!("/chosen:{name}")
        );
    }
    let screen = node("framebuffer@b0000000").text("compatible", "simple-framebuffer").cells("reg", &here);
    for chosen in [chosen().flag("ranges"), chosen(), node("chosen")] {
        assert_eq!(free(&root().with(memory()).with(chosen.with(screen.clone()))), rest);
    }
    let log = node("tpm").cells("linux,sml-base", &[0, 0xb000_0000]).cells("linux,sml-size", &[0x10_0000]);
    assert_eq!(free(&root().with(memory()).with(log)), rest);
    let without_size = node("tpm").cells("linux,sml-base", &[0, 0xb000_0000]);
    assert_eq!(unreadable(&root().with(memory()).with(without_size)), "/tpm:linux,sml-size");
}

#[test]
fn where_a_processor_waits_nobody_writes() {
    let cpu = node("cpu@1").text("device_type", "cpu").text("enable-method", "spin-table").cells("reg", &[1]);
    let cpus = node("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    let tree = root().with(memory()).with(cpus.with(cpu.cells("cpu-release-addr", &[0, 0xbfff_fff8])));
    assert_eq!(free(&tree), [span(0x8000_0000, 0x3fff_f000)]);
}

#[test]
fn what_efi_describes_the_tree_does_not() {
    let tree = root().with(memory()).with(chosen().cells("linux,uefi-mmap-start", &[0, 0x9000_0000]));
    assert!(free(&tree).is_empty());
    let platform = fdt::read(&tree.blob()).unwrap();
    assert!(platform.memory.is_empty());
    assert_eq!(owners(&platform), ["/memory@80000000"]);
}

#[test]
fn a_reservation_without_a_place_keeps_nothing_and_one_that_says_nothing_is_refused() {
    let reserved = |child: Node| root().with(memory()).with(node("reserved-memory").bus().with(child));
    let pool = node("linux,cma").cells("size", &[0x100_0000]).cells("alignment", &[0x2000]);
    assert_eq!(free(&reserved(pool.clone())), [span(0x8000_0000, 0x4000_0000)]);
    assert_eq!(free(&reserved(pool.cells("alloc-ranges", &[START, SIZE]))), [span(0x8000_0000, 0x4000_0000)]);
    assert_eq!(unreadable(&reserved(node("firmware"))), "/reserved-memory/firmware:reg");
    assert_eq!(
        free(&reserved(node("firmware").text("status", "disabled"))),
        [span(0x8000_0000, 0x4000_0000)]
    );
}

#[test]
fn who_refers_to_a_reservation_needs_it() {
    let pool = node("dma-pool").cells("size", &[0x100_0000]).cells("phandle", &[7]);
    let uart = node("uart@9000").text("compatible", "arm,pl011").cells("reg", &[0x9000, 0x1000]);
    let tree = root().with(memory()).with(node("reserved-memory").bus().with(pool));
    let platform = fdt::read(&tree.with(uart.cells("memory-region", &[7])).blob()).unwrap();
    let uart = platform.devices.iter().find(|device| device.path == "/uart@9000").unwrap();
    let needs: Vec<_> = uart.providers.iter().map(|it| (it.property.as_str(), it.path.as_str())).collect();
    assert_eq!(needs, [("memory-region", "/reserved-memory/dma-pool")]);
    assert_eq!(uart.bus_master, Some(true), "who has memory of its own reaches it");
}

#[test]
fn memory_where_the_tree_has_registers_is_not_free() {
    let sram = node("sram@b0000000").text("compatible", "mmio-sram").cells("reg", &[0xb000_0000, 0x10_0000]);
    for sram in [sram.clone(), sram.text("status", "disabled")] {
        let platform = fdt::read(&root().with(memory()).with(sram).blob()).unwrap();
        assert_eq!(platform.free_memory(), [span(0x8000_0000, 0x3000_0000), span(0xb010_0000, 0xff0_0000)]);
        assert_eq!(owners(&platform), ["/sram@b0000000"]);
    }
}

/// A host bridge with a window for memory, 256 MiB from 0x4000_0000 on, and one for ports.
fn host(kind: &str) -> Node {
    let ports = [0x0100_0000, 0, 0, 0x3eff_0000, 0x1_0000];
    let window = [0x0200_0000, 0, 0x4000_0000, 0x4000_0000, 0x1000_0000];
    node("pcie@30000000")
        .text("compatible", kind)
        .text("device_type", "pci")
        .cells("reg", &[0x3000_0000, 0x100_0000])
        .cells("bus-range", &[0, 15])
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[1])
        .cells("ranges", &[ports, window].concat())
}

fn kept(root: &Node) -> Vec<Span<Hpa>> {
    fdt::read(&root.blob()).unwrap().kept.iter().map(|kept| kept.span).collect()
}

#[test]
fn windows_of_host_bridges_that_are_not_driven_are_kept() {
    let driven = host("pci-host-ecam-generic");
    assert!(kept(&root().with(driven.clone())).is_empty(), "its windows are known as such");
    let both = [span(0x3eff_0000, 0x1_0000), span(0x4000_0000, 0x1000_0000)];
    let other = host("acme,pcie");
    assert_eq!(kept(&root().with(other.clone())), both);
    assert_eq!(
        kept(&root().with(driven.clone().text("status", "disabled"))),
        both,
        "nor one that isn't in use"
    );
    // A port below it translates nothing, and says nothing of its own.
    let port =
        node("pcie@0,0").text("device_type", "pci").cells("#address-cells", &[3]).cells("#size-cells", &[2]);
    let port = port.cells("ranges", &[0x0200_0000, 0, 0x1000, 0x0200_0000, 0, 0x1000, 0, 0x1000]);
    assert_eq!(kept(&root().with(other.clone().with(port))), both);
    // Behind a bus, and behind one that tears a window: then it is none, whoever drives the bridge.
    let bus = |ranges: &[u32]| {
        node("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells("ranges", ranges)
    };
    let torn = bus(&[0x3000_0000, 0x3000_0000, 0x1800_0000, 0x4800_0000, 0x8800_0000, 0x800_0000]);
    assert_eq!(
        kept(&root().with(torn.with(driven))),
        [span(0x4000_0000, 0x800_0000), span(0x8800_0000, 0x800_0000)]
    );
    // Memory there isn't free.
    let here =
        node("memory@40000000").text("device_type", "memory").cells("reg", &[0x4000_0000, 0x2000_0000]);
    let platform = fdt::read(&root().with(here).with(other).blob()).unwrap();
    assert_eq!(platform.free_memory(), [span(0x5000_0000, 0x1000_0000)]);
}

#[test]
fn who_sees_memory_elsewhere_is_not_given_for_what_it_is() {
    let soc = |ranges: &[u32]| node("soc").bus().cells("dma-ranges", ranges);
    let dma = node("dma@9000").text("compatible", "arm,pl330").cells("reg", &[0x9000, 0x1000]);
    let needs = |ranges: &[u32]| {
        let platform = fdt::read(&root().with(soc(ranges).with(dma.clone())).blob()).unwrap();
        platform.devices[0].providers.iter().map(|it| it.property.clone()).collect::<Vec<_>>()
    };
    assert_eq!(needs(&[0xc000_0000, 0, 0x4000_0000]), ["dma-ranges"]);
    assert_eq!(needs(&[0, 0, 0x4000_0000, 1]), ["dma-ranges"], "the second entry can't be read");
    assert!(needs(&[]).is_empty() && needs(&[0x8000_0000, 0x8000_0000, 0x4000_0000]).is_empty());
    // What doesn't master the bus doesn't care.
    let uart = node("uart@9000").text("compatible", "arm,pl011").cells("reg", &[0x9000, 0x1000]);
    let uart = fdt::read(&root().with(soc(&[0xc000_0000, 0, 0x4000_0000]).with(uart)).blob()).unwrap();
    assert!(uart.devices[0].providers.is_empty());
    let bridge = |start: u32| {
        let shifted = [0x0200_0000, 0, start, 0x8000_0000, 0x4000_0000];
        let tree = root().with(host("pci-host-ecam-generic").cells("dma-ranges", &shifted));
        fdt::read(&tree.blob()).unwrap().pci_hosts[0].iommu_map.clone()
    };
    assert!(bridge(0x8000_0000).is_empty());
    assert_eq!(bridge(0)[0].target, None);
}
