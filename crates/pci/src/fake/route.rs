//! Where a request arrives: switches and root ports as PCIe 6.12.1 and 7.7.8 describe them, bridges by their windows.
//!
//! What the specification leaves open is done in the way that keeps least apart: a root complex sends from one root port
//! straight to another where it may, functions of one device without ACS reach each other, a conventional bus is heard
//! by all.

use std::vec::Vec;

use axvm_addr::PciAddress;

use super::{FakeFunction, Slot};
use crate::config::Width;
use crate::spec::express::{self, PortType};
use crate::spec::extended::{self, Acs};
use crate::spec::{capability, header};

/// A request, or a completion that nobody asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The function that sends it.
    pub from: PciAddress,
    /// The requester id that it carries, true or not.
    pub requester: PciAddress,
    /// What it is for.
    pub target: Target,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A memory address.
    Memory(u64),
    /// A memory address that claims to be translated (ATS).
    Translated(u64),
    /// An I/O port.
    Io(u64),
    /// A completion for this requester.
    Completion(PciAddress),
}

/// Where a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At a function, past the IOMMU.
    Function(PciAddress),
    /// At the IOMMU, with this requester id.
    Iommu(PciAddress),
    /// Nowhere.
    Dropped,
}

/// A slot with the number of its bus.
#[derive(Clone, Copy)]
struct Place<'a> {
    slot: &'a Slot,
    bus: u8,
    /// All on the same bus.
    slots: &'a [Slot],
}

impl Place<'_> {
    fn address(&self) -> PciAddress {
        PciAddress::new(0, self.bus, self.slot.device, self.slot.number).expect("a function's address")
    }
}

/// What becomes of a request at one place.
enum Step {
    Up,
    Ends(Arrival),
}

pub(super) fn route(slots: &[Slot], root: u8, request: &Request) -> Arrival {
    let mut path = Vec::new();
    if !find_path(slots, root, request.from, &mut path) {
        return Arrival::Dropped;
    }
    let mut requester = request.requester;
    while let Some(at) = path.pop() {
        let above = path.last().copied();
        if let Step::Ends(arrival) = on_bus(at, above, request.target) {
            return arrival;
        }
        // The port that it meets next, and the upstream port of the same switch.
        let Some(bridge) = above else { break };
        let step = match port(&bridge.slot.function) {
            Some(PortType::RootPort | PortType::Downstream) => {
                let switch = path.len().checked_sub(2).and_then(|at| path.get(at)).copied();
                into_port(bridge, switch, request.target, requester)
            }
            Some(PortType::Upstream) => Step::Up,
            kind => {
                if own(bridge, request.target) {
                    return Arrival::Function(bridge.address());
                }
                requester = match kind {
                    Some(PortType::ToConventional) => PciAddress::new(0, at.bus, 0, 0).expect("function 0"),
                    _ => bridge.address(),
                };
                Step::Up
            }
        };
        if let Step::Ends(arrival) = step {
            return arrival;
        }
    }
    Arrival::Iommu(requester)
}

/// The slots from the root down to a function.
fn find_path<'a>(slots: &'a [Slot], bus: u8, address: PciAddress, path: &mut Vec<Place<'a>>) -> bool {
    for slot in slots {
        let place = Place { slot, bus, slots };
        path.push(place);
        let secondary = slot.function.get(header::SECONDARY_BUS, Width::B1) as u8;
        if place.address() == address
            || slot.function.is_bridge() && find_path(&slot.behind, secondary, address, path)
        {
            return true;
        }
        path.pop();
    }
    false
}

/// What becomes of it on the bus that `at` sends or passes it on to. What ports say of it they have said when it came
/// in by them.
fn on_bus(at: Place<'_>, above: Option<Place<'_>>, target: Target) -> Step {
    let kind = above.map(|above| port(&above.slot.function));
    let others =
        at.slots.iter().filter(|other| other.device != at.slot.device || other.number != at.slot.number);
    let mut claims = others.filter_map(|other| {
        let place = Place { slot: other, ..at };
        claimed(place, target).map(|arrival| (other, arrival))
    });
    match kind {
        // Heard by all.
        Some(
            Some(
                PortType::ToConventional
                | PortType::FromConventional
                | PortType::Endpoint
                | PortType::RootComplex,
            )
            | None
            | Some(PortType::Reserved(_)),
        ) => claims.next().map_or(Step::Up, |(_, arrival)| Step::Ends(arrival)),
        _ if is_link(&at.slot.function) => Step::Up,
        _ => {
            let sibling = claims.find(|(other, _)| other.device == at.slot.device);
            sibling
                .map_or(Step::Up, |(other, arrival)| within_device(&at.slot.function, other.number, arrival))
        }
    }
}

/// From one function of a device to another (PCIe 6.12.1.2).
fn within_device(from: &FakeFunction, sibling: u8, arrival: Arrival) -> Step {
    let Some(acs) = AcsRegisters::of(from) else { return Step::Ends(arrival) };
    let listed = |service: Acs| acs.capable.contains(service);
    if !listed(Acs::REQUEST_REDIRECT) && !listed(Acs::EGRESS_CONTROL) {
        return Step::Up;
    }
    let barred = acs.on.contains(Acs::EGRESS_CONTROL) && acs.vector >> sibling & 1 != 0;
    match (acs.on.contains(Acs::REQUEST_REDIRECT), acs.on.contains(Acs::EGRESS_CONTROL), barred) {
        (true, false, _) | (true, true, true) => Step::Up,
        (false, true, true) => Step::Ends(Arrival::Dropped),
        _ => Step::Ends(arrival),
    }
}

/// What becomes of it where it comes up into a root port or a downstream port (PCIe 6.12.1.1).
fn into_port(at: Place<'_>, switch: Option<Place<'_>>, target: Target, requester: PciAddress) -> Step {
    let function = &at.slot.function;
    let acs = AcsRegisters::of(function);
    let on = acs.as_ref().map_or(Acs::empty(), |acs| acs.on);
    let root = port(function) == Some(PortType::RootPort);
    // What a root port doesn't list it has no use for.
    let does = |service: Acs| {
        on.contains(service) || root && acs.as_ref().is_some_and(|acs| !acs.capable.contains(service))
    };
    let is_request = !matches!(target, Target::Completion(_));
    let secondary = function.get(header::SECONDARY_BUS, Width::B1) as u8;
    let subordinate = function.get(header::SUBORDINATE_BUS, Width::B1) as u8;
    let stranger = requester.segment != 0 || !(secondary..=subordinate).contains(&requester.bus);
    let translated = matches!(target, Target::Translated(_));
    if is_request && on.contains(Acs::SOURCE_VALIDATION) && stranger
        || on.contains(Acs::TRANSLATION_BLOCKING) && translated
        || on.contains(Acs::IO_BLOCKING) && matches!(target, Target::Io(_))
    {
        return Step::Ends(Arrival::Dropped);
    }
    let registers = |place: Place<'_>, block: Acs, redirect: Acs| {
        if on.contains(block) {
            Step::Ends(Arrival::Dropped)
        } else if on.contains(redirect) && !matches!(target, Target::Io(_)) {
            Step::Up
        } else {
            Step::Ends(Arrival::Function(place.address()))
        }
    };
    let of_ports = (Acs::PORT_TARGET_BLOCK, Acs::PORT_TARGET_REDIRECT);
    if own(at, target) {
        return registers(at, of_ports.0, of_ports.1);
    }
    let redirect = if is_request { Acs::REQUEST_REDIRECT } else { Acs::COMPLETION_REDIRECT };
    if let Some(arrival) = claimed(at, target) {
        let up = does(Acs::UPSTREAM_FORWARDING) && (!root || does(redirect));
        return if up { Step::Up } else { Step::Ends(arrival) };
    }
    let peers = at.slots.iter().map(|slot| Place { slot, ..at });
    for peer in peers.filter(|peer| peer.address() != at.address()) {
        let Some(arrival) = claimed(peer, target) else { continue };
        if is_link(&peer.slot.function) && own(peer, target) {
            return registers(peer, of_ports.0, of_ports.1);
        }
        let past = translated && on.contains(Acs::DIRECT_TRANSLATED);
        // Egress control isn't in use at ports: where it were on, its vector would be clear.
        let goes_up = does(redirect) && !past && !on.contains(Acs::EGRESS_CONTROL);
        return if goes_up { Step::Up } else { Step::Ends(arrival) };
    }
    match switch.filter(|switch| own(*switch, target)) {
        Some(upstream) => registers(upstream, Acs::UPSTREAM_TARGET_BLOCK, Acs::UPSTREAM_TARGET_REDIRECT),
        None => Step::Up,
    }
}

/// Where it arrives if this function, or what is behind it, claims it from above.
fn claimed(place: Place<'_>, target: Target) -> Option<Arrival> {
    if own(place, target) {
        return Some(Arrival::Function(place.address()));
    }
    let function = &place.slot.function;
    if !function.is_bridge() || !in_window(function, target) {
        return None;
    }
    let bus = function.get(header::SECONDARY_BUS, Width::B1) as u8;
    let slots = &place.slot.behind;
    let inner = slots.iter().find_map(|slot| claimed(Place { slot, bus, slots }, target));
    Some(inner.unwrap_or(Arrival::Dropped))
}

/// Whether it is for this function itself.
fn own(place: Place<'_>, target: Target) -> bool {
    let function = &place.slot.function;
    let (address, io) = match target {
        Target::Memory(address) | Target::Translated(address) => (address, false),
        Target::Io(address) => (address, true),
        Target::Completion(to) => return to == place.address(),
    };
    let bars = if function.is_bridge() { header::BRIDGE_BARS } else { header::BARS };
    let mut index = 0;
    while index < bars {
        let (low, mask) = function.bar_register(index);
        let wide = low & (header::BAR_IO | header::BAR_TYPE) == header::BAR_TYPE_64;
        let (high, high_mask) = if wide { function.bar_register(index + 1) } else { (0, u32::MAX) };
        index += if wide { 2 } else { 1 };
        let mask = u64::from(high_mask) << 32 | u64::from(mask);
        let value = u64::from(high) << 32 | u64::from(low);
        if mask as u32 != 0 && (low & header::BAR_IO != 0) == io && address & mask == value & mask {
            return true;
        }
    }
    false
}

/// Whether a bridge passes it on down.
fn in_window(bridge: &FakeFunction, target: Target) -> bool {
    let get = |offset| u64::from(bridge.get(offset, Width::B4));
    let memory = |at: u16| {
        let bits = get(at);
        ((bits & 0xfff0) << 16, bits & 0xfff0_0000 | 0xf_ffff)
    };
    match target {
        Target::Memory(address) | Target::Translated(address) => {
            let (base, limit) = memory(header::MEMORY_BASE);
            let (low, high) = memory(header::PREFETCH_BASE);
            let prefetch =
                get(header::PREFETCH_BASE_UPPER) << 32 | low..=get(header::PREFETCH_LIMIT_UPPER) << 32 | high;
            (base..=limit).contains(&address) || prefetch.contains(&address)
        }
        Target::Io(address) => {
            let bits = get(header::IO_BASE);
            ((bits & 0xf0) << 8..=bits & 0xf000 | 0xfff).contains(&address)
        }
        Target::Completion(to) => {
            let buses = get(header::PRIMARY_BUS);
            ((buses >> 8) as u8..=(buses >> 16) as u8).contains(&to.bus) && buses >> 8 & 0xff != 0
        }
    }
}

fn port(function: &FakeFunction) -> Option<PortType> {
    let offset = function.find(capability::EXPRESS)?;
    Some(PortType::from_capabilities(function.get(offset + express::CAPABILITIES, Width::B2) as u16))
}

fn is_link(function: &FakeFunction) -> bool {
    port(function).is_some_and(PortType::has_link_below)
}

struct AcsRegisters {
    capable: Acs,
    on: Acs,
    vector: u32,
}

impl AcsRegisters {
    fn of(function: &FakeFunction) -> Option<Self> {
        let offset = function.find_extended(extended::ACS)?;
        let read = |at: u16| Acs::from_bits_retain(function.get(offset + at, Width::B2) as u16);
        Some(Self {
            capable: read(extended::ACS_CAPABILITY),
            on: read(extended::ACS_CONTROL),
            vector: function.get(offset + extended::ACS_EGRESS_VECTOR, Width::B4),
        })
    }
}
