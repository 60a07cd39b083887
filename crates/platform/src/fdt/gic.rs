//! The GICv3 and its ITSs (Linux binding `arm,gic-v3`), and all of theirs that no guest may reach.

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};

use super::FdtError;
use super::blob::{NodeId, Tree};
use super::kinds::Kind;
use crate::model::{Gic, Its};

/// Bytes of one of the GIC's frames.
const FRAME: u64 = 0x1_0000;

/// The property of an ITS before which something stands that isn't the GIC's.
const PRE_ITS: &str = "socionext,synquacer-pre-its";

/// The nodes of the ITSs that are used, in the order of [`Gic::its`].
pub(super) fn its_nodes(tree: &Tree<'_>) -> Vec<NodeId> {
    let is_gic = |id| tree.is(id, Kind::Gic) && tree.is_enabled(id);
    tree.in_use(Kind::Its).filter(|&id| tree.parent(id).is_some_and(is_gic)).collect()
}

/// The GIC, and all that belongs to it.
pub(super) fn read(tree: &Tree<'_>) -> Result<Option<Gic>, FdtError> {
    let mut nodes = tree.in_use(Kind::Gic);
    let Some(id) = nodes.next() else { return Ok(None) };
    if let Some(second) = nodes.next() {
        return Err(FdtError::TwoGics { first: tree.path(id), second: tree.path(second) });
    }
    let mut registers = tree.registers(id)?.into_iter();
    let distributor = registers.next().ok_or_else(|| FdtError::property(tree, id, "reg"))?;
    let regions = tree.u32(id, "#redistributor-regions").unwrap_or(1) as usize;
    let redistributors: Vec<_> = registers.by_ref().take(regions).collect();
    if redistributors.is_empty() || redistributors.len() != regions {
        return Err(FdtError::property(tree, id, "reg"));
    }
    let stride = match tree.cells(id, "redistributor-stride") {
        None => 0,
        Some(mut cells) => u32::try_from(cells.0.len() / 4)
            .ok()
            .and_then(|count| cells.number(count))
            .ok_or_else(|| FdtError::property(tree, id, "redistributor-stride"))?,
    };
    let mut legacy: Vec<_> = registers.collect();
    // Another place of the registers by which messages become SPIs.
    if let Some(mut cells) = tree.cells(id, "mbi-alias") {
        let count = u32::try_from(cells.0.len() / 4).unwrap_or(u32::MAX);
        let alias = cells.number(count).and_then(|start| Span::new(Hpa(start), FRAME).ok());
        legacy.push(alias.ok_or_else(|| FdtError::property(tree, id, "mbi-alias"))?);
    }
    let mut used = Vec::new();
    let its_nodes = its_nodes(tree);
    for child in tree.children(id) {
        if !its_nodes.contains(&child) {
            // GICv2m frames and the like: part of the GIC, so not for guests.
            legacy.extend(tree.places(child)?.found);
            continue;
        }
        let one = its(tree, child)?;
        legacy.extend(one.pre_its);
        used.push(one);
    }
    // ITSs that aren't used, because they are disabled or not this GIC's, have doorbells all the same.
    let is_other = |id: &NodeId| tree.is(*id, Kind::Its) && !its_nodes.contains(id);
    for other in tree.ids().filter(is_other) {
        legacy.extend(tree.places(other)?.found.first().and_then(|&control| with_translater(control)));
    }
    Ok(Some(Gic {
        path: tree.path(id),
        distributor,
        redistributors,
        redistributor_stride: stride,
        legacy,
        maintenance: tree.interrupt_at(id, 0),
        not_coherent: tree.has(id, "dma-noncoherent"),
        its: used,
        virtual_lpis: None,
    }))
}

fn its(tree: &Tree<'_>, id: NodeId) -> Result<Its, FdtError> {
    let control = tree.registers(id)?.first().copied();
    let registers = control.and_then(with_translater).ok_or_else(|| FdtError::property(tree, id, "reg"))?;
    let pre_its = match tree.cells(id, PRE_ITS) {
        None => None,
        // An address and a size, of a cell each.
        Some(mut cells) => {
            let window = cells.number(1).zip(cells.number(1));
            let window = window.and_then(|(start, size)| Span::new(Hpa(start), size).ok());
            Some(window.ok_or_else(|| FdtError::property(tree, id, PRE_ITS))?)
        }
    };
    Ok(Its { path: tree.path(id), registers, not_coherent: tree.has(id, "dma-noncoherent"), pre_its })
}

/// An ITS's registers with the frame of GITS_TRANSLATER, which is there whatever `reg` says (IHI 0069, 12.18).
fn with_translater(registers: Span<Hpa>) -> Option<Span<Hpa>> {
    Span::new(registers.start(), registers.size().max(2 * FRAME)).ok()
}
