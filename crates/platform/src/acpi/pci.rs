//! PCI host bridges: their config space by the MCFG, their windows and lines by AML.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_acpi::mcfg::Allocation;
use axvm_addr::{Address, Hpa, Interrupt, Irq, PciBuses, PciSpace, PciWindow, Ports, Span, Trigger};
use axvm_aml::resource::{self, Range, Resource};
use axvm_aml::{Data, NodeId};

use super::names::{Named, Names, Presence, Said};
use crate::model::{
    Apic, ApicLine, BridgeLines, IdMapping, Kept, KeptWhat, PciHost, PciStep, PinRoute, Polarity,
};

/// ECAM takes 1 MiB for a bus.
const BUS_SHIFT: u32 = 20;
/// Below it there is nothing but what has always been there: no BAR goes there.
const FIRST_WINDOW: u64 = 1 << 20;
/// The hardware ids of host bridges.
pub(super) const HOST_BRIDGES: [&str; 2] = ["PNP0A08", "PNP0A03"];

/// What is found out on the way.
pub(super) struct Notes<'a> {
    pub memory: &'a [Span<Hpa>],
    pub kept: Vec<Kept>,
    pub lines: Vec<ApicLine>,
    pub unclear: Vec<String>,
}

/// The host bridges, without what IOMMUs serve of them.
pub(super) fn hosts(
    allocations: &[Allocation],
    devices: &[Named],
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> Vec<PciHost> {
    let mut hosts: Vec<PciHost> = Vec::new();
    let bridges = devices.iter().filter(|it| it.is(&HOST_BRIDGES) && it.presence != Presence::Absent);
    for bridge in bridges {
        if let Some(host) = host(allocations, bridge, devices, names, apic, notes) {
            let overlaps = |it: &PciHost| {
                it.segment == host.segment
                    && it.buses.first <= host.buses.last
                    && host.buses.first <= it.buses.last
            };
            if let Some(other) = hosts.iter().find(|it| overlaps(it)) {
                notes.unclear.push(format!(
                    "{} and {} have the same buses: the first has them",
                    other.path, host.path
                ));
            } else {
                hosts.push(host);
            }
        }
    }
    hosts.sort_by_key(|host| (host.segment, host.buses.first));
    for allocation in allocations {
        let is_in =
            |it: &PciHost| it.segment == allocation.segment && allocation.buses.contains(it.buses.first);
        if !hosts.iter().any(is_in) {
            notes.unclear.push(format!(
                "no host bridge has buses {} to {} of segment {}, which have a config space: what is there isn't looked at",
                allocation.buses.first, allocation.buses.last, allocation.segment
            ));
            if let Some(span) = ecam(allocation, allocation.buses) {
                notes.kept.push(Kept {
                    span,
                    what: KeptWhat::Machine,
                    owner: "PCI config space".to_string(),
                });
            }
        }
    }
    hosts
}

/// The config space of some buses.
fn ecam(allocation: &Allocation, buses: PciBuses) -> Option<Span<Hpa>> {
    let start = allocation.base.checked_add(u64::from(buses.first) << BUS_SHIFT)?;
    let count = u64::from(buses.last.checked_sub(buses.first)?) + 1;
    Span::new(start, count << BUS_SHIFT).ok()
}

fn host(
    allocations: &[Allocation],
    bridge: &Named,
    devices: &[Named],
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> Option<PciHost> {
    let path = bridge.path.clone();
    let mut number = |name| match names.number(bridge.id, name) {
        Said::Nothing => Some(0),
        Said::Sure(number) => Some(number),
        Said::Unclear(why) => {
            notes.unclear.push(format!("{path}: {why}: it isn't used"));
            None
        }
    };
    let (segment, first) = (u16::try_from(number(b"_SEG")?).ok()?, u8::try_from(number(b"_BBN")?).ok()?);
    let allocation = allocations.iter().find(|it| it.segment == segment && it.buses.contains(first));
    let Some(allocation) = allocation else {
        notes.unclear.push(format!("{path}: its config space isn't in the MCFG: it isn't used"));
        return None;
    };
    let mut found = Windows { buses: PciBuses::new(first, allocation.buses.last), ..Windows::default() };
    match names.resources(bridge.id, b"_CRS") {
        Said::Sure(resources) => found.read(&path, &resources, notes),
        Said::Nothing => {
            notes.unclear.push(format!("{path}: it has no windows (_CRS): no function below it can be given"))
        }
        Said::Unclear(why) => {
            // Which of them are prefetchable isn't said: none.
            for span in names.windows(segment, first) {
                let range = Range {
                    first: span.start().0,
                    last: span.end().0 - 1,
                    translation: 0,
                    length: span.size(),
                    produced: true,
                };
                found.memory(&path, &range, false, notes);
            }
            notes.unclear.push(match found.windows.is_empty() {
                true => {
                    format!("{path}: {why}: its windows aren't known, and no function below it can be given")
                }
                false => format!("{path}: {why}: its windows are those that Linux has"),
            });
        }
    }
    let last = found.buses.last.min(allocation.buses.last);
    let buses = PciBuses::new(found.buses.first.max(first), last);
    let ecam = ecam(allocation, buses)?;
    let lines = routes(bridge.id, &path, names, apic, notes);
    let bridge_lines = below(bridge, devices, names, apic, notes);
    Some(PciHost {
        path,
        segment,
        ecam,
        buses,
        windows: found.windows,
        ports: found.ports,
        coherent: true,
        iommu_map_mask: u32::MAX,
        iommu_map: Vec::<IdMapping>::new(),
        msi_map_mask: u32::MAX,
        msi_map: Vec::new(),
        lines,
        bridge_lines,
    })
}

/// What a host bridge's `_CRS` says.
struct Windows {
    buses: PciBuses,
    windows: Vec<PciWindow<Hpa>>,
    ports: Vec<Ports>,
}

impl Default for Windows {
    fn default() -> Self {
        Self { buses: PciBuses::new(0, u8::MAX), windows: Vec::new(), ports: Vec::new() }
    }
}

impl Windows {
    fn read(&mut self, path: &str, resources: &[Resource], notes: &mut Notes<'_>) {
        for resource in resources {
            match resource {
                Resource::Buses(range) => {
                    let number = |bus: u64| u8::try_from(bus).ok();
                    match (number(range.first), number(range.last)) {
                        (Some(first), Some(last)) if first <= last => self.buses = PciBuses::new(first, last),
                        _ => notes.unclear.push(format!("{path}: its bus numbers aren't any")),
                    }
                }
                Resource::Memory { range, prefetchable } => self.memory(path, range, *prefetchable, notes),
                Resource::PortRange { range, translated: false } if range.produced && range.length != 0 => {
                    let ports = u16::try_from(range.first).ok();
                    let count = u32::try_from(range.length).ok();
                    self.ports.extend(ports.zip(count).and_then(|(first, count)| Ports::of(first, count)));
                }
                _ => {}
            }
        }
    }

    fn memory(&mut self, path: &str, range: &Range, prefetchable: bool, notes: &mut Notes<'_>) {
        if range.length == 0 {
            return;
        }
        let cpu =
            range.first.checked_add(range.translation).and_then(|at| Span::new(Hpa(at), range.length).ok());
        let (Some(cpu), Some(end)) = (cpu, range.first.checked_add(range.length)) else {
            notes.unclear.push(format!("{path}: a window reaches past the end of all addresses"));
            return;
        };
        let mut keep = |owner: String| notes.kept.push(Kept { span: cpu, what: KeptWhat::Machine, owner });
        // What it doesn't hand on is its own.
        if !range.produced {
            return keep(format!("{path}'s own registers"));
        }
        if range.first < FIRST_WINDOW {
            return keep(format!("{path}'s window for what has always been there"));
        }
        if notes.memory.iter().any(|memory| memory.overlaps(&cpu)) {
            keep(format!("{path}'s window, part of which is RAM,"));
            notes
                .unclear
                .push(format!("{path}: the window at {:#x} lies over RAM: it isn't used", cpu.start()));
            return;
        }
        if self.windows.iter().any(|other| other.cpu.overlaps(&cpu)) {
            notes.unclear.push(format!(
                "{path}: the window at {:#x} lies over another one: it isn't used",
                cpu.start()
            ));
            return;
        }
        let space = if end <= 1 << 32 { PciSpace::Memory32 } else { PciSpace::Memory64 };
        self.windows.push(PciWindow { space, prefetchable, pci: range.first, cpu });
    }
}

/// Where the pins of the slots of a bus lead (`_PRT`, ACPI 6.5, 6.2.13).
fn routes(
    id: NodeId,
    path: &str,
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> Vec<PinRoute> {
    let table = match names.value(id, b"_PRT") {
        Said::Sure(table) => table,
        Said::Nothing => return Vec::new(),
        Said::Unclear(why) => {
            notes.unclear.push(format!("{path}: {why}: where its lines lead isn't known"));
            return Vec::new();
        }
    };
    let mut routes: Vec<PinRoute> = Vec::new();
    let mut lost = 0u32;
    for entry in table.list().unwrap_or_default() {
        let Some(route) = route(id, entry, names, apic, notes) else {
            lost += 1;
            continue;
        };
        // Of two the first counts, as everywhere.
        if !routes.iter().any(|it| (it.device, it.pin) == (route.device, route.pin)) {
            routes.push(route);
        }
    }
    if lost != 0 {
        notes
            .unclear
            .push(format!("{path}: {lost} entries of _PRT can't be followed: those pins have no line"));
    }
    routes
}

fn route(
    id: NodeId,
    entry: &Data,
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> Option<PinRoute> {
    let [address, pin, source, index] = entry.list()? else { return None };
    let device = u8::try_from(address.integer()? >> 16).ok().filter(|device| *device < 32)?;
    let pin = u8::try_from(pin.integer()?).ok().filter(|pin| *pin < 4)? + 1;
    let link = match source {
        Data::Integer(0) => None,
        Data::Object(link) => Some(*link),
        Data::Text(text) => Some(names.find(id, text)?),
        _ => return None,
    };
    let line = match link {
        // PCI's lines are levels, and low.
        None => apic.line(Irq(u32::try_from(index.integer()?).ok()?), Trigger::Level),
        Some(link) => {
            let line = link_line(link, usize::try_from(index.integer()?).ok()?, names, apic)?;
            if !notes.lines.iter().any(|it| it.line.irq == line.line.irq) {
                notes.lines.push(line);
            }
            line
        }
    };
    Some(PinRoute { device, pin, line: line.line })
}

/// The line of a link device: what it is set to, else the only one that it can be set to.
fn link_line(link: NodeId, index: usize, names: &mut Names<'_>, apic: &Apic) -> Option<ApicLine> {
    for (name, is_current) in [(b"_CRS", true), (b"_PRS", false)] {
        let Said::Sure(resources) = names.resources(link, name) else { continue };
        let mut lines: Vec<ApicLine> = Vec::new();
        resources.iter().for_each(|resource| lines.extend(self::lines(resource, apic)));
        let found = if is_current { lines.get(index) } else { None };
        let only = if lines.len() == 1 { lines.first() } else { None };
        // 0 is none: the link is off.
        if let Some(line) = found.or(only).filter(|line| line.line.irq != Irq(0)) {
            return Some(*line);
        }
    }
    None
}

/// The lines that a descriptor names.
pub(super) fn lines(resource: &Resource, apic: &Apic) -> Vec<ApicLine> {
    match resource {
        // ISA's, as the MADT has them, whatever this says of how they signal: what Linux goes by too.
        Resource::Irq { lines, .. } => lines.iter().map(|&isa| apic.isa(isa)).collect(),
        Resource::Interrupt { lines, sense, polarity } => {
            let one = |&line: &u32| ApicLine {
                line: Interrupt {
                    irq: Irq(line),
                    trigger: match sense {
                        resource::Sense::Edge => Trigger::Edge,
                        resource::Sense::Level => Trigger::Level,
                    },
                },
                polarity: match polarity {
                    resource::Polarity::High => Polarity::High,
                    resource::Polarity::Low => Polarity::Low,
                },
            };
            lines.iter().map(one).collect()
        }
        _ => Vec::new(),
    }
}

/// Bridges below a host bridge that have routes of their own.
fn below(
    root: &Named,
    devices: &[Named],
    names: &mut Names<'_>,
    apic: &Apic,
    notes: &mut Notes<'_>,
) -> Vec<BridgeLines> {
    let mut found = Vec::new();
    for device in devices.iter().filter(|it| it.id != root.id && it.presence != Presence::Absent) {
        let Some(bridge) = steps(root.id, device.id, names) else { continue };
        match names.value(device.id, b"_PRT") {
            Said::Nothing => {}
            // Without routes none of its pins has a line.
            Said::Sure(_) | Said::Unclear(_) => {
                let lines = routes(device.id, &device.path, names, apic, notes);
                found.push(BridgeLines { bridge, lines });
            }
        }
    }
    found
}

/// The way from a root bus to a device below it, by the addresses of those above.
fn steps(root: NodeId, device: NodeId, names: &mut Names<'_>) -> Option<Vec<PciStep>> {
    /// More bridges than there are buses.
    const MOST: usize = 32;
    let mut steps = Vec::new();
    let mut at = device;
    while at != root {
        let Said::Sure(address) = names.number(at, b"_ADR") else { return None };
        let part = |number: u64, end: u8| u8::try_from(number).ok().filter(|it| *it < end);
        steps.push(PciStep { device: part(address >> 16, 32)?, function: part(address & 0xffff, 8)? });
        if steps.len() > MOST {
            return None;
        }
        at = names.parent(at)?;
    }
    steps.reverse();
    (!steps.is_empty()).then_some(steps)
}
