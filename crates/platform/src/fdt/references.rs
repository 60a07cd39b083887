//! Which properties lead to other nodes.
//!
//! A device tree doesn't say which numbers are phandles: that is in the bindings. Those that are known are in [`Meaning::of`]; of the
//! others every number that some node has as its phandle may lead there, unless the property is known to be a number or
//! a name. What can't be shown to be independent counts as a dependency.

use alloc::vec::Vec;
use core::ops::Range;

use super::address::Cells;
use super::blob::{NodeId, Property, Tree};

/// What the name of a property says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It names other nodes.
    List(List),
    /// It is a number or a name.
    Number,
    /// It isn't known.
    Unknown,
}

/// How a property that names other nodes is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Phandles and nothing else.
    Bare,
    /// Each phandle is followed by arguments: as many as this property of its node says.
    Counted(&'static str),
}

impl Meaning {
    /// Of a name: as a whole, or by its end, such as that of a unit (dt-schema, property-units.yaml).
    pub fn of(name: &str) -> Self {
        if let Some(list) = list(name) {
            return Self::List(list);
        }
        let dash = name.bytes().rposition(|byte| byte == b'-').unwrap_or(0);
        match name.split_at_checked(dash).unwrap_or_default() {
            (_, "-gpios" | "-gpio") => Self::List(List::Counted("#gpio-cells")),
            (_, "-supply") => Self::List(List::Bare),
            ("pinctrl", state) if state.bytes().skip(1).all(|byte| byte.is_ascii_digit()) => {
                Self::List(List::Bare)
            }
            (_, "-hz" | "-mhz" | "-sec" | "-ms" | "-us" | "-ns" | "-ps") => Self::Number,
            (_, "-bits" | "-percent" | "-microvolt" | "-microamp" | "-ohms") => Self::Number,
            _ if is_number(name) => Self::Number,
            _ => Self::Unknown,
        }
    }
}

/// How properties of these names name other nodes.
fn list(name: &str) -> Option<List> {
    Some(match name {
        "clocks" | "assigned-clocks" | "assigned-clock-parents" => List::Counted("#clock-cells"),
        "resets" => List::Counted("#reset-cells"),
        "power-domains" => List::Counted("#power-domain-cells"),
        "dmas" => List::Counted("#dma-cells"),
        "phys" => List::Counted("#phy-cells"),
        "gpios" => List::Counted("#gpio-cells"),
        "mboxes" => List::Counted("#mbox-cells"),
        "pwms" => List::Counted("#pwm-cells"),
        "io-channels" => List::Counted("#io-channel-cells"),
        "interconnects" => List::Counted("#interconnect-cells"),
        "hwlocks" => List::Counted("#hwlock-cells"),
        "mux-controls" => List::Counted("#mux-control-cells"),
        "thermal-sensors" => List::Counted("#thermal-sensor-cells"),
        "access-controllers" => List::Counted("#access-controller-cells"),
        "io-backends" => List::Counted("#io-backend-cells"),
        "sound-dai" => List::Counted("#sound-dai-cells"),
        "leds" => List::Counted("#led-source-cells"),
        "msi-parent" => List::Counted("#msi-cells"),
        "nvmem-cells" => List::Counted("#nvmem-cell-cells"),
        "memory-region"
        | "operating-points-v2"
        | "phy-handle"
        | "syscon"
        | "nvmem"
        | "mdio-parent-bus"
        | "remote-endpoint"
        | "shmem"
        | "sram" => List::Bare,
        _ => return None,
    })
}

/// Properties that are numbers by their binding: those of the specification and of UARTs, storage and networks that
/// begin without a vendor's name.
fn is_number(name: &str) -> bool {
    name.starts_with('#')
        || matches!(
            name,
            "reg"
                | "phandle"
                | "compatible"
                | "status"
                | "clock-frequency"
                | "current-speed"
                | "reg-shift"
                | "reg-io-width"
                | "reg-offset"
                | "fifo-size"
                | "bus-width"
                | "bank-width"
                | "device-width"
                | "bus-frequency"
                | "max-frequency"
                | "max-speed"
                | "spi-max-frequency"
                | "ngpios"
                | "num-cs"
                | "cell-index"
                | "virtual-reg"
                | "dma-channels"
                | "dma-requests"
                | "tx-fifo-depth"
                | "rx-fifo-depth"
                | "num-lanes"
                | "arm,primecell-periphid"
        )
}

/// A reference: to a node, or a phandle that none has.
pub(super) type Reference = Result<NodeId, u32>;

/// Where a list leads.
pub(super) fn entries(tree: &Tree<'_>, mut cells: Cells<'_>, list: List) -> Vec<Reference> {
    let mut entries = Vec::new();
    while let Some(phandle) = cells.next() {
        // A hole in the list.
        if phandle == 0 {
            continue;
        }
        let Some(provider) = tree.by_phandle(phandle) else {
            // How many cells follow isn't known: the rest can't be read.
            entries.push(Err(phandle));
            break;
        };
        entries.push(Ok(provider));
        let count = match list {
            List::Bare => 0,
            List::Counted(cells) => tree.u32(provider, cells).unwrap_or(0),
        };
        if cells.take(count).is_none() {
            break;
        }
    }
    entries
}

/// A node outside `own` to which a property of unknown meaning may lead.
pub(super) fn guess(tree: &Tree<'_>, property: &Property<'_>, own: &Range<usize>) -> Option<NodeId> {
    if !property.value.len().is_multiple_of(4) || property.meaning != Meaning::Unknown {
        return None;
    }
    let mut cells = Cells(property.value);
    core::iter::from_fn(|| cells.next())
        .filter_map(|cell| tree.by_phandle(cell))
        .find(|node| !own.contains(&node.0))
}

/// Of each node, whether a known reference leads to it, or to a node below it, from neither of these.
pub(super) fn referenced(tree: &Tree<'_>) -> Vec<bool> {
    let mut referenced: Vec<bool> = tree.ids().map(|_| false).collect();
    for from in tree.ids() {
        for property in tree.properties(from) {
            let Meaning::List(list) = property.meaning else { continue };
            for target in entries(tree, Cells(property.value), list).into_iter().flatten() {
                for node in tree.lineage(target).take_while(|&node| !tree.subtree(node).contains(&from.0)) {
                    if let Some(referenced) = referenced.get_mut(node.0) {
                        *referenced = true;
                    }
                }
            }
        }
    }
    referenced
}
