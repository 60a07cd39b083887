//! Platform devices: every node with registers that isn't something the hypervisor itself drives.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::DmaSource;

use super::address::{Cells, Places};
use super::blob::{NodeId, Property, Tree};
use super::interrupts::Line;
use super::kinds::Kind;
use super::memory::is_memory;
use super::references::{self, Meaning, Reference};
use super::{FdtError, kinds, position};
use crate::model::{ChildNode, FixedClock, PlatformDevice, Provider};

/// Buses of which the specification, or their binding, says that what is on them doesn't depend on them but for what
/// their node names.
const TRANSPARENT: &[&str] = &["simple-bus", "simple-mfd", "simple-pm-bus"];

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
            | "linux,phandle"
            | "name"
            | "iommus"
            | "dma-coherent"
            | "dma-noncoherent"
            | "ranges"
            | "dma-ranges"
    )
}

pub(super) fn all(tree: &Tree<'_>, smmus: &[NodeId]) -> Result<Vec<PlatformDevice>, FdtError> {
    let referenced = references::referenced(tree);
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
        if !places.is_empty() {
            let referenced = referenced.get(id.0).copied().unwrap_or(true);
            devices.push(device(tree, id, smmus, referenced, places)?);
        }
    }
    Ok(devices)
}

/// Whether neither a node nor what is below it can be a platform device: the GIC, an SMMU, a host bridge, what is on PCI, and
/// reserved memory.
fn is_other(tree: &Tree<'_>, id: NodeId) -> bool {
    let own = [Kind::Gic, Kind::Smmu, Kind::PciHost];
    let is_own = || own.iter().any(|&kind| tree.is(id, kind)) && tree.is_enabled(id);
    let on_pci = || tree.parent(id).is_some_and(|above| tree.text(above, "device_type") == Some("pci"));
    let is_reservation = || tree.parent(id) == Some(tree.root()) && tree.name(id) == "reserved-memory";
    is_own() || on_pci() || is_reservation()
}

fn device(
    tree: &Tree<'_>,
    id: NodeId,
    smmus: &[NodeId],
    referenced: bool,
    places: Places,
) -> Result<PlatformDevice, FdtError> {
    let (mut interrupts, mut foreign_interrupts) = (Vec::new(), Vec::new());
    for line in tree.interrupts(id) {
        match line {
            Line::Gic(interrupt) => interrupts.push(interrupt),
            Line::Foreign(controller) => foreign_interrupts.push(controller),
        }
    }
    let own = tree.subtree(id);
    let mut reader = Reader { tree, smmus, own, providers: Vec::new(), sources: Vec::new(), masters: false };
    let properties = reader.node(id);
    let children = reader.children(id)?;
    reader.buses(id)?;
    let compatible: Vec<&str> = tree.texts(id, "compatible").collect();
    // What the node says itself outweighs what is known of its kind.
    let bus_master = if reader.masters { Some(true) } else { kinds::masters_the_bus(&compatible) };
    // Its guest sees it at the root, where memory is at the CPU's addresses.
    if let (Some(true), Some(bus)) = (bus_master, tree.parent(id))
        && tree.shifts_dma(bus)
    {
        reader.need("dma-ranges".into(), tree.path(bus), None);
    }
    let Reader { providers, sources, .. } = reader;
    Ok(PlatformDevice {
        path: tree.path(id),
        enabled: tree.is_enabled(id),
        registers: places.found,
        ports: Vec::new(),
        lost: places.lost,
        interrupts,
        foreign_interrupts,
        sources,
        bus_master,
        coherent: tree.is_coherent(id),
        providers,
        referenced,
        ranges: tree.has(id, "ranges"),
        compatible: compatible.into_iter().map(String::from).collect(),
        properties,
        children,
    })
}

/// What of a device is found in its own node, in those below it and in those above.
struct Reader<'t, 'b> {
    tree: &'t Tree<'b>,
    smmus: &'t [NodeId],
    /// The nodes that are the device's: what leads from one of them to another one leads nowhere else.
    own: Range<usize>,
    providers: Vec<Provider>,
    sources: Vec<DmaSource>,
    masters: bool,
}

impl Reader<'_, '_> {
    /// What the device's own node needs, and those of its properties that its guest gets as they are.
    fn node(&mut self, id: NodeId) -> Vec<(String, Vec<u8>)> {
        let tree = self.tree;
        self.dma(id);
        let mut properties = Vec::with_capacity(tree.properties(id).len());
        for property in tree.properties(id) {
            if !is_rewritten(property.name) && self.keeps(property, property.name == "clocks", String::new) {
                properties.push((property.name.to_string(), property.value.to_vec()));
            }
        }
        properties
    }

    /// The nodes below that aren't devices with registers of their own: they are parts of this one, go to its guest with
    /// it, and what they need it needs.
    fn children(&mut self, id: NodeId) -> Result<Vec<ChildNode>, FdtError> {
        let tree = self.tree;
        let mut children = Vec::new();
        for child in tree.children(id) {
            if !tree.is_enabled(child) || !tree.places(child)?.is_empty() {
                continue;
            }
            self.dma(child);
            let of = || format!(" of {}", tree.path(child));
            let mut properties = Vec::new();
            for property in tree.properties(child) {
                let name = property.name;
                let kept = match name {
                    "linux,phandle" | "name" | "iommus" => false,
                    "interrupt-parent" => references::guess(tree, property, &self.own).is_none(),
                    "interrupts" => match tree.interrupt_parent(child) {
                        Some(controller) if self.own.contains(&controller.0) => true,
                        controller => {
                            let path =
                                controller.map_or_else(String::new, |controller| tree.path(controller));
                            self.need(format!("{name}{}", of()), path, None);
                            false
                        }
                    },
                    _ => self.keeps(property, false, of),
                };
                if kept {
                    properties.push((name.to_string(), property.value.to_vec()));
                }
            }
            let below = self.children(child)?;
            children.push(ChildNode { name: tree.name(child).into(), properties, children: below });
        }
        Ok(children)
    }

    /// What the buses above need: clocks, power and the like. A device on another's own bus needs that one.
    fn buses(&mut self, id: NodeId) -> Result<(), FdtError> {
        let tree = self.tree;
        for bus in tree.lineage(id).skip(1).filter(|&bus| tree.parent(bus).is_some()) {
            let path = tree.path(bus);
            for property in tree.properties(bus) {
                let name = property.name;
                // Cells of non-volatile memory hold data, such as serial numbers, and nothing depends on who reads them; where
                // a map leads is followed for the device's own interrupts.
                if !is_rewritten(name) && !matches!(name, "nvmem-cells" | "interrupt-map") {
                    self.keeps(property, name == "clocks", || format!(" of {path}"));
                }
            }
            if !tree.is_compatible(bus, TRANSPARENT) && !tree.places(bus)?.is_empty() {
                self.need("parent".into(), path, None);
            }
        }
        Ok(())
    }

    fn need(&mut self, property: String, path: String, fixed_clock: Option<FixedClock>) {
        self.providers.push(Provider { property, path, fixed_clock });
    }

    /// Whether a property leads to none but the device's own nodes, and so can go to its guest as it is. If not, what it leads
    /// to is a provider; of `clocks` that can be stood in for, fixed ones are known as such.
    fn keeps(&mut self, property: &Property<'_>, clocks: bool, of: impl Fn() -> String) -> bool {
        let (tree, name) = (self.tree, property.name);
        let Meaning::List(list) = property.meaning else {
            let target = references::guess(tree, property, &self.own);
            if let Some(node) = target {
                self.need(format!("{name}{}", of()), tree.path(node), None);
            }
            return target.is_none();
        };
        let entries = references::entries(tree, Cells(property.value), list);
        let is_own = |entry: &Reference| entry.is_ok_and(|node| self.own.contains(&node.0));
        if entries.iter().all(is_own) {
            return true;
        }
        for entry in entries {
            let (path, fixed_clock) = match entry {
                Ok(node) => (tree.path(node), if clocks { fixed_clock(tree, node) } else { None }),
                Err(phandle) => (format!("(no node has phandle {phandle:#x})"), None),
            };
            self.need(format!("{name}{}", of()), path, fixed_clock);
        }
        false
    }

    /// Whether a node says that it masters the bus, and the sources with which it does so behind SMMUv3s. Other IOMMUs are
    /// providers that the hypervisor can't stand in for.
    fn dma(&mut self, id: NodeId) {
        let tree = self.tree;
        // A DMA controller and an IOMMU, which walks tables in memory, count by what they offer.
        let says_so = [
            "dma-coherent",
            "dma-noncoherent",
            "iommus",
            "iommu-map",
            "#iommu-cells",
            "dmas",
            "#dma-cells",
            "dma-channels",
            "memory-region",
        ];
        self.masters |=
            says_so.iter().any(|name| tree.has(id, name)) || tree.text(id, "device_type") == Some("pci");
        let Some(mut cells) = tree.cells(id, "iommus") else { return };
        while let Some(phandle) = cells.next() {
            let node = tree.by_phandle(phandle);
            let smmu = node.and_then(|node| position(self.smmus, node));
            let count = node.and_then(|node| tree.u32(node, "#iommu-cells"));
            if let (Some(smmu), Some(1)) = (smmu, count)
                && let Some(stream) = cells.next()
            {
                self.sources.push(DmaSource::new(smmu, stream));
                continue;
            }
            let absent = || format!("(no node has phandle {phandle:#x})");
            self.need("iommus".into(), node.map_or_else(absent, |node| tree.path(node)), None);
            let Some(count) = count else { break };
            if cells.take(count.min(64)).is_none() {
                break;
            }
        }
    }
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
