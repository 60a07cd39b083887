//! Device trees of boards that no one would build: the nodes are those of real ones, their numbers anything.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::tree::{Node, node};

/// A number as trees have them, or one at an edge.
fn cell() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..40,
        2 => (0u32..0x100).prop_map(|page| page << 12),
        2 => (0u32..0x100).prop_map(|block| block << 24),
        1 => prop::sample::select(vec![u32::MAX, u32::MAX - 1, 0x7fff_ffff, 0x8000_0000, 0xffff_f000, 0x10_0000]),
        1 => any::<u32>(),
    ]
}

/// Cells as they should be, or any others.
fn cells(right: &'static [u32]) -> impl Strategy<Value = Vec<u32>> {
    let changed = prop::collection::vec((any::<prop::sample::Index>(), cell()), 1..4).prop_map(|changes| {
        let mut cells = right.to_vec();
        for (at, value) in changes {
            let at = at.index(cells.len().max(1));
            cells.get_mut(at).into_iter().for_each(|cell| *cell = value);
        }
        cells
    });
    prop_oneof![40 => Just(right.to_vec()), 4 => changed, 1 => prop::collection::vec(cell(), 0..12)]
}

/// A node with these properties, each as it should be or not, or not there.
fn with(
    name: &'static str,
    kind: &'static str,
    right: &'static [(&'static str, &'static [u32])],
) -> BoxedStrategy<Node> {
    let values: Vec<_> = right.iter().map(|(_, right)| prop::option::weighted(0.98, cells(right))).collect();
    values
        .prop_map(move |values| {
            let start = node(name).text("compatible", kind);
            right.iter().zip(values).fold(start, |node, (&(name, _), value)| match value {
                Some(value) => node.cells(name, &value),
                None => node,
            })
        })
        .boxed()
}

fn there(node: BoxedStrategy<Node>) -> impl Strategy<Value = Option<Node>> {
    prop::option::weighted(0.95, node)
}

fn device(name: &'static str, kind: &'static str, reg: &'static [u32]) -> BoxedStrategy<Node> {
    let rest: &'static [(&'static str, &'static [u32])] = &[
        ("interrupts", &[0, 1, 4]),
        ("iommus", &[2, 0x20]),
        ("clocks", &[4]),
        ("phandle", &[9]),
        ("dma-ranges", &[0, 0, 0x1000]),
    ];
    (with(name, kind, rest), cells(reg), 0usize..8)
        .prop_map(|(node, reg, extra)| {
            let node = node.cells("reg", &reg);
            if extra == 0 { node.flag("dma-coherent") } else { node }
        })
        .boxed()
}

/// A board.
pub fn board() -> impl Strategy<Value = Vec<u8>> {
    let gic = (
        with(
            "intc@8000000",
            "arm,gic-v3",
            &[
                ("reg", &[0x0800_0000, 0x1_0000, 0x080a_0000, 0xf6_0000]),
                ("#interrupt-cells", &[3]),
                ("#address-cells", &[1]),
                ("#size-cells", &[1]),
                ("#redistributor-regions", &[1]),
                ("interrupts", &[1, 9, 4]),
                ("phandle", &[1]),
            ],
        ),
        there(with(
            "its@8080000",
            "arm,gic-v3-its",
            &[("reg", &[0x0808_0000, 0x2_0000]), ("#msi-cells", &[1]), ("phandle", &[3])],
        )),
    )
        .prop_map(|(gic, its)| {
            let gic = gic.flag("ranges").flag("interrupt-controller");
            its.map_or(gic.clone(), |its| gic.with(its.flag("msi-controller")))
        })
        .boxed();
    let smmu = with(
        "smmu@9050000",
        "arm,smmu-v3",
        &[
            ("reg", &[0x0905_0000, 0x2_0000]),
            ("interrupts", &[0, 74, 1]),
            ("#iommu-cells", &[1]),
            ("phandle", &[2]),
        ],
    );
    let pcie = with(
        "pcie@3f000000",
        "pci-host-ecam-generic",
        &[
            ("reg", &[0x3f00_0000, 0x100_0000]),
            ("bus-range", &[0, 15]),
            ("#address-cells", &[3]),
            ("#size-cells", &[2]),
            ("ranges", &[0x0200_0000, 0, 0x1000_0000, 0x1000_0000, 0, 0x2000_0000]),
            ("iommu-map", &[0, 2, 0, 0x10000]),
            ("msi-map", &[0, 3, 0, 0x10000]),
            ("#interrupt-cells", &[1]),
            ("interrupt-map-mask", &[0x1800, 0, 0, 7]),
            ("interrupt-map", &[0, 0, 0, 1, 1, 0, 0, 3, 4]),
            ("linux,pci-domain", &[0]),
        ],
    )
    .prop_map(|node| node.text("device_type", "pci"))
    .boxed();
    let cpu = |name, number: &'static [u32]| {
        cells(number).prop_map(move |reg| {
            node(name).text("device_type", "cpu").text("enable-method", "psci").cells("reg", &reg)
        })
    };
    let cpus = (cpu("cpu@0", &[0]), cpu("cpu@1", &[1]), cells(&[1]))
        .prop_map(|(a, b, width)| {
            node("cpus").cells("#address-cells", &width).cells("#size-cells", &[0]).with(a).with(b)
        })
        .boxed();
    let memory = cells(&[0x4000_0000, 0x4000_0000])
        .prop_map(|reg| node("memory@40000000").text("device_type", "memory").cells("reg", &reg))
        .boxed();
    let kept = with("kept@50000000", "shared-dma-pool", &[("reg", &[0x5000_0000, 0x10_0000])])
        .prop_map(|kept| node("reserved-memory").bus().with(kept))
        .boxed();
    let timer =
        with("timer", "arm,armv8-timer", &[("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])]);
    let psci = Just(node("psci").text("compatible", "arm,psci-1.0").text("method", "hvc")).boxed();
    let clock = with(
        "clock",
        "fixed-clock",
        &[("clock-frequency", &[24_000_000]), ("#clock-cells", &[0]), ("phandle", &[4])],
    );
    let bus = (device("rtc@1000", "arm,pl031", &[0x1000, 0x1000]), cells(&[0, 0x0a00_0000, 0x10_0000]))
        .prop_map(|(device, ranges)| {
            let bus = node("soc").text("compatible", "simple-bus");
            bus.cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells("ranges", &ranges).with(device)
        })
        .boxed();
    let nodes = vec![
        gic,
        smmu,
        pcie,
        cpus,
        memory,
        kept,
        timer,
        psci,
        clock,
        device("uart@9000000", "arm,pl011", &[0x0900_0000, 0x1000]),
        device("rtc@9010000", "arm,pl031", &[0x0901_0000, 0x1000]),
        device("thing@b000000", "vendor,thing", &[0x0b00_0000, 0x800]),
        bus,
    ];
    let nodes: Vec<_> = nodes.into_iter().map(there).collect();
    (nodes, cells(&[1]), cells(&[1])).prop_map(|(nodes, address, size)| {
        let root = node("").cells("#address-cells", &address).cells("#size-cells", &size);
        let root =
            root.cells("interrupt-parent", &[1]).with(node("chosen").text("stdout-path", "/uart@9000000"));
        nodes.into_iter().flatten().fold(root, Node::with).blob()
    })
}
