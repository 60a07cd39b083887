//! Cells, `reg` and `ranges` (Devicetree Specification 0.4, 2.3.5, 2.3.6, 2.3.8).

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};

use super::FdtError;
use super::blob::{NodeId, Tree};
use crate::model::BusSpan;

/// Into so many pieces registers are torn at most: a tree whose buses tear them further is no board's.
const MOST_PIECES: usize = 64;

/// A node's registers.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Where the CPU sees them.
    pub found: Vec<Span<Hpa>>,
    /// Entries, on the node's own bus, that aren't all there in one piece.
    pub lost: Vec<BusSpan>,
}

impl Places {
    /// Whether the node has no registers at all.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty() && self.lost.is_empty()
    }
}

/// One step up: what of a piece the entries of a `ranges` lead to, the first of those that cover an address.
fn through(entries: &[(BusSpan, u64)], piece: BusSpan, above: &mut Vec<BusSpan>) {
    let end = |span: &BusSpan| span.start.saturating_add(span.size);
    let mut at = piece.start;
    while at < end(&piece) && above.len() < MOST_PIECES {
        let here = entries.iter().find(|(from, _)| from.start <= at && at < end(from));
        // An entry before that one in the list takes over where it begins.
        let starts = entries.iter().map(|(from, _)| from.start).filter(|&start| start > at);
        let next = starts.min().unwrap_or(u64::MAX).min(end(&piece));
        let Some((from, to)) = here else {
            at = next;
            continue;
        };
        let stop = end(from).min(next);
        if let Some(start) = to.checked_add(at - from.start) {
            match above.last_mut() {
                Some(last) if end(last) == start => last.size = last.size.saturating_add(stop - at),
                _ => above.push(BusSpan { start, size: stop - at }),
            }
        }
        at = stop;
    }
}

/// A property's cells, taken from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'a>(pub &'a [u8]);

impl<'a> Cells<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next cell.
    pub fn next(&mut self) -> Option<u32> {
        let (cell, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*cell))
    }

    /// The next `count` cells as one number; `None` if they aren't there or it doesn't fit into 64 bits.
    pub fn number(&mut self, count: u32) -> Option<u64> {
        let mut value = 0u64;
        for _ in 0..count {
            let cell = self.next()?;
            if value >> 32 != 0 {
                return None;
            }
            value = value << 32 | u64::from(cell);
        }
        Some(value)
    }

    /// The next `count` cells.
    pub fn take(&mut self, count: u32) -> Option<Self> {
        let (taken, rest) = self.0.split_at_checked((count as usize).checked_mul(4)?)?;
        self.0 = rest;
        Some(Self(taken))
    }
}

impl<'a> Tree<'a> {
    pub(super) fn cells(&self, id: NodeId, name: &str) -> Option<Cells<'a>> {
        self.property(id, name).map(Cells)
    }

    /// `#address-cells` of a bus, 2 without it.
    pub(super) fn address_cells(&self, bus: NodeId) -> u32 {
        self.u32(bus, "#address-cells").unwrap_or(2)
    }

    /// `#size-cells` of a bus, 1 without it.
    pub(super) fn size_cells(&self, bus: NodeId) -> u32 {
        self.u32(bus, "#size-cells").unwrap_or(1)
    }

    /// `reg`, or another property like it, in entries of so many cells. Empty where the bus isn't one of memory addresses.
    fn entries(&self, id: NodeId, name: &str, address: u32, size: u32) -> Result<Vec<BusSpan>, FdtError> {
        let Some(mut cells) = self.cells(id, name) else { return Ok(Vec::new()) };
        if address == 0 || address > 2 || size == 0 || size > 2 {
            return Ok(Vec::new());
        }
        let mut registers = Vec::new();
        while !cells.is_empty() {
            let entry = cells.number(address).zip(cells.number(size));
            let entry = entry.filter(|(start, size)| start.checked_add(*size).is_some());
            let (start, size) = entry.ok_or_else(|| FdtError::property(self, id, name))?;
            registers.push(BusSpan { start, size });
        }
        Ok(registers)
    }

    /// `reg` as the CPU sees it, and what of it no address of the CPU leads to.
    pub(super) fn places(&self, id: NodeId) -> Result<Places, FdtError> {
        self.places_in(id, "reg")
    }

    /// The same of a property that is like `reg`.
    pub(super) fn places_in(&self, id: NodeId, name: &str) -> Result<Places, FdtError> {
        let mut places = Places::default();
        let Some(bus) = self.parent(id).filter(|&bus| self.leads_to_root(bus)) else { return Ok(places) };
        for entry in self.entries(id, name, self.address_cells(bus), self.size_cells(bus))? {
            let whole = self.translate(bus, entry, &mut places.found)?;
            if !whole || entry.size == 0 {
                places.lost.push(entry);
            }
        }
        Ok(places)
    }

    /// `reg` of what the hypervisor itself uses by its position: each entry in one piece.
    pub(super) fn registers(&self, id: NodeId) -> Result<Vec<Span<Hpa>>, FdtError> {
        let Places { found, lost } = self.places(id)?;
        if lost.is_empty() { Ok(found) } else { Err(FdtError::property(self, id, "reg")) }
    }

    /// `reg` of memory that is to be kept from everyone. What no `ranges` translates (the property is forgotten now and then,
    /// though 3.5.2 of the specification asks for it) is taken for the CPU's own address, and what can't be read is an error.
    pub(super) fn kept(&self, id: NodeId) -> Result<Vec<Span<Hpa>>, FdtError> {
        let (Some(bus), true) = (self.parent(id), self.has(id, "reg")) else { return Ok(Vec::new()) };
        // Where the cells are forgotten too they are the root's, as Linux has it.
        let cells = |name| self.u32(bus, name).or_else(|| self.u32(self.root(), name));
        let entries =
            self.entries(id, "reg", cells("#address-cells").unwrap_or(2), cells("#size-cells").unwrap_or(1))?;
        if entries.is_empty() {
            return Err(FdtError::property(self, id, "reg"));
        }
        let mut kept = Vec::new();
        for entry in entries {
            if !self.translate(bus, entry, &mut kept)? {
                kept.extend(Span::new(Hpa(entry.start), entry.size));
            }
        }
        Ok(kept)
    }

    /// Whether addresses on a bus can be the CPU's at all. Elsewhere `reg` numbers ports, channels and the like, and
    /// what is odd about it is none of a memory map's business.
    fn leads_to_root(&self, bus: NodeId) -> bool {
        self.lineage(bus).all(|bus| self.parent(bus).is_none() || self.has(bus, "ranges"))
    }

    /// Adds where the CPU sees addresses on `bus`: in pieces, where entries of `ranges` tear them, without those that no entry
    /// leads to. Whether that is all of them in one piece.
    pub(super) fn translate(
        &self,
        bus: NodeId,
        span: BusSpan,
        found: &mut Vec<Span<Hpa>>,
    ) -> Result<bool, FdtError> {
        if self.parent(bus).is_none() {
            let seen = Span::new(Hpa(span.start), span.size).ok();
            found.extend(seen);
            return Ok(seen.is_some());
        }
        let mut pieces = alloc::vec![span];
        for bus in self.lineage(bus) {
            let Some(above) = self.parent(bus) else { break };
            let Some(ranges) = self.cells(bus, "ranges") else { return Ok(false) };
            if ranges.is_empty() {
                continue;
            }
            let (child, parent, length) =
                (self.address_cells(bus), self.address_cells(above), self.size_cells(bus));
            if child == 0 || child > 2 {
                return Ok(false);
            }
            let mut entries = Vec::new();
            let mut cells = ranges;
            while !cells.is_empty() {
                let entry = cells.number(child).zip(cells.number(parent)).zip(cells.number(length));
                let ((from, to), length) = entry.ok_or_else(|| FdtError::property(self, bus, "ranges"))?;
                entries.push((BusSpan { start: from, size: length }, to));
            }
            let mut above = Vec::new();
            for piece in pieces {
                through(&entries, piece, &mut above);
            }
            pieces = above;
        }
        let before = found.len();
        found.extend(pieces.iter().filter_map(|piece| Span::new(Hpa(piece.start), piece.size).ok()));
        Ok(matches!(found.get(before..), Some([one]) if one.size() == span.size))
    }

    /// Whether a device on a bus, or behind one, sees memory at other addresses than the CPU does: an entry of `dma-ranges` (2.3.9)
    /// of that bus or one above that isn't one to one, or can't be read. Its driver would have to know.
    pub(super) fn shifts_dma(&self, bus: NodeId) -> bool {
        let shifts = |bus: NodeId| {
            let (Some(mut cells), Some(above)) = (self.cells(bus, "dma-ranges"), self.parent(bus)) else {
                return false;
            };
            let child = self.address_cells(bus);
            while !cells.is_empty() {
                // On PCI the first cell says which space it is.
                let flags = if child == 3 { cells.take(1) } else { Some(cells) };
                let entry = flags.and_then(|_| cells.number(child.min(2)));
                let entry = entry.zip(cells.number(self.address_cells(above)));
                if entry.is_none_or(|(from, to)| from != to) || cells.number(self.size_cells(bus)).is_none() {
                    return true;
                }
            }
            false
        };
        self.lineage(bus).any(shifts)
    }

    /// Whether DMA of a node is coherent: the nearest `dma-coherent` or `dma-noncoherent`, its own or of a
    /// bus above.
    pub(super) fn is_coherent(&self, id: NodeId) -> bool {
        self.lineage(id)
            .find_map(|id| {
                if self.has(id, "dma-coherent") {
                    return Some(true);
                }
                self.has(id, "dma-noncoherent").then_some(false)
            })
            .unwrap_or(false)
    }
}
