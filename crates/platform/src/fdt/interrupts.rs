//! Wired interrupts (Devicetree Specification 0.4, 2.4) down to the GIC (Linux binding `arm,gic-v3`).

use alloc::vec::Vec;

use axvm_addr::Irq;

use super::address::Cells;
use super::blob::{NodeId, Tree};
use super::kinds::Kind;
use crate::model::{ForeignInterrupt, Interrupt, Trigger};

/// How many nexus nodes an interrupt passes at most.
const MOST_HOPS: usize = 8;
/// More cells than any interrupt specifier or unit address has.
const MOST_CELLS: u32 = 8;

/// Where a node's interrupt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// To the GIC.
    Gic(Interrupt),
    /// Not to the GIC, or to no line of it.
    Foreign(ForeignInterrupt),
}

/// The GIC's three cells: kind, number, flags.
fn gic_interrupt(mut specifier: Cells<'_>) -> Option<Interrupt> {
    let (kind, number, flags) = (specifier.next()?, specifier.next()?, specifier.next()?);
    // The first INTID of the kind and how many there are (Arm IHI 0069, 2.2).
    let (first, count) = match kind {
        0 => (32, 988),
        1 => (16, 16),
        2 => (4096, 1024),
        3 => (1056, 64),
        _ => return None,
    };
    let irq = if number < count { u32::checked_add(first, number)? } else { return None };
    // IRQ_TYPE_EDGE_RISING and _FALLING are 1 and 2, levels 4 and 8; bits above (PPI affinity of older
    // bindings) say nothing of the trigger.
    let trigger = if flags & 3 != 0 { Trigger::Edge } else { Trigger::Level };
    Some(Interrupt { irq: Irq(irq), trigger })
}

impl Tree<'_> {
    fn interrupt_cells(&self, controller: NodeId) -> Option<u32> {
        self.u32(controller, "#interrupt-cells").filter(|&cells| cells <= MOST_CELLS)
    }

    /// The controller or nexus that a node's `interrupts` go to: as Linux' `of_irq_find_parent`.
    pub(super) fn interrupt_parent(&self, id: NodeId) -> Option<NodeId> {
        let mut node = id;
        // A phandle may lead anywhere, so the walk is bounded by hand.
        for _ in 0..64 {
            node = match self.u32(node, "interrupt-parent") {
                Some(phandle) => self.by_phandle(phandle)?,
                None => self.parent(node)?,
            };
            if self.has(node, "#interrupt-cells") {
                return Some(node);
            }
        }
        None
    }

    /// All wired interrupts of a node. What can't be followed is foreign, so that nobody takes it for absent.
    pub(super) fn interrupts(&self, id: NodeId) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(mut cells) = self.cells(id, "interrupts-extended") {
            while !cells.is_empty() {
                let entry = cells.next().and_then(|phandle| {
                    // A zero phandle is a hole in the list.
                    if phandle == 0 {
                        return Some(None);
                    }
                    let controller = self.by_phandle(phandle)?;
                    let specifier = cells.take(self.interrupt_cells(controller)?)?;
                    Some(Some(self.follow(id, controller, specifier)))
                });
                match entry {
                    Some(Some(line)) => lines.push(line),
                    Some(None) => {}
                    None => {
                        lines.push(Line::Foreign(ForeignInterrupt::Unclear(
                            "`interrupts-extended` names no controller".into(),
                        )));
                        break;
                    }
                }
            }
            return lines;
        }
        let Some(mut cells) = self.cells(id, "interrupts") else {
            return lines;
        };
        let controller = self.interrupt_parent(id);
        let count =
            controller.and_then(|controller| self.interrupt_cells(controller)).filter(|&count| count > 0);
        let (Some(controller), Some(count)) = (controller, count) else {
            lines.push(Line::Foreign(ForeignInterrupt::Unclear("it has no interrupt parent".into())));
            return lines;
        };
        while !cells.is_empty() {
            match cells.take(count) {
                Some(specifier) => lines.push(self.follow(id, controller, specifier)),
                None => {
                    lines.push(Line::Foreign(ForeignInterrupt::Unclear("`interrupts` is cut short".into())));
                    break;
                }
            }
        }
        lines
    }

    fn follow(&self, id: NodeId, controller: NodeId, specifier: Cells<'_>) -> Line {
        let mut unit = Cells(&[]);
        // At the GIC the node's address plays no part.
        if !self.is(controller, Kind::Gic)
            && let Some(bus) = self.parent(id)
            && let Some(mut registers) = self.cells(id, "reg")
        {
            unit = registers.take(self.address_cells(bus).min(MOST_CELLS)).unwrap_or(unit);
        }
        self.resolve(controller, unit, specifier)
    }

    /// Follows a specifier from a controller through every nexus to the GIC.
    pub(super) fn resolve(&self, controller: NodeId, unit: Cells<'_>, specifier: Cells<'_>) -> Line {
        let (mut controller, mut unit, mut specifier) = (controller, unit, specifier);
        for _ in 0..MOST_HOPS {
            if self.is(controller, Kind::Gic) {
                return gic_interrupt(specifier)
                    .map_or(Line::Foreign(ForeignInterrupt::NoSuchLine), Line::Gic);
            }
            match self.through_map(controller, unit, specifier) {
                Some(next) => (controller, unit, specifier) = next,
                None => break,
            }
        }
        Line::Foreign(ForeignInterrupt::Elsewhere(self.path(controller)))
    }

    /// One step through an `interrupt-map` (2.4.3.1): parent, its unit address, its specifier.
    fn through_map<'s>(
        &'s self,
        nexus: NodeId,
        unit: Cells<'_>,
        specifier: Cells<'_>,
    ) -> Option<(NodeId, Cells<'s>, Cells<'s>)> {
        let mut map = self.cells(nexus, "interrupt-map")?;
        let address_cells = self.lineage(nexus).find_map(|id| self.u32(id, "#address-cells")).unwrap_or(2);
        let (address_cells, cells) = (address_cells.min(MOST_CELLS), self.interrupt_cells(nexus)?);
        let width = address_cells.checked_add(cells)?;
        let mask = self.cells(nexus, "interrupt-map-mask").and_then(|mut mask| mask.take(width));
        let fits = specifier.0.len() == cells as usize * 4;
        // Entries mostly have the same parent.
        let mut last: Option<(u32, NodeId, u32, u32)> = None;
        while !map.is_empty() {
            let entry = map.take(width)?;
            let phandle = map.next()?;
            let known = last.filter(|last| last.0 == phandle);
            let (_, parent, unit_cells, specifier_cells) = match known {
                Some(known) => known,
                None => {
                    let parent = self.by_phandle(phandle)?;
                    // Unlike elsewhere, an absent #address-cells is 0 here (as Linux has it: a GIC without one takes none).
                    let unit_cells = self.u32(parent, "#address-cells").unwrap_or(0).min(MOST_CELLS);
                    *last.insert((phandle, parent, unit_cells, self.interrupt_cells(parent)?))
                }
            };
            let (parent_unit, parent_specifier) = (map.take(unit_cells)?, map.take(specifier_cells)?);
            if fits && matches_under(mask, entry, wanted(unit, address_cells, specifier)) {
                return Some((parent, parent_unit, parent_specifier));
            }
        }
        None
    }

    /// `interrupt-names`, in order.
    pub(super) fn interrupt_named(&self, id: NodeId, name: &str) -> Option<Interrupt> {
        let position = self.texts(id, "interrupt-names").position(|other| other == name)?;
        match self.interrupts(id).into_iter().nth(position)? {
            Line::Gic(interrupt) => Some(interrupt),
            Line::Foreign(_) => None,
        }
    }

    /// A node's n-th interrupt, if it goes to the GIC.
    pub(super) fn interrupt_at(&self, id: NodeId, position: usize) -> Option<Interrupt> {
        match self.interrupts(id).into_iter().nth(position)? {
            Line::Gic(interrupt) => Some(interrupt),
            Line::Foreign(_) => None,
        }
    }
}

/// What an entry is to say: a unit address in so many cells, those that it lacks as 0, and a specifier.
fn wanted(mut unit: Cells<'_>, address_cells: u32, mut specifier: Cells<'_>) -> impl Iterator<Item = u32> {
    (0..address_cells)
        .map(move |_| unit.next().unwrap_or(0))
        .chain(core::iter::from_fn(move || specifier.next()))
}

/// Whether cells are those that are wanted, as far as the mask, if there is one, looks at them.
fn matches_under(
    mut mask: Option<Cells<'_>>,
    mut cells: Cells<'_>,
    mut wanted: impl Iterator<Item = u32>,
) -> bool {
    wanted.all(|wanted| {
        let mask = mask.as_mut().map_or(Some(u32::MAX), Cells::next);
        cells.next().zip(mask).is_some_and(|(cell, mask)| cell & mask == wanted & mask)
    })
}
