//! Platform devices: every node with registers that isn't something the hypervisor itself drives.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::StreamId;

use super::FdtError;
use super::address::{Cells, Places};
use super::blob::{NodeId, Tree};
use super::interrupts::{Line, phandle_entries};
use super::{is_memory, kinds};
use crate::model::{FixedClock, PlatformDevice, Provider};

/// Properties that name providers, and the provider's property that says how many cells follow its phandle.
const PROVIDERS: &[(&str, Option<&str>)] = &[
    ("clocks", Some("#clock-cells")),
    ("assigned-clocks", Some("#clock-cells")),
    ("assigned-clock-parents", Some("#clock-cells")),
    ("resets", Some("#reset-cells")),
    ("power-domains", Some("#power-domain-cells")),
    ("dmas", Some("#dma-cells")),
    ("phys", Some("#phy-cells")),
    ("gpios", Some("#gpio-cells")),
    ("mboxes", Some("#mbox-cells")),
    ("pwms", Some("#pwm-cells")),
    ("io-channels", Some("#io-channel-cells")),
    ("interconnects", Some("#interconnect-cells")),
    ("hwlocks", Some("#hwlock-cells")),
    ("mux-controls", Some("#mux-control-cells")),
    ("thermal-sensors", Some("#thermal-sensor-cells")),
    ("access-controllers", Some("#access-controller-cells")),
    ("io-backends", Some("#io-backend-cells")),
    ("sound-dai", Some("#sound-dai-cells")),
    ("leds", Some("#led-source-cells")),
    ("msi-parent", Some("#msi-cells")),
    ("nvmem-cells", Some("#nvmem-cell-cells")),
    ("memory-region", None),
    ("operating-points-v2", None),
    ("phy-handle", None),
    ("syscon", None),
    ("nvmem", None),
    ("mdio-parent-bus", None),
    ("remote-endpoint", None),
];

/// How a property names providers, or `None` if it doesn't.
fn provider_cells(name: &str) -> Option<Option<&'static str>> {
    if let Some((_, cells)) = PROVIDERS.iter().find(|(property, _)| *property == name) {
        return Some(*cells);
    }
    if name.ends_with("-gpios") || name.ends_with("-gpio") {
        return Some(Some("#gpio-cells"));
    }
    let pin_state =
        name.strip_prefix("pinctrl-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    (name.ends_with("-supply") || pin_state).then_some(None)
}

/// Properties that the plan makes anew for the guest's node, or that mean nothing there.
fn is_rewritten(name: &str) -> bool {
    matches!(
        name,
        "reg"
            | "interrupts"
            | "interrupts-extended"
            | "interrupt-parent"
            | "status"
            | "secure-status"
            | "phandle"
            | "linux,phandle"
            | "name"
            | "iommus"
            | "dma-coherent"
            | "dma-noncoherent"
            | "ranges"
            | "dma-ranges"
            | "#address-cells"
            | "#size-cells"
    )
}

pub(super) fn all(tree: &Tree<'_>, smmus: &[NodeId]) -> Result<Vec<PlatformDevice>, FdtError> {
    let mut devices = Vec::new();
    let mut others: Vec<bool> = Vec::new();
    for id in tree.ids() {
        // A node's parent comes before it.
        let below = tree.parent(id).is_some_and(|above| others.get(above.0).copied().unwrap_or(true));
        others.push(below || is_other(tree, id));
        if others.last() == Some(&true) || is_memory(tree, id) {
            continue;
        }
        let places = tree.places(id)?;
        if !places.found.is_empty() || !places.lost.is_empty() {
            devices.push(device(tree, id, smmus, places));
        }
    }
    Ok(devices)
}

/// Whether neither a node nor what is below it can be a platform device: the GIC, an SMMU, a host bridge, what is on PCI, and
/// reserved memory.
fn is_other(tree: &Tree<'_>, id: NodeId) -> bool {
    let own = [kinds::GIC, kinds::SMMU, kinds::PCI_HOST];
    let is_own = || own.iter().any(|kind| tree.is_compatible(id, kind)) && tree.is_enabled(id);
    let on_pci = || tree.parent(id).is_some_and(|above| tree.text(above, "device_type") == Some("pci"));
    let is_reservation = || tree.parent(id) == Some(tree.root()) && tree.name(id) == "reserved-memory";
    is_own() || on_pci() || is_reservation()
}

fn device(tree: &Tree<'_>, id: NodeId, smmus: &[NodeId], places: Places) -> PlatformDevice {
    let (mut interrupts, mut foreign_interrupts) = (Vec::new(), Vec::new());
    for line in tree.interrupts(id) {
        match line {
            Line::Gic(interrupt) => interrupts.push(interrupt),
            Line::Foreign(controller) => foreign_interrupts.push(controller),
        }
    }
    let (streams, mut providers) = streams(tree, id, smmus);
    let mut properties = Vec::new();
    for &(name, value) in tree.properties(id) {
        if let Some(cells) = provider_cells(name) {
            providers.extend(phandle_entries(tree, Cells(value), cells).into_iter().map(
                |entry| match entry {
                    Ok(node) => Provider {
                        property: name.into(),
                        path: tree.path(node),
                        fixed_clock: if name == "clocks" { fixed_clock(tree, node) } else { None },
                    },
                    Err(phandle) => Provider {
                        property: name.into(),
                        path: format!("(no node has phandle {phandle:#x})"),
                        fixed_clock: None,
                    },
                },
            ));
        } else if !is_rewritten(name) {
            properties.push((name.to_string(), value.to_vec()));
        }
    }
    PlatformDevice {
        path: tree.path(id),
        compatible: tree.texts(id, "compatible").map(String::from).collect(),
        enabled: tree.is_enabled(id),
        registers: places.found,
        lost: places.lost,
        interrupts,
        foreign_interrupts,
        streams,
        bus_master: bus_master(tree, id),
        coherent: tree.is_coherent(id),
        providers,
        properties,
    }
}

/// What the node says itself outweighs what is known of its kind.
fn bus_master(tree: &Tree<'_>, id: NodeId) -> Option<bool> {
    let says_so = ["dma-coherent", "dma-noncoherent", "iommus", "dmas", "memory-region"];
    if says_so.iter().any(|name| tree.has(id, name)) || tree.text(id, "device_type") == Some("pci") {
        return Some(true);
    }
    let compatible: Vec<&str> = tree.texts(id, "compatible").collect();
    kinds::masters_the_bus(&compatible)
}

/// `iommus`: streams behind SMMUv3s. Other IOMMUs are providers that the hypervisor can't stand in for.
fn streams(tree: &Tree<'_>, id: NodeId, smmus: &[NodeId]) -> (Vec<(usize, StreamId)>, Vec<Provider>) {
    let (mut streams, mut providers) = (Vec::new(), Vec::new());
    let Some(mut cells) = tree.cells(id, "iommus") else {
        return (streams, providers);
    };
    while let Some(phandle) = cells.next() {
        let node = tree.by_phandle(phandle);
        let smmu = node.and_then(|node| smmus.iter().position(|&smmu| smmu == node));
        let count = node.and_then(|node| tree.u32(node, "#iommu-cells"));
        if let (Some(smmu), Some(1)) = (smmu, count)
            && let Some(stream) = cells.next()
        {
            streams.push((smmu, StreamId(stream)));
            continue;
        }
        let path = node.map_or_else(|| format!("(no node has phandle {phandle:#x})"), |node| tree.path(node));
        providers.push(Provider { property: "iommus".into(), path, fixed_clock: None });
        let Some(count) = count else { break };
        if cells.take(count.min(64)).is_none() {
            break;
        }
    }
    (streams, providers)
}

fn fixed_clock(tree: &Tree<'_>, id: NodeId) -> Option<FixedClock> {
    if !tree.is_compatible(id, &["fixed-clock"]) {
        return None;
    }
    Some(FixedClock {
        frequency: tree.u32(id, "clock-frequency")?,
        output_name: tree.text(id, "clock-output-names").unwrap_or_default().into(),
    })
}
