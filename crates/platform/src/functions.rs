//! What the platform adds to PCI functions: streams, MSI ids, lines.

use alloc::vec::Vec;

use axvm_addr::{ItsDeviceId, PciAddress, StreamId};
use axvm_pci::{Function, Membership, bridges_above, requester_ids};

use crate::model::{IdMapping, Interrupt, PciDevice, PciHost, Platform};

/// A bridge chain longer than there are bus numbers is a loop.
const MOST_BRIDGES: usize = 256;

impl Platform {
    /// Takes what enumeration found, and looks up each function's streams, MSI device id and line. `groups`
    /// has the isolation group of each function, in the same order; functions without one share the group
    /// `u32::MAX`.
    pub fn add_functions(&mut self, functions: Vec<Function>, groups: &[Membership]) {
        let devices = functions
            .iter()
            .enumerate()
            .map(|(position, function)| {
                let address = function.address;
                let host = self.pci_hosts.iter().find(|host| {
                    host.segment == address.segment && (host.buses.0..=host.buses.1).contains(&address.bus)
                });
                let ids = requester_ids(&functions, function);
                let stream = |id: &PciAddress| host?.stream(id.requester_id().into());
                // What arrives with any of its ids outside every IOMMU isn't confined.
                let mut streams: Vec<(usize, StreamId)> = Vec::new();
                for stream in ids.requests.iter().map(stream).collect::<Option<Vec<_>>>().unwrap_or_default()
                {
                    if !streams.contains(&stream) {
                        streams.push(stream);
                    }
                }
                let sender = ids.messages.requester_id().into();
                PciDevice {
                    function: function.clone(),
                    group: groups.get(position).map_or(u32::MAX, |member| member.group),
                    reaches: groups.get(position).map_or_else(Vec::new, |member| member.reaches.clone()),
                    bridges: bridges_above(&functions, function).iter().map(|it| it.address).collect(),
                    streams,
                    msi: host
                        .and_then(|host| host.message(sender))
                        .filter(|&(its, _)| self.serves_messages(its)),
                    line: host.and_then(|host| line(host, function, &functions)),
                }
            })
            .collect();
        self.functions = Some(devices);
    }

    /// Whether messages reach an ITS, by its position in [`Gic::its`](crate::model::Gic::its), such that their sender is known.
    fn serves_messages(&self, its: usize) -> bool {
        self.gic.as_ref().and_then(|gic| gic.its.get(its)).is_some_and(|its| its.pre_its.is_none())
    }

    /// The position in [`Platform::pci_hosts`] of the host bridge that a function is below.
    pub fn pci_host_of(&self, address: PciAddress) -> Option<usize> {
        self.pci_hosts.iter().position(|host| {
            host.segment == address.segment && (host.buses.0..=host.buses.1).contains(&address.bus)
        })
    }
}

impl PciHost {
    /// The SMMU (position in [`Platform::smmus`]) and stream of a requester id; `None`: it passes no IOMMU that is known.
    pub fn stream(&self, requester: u32) -> Option<(usize, StreamId)> {
        let (smmu, id) = look_up(&self.iommu_map, requester & self.iommu_map_mask)?;
        Some((smmu, StreamId(id)))
    }

    /// The ITS (position in [`Gic::its`](crate::model::Gic::its)) and device id with which a requester id's MSIs arrive.
    pub fn message(&self, requester: u32) -> Option<(usize, ItsDeviceId)> {
        let (its, id) = look_up(&self.msi_map, requester & self.msi_map_mask)?;
        Some((its, ItsDeviceId(id)))
    }
}

/// The first entry that covers the id (Linux binding pci-iommu.txt), wherever it leads.
fn look_up(map: &[IdMapping], id: u32) -> Option<(usize, u32)> {
    let entry =
        map.iter().find(|entry| id.checked_sub(entry.first).is_some_and(|offset| offset < entry.count))?;
    let id = entry.base.checked_add(id - entry.first)?;
    (entry.target != IdMapping::NOWHERE).then_some((entry.target, id))
}

/// The line of a function's pin: each bridge above turns the pin by the slot below it (PCI-to-PCI Bridge
/// Architecture 1.2, 9.1), and the root bus' `interrupt-map` says the rest.
fn line(host: &PciHost, function: &Function, all: &[Function]) -> Option<Interrupt> {
    let mut pin = function.interrupt_pin.checked_sub(1).filter(|&pin| pin < 4)?;
    let mut at = function;
    for _ in 0..MOST_BRIDGES {
        let device = at.address.device();
        let Some(parent) = at.parent else {
            return host.lines.iter().find(|line| (line.0, line.1) == (device, pin + 1)).map(|line| line.2);
        };
        pin = (pin + device) % 4;
        at = all.iter().find(|function| function.address == parent)?;
    }
    None
}
