//! GICs and ITSs as trees describe them: what is not coherent, what is not used, and what no guest may reach.

mod tree;

use axvm_addr::{Hpa, PciAddress, Span};
use axvm_pci::Function;
use axvm_platform::fdt;
use axvm_platform::model::{Gic, Platform};

use tree::{Node, node, root};

fn span(start: u64, size: u64) -> Span<Hpa> {
    Span::new(Hpa(start), size).unwrap()
}

fn its(name: &'static str, reg: [u32; 2]) -> Node {
    node(name).text("compatible", "arm,gic-v3-its").cells("reg", &reg).cells("phandle", &[7])
}

fn gic(child: Node) -> Node {
    node("intc@1000000")
        .text("compatible", "arm,gic-v3")
        .bus()
        .cells("reg", &[0x100_0000, 0x1_0000, 0x110_0000, 0x4_0000])
        .with(child)
}

fn host() -> Node {
    node("pcie@40000000")
        .text("compatible", "pci-host-ecam-generic")
        .text("device_type", "pci")
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .cells("reg", &[0x4000_0000, 0x10_0000])
        .cells("bus-range", &[0, 0])
        .cells("msi-map", &[0, 7, 0, 0x1_0000])
}

fn read(root: Node) -> Platform {
    fdt::read(&root.blob()).unwrap()
}

fn read_gic(gic: Node) -> Gic {
    read(root().with(gic)).gic().cloned().unwrap()
}

#[test]
fn the_doorbell_is_an_itss_whatever_reg_says_of_its_size() {
    for (size, expected) in
        [(0x1000, 0x2_0000), (0x1_0000, 0x2_0000), (0x2_0000, 0x2_0000), (0x4_0000, 0x4_0000)]
    {
        let gic = read_gic(gic(its("its@1200000", [0x120_0000, size])));
        assert_eq!(gic.its[0].registers, span(0x120_0000, expected));
        assert_eq!(gic.legacy, []);
    }
}

#[test]
fn doorbells_that_are_not_used_are_kept_from_guests_too() {
    let disabled = its("its@1200000", [0x120_0000, 0x1_0000]).text("status", "disabled");
    let elsewhere = its("its@1400000", [0x140_0000, 0x1_0000]);
    let messages = gic(disabled).cells("mbi-alias", &[0x160_0000]);
    let gic = read(root().with(messages).with(elsewhere)).gic().cloned().unwrap();
    assert_eq!(gic.its, []);
    for kept in [span(0x120_0000, 0x2_0000), span(0x140_0000, 0x2_0000), span(0x160_0000, 0x1_0000)] {
        assert!(gic.legacy.contains(&kept), "{kept:?} in {:?}", gic.legacy);
    }
}

#[test]
fn what_is_not_coherent_says_so_for_itself() {
    let plain = || its("its@1200000", [0x120_0000, 0x2_0000]);
    let coherent = read_gic(gic(plain()));
    assert!(!coherent.not_coherent && !coherent.its[0].not_coherent);
    let one = read_gic(gic(plain().flag("dma-noncoherent")));
    assert!(!one.not_coherent && one.its[0].not_coherent);
    let other = read_gic(gic(plain()).flag("dma-noncoherent"));
    assert!(other.not_coherent && !other.its[0].not_coherent);
}

fn function() -> Function {
    Function {
        address: PciAddress::from_requester_id(0, 8),
        parent: None,
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
        interrupt_pin: 0,
        virtio: None,
        intx_disable: true,
        stuck: None,
        resets: vec![],
    }
}

#[test]
fn an_its_that_learns_its_senders_from_addresses_is_not_used_and_its_window_is_kept() {
    let plain = || its("its@1200000", [0x120_0000, 0x2_0000]);
    let pre_its = plain().cells("socionext,synquacer-pre-its", &[0x5800_0000, 0x20_0000]);
    for (node, messages) in [(plain(), true), (pre_its, false)] {
        let mut platform = read(root().with(gic(node)).with(host()));
        platform.add_functions(vec![function()], &[]);
        assert_eq!(platform.functions.as_ref().unwrap()[0].msi.is_some(), messages);
        let gic = platform.gic().cloned().unwrap();
        let window = span(0x5800_0000, 0x20_0000);
        assert_eq!(gic.its[0].pre_its, (!messages).then_some(window));
        assert_eq!(gic.legacy.contains(&window), !messages);
    }
}

#[test]
fn the_board_is_known_by_its_names() {
    let platform = read(root().text("compatible", "rockchip,rk3588"));
    assert_eq!(platform.compatible, ["rockchip,rk3588"]);
}
