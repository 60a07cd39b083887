//! Which properties lead to other nodes.
//!
//! A device tree doesn't say which numbers are phandles: that is in the bindings. Those that are known are in [`list`]; of the
//! others every number that some node has as its phandle may lead there, unless the property is known to be a number or
//! a name. What can't be shown to be independent counts as a dependency.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use super::address::Cells;
use super::blob::{NodeId, Tree};

/// How a property that names other nodes is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Phandles and nothing else.
    Bare,
    /// Each phandle is followed by arguments: as many as the property `#STEM-cells` of its node says.
    Counted(&'static str),
}

/// How a property names other nodes, if it is known to do so.
pub(super) fn list(name: &str) -> Option<List> {
    Some(match name {
        "clocks" | "assigned-clocks" | "assigned-clock-parents" => List::Counted("clock"),
        "resets" => List::Counted("reset"),
        "power-domains" => List::Counted("power-domain"),
        "dmas" => List::Counted("dma"),
        "phys" => List::Counted("phy"),
        "gpios" => List::Counted("gpio"),
        "mboxes" => List::Counted("mbox"),
        "pwms" => List::Counted("pwm"),
        "io-channels" => List::Counted("io-channel"),
        "interconnects" => List::Counted("interconnect"),
        "hwlocks" => List::Counted("hwlock"),
        "mux-controls" => List::Counted("mux-control"),
        "thermal-sensors" => List::Counted("thermal-sensor"),
        "access-controllers" => List::Counted("access-controller"),
        "io-backends" => List::Counted("io-backend"),
        "sound-dai" => List::Counted("sound-dai"),
        "leds" => List::Counted("led-source"),
        "msi-parent" => List::Counted("msi"),
        "nvmem-cells" => List::Counted("nvmem-cell"),
        "memory-region"
        | "operating-points-v2"
        | "phy-handle"
        | "syscon"
        | "nvmem"
        | "mdio-parent-bus"
        | "remote-endpoint"
        | "shmem"
        | "sram" => List::Bare,
        _ if name.ends_with("-gpios") || name.ends_with("-gpio") => List::Counted("gpio"),
        _ if name.ends_with("-supply") => List::Bare,
        _ => {
            let state = name.strip_prefix("pinctrl-")?;
            state.bytes().all(|byte| byte.is_ascii_digit()).then_some(List::Bare)?
        }
    })
}

/// Properties that are numbers by their binding: those of the specification and of UARTs, storage and networks that
/// begin without a vendor's name, and those that end in a unit (dt-schema, property-units.yaml).
fn is_number(name: &str) -> bool {
    const UNITS: [&str; 12] = [
        "-hz",
        "-mhz",
        "-sec",
        "-ms",
        "-us",
        "-ns",
        "-ps",
        "-bits",
        "-percent",
        "-microvolt",
        "-microamp",
        "-ohms",
    ];
    name.starts_with('#')
        || UNITS.iter().any(|unit| name.ends_with(unit))
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
            List::Counted(stem) => tree.u32(provider, &format!("#{stem}-cells")).unwrap_or(0),
        };
        if cells.take(count).is_none() {
            break;
        }
    }
    entries
}

/// A node outside `own` to which a property of unknown meaning may lead.
pub(super) fn guess(tree: &Tree<'_>, name: &str, value: &[u8], own: &Range<usize>) -> Option<NodeId> {
    if !value.len().is_multiple_of(4) || is_number(name) {
        return None;
    }
    let mut cells = Cells(value);
    core::iter::from_fn(|| cells.next())
        .filter_map(|cell| tree.by_phandle(cell))
        .find(|node| !own.contains(&node.0))
}

/// Every known reference of the tree: who refers, and to whom. In 32 bits: there are many, and this is read at boot.
pub(super) fn all(tree: &Tree<'_>) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    for id in tree.ids() {
        for &(name, value) in tree.properties(id) {
            if let Some(list) = list(name) {
                let targets = entries(tree, Cells(value), list).into_iter().flatten();
                all.extend(targets.map(|target| (id.0 as u32, target.0 as u32)));
            }
        }
    }
    all
}
