//! Cells, `reg` and `ranges` (Devicetree Specification 0.4, 2.3.5, 2.3.6, 2.3.8).

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};

use super::FdtError;
use super::blob::{NodeId, Tree};

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

    /// All of them as numbers.
    pub fn to_vec(mut self) -> Vec<u32> {
        core::iter::from_fn(|| self.next()).collect()
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

    /// `reg` as it is, on the node's own bus. Empty where the bus isn't one of memory addresses.
    fn raw_registers(&self, id: NodeId) -> Result<Vec<(u64, u64)>, FdtError> {
        let (Some(bus), Some(mut cells)) = (self.parent(id), self.cells(id, "reg")) else {
            return Ok(Vec::new());
        };
        let (address, size) = (self.address_cells(bus), self.size_cells(bus));
        if address == 0 || address > 2 || size == 0 || size > 2 {
            return Ok(Vec::new());
        }
        let mut registers = Vec::new();
        while !cells.is_empty() {
            let entry = cells.number(address).zip(cells.number(size));
            registers.push(entry.ok_or_else(|| FdtError::property(self, id, "reg"))?);
        }
        Ok(registers)
    }

    /// `reg` as the CPU sees it. Entries that no CPU address leads to are left out.
    pub(super) fn registers(&self, id: NodeId) -> Result<Vec<Span<Hpa>>, FdtError> {
        let Some(bus) = self.parent(id).filter(|&bus| self.leads_to_root(bus)) else {
            return Ok(Vec::new());
        };
        let mut registers = Vec::new();
        for (address, size) in self.raw_registers(id)? {
            let Some(address) = self.translate(bus, address, size)? else { continue };
            let span = Span::new(Hpa(address), size).map_err(|_| FdtError::property(self, id, "reg"))?;
            if !span.is_empty() {
                registers.push(span);
            }
        }
        Ok(registers)
    }

    /// Whether addresses on a bus can be the CPU's at all. Elsewhere `reg` numbers ports, channels and the like, and
    /// what is odd about it is none of a memory map's business.
    fn leads_to_root(&self, bus: NodeId) -> bool {
        self.lineage(bus).all(|bus| self.parent(bus).is_none() || self.has(bus, "ranges"))
    }

    /// An address on `bus` as the CPU sees it; `None` where no `ranges` leads there.
    pub(super) fn translate(&self, bus: NodeId, address: u64, size: u64) -> Result<Option<u64>, FdtError> {
        let mut address = address;
        for bus in self.lineage(bus) {
            let Some(above) = self.parent(bus) else {
                return Ok(Some(address));
            };
            let Some(mut ranges) = self.cells(bus, "ranges") else {
                return Ok(None);
            };
            if ranges.is_empty() {
                continue;
            }
            let (child, parent, length) =
                (self.address_cells(bus), self.address_cells(above), self.size_cells(bus));
            if child == 0 || child > 2 {
                return Ok(None);
            }
            let mut found = None;
            while !ranges.is_empty() {
                let entry = ranges.number(child).zip(ranges.number(parent)).zip(ranges.number(length));
                let ((from, to), length) = entry.ok_or_else(|| FdtError::property(self, bus, "ranges"))?;
                let Some(offset) = address.checked_sub(from) else { continue };
                if offset < length && size <= length - offset {
                    found = to.checked_add(offset);
                    break;
                }
            }
            match found {
                Some(translated) => address = translated,
                None => return Ok(None),
            }
        }
        Ok(None)
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
