//! What the platform adds to PCI functions: where their DMA and MSIs arrive, and their lines.

use alloc::vec::Vec;

use axvm_addr::{DmaSource, Hpa, MsiControllerId, MsiSource, PciAddress, Span};
use axvm_pci::{Function, Membership, bridges_above, requester_ids};

use crate::model::{
    BridgeLines, FirmwareDma, IdMapping, Interrupt, Iommu, Irqchip, PciDevice, PciHost, PciScope, PciStep,
    PinRoute, Platform,
};

/// A bridge chain longer than there are bus numbers is a loop.
const MOST_BRIDGES: usize = 256;

impl Platform {
    /// Takes what enumeration found, and looks up where each function's DMA and MSIs arrive, and its line. `groups`
    /// has the isolation group of each function, in the same order; functions without one share the group
    /// `u32::MAX`.
    pub fn add_functions(&mut self, functions: Vec<Function>, groups: &[Membership]) {
        self.find_scopes(&functions);
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
                    firmware_memory: self.firmware_memory(&functions, function, &ids.requests),
                }
            })
            .collect();
        self.functions = Some(devices);
    }

    /// Whether messages reach a controller such that their sender is known.
    fn serves_messages(&self, controller: MsiControllerId) -> bool {
        let position = usize::from(controller.0);
        match &self.irqchip {
            Some(Irqchip::Gic(gic)) => gic.its.get(position).is_some_and(|its| its.pre_its.is_none()),
            Some(Irqchip::Apic(_)) => self.iommus.get(position).is_some_and(Iommu::remaps_messages),
            None => false,
        }
    }

    /// Adds to the maps of the host bridges what enumeration says of the functions that each IOMMU serves. What a table names comes before
    /// what serves all the rest, and of two that name one function the first has it.
    fn find_scopes(&mut self, functions: &[Function]) {
        let mut found: Vec<(u16, IdMapping)> = Vec::new();
        for scope in &self.iommu_scopes {
            for Ids { segment, first, count } in scope.functions.ids(functions) {
                let mapping = IdMapping { first, count, target: Some(scope.iommu.0), base: first };
                found.push((segment, mapping));
            }
        }
        for host in &mut self.pci_hosts {
            let of_it = found.iter().filter(|(segment, _)| *segment == host.segment);
            let of_it: Vec<IdMapping> = of_it.map(|(_, mapping)| *mapping).collect();
            let remaps = |it: &&IdMapping| {
                let iommu = it.target.and_then(|target| self.iommus.get(usize::from(target)));
                iommu.is_some_and(Iommu::remaps_messages)
            };
            // One that doesn't remap messages has none arrive elsewhere either.
            let unmapped = |it: &IdMapping| IdMapping { target: None, ..*it };
            let messages = of_it.iter().map(|it| if remaps(&it) { *it } else { unmapped(it) });
            host.msi_map.splice(0..0, messages);
            host.iommu_map.splice(0..0, of_it.iter().copied());
        }
    }

    /// Memory that firmware has a function reach, by any of its requester ids.
    fn firmware_memory(&self, all: &[Function], function: &Function, ids: &[PciAddress]) -> Vec<Span<Hpa>> {
        let ids = ids.iter().chain([&function.address]);
        let has = |it: &&FirmwareDma| {
            let scope = it.functions.ids(all);
            ids.clone().any(|id| {
                let requester = u32::from(id.requester_id());
                scope.iter().any(|&Ids { segment, first, count }| {
                    segment == id.segment && (first..first.saturating_add(count)).contains(&requester)
                })
            })
        };
        self.firmware_dma.iter().filter(has).map(|it| it.span).collect()
    }

    /// The position in [`Platform::pci_hosts`] of the host bridge that a function is below.
    pub fn pci_host_of(&self, address: PciAddress) -> Option<usize> {
        self.pci_hosts.iter().position(|host| host.has(address))
    }
}

/// Requester ids that follow each other.
#[derive(Clone, Copy, PartialEq)]
struct Ids {
    segment: u16,
    first: u32,
    count: u32,
}

impl PciScope {
    /// The requester ids that it stands for. One whose path leads nowhere stands for none: what isn't there has none.
    fn ids(&self, all: &[Function]) -> Vec<Ids> {
        match self {
            Self::Ids { segment, first, last } => match last.checked_sub(*first) {
                Some(more) => {
                    alloc::vec![Ids { segment: *segment, first: (*first).into(), count: u32::from(more) + 1 }]
                }
                None => Vec::new(),
            },
            Self::Path { segment, bus, steps, below } => {
                let Some(end) = follow(all, *segment, *bus, steps) else { return Vec::new() };
                let mut ids = alloc::vec![Ids {
                    segment: *segment,
                    first: end.address.requester_id().into(),
                    count: 1
                }];
                if *below {
                    // All of the buses below: a bridge sends in its own name too.
                    let is_below = |it: &&Function| {
                        bridges_above(all, it).iter().any(|bridge| bridge.address == end.address)
                    };
                    for function in all.iter().filter(is_below) {
                        let first = u32::from(function.address.bus) << 8;
                        let bus = Ids { segment: *segment, first, count: 0x100 };
                        if !ids.contains(&bus) {
                            ids.push(bus);
                        }
                    }
                }
                ids
            }
        }
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
/// Architecture 1.2, 9.1), and the root bus' routes say the rest; or those of the bridge, where the platform has such.
fn line(host: &PciHost, function: &Function, all: &[Function]) -> Option<Interrupt> {
    let mut pin = function.interrupt_pin.checked_sub(1).filter(|&pin| pin < 4)?;
    let mut at = function;
    for _ in 0..MOST_BRIDGES {
        let device = at.address.device();
        let leads = |lines: &[PinRoute]| {
            lines.iter().find(|route| route.device == device && route.pin == pin + 1).map(|route| route.line)
        };
        let Some(parent) = at.parent else { return leads(&host.lines) };
        let routed = host.bridge_lines.iter().find(|it| {
            let bridge = follow(all, host.segment, host.buses.first, &it.bridge);
            bridge.is_some_and(|bridge| bridge.address == parent)
        });
        if let Some(BridgeLines { lines, .. }) = routed {
            return leads(lines);
        }
        pin = (pin + device) % 4;
        at = all.iter().find(|function| function.address == parent)?;
    }
    None
}

/// The function that a path leads to.
fn follow<'a>(all: &'a [Function], segment: u16, bus: u8, steps: &[PciStep]) -> Option<&'a Function> {
    let mut at: Option<&Function> = None;
    for step in steps {
        at = Some(all.iter().find(|it| {
            let is_next = match at {
                None => it.address.segment == segment && it.address.bus == bus,
                Some(above) => it.parent == Some(above.address),
            };
            is_next && (it.address.device(), it.address.function()) == (step.device, step.function)
        })?);
    }
    at
}
