//! PCI host bridges (PCI Bus Binding to IEEE 1275, Linux binding `pci-host-ecam-generic`).

use alloc::vec::Vec;

use axvm_addr::{Hpa, PciBuses, PciSpace, PciWindow, Span};

use super::address::Cells;
use super::blob::{NodeId, Tree};
use super::interrupts::Line;
use super::{FdtError, position};
use crate::model::{BusSpan, IdMapping, Kept, KeptWhat, PciHost, PinRoute};

/// ECAM takes 1 MiB for a bus.
const BUS_SHIFT: u32 = 20;

pub(super) fn host(
    tree: &Tree<'_>,
    id: NodeId,
    position: usize,
    smmus: &[NodeId],
    its: &[NodeId],
) -> Result<PciHost, FdtError> {
    let error = |property| FdtError::property(tree, id, property);
    let ecam = tree.registers(id)?.first().copied().ok_or_else(|| error("reg"))?;
    let buses = buses(tree, id, &ecam).ok_or_else(|| error("bus-range"))?;
    let segment = match tree.u32(id, "linux,pci-domain") {
        Some(domain) => u16::try_from(domain).map_err(|_| error("linux,pci-domain"))?,
        None => u16::try_from(position).unwrap_or(u16::MAX),
    };
    let msi_map = match tree.cells(id, "msi-map") {
        Some(_) => id_map(tree, id, "msi-map", its)?,
        None => msi_parent(tree, id, its),
    };
    Ok(PciHost {
        path: tree.path(id),
        segment,
        ecam,
        buses,
        windows: windows(tree, id)?,
        ports: Vec::new(),
        coherent: tree.is_coherent(id),
        iommu_map_mask: tree.u32(id, "iommu-map-mask").unwrap_or(u32::MAX),
        iommu_map: if tree.shifts_dma(id) {
            // Its guests would program addresses that the SMMU never sees: no function there is given.
            Vec::from([IdMapping { first: 0, count: 0x1_0000, target: None, base: 0 }])
        } else {
            id_map(tree, id, "iommu-map", smmus)?
        },
        msi_map_mask: tree.u32(id, "msi-map-mask").unwrap_or(u32::MAX),
        msi_map,
        lines: lines(tree, id, buses.first),
        bridge_lines: Vec::new(),
    })
}

/// `bus-range`, no more than the config space has room for.
fn buses(tree: &Tree<'_>, id: NodeId, ecam: &Span<Hpa>) -> Option<PciBuses> {
    let (first, last) = match tree.cells(id, "bus-range") {
        Some(mut cells) => (u8::try_from(cells.next()?).ok()?, u8::try_from(cells.next()?).ok()?),
        None => (0, u8::MAX),
    };
    let room = (ecam.size() >> BUS_SHIFT).checked_sub(1)?;
    let most = u64::from(first).saturating_add(room).min(u64::from(last));
    (first <= last).then_some(PciBuses::new(first, u8::try_from(most).ok()?))
}

/// An entry of a host bridge's `ranges`.
struct Range {
    /// phys.hi: npt000ss bbbbbbbb dddddfff rrrrrrrr. ss is the space, p is prefetchable.
    flags: u32,
    pci: u64,
    /// The same place on the bus above.
    above: BusSpan,
}

fn ranges(tree: &Tree<'_>, id: NodeId) -> Result<Vec<Range>, FdtError> {
    let error = || FdtError::property(tree, id, "ranges");
    let (Some(mut cells), Some(bus)) = (tree.cells(id, "ranges"), tree.parent(id)) else {
        return Ok(Vec::new());
    };
    let (parent, size) = (tree.address_cells(bus), tree.size_cells(id));
    let mut ranges = Vec::new();
    while !cells.is_empty() {
        let flags = cells.next().ok_or_else(error)?;
        let pci = cells.number(2).ok_or_else(error)?;
        let start = cells.number(parent).ok_or_else(error)?;
        let size = cells.number(size).ok_or_else(error)?;
        pci.checked_add(size).ok_or_else(error)?;
        ranges.push(Range { flags, pci, above: BusSpan { start, size } });
    }
    Ok(ranges)
}

fn windows(tree: &Tree<'_>, id: NodeId) -> Result<Vec<PciWindow<Hpa>>, FdtError> {
    let Some(bus) = tree.parent(id) else { return Ok(Vec::new()) };
    let mut windows = Vec::new();
    for Range { flags, pci, above } in ranges(tree, id)? {
        let space = match flags >> 24 & 3 {
            1 => PciSpace::Io,
            2 => PciSpace::Memory32,
            3 => PciSpace::Memory64,
            _ => continue,
        };
        // What the bus above tears can't be a window.
        let mut found = Vec::new();
        if tree.translate(bus, above, &mut found)? {
            let prefetchable = flags & 1 << 30 != 0;
            windows.extend(found.into_iter().map(|cpu| PciWindow { space, prefetchable, pci, cpu }));
        }
    }
    Ok(windows)
}

/// What of the address space leads to PCI buses and isn't a window of a host bridge that is driven: those of other host bridges, in
/// use or not, and those that can't be windows.
pub(super) fn kept(tree: &Tree<'_>, driven: &[NodeId]) -> Result<Vec<Kept>, FdtError> {
    let is_pci = |id: NodeId| {
        let addresses = tree.u32(id, "#address-cells") == Some(3) && tree.u32(id, "#size-cells") == Some(2);
        tree.text(id, "device_type") == Some("pci") || addresses
    };
    let mut kept = Vec::new();
    // On a PCI bus addresses are PCI's own.
    let is_host = |id: &NodeId| is_pci(*id) && !tree.lineage(*id).skip(1).any(is_pci);
    for id in tree.ids().filter(is_host) {
        let windows = if driven.contains(&id) { windows(tree, id)? } else { Vec::new() };
        let Some(bus) = tree.parent(id) else { continue };
        for Range { above, .. } in ranges(tree, id)? {
            let mut found = Vec::new();
            tree.translate(bus, above, &mut found)?;
            if found.is_empty() {
                // A bus without `ranges`: as reserved memory is read.
                found.extend(Span::new(Hpa(above.start), above.size));
            }
            let is_window = |span: &Span<Hpa>| windows.iter().any(|window| window.cpu.encloses(span));
            found.retain(|span| !span.is_empty() && !is_window(span));
            kept.extend(found.into_iter().map(|span| Kept {
                span,
                what: KeptWhat::PciWindow,
                owner: tree.path(id),
            }));
        }
    }
    Ok(kept)
}

/// `iommu-map` or `msi-map`: (first requester id, target, base, count). Entries whose target isn't among `targets` stay, and
/// lead to none: their functions have no IOMMU, or no MSIs, that the hypervisor knows, whatever a later entry says.
fn id_map(
    tree: &Tree<'_>,
    id: NodeId,
    property: &str,
    targets: &[NodeId],
) -> Result<Vec<IdMapping>, FdtError> {
    let mut map = Vec::new();
    let Some(mut cells) = tree.cells(id, property) else {
        return Ok(map);
    };
    while !cells.is_empty() {
        let entry = (cells.next(), cells.next(), cells.next(), cells.next());
        let (Some(first), Some(phandle), Some(base), Some(count)) = entry else {
            return Err(FdtError::property(tree, id, property));
        };
        let target = tree.by_phandle(phandle).and_then(|node| position(targets, node));
        map.push(IdMapping { first, count, target, base });
    }
    Ok(map)
}

/// Without `msi-map`, `msi-parent` says that requester ids are device ids (Linux binding pci-msi.txt).
fn msi_parent(tree: &Tree<'_>, id: NodeId, its: &[NodeId]) -> Vec<IdMapping> {
    let node = tree.u32(id, "msi-parent").and_then(|phandle| tree.by_phandle(phandle));
    let target = node.and_then(|node| position(its, node));
    let entry = target.map(|_| IdMapping { first: 0, count: 0x1_0000, target, base: 0 });
    entry.into_iter().collect()
}

/// What `interrupt-map` says for every slot of the root bus and every pin. Where it tells functions of a
/// slot apart, which the PCI specifications have no use for, no line is known.
fn lines(tree: &Tree<'_>, id: NodeId, bus: u8) -> Vec<PinRoute> {
    const FUNCTION: u32 = 7 << 8;
    let mask = tree.cells(id, "interrupt-map-mask").and_then(|mut cells| cells.next()).unwrap_or(u32::MAX);
    let unit = |device: u8| u32::from(bus) << 16 | u32::from(device) << 11;
    let mut lines: Vec<PinRoute> = Vec::new();
    for device in 0..32u8 {
        // Slots that the mask doesn't tell apart have the same lines: mostly all but the first four.
        if let Some(like) = (0..device).find(|&other| (unit(other) ^ unit(device)) & mask == 0) {
            let same = lines.iter().filter(|route| route.device == like).copied();
            let same: Vec<_> = same.map(|route| PinRoute { device, ..route }).collect();
            lines.extend(same);
            continue;
        }
        for pin in 1..=4u8 {
            let line = |function: u32| {
                let mut unit_address = [0; 12];
                *unit_address.first_chunk_mut()? = (unit(device) | function).to_be_bytes();
                let pin = u32::from(pin).to_be_bytes();
                match tree.resolve(id, Cells(&unit_address), Cells(&pin)) {
                    Line::Gic(interrupt) => Some(interrupt),
                    Line::Foreign(_) => None,
                }
            };
            let Some(first) = line(0) else { continue };
            if mask & FUNCTION == 0 || (1..8).all(|function| line(function << 8) == Some(first)) {
                lines.push(PinRoute { device, pin, line: first });
            }
        }
    }
    lines
}
