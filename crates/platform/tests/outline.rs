//! The outline of a device tree against the full reader, on real trees and on made-up ones of any size.

use axvm_addr::{Address, Hpa, Span};
use axvm_platform::fdt::blob::BlobError;
use axvm_platform::fdt::outline::{Outline, OutlineError};
use axvm_platform::fdt::{self, FdtError};
use axvm_platform::uart::UartPlace;
use axvm_uart::{Kind, Width};
use proptest::prelude::*;

#[path = "support/tree.rs"]
mod tree;

use tree::Builder;

const SAMPLES: [&[u8]; 2] = [include_bytes!("qemu-virt.dtb"), include_bytes!("made-up.dtb")];

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn memory(outline: &Outline<'_>) -> Vec<Span<Hpa>> {
    let mut banks = Vec::new();
    outline.memory(&mut |bank| banks.push(bank)).unwrap();
    banks
}

fn reserved(outline: &Outline<'_>) -> Vec<Span<Hpa>> {
    let mut spans = Vec::new();
    outline.reserved(&mut |span| spans.push(span)).unwrap();
    spans
}

#[test]
fn the_outline_says_what_the_full_reader_says() {
    for blob in SAMPLES {
        let (outline, platform) = (Outline::open(blob).unwrap(), fdt::read(blob).unwrap());
        let sum = |spans: &[Span<Hpa>]| spans.iter().map(Span::size).sum::<u64>();
        assert_eq!(sum(&memory(&outline)), sum(&platform.memory));
        for bank in memory(&outline) {
            assert!(platform.memory.iter().any(|known| known.encloses(&bank)), "{bank}");
        }
        for known in &platform.reserved {
            assert!(reserved(&outline).contains(&known.span), "{}", known.owner);
        }
        assert_eq!(outline.cpus, platform.cpus.len());
        assert_eq!(outline.compatible().collect::<Vec<_>>(), platform.compatible);
        assert_eq!(outline.psci, platform.psci());
        assert_eq!(outline.initrd(), fdt::initrd(blob).unwrap());
        let device = platform.devices.iter().find(|device| Some(&device.path) == platform.console.as_ref());
        let uart = device.and_then(|device| device.uart());
        assert_eq!(outline.console().map(|console| console.uart), uart);
        assert_eq!(
            outline.console().and_then(|console| console.place.memory()),
            device.filter(|_| uart.is_some()).and_then(|device| device.registers.first().copied())
        );
    }
}

#[test]
fn qemus_console_is_found_with_its_clock() {
    let console = Outline::open(SAMPLES[0]).unwrap().console().unwrap();
    assert_eq!((console.uart.kind, console.clock_hz), (Kind::Pl011, Some(24_000_000)));
    assert_eq!(console.place, UartPlace::Memory(span(0x900_0000, 0x1000)));
}

/// A board as most are: a bus, a 16550 on it behind an alias, reserved memory.
fn board() -> Builder {
    let mut tree = Builder::new();
    tree.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    tree.begin("chosen").text("stdout-path", "serial2:1500000n8").end();
    tree.begin("aliases").text("serial2", "/soc/serial@feb50000").end();
    tree.begin("memory@200000")
        .text("device_type", "memory")
        .cells("reg", &[0, 0x20_0000, 0, 0x7fe0_0000])
        .end();
    tree.begin("reserved-memory").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    tree.begin("secure@7f000000").cells("reg", &[0, 0x7f00_0000, 0, 0x80_0000]).flag("no-map").end();
    tree.end();
    tree.begin("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.cells("ranges", &[0, 0, 0xf000_0000, 0x1000_0000]);
    tree.begin("serial@feb50000").text("compatible", "rockchip,rk3588-uart\0snps,dw-apb-uart");
    tree.cells("reg", &[0xeb5_0000, 0x100]).cells("reg-shift", &[2]).cells("reg-io-width", &[4]).end();
    tree.end();
    tree
}

#[test]
fn a_console_behind_a_bus_and_an_alias_is_found() {
    let blob = board().finish();
    let console = Outline::open(&blob).unwrap().console().unwrap();
    assert_eq!(console.place, UartPlace::Memory(span(0xfeb5_0000, 0x100)));
    assert_eq!((console.uart.kind, console.uart.shift, console.uart.width), (Kind::Ns16550, 2, Width::Word));
}

#[test]
fn a_console_that_cannot_be_driven_reached_or_is_off_is_none() {
    for (property, value) in [("compatible", "acme,uart"), ("status", "disabled")] {
        let mut tree = Builder::new();
        tree.begin("").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        tree.begin("chosen").text("stdout-path", "/uart").end();
        tree.begin("uart").text("compatible", "arm,pl011").cells("reg", &[0x900_0000, 0x1000]);
        let works = tree.clone().end().finish();
        assert!(Outline::open(&works).unwrap().console().is_some());
        // A later property of the same name counts as little as in the full reader: so in a tree of its own.
        let mut tree = Builder::new();
        tree.begin("").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        tree.begin("chosen").text("stdout-path", "/uart").end();
        tree.begin("uart").text(property, value);
        if property != "compatible" {
            tree.text("compatible", "arm,pl011");
        }
        let blob = tree.cells("reg", &[0x900_0000, 0x1000]).end().finish();
        assert_eq!(Outline::open(&blob).unwrap().console(), None, "{property}");
    }
}

#[test]
fn free_memory_is_the_highest_that_nobody_has() {
    let blob = board().finish();
    let outline = Outline::open(&blob).unwrap();
    let free = |size, taken: &[Span<Hpa>]| outline.free(size, 2 << 20, taken).unwrap();
    assert_eq!(free(4 << 20, &[]), Some(span(0x7fc0_0000, 4 << 20)));
    // Above the reservation there are 8 MiB only.
    assert_eq!(free(16 << 20, &[]), Some(span(0x7e00_0000, 16 << 20)));
    assert_eq!(free(4 << 20, &[span(0x7fff_ffff, 1)]), Some(span(0x7fa0_0000, 4 << 20)));
    assert_eq!(free(3 << 30, &[]), None);
}

#[test]
fn a_reservation_that_cannot_be_read_is_not_taken_for_none() {
    let mut tree = board();
    tree.begin("reserved-memory").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    tree.begin("broken").cells("reg", &[0, 1, 2]).end();
    let blob = tree.end().finish();
    let outline = Outline::open(&blob).unwrap();
    assert_eq!(outline.free(4 << 20, 2 << 20, &[]), Err(OutlineError::Registers));
}

#[test]
fn a_tree_of_ten_thousand_nodes_has_the_same_outline() {
    let small = board().finish();
    let mut tree = board();
    for node in 0..10_000 {
        tree.begin(&format!("node@{node:x}")).text("compatible", "acme,thing").cells("reg", &[0, node, 0, 1]);
        tree.end();
    }
    let large = tree.finish();
    let (small, large) = (Outline::open(&small).unwrap(), Outline::open(&large).unwrap());
    assert!(large.size() > 600_000);
    assert_eq!(small.console(), large.console());
    assert_eq!(memory(&small), memory(&large));
    assert_eq!(small.free(4 << 20, 2 << 20, &[]), large.free(4 << 20, 2 << 20, &[]));
}

proptest! {
    #[test]
    fn free_memory_lies_in_a_bank_and_hits_nothing_that_is_reserved(
        banks in prop::collection::vec((0u32..64, 1u32..32), 1..12),
        holes in prop::collection::vec((0u32..(96 << 8), 1u32..(8 << 8)), 0..8),
        taken in prop::collection::vec((0u32..(96 << 8), 1u32..(2 << 8)), 0..3),
        size in 1u64..16,
    ) {
        let mut tree = Builder::new();
        tree.begin("").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        for (start, size) in &banks {
            tree.begin("memory").text("device_type", "memory").cells("reg", &[start << 20, size << 20]).end();
        }
        tree.begin("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        for (start, size) in &holes {
            tree.begin("hole").cells("reg", &[start << 12, size << 12]).end();
        }
        let blob = tree.end().finish();
        let outline = Outline::open(&blob).unwrap();
        let pages = |&(start, size): &(u32, u32)| span(u64::from(start) << 12, u64::from(size) << 12);
        let taken: Vec<_> = taken.iter().map(pages).collect();
        let size = size << 20;
        let free = outline.free(size, 1 << 20, &taken).unwrap();
        let holes: Vec<_> = holes.iter().map(pages).chain(taken).collect();
        let banks: Vec<_> = banks.iter().map(|&(start, size)| span(u64::from(start) << 20, u64::from(size) << 20)).collect();
        let fits = |start: u64| {
            let it = span(start, size);
            banks.iter().any(|bank| bank.encloses(&it)) && !holes.iter().any(|hole| hole.overlaps(&it))
        };
        // Every aligned place is tried: the highest that fits is the answer.
        let highest = (0..100u64).rev().map(|start| start << 20).find(|&start| fits(start));
        prop_assert_eq!(free.map(|free| free.start().get()), highest);
    }
}

#[test]
fn properties_after_the_nodes_below_are_refused() {
    let mut tree = Builder::new();
    tree.begin("").begin("soc").end().text("model", "late");
    let refusal = fdt::read(&tree.finish()).unwrap_err();
    assert!(matches!(refusal, FdtError::Blob(BlobError::Token { token: 3, .. })), "{refusal}");
}

#[test]
fn names_are_told_apart_however_many_there_are() {
    let names: Vec<String> = (0..1000).map(|number| format!("vendor,setting-{number}")).collect();
    let mut tree = Builder::new();
    tree.begin("").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    tree.begin("device@1000").cells("reg", &[0x1000, 0x1000]);
    for name in names.iter().chain(["compatible"].map(String::from).iter()) {
        tree.text(name, name);
    }
    tree.end();
    let platform = fdt::read(&tree.finish()).unwrap();
    let kept: Vec<&str> = platform.devices[0].properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(kept[..1000], names);
    assert_eq!(platform.devices[0].compatible, ["compatible"]);
}
