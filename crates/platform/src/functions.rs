//! What the platform adds to PCI functions: where their DMA and MSIs arrive, and their lines.

use alloc::vec::Vec;

use axvm_addr::{DmaSource, MsiControllerId, MsiSource, PciAddress};
use axvm_pci::{Function, Membership, bridges_above, requester_ids};

use crate::model::{IdMapping, Interrupt, PciDevice, PciHost, Platform};

/// A bridge chain longer than there are bus numbers is a loop.
const MOST_BRIDGES: usize = 256;

impl Platform {
    /// Takes what enumeration found, and looks up where each function's DMA and MSIs arrive, and its line. `groups`
    /// has the isolation group of each function, in the same order; functions without one share the group
    /// `u32::MAX`.
    pub fn add_functions(&mut self, functions: Vec<Function>, groups: &[Membership]) {
        let devices = functions
            .iter()
            .enumerate()
            .map(|(position, function)| {
                let address = function.address;
                let host = self.pci_hosts.iter().find(|host| host.has(address));
                let ids = requester_ids(&functions, function);
                let source = |id: &PciAddress| host?.dma_source(id.requester_id().into());
                // What arrives with any of its ids outside every IOMMU isn't confined.
                let mut sources: Vec<DmaSource> = Vec::new();
                for source in ids.requests.iter().map(source).collect::<Option<Vec<_>>>().unwrap_or_default()
                {
                    if !sources.contains(&source) {
                        sources.push(source);
                    }
                }
                let sender = ids.messages.requester_id().into();
                PciDevice {
                    function: function.clone(),
                    group: groups.get(position).map_or(u32::MAX, |member| member.group),
                    reaches: groups.get(position).map_or_else(Vec::new, |member| member.reaches.clone()),
                    bridges: bridges_above(&functions, function).iter().map(|it| it.address).collect(),
                    sources,
                    msi: host
                        .and_then(|host| host.msi_source(sender))
                        .filter(|source| self.serves_messages(source.controller)),
                    line: host.and_then(|host| line(host, function, &functions)),
                }
            })
            .collect();
        self.functions = Some(devices);
    }

    /// Whether messages reach a controller such that their sender is known.
    fn serves_messages(&self, controller: MsiControllerId) -> bool {
        let its = self.gic().and_then(|gic| gic.its.get(usize::from(controller.0)));
        its.is_some_and(|its| its.pre_its.is_none())
    }

    /// The position in [`Platform::pci_hosts`] of the host bridge that a function is below.
    pub fn pci_host_of(&self, address: PciAddress) -> Option<usize> {
        self.pci_hosts.iter().position(|host| host.has(address))
    }
}

impl PciHost {
    /// Whether a function is below it.
    pub fn has(&self, address: PciAddress) -> bool {
        self.segment == address.segment && self.buses.contains(address.bus)
    }

    /// Where the DMA of a requester id arrives; `None`: it passes no IOMMU that is known.
    pub fn dma_source(&self, requester: u32) -> Option<DmaSource> {
        let (iommu, id) = look_up(&self.iommu_map, requester & self.iommu_map_mask)?;
        Some(DmaSource::new(iommu, id))
    }

    /// Where the MSIs of a requester id arrive; `None`: at no controller that is known.
    pub fn msi_source(&self, requester: u32) -> Option<MsiSource> {
        let (controller, id) = look_up(&self.msi_map, requester & self.msi_map_mask)?;
        Some(MsiSource::new(controller, id))
    }
}

/// The first entry that covers the id (Linux binding pci-iommu.txt), wherever it leads.
fn look_up(map: &[IdMapping], id: u32) -> Option<(u16, u32)> {
    let entry =
        map.iter().find(|entry| id.checked_sub(entry.first).is_some_and(|offset| offset < entry.count))?;
    let id = entry.base.checked_add(id - entry.first)?;
    Some((entry.target?, id))
}

/// The line of a function's pin: each bridge above turns the pin by the slot below it (PCI-to-PCI Bridge
/// Architecture 1.2, 9.1), and the root bus' `interrupt-map` says the rest.
fn line(host: &PciHost, function: &Function, all: &[Function]) -> Option<Interrupt> {
    let mut pin = function.interrupt_pin.checked_sub(1).filter(|&pin| pin < 4)?;
    let mut at = function;
    for _ in 0..MOST_BRIDGES {
        let device = at.address.device();
        let Some(parent) = at.parent else {
            let route = host.lines.iter().find(|route| route.device == device && route.pin == pin + 1);
            return route.map(|route| route.line);
        };
        pin = (pin + device) % 4;
        at = all.iter().find(|function| function.address == parent)?;
    }
    None
}
