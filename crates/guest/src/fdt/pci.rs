//! The virtual PCI host bridge's node (PCI Bus Binding to IEEE 1275; Linux bindings `pci-host-ecam-generic`
//! and pci-msi.txt).

use alloc::format;
use alloc::vec::Vec;

use axvm_addr::{Address, PciSpace};

use super::{FdtWriteError, Tree, halves};
use crate::description::{GicDescription, MsiSender, PciDescription, PinDescription};

/// phys.hi is npt000ss bbbbbbbb dddddfff rrrrrrrr.
const SPACE_IO: u32 = 1 << 24;
const SPACE_MEMORY32: u32 = 2 << 24;
const SPACE_MEMORY64: u32 = 3 << 24;
const PREFETCHABLE: u32 = 1 << 30;
/// Bus, device and function of phys.hi, for `interrupt-map`.
const WHOLE_FUNCTION: u32 = 0x00ff_ff00;
/// The pins: 1 to 4.
const PINS: u32 = 7;

pub(super) fn host(tree: &mut Tree, host: &PciDescription, gic: Option<&GicDescription>) {
    let name = format!("pcie@{:x}", host.ecam.start());
    let no_its = gic.and_then(|gic| gic.its).is_none();
    if (!host.lines.is_empty() && gic.is_none()) || (!host.msi.is_empty() && no_its) {
        return tree.fail(FdtWriteError::NoController(name));
    }
    tree.begin(&name);
    tree.text("compatible", "pci-host-ecam-generic");
    tree.text("device_type", "pci");
    tree.cells("#address-cells", &[3]);
    tree.cells("#size-cells", &[2]);
    tree.registers(&[host.ecam]);
    tree.cells("bus-range", &[host.buses.first.into(), host.buses.last.into()]);
    tree.cells("linux,pci-domain", &[host.segment.into()]);
    let mut ranges = Vec::new();
    for window in &host.windows {
        let space = match window.space {
            PciSpace::Io => SPACE_IO,
            PciSpace::Memory32 => SPACE_MEMORY32,
            PciSpace::Memory64 => SPACE_MEMORY64,
        };
        ranges.push(space | if window.prefetchable { PREFETCHABLE } else { 0 });
        ranges.extend([window.pci, window.cpu.start().get(), window.cpu.size()].into_iter().flat_map(halves));
    }
    tree.cells("ranges", &ranges);
    if host.coherent {
        tree.flag("dma-coherent");
    }
    if !host.msi.is_empty() {
        tree.cells("msi-map", &msi_map(&host.msi, tree.phandles.its));
    }
    if !host.lines.is_empty() {
        tree.cells("#interrupt-cells", &[1]);
        tree.cells("interrupt-map-mask", &[WHOLE_FUNCTION, 0, 0, PINS]);
        let mut map = Vec::new();
        for &PinDescription { function, pin, line } in &host.lines {
            // The GIC has two address cells, which mean nothing to it.
            map.extend([u32::from(function.requester_id()) << 8, 0, 0, pin.into(), tree.phandles.gic, 0, 0]);
            map.extend(tree.specifier(line));
        }
        tree.cells("interrupt-map", &map);
    }
    tree.end();
}

/// (requester id, the ITS, device id, count), with neighbours in one entry.
fn msi_map(senders: &[MsiSender], its: u32) -> Vec<u32> {
    let mut ids: Vec<(u32, u32)> =
        senders.iter().map(|sender| (sender.requester.into(), sender.id.0)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for (requester, device) in ids {
        match runs.last_mut() {
            Some((first, base, count))
                if requester.checked_sub(*first) == Some(*count)
                    && device.checked_sub(*base) == Some(*count) =>
            {
                *count = count.saturating_add(1);
            }
            _ => runs.push((requester, device, 1)),
        }
    }
    runs.into_iter().flat_map(|(first, base, count)| [first, its, base, count]).collect()
}
