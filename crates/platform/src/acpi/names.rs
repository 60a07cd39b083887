//! What AML says: asked once for all, with an answer that says how sure it is.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_acpi::Table;
use axvm_acpi::mcfg::Allocation;
use axvm_addr::{Hpa, PciAddress, Span};
use axvm_aml::resource::{self, Resource};
use axvm_aml::{Aml, Data, Hardware, NodeId, PciFunction, Space, eisa_id};

use super::firmware::SleepTypes;
use super::memory_map::{MemoryKind, MemoryRange};
use super::routing::{Lead, Routing};
use super::{Asked, Chipset, KnownWindow};

/// The ROM of a PC's firmware, or the copy of it in memory: on every PC, and nothing but memory (ACPI 6.5, 5.2.5.1).
const ROM: (Hpa, u64) = (Hpa(0xe_0000), 0x2_0000);

/// What AML can read: memory that is firmware's own by the memory map, its ROM, and PCI's config space, by its regions for that or by the
/// MCFG's addresses. No other registers. It can write what leads lines, while it is told to.
pub(super) struct Readable<'a> {
    asked: Asked<'a>,
    spans: Vec<Span<Hpa>>,
    allocations: Vec<Allocation>,
    /// While firmware is told that I/O APICs are used.
    routing: Option<Routing>,
}

impl Readable<'_> {
    /// The function whose config space is at an address, and where in it.
    fn config_at(&self, address: u64) -> Option<(PciAddress, u16)> {
        self.allocations.iter().find_map(|allocation| {
            let place = address.checked_sub(allocation.base.0)?;
            let bus = u8::try_from(place >> 20).ok().filter(|bus| allocation.buses.contains(*bus))?;
            let number = |shift: u32, mask: u64| (place >> shift & mask) as u8;
            let function = PciAddress::new(allocation.segment, bus, number(15, 31), number(12, 7))?;
            Some((function, (place & 0xfff) as u16))
        })
    }

    fn ask_config(&self, function: PciAddress, offset: u16, bytes: u8) -> Option<u64> {
        let is_natural = matches!(bytes, 1 | 2 | 4) && offset.is_multiple_of(u16::from(bytes));
        if is_natural { self.asked.chipset.config(function, offset, bytes) } else { None }
    }

    fn lead(&mut self, find: impl FnOnce(&mut Routing, &dyn Chipset) -> Option<Lead>) -> bool {
        let chipset = self.asked.chipset;
        let Some(routing) = self.routing.as_mut().filter(|_| self.asked.is_here) else { return false };
        find(routing, chipset).is_some_and(|lead| chipset.lead(lead))
    }
}

impl Hardware for Readable<'_> {
    fn read(&mut self, space: Space, address: u64, bytes: u8) -> Option<u64> {
        let span = Span::new(Hpa(address), bytes.into()).ok().filter(|_| space == Space::Memory)?;
        if !self.spans.iter().any(|own| own.encloses(&span)) {
            let (function, offset) = self.config_at(address)?;
            return self.ask_config(function, offset, bytes);
        }
        let mut value = [0; 8];
        let into = value.get_mut(..bytes.into())?;
        let is_read = self.asked.memory?.read(Hpa(address), into);
        is_read.then(|| u64::from_le_bytes(value))
    }

    fn config(&mut self, function: PciFunction, offset: u16, bytes: u8) -> Option<u64> {
        let PciFunction { segment, bus, device, function } = function;
        self.ask_config(PciAddress::new(segment, bus, device, function)?, offset, bytes)
    }

    fn write(&mut self, space: Space, address: u64, bytes: u8, value: u64) -> bool {
        match space {
            Space::Ports => self.lead(|routing, chipset| routing.port(address, bytes, value, chipset)),
            Space::Memory => match self.config_at(address) {
                Some((function, offset)) => {
                    self.lead(|routing, chipset| routing.config(function, offset, bytes, value, chipset))
                }
                None => false,
            },
            _ => false,
        }
    }

    fn set_config(&mut self, function: PciFunction, offset: u16, bytes: u8, value: u64) -> bool {
        let PciFunction { segment, bus, device, function } = function;
        let Some(function) = PciAddress::new(segment, bus, device, function) else { return false };
        self.lead(|routing, chipset| routing.config(function, offset, bytes, value, chipset))
    }
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Absent,
    Present {
        /// It works (bit 1 of `_STA`).
        enabled: bool,
    },
}

/// What an object of a device says.
pub(super) enum Said<T> {
    /// It has no such object.
    Nothing,
    Sure(T),
    /// Why it isn't known.
    Unclear(String),
}

/// A device of the namespace.
pub(super) struct Named {
    pub id: NodeId,
    pub path: String,
    /// `_HID` first, then each `_CID`.
    pub ids: Vec<String>,
    pub presence: Presence,
}

impl Named {
    /// Whether it has one of these hardware ids.
    pub fn is(&self, ids: &[&str]) -> bool {
        self.ids.iter().any(|own| ids.contains(&own.as_str()))
    }
}

pub(super) struct Names<'a> {
    aml: Aml<Readable<'a>>,
    windows: &'a [KnownWindow],
}

impl<'a> Names<'a> {
    /// Loads the DSDT and the SSDTs, and tells firmware that there are I/O APICs.
    pub fn load(
        dsdt: Option<&Table>,
        ssdts: &[&Table],
        ranges: &[MemoryRange],
        asked: Asked<'a>,
        allocations: &[Allocation],
        unclear: &mut Vec<String>,
    ) -> Self {
        let is_its_own = |it: &&MemoryRange| matches!(it.kind, MemoryKind::AcpiNvs | MemoryKind::AcpiTables);
        let of_map = ranges.iter().filter(is_its_own).map(|range| range.span);
        let spans = of_map.chain(Span::new(ROM.0, ROM.1).ok()).collect();
        let windows = asked.windows;
        let mut aml = Aml::new(Readable { asked, spans, allocations: allocations.to_vec(), routing: None });
        match dsdt {
            Some(dsdt) => aml.load(dsdt.bytes()),
            None => unclear
                .push("there is no DSDT: what is beside PCI isn't known, nor PCI's windows and lines".into()),
        }
        ssdts.iter().for_each(|ssdt| aml.load(ssdt.bytes()));
        let doubtful = aml.failures().iter().filter(|failure| failure.error.is_none()).count();
        if doubtful != 0 {
            unclear.push(alloc::format!(
                "at least {doubtful} parts of ACPI's namespace depend on hardware that isn't asked"
            ));
        }
        let mut failed: Vec<(&str, axvm_aml::Error, u32)> = Vec::new();
        for failure in aml.failures() {
            let Some(error) = failure.error else { continue };
            match failed.iter_mut().find(|it| (it.0, it.1) == (failure.scope.as_str(), error)) {
                Some((.., times)) => *times += 1,
                None => failed.push((&failure.scope, error, 1)),
            }
        }
        unclear.extend(failed.into_iter().map(|(scope, error, times)| match times {
            1 => alloc::format!("a part of {scope} in ACPI's namespace can't be read: {error}"),
            times => {
                alloc::format!("at least {times} parts of {scope} in ACPI's namespace can't be read: {error}")
            }
        }));
        let mut names = Self { aml, windows };
        // Variables that others look at (6.5.1); then the interrupt model: 1 is that of APICs (5.8.1).
        for path in ["\\_SB._INI", "\\_INI"] {
            if let Some(id) = names.aml.find(names.aml.root(), path) {
                let _ = names.aml.evaluate(id, &[]);
            }
        }
        if let Some(pic) = names.aml.child(names.aml.root(), b"_PIC") {
            names.aml.hardware_mut().routing = Some(Routing::default());
            if let Err(error) = names.aml.evaluate(pic, &[1]) {
                unclear.push(alloc::format!("firmware can't be told of I/O APICs (\\_PIC): {error}"));
            }
            names.aml.hardware_mut().routing = None;
        }
        names
    }

    /// The devices, and those of which it isn't known whether they are there.
    pub fn devices(&mut self) -> Vec<Named> {
        let all: Vec<NodeId> = self.aml.devices().collect();
        let mut named: Vec<Named> = Vec::new();
        for id in all {
            // Those above are listed before those below, by ascending ids.
            let above = self.aml.parent(id).and_then(|above| {
                named.binary_search_by_key(&above, |it| it.id).ok().and_then(|at| named.get(at))
            });
            let presence = match above.map(|above| above.presence) {
                Some(Presence::Absent) => Presence::Absent,
                _ => self.presence(id),
            };
            let (path, ids) = (self.aml.path(id), self.ids(id));
            named.push(Named { id, path, ids, presence });
        }
        named
    }

    fn presence(&mut self, id: NodeId) -> Presence {
        let Some(sta) = self.aml.child(id, b"_STA") else { return Presence::Present { enabled: true } };
        match self.aml.evaluate(sta, &[]) {
            Ok(answer) if answer.is_sure => match answer.value.integer() {
                Some(status) if status & 1 == 0 => Presence::Absent,
                Some(status) => Presence::Present { enabled: status & 2 != 0 },
                None => Presence::Present { enabled: true },
            },
            // What can't be told is there.
            _ => Presence::Present { enabled: true },
        }
    }

    fn ids(&mut self, id: NodeId) -> Vec<String> {
        let mut ids = Vec::new();
        for name in [b"_HID", b"_CID"] {
            match self.value(id, name) {
                Said::Sure(Data::List(list)) => list.iter().for_each(|it| ids.extend(hardware_id(it))),
                Said::Sure(one) => ids.extend(hardware_id(&one)),
                Said::Nothing | Said::Unclear(_) => {}
            }
        }
        ids
    }

    /// What an object right below a device says.
    pub fn value(&mut self, id: NodeId, name: &[u8; 4]) -> Said<Data> {
        let Some(object) = self.aml.child(id, name) else { return Said::Nothing };
        let name = || String::from_utf8_lossy(name).to_string();
        match self.aml.evaluate(object, &[]) {
            Ok(answer) if answer.is_sure => Said::Sure(answer.value),
            Ok(_) => Said::Unclear(alloc::format!("{} depends on hardware that isn't asked", name())),
            Err(error) => Said::Unclear(alloc::format!("{} can't be evaluated: {error}", name())),
        }
    }

    /// A number that an object says.
    pub fn number(&mut self, id: NodeId, name: &[u8; 4]) -> Said<u64> {
        match self.value(id, name) {
            Said::Nothing => Said::Nothing,
            Said::Unclear(why) => Said::Unclear(why),
            Said::Sure(value) => match value.integer() {
                Some(number) => Said::Sure(number),
                None => Said::Unclear(alloc::format!("{} is no number", String::from_utf8_lossy(name))),
            },
        }
    }

    /// What `_CRS` or `_PRS` say.
    pub fn resources(&mut self, id: NodeId, name: &[u8; 4]) -> Said<Vec<Resource>> {
        match self.value(id, name) {
            Said::Nothing => Said::Nothing,
            Said::Unclear(why) => Said::Unclear(why),
            Said::Sure(value) => match value.bytes().and_then(resource::read) {
                Some(resources) => Said::Sure(resources),
                None => Said::Unclear(alloc::format!("{} isn't whole", String::from_utf8_lossy(name))),
            },
        }
    }

    /// The windows of a host bridge, as far as they are known otherwise than by AML.
    pub fn windows(&self, segment: u16, bus: u8) -> impl Iterator<Item = Span<Hpa>> + use<'a> {
        let own = move |it: &&KnownWindow| (it.segment, it.bus) == (segment, bus);
        self.windows.iter().filter(own).map(|it| it.span)
    }

    /// The device that a text names, from where another one is.
    pub fn find(&self, from: NodeId, text: &str) -> Option<NodeId> {
        self.aml.find(from, text)
    }

    /// What is above an object.
    pub fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.aml.parent(id)
    }

    /// The sleep types of S5 (7.4.2.6).
    pub fn s5(&mut self, unclear: &mut Vec<String>) -> Option<SleepTypes> {
        match self.value(self.aml.root(), b"_S5_") {
            Said::Nothing => unclear.push(
                "firmware says no sleep type for S5: how the machine is switched off isn't known".into(),
            ),
            Said::Unclear(why) => {
                unclear.push(alloc::format!("how the machine is switched off isn't known: {why}"))
            }
            Said::Sure(value) => {
                let number = |at: usize| {
                    let number = value.list()?.get(at)?.integer()?;
                    Some((number & 7) as u8)
                };
                let a = number(0)?;
                return Some(SleepTypes { a, b: number(1).unwrap_or(a) });
            }
        }
        None
    }
}

fn hardware_id(data: &Data) -> Option<String> {
    match data {
        Data::Integer(number) => Some(eisa_id(u32::try_from(*number).ok()?)),
        Data::Text(text) => Some(text.clone()),
        _ => None,
    }
}
