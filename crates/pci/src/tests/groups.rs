//! Isolation groups, held against where requests arrive in switches that do as the specification says.

use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::fake::{Arrival, Request, Target};
use crate::spec::extended;
use crate::{Lack, Membership, Reach};

const ALL: u16 = ISOLATION | 0b10;
const ENHANCED: u16 = ALL | extended::ACS_ENHANCED;

struct Machine {
    bus: FakeBus,
    functions: Vec<Function>,
    members: Vec<Membership>,
}

impl Machine {
    fn new(bus: FakeBus) -> Self {
        let functions = enumerate(&bus, &board(), &bus);
        let members = groups(&functions, &bus);
        Self { bus, functions, members }
    }

    fn position(&self, address: PciAddress) -> usize {
        self.functions.iter().position(|function| function.address == address).unwrap()
    }

    fn group(&self, address: PciAddress) -> u32 {
        self.members[self.position(address)].group
    }

    /// Where a write to the first memory BAR of `to` arrives.
    fn write(&self, from: PciAddress, to: PciAddress) -> Arrival {
        let bars = &find(&self.functions, to).bars;
        let address = bars.iter().find(|bar| bar.kind != BarKind::Io).and_then(|bar| bar.address).unwrap();
        self.bus.route(&Request { from, requester: from, target: Target::Memory(address) })
    }
}

/// An endpoint with registers.
fn end() -> FakeFunction {
    FakeFunction::new(0x1234, 1, 0x02_00_00).bar(0, 0x1000, 0).express(0, true)
}

/// A switch behind a root port: a downstream port with each of these capabilities of ACS, an endpoint behind each.
/// Ports are 02:00.0, 02:01.0 and so on, endpoints 03:00.0, 04:00.0 and so on.
fn switch(root: FakeFunction, upstream: FakeFunction, ports: &[u16]) -> Machine {
    let mut bus = FakeBus::new(0, 0).with(1, 0, root).with_behind(&[1], 0, 0, upstream);
    for (device, &acs) in (0..).zip(ports) {
        bus = bus.with_behind(&[1, 0], device, 0, FakeFunction::switch_port(6, acs)).with_behind(
            &[1, 0, device],
            0,
            0,
            end(),
        );
    }
    Machine::new(bus)
}

#[test]
fn the_port_where_a_request_comes_in_decides_where_it_goes() {
    let (upstream, root) = (|| FakeFunction::switch_port(5, 0), || FakeFunction::root_port(ALL));
    let machine = switch(root(), upstream(), &[ALL, 0, ALL]);
    let ends = [at(3, 0, 0), at(4, 0, 0), at(5, 0, 0)];
    // The second one's port sends its requests straight to the others, whatever their own ports do.
    assert_eq!(machine.write(ends[1], ends[0]), Arrival::Function(ends[0]));
    assert_eq!(machine.write(ends[0], ends[1]), Arrival::Iommu(ends[0]));
    assert_eq!(machine.group(ends[0]), machine.group(ends[1]));
    assert_eq!(machine.group(ends[0]), machine.group(ends[2]));
    let reaches = &machine.members[machine.position(ends[1])].reaches;
    let reach = Reach { to: ends[0], at: at(2, 1, 0), lack: Lack::Redirect };
    assert!(reaches.contains(&reach), "{reaches:?}");
    assert_eq!(reach.to_string(), "0000:03:00.0: 0000:02:01.0 doesn't redirect requests to peers (ACS)");

    let machine = switch(root(), upstream(), &[ALL, ALL, ALL]);
    let mut numbers = ends.map(|end| machine.group(end));
    numbers.sort();
    assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "all ports redirect: {numbers:?}");
    for service in [Acs::REQUEST_REDIRECT, Acs::COMPLETION_REDIRECT] {
        let machine = switch(root(), upstream(), &[ALL, ALL & !service.bits(), ALL]);
        assert_eq!(
            machine.group(ends[0]),
            machine.group(ends[2]),
            "by way of the second, without {service:?}"
        );
    }
}

#[test]
fn what_comes_back_down_is_the_ports_own() {
    let ends = [at(3, 0, 0), at(4, 0, 0)];
    let no_forwarding = ALL & !Acs::UPSTREAM_FORWARDING.bits();
    let two = |root: u16| switch(FakeFunction::root_port(root), FakeFunction::switch_port(5, 0), &[ALL, ALL]);
    // A root port that doesn't list it validates nothing that it redirects, so it sends nothing back (6.12.1.1).
    assert_ne!(two(no_forwarding).group(ends[0]), two(no_forwarding).group(ends[1]));
    let machine = two(0);
    assert_eq!(machine.write(ends[0], ends[1]), Arrival::Function(ends[1]));
    assert_eq!(machine.group(ends[0]), machine.group(ends[1]));
    // Two functions that send all up, below a port that turns it round.
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ALL))
        .with_behind(&[1], 0, 0, FakeFunction::switch_port(5, 0))
        .with_behind(&[1, 0], 0, 0, FakeFunction::switch_port(6, no_forwarding))
        .with_behind(&[1, 0, 0], 0, 0, end().acs(0x0c).multifunction())
        .with_behind(&[1, 0, 0], 0, 1, end().acs(0x0c));
    let machine = Machine::new(bus);
    assert_eq!(machine.write(at(3, 0, 0), at(3, 0, 1)), Arrival::Function(at(3, 0, 1)));
    assert_eq!(machine.group(at(3, 0, 0)), machine.group(at(3, 0, 1)));
}

/// Two root ports with an endpoint behind each; the first is this one.
fn two_ports(first: FakeFunction) -> (u32, u32) {
    let bus = FakeBus::new(0, 0)
        .with(1, 0, first)
        .with_behind(&[1], 0, 0, end())
        .with(2, 0, FakeFunction::root_port(ALL))
        .with_behind(&[2], 0, 0, end());
    let machine = Machine::new(bus);
    (machine.group(at(1, 0, 0)), machine.group(at(2, 0, 0)))
}

#[test]
fn root_ports_whose_maker_says_so_isolate_without_a_capability() {
    let port = |vendor, device, acs| {
        let new = FakeFunction::new(vendor, device, 0x06_04_00).bridge().express(4, false);
        let (first, second) = two_ports(if acs == 0 { new } else { new.acs(acs) });
        first != second
    };
    assert!(port(0x17cb, 0x0401, 0) && port(0x177d, 0xaf84, 0) && port(0x1957, 0x8db9, 0));
    // Neighbours in the list's numbers, and another maker's of the same number.
    assert!(!port(0x17cb, 0x0402, 0) && !port(0x1957, 0x8d84, 0) && !port(0x1b36, 0x0401, 0));
    // What it says itself counts.
    assert!(!port(0x17cb, 0x0401, ALL & !Acs::SOURCE_VALIDATION.bits()));
    // A capability that does nothing is none.
    assert!(port(0x8086, 0xa10f, ALL) && !port(0x8086, 0xa110, ALL));
    // The word is about root ports: a switch's port of that number is like any other.
    let ports = |vendor, device| {
        let port = || FakeFunction::new(vendor, device, 0x06_04_00).bridge().express(6, false);
        let bus = FakeBus::new(0, 0)
            .with(1, 0, FakeFunction::root_port(ALL))
            .with_behind(&[1], 0, 0, FakeFunction::switch_port(5, 0))
            .with_behind(&[1, 0], 0, 0, port())
            .with_behind(&[1, 0, 0], 0, 0, end())
            .with_behind(&[1, 0], 1, 0, port())
            .with_behind(&[1, 0, 1], 0, 0, end());
        let machine = Machine::new(bus);
        machine.group(at(3, 0, 0)) == machine.group(at(4, 0, 0))
    };
    assert!(ports(0x17cb, 0x0401));
}

#[test]
fn functions_of_one_device_whose_maker_says_so_are_apart() {
    let apart = |vendor, device| {
        let function = || FakeFunction::new(vendor, device, 0x02_00_00).bar(0, 0x1000, 0).express(0, true);
        let bus = FakeBus::new(0, 0)
            .with(1, 0, FakeFunction::root_port(ALL))
            .with_behind(&[1], 0, 0, function().multifunction())
            .with_behind(&[1], 0, 1, function());
        let machine = Machine::new(bus);
        machine.group(at(1, 0, 0)) != machine.group(at(1, 0, 1))
    };
    assert!(apart(0x1924, 0x0903) && apart(0x8086, 0x1521));
    assert!(!apart(0x1924, 0x0904) && !apart(0x1234, 0x0903));
}

#[test]
fn the_list_says_one_thing_of_each_function() {
    use crate::quirks::QUIRKS;
    for (position, quirk) in QUIRKS.iter().enumerate() {
        assert!(!quirk.ids.devices.is_empty() && !quirk.source.is_empty());
        for other in QUIRKS
            .iter()
            .take(position)
            .filter(|it| it.ids.vendor == quirk.ids.vendor && it.word == quirk.word)
        {
            assert!(
                !quirk.ids.devices.clone().any(|device| other.ids.devices.contains(&device)),
                "{quirk:?}, {other:?}"
            );
        }
    }
}

#[test]
fn requests_that_carry_anothers_id_join_all_that_it_may_be() {
    let root_ports = |acs: u16| {
        let bus = FakeBus::new(0, 0)
            .with(1, 0, FakeFunction::root_port(acs))
            .with_behind(&[1], 0, 0, end())
            .with(2, 0, FakeFunction::root_port(ALL))
            .with_behind(&[2], 0, 0, end())
            .with(3, 0, end());
        Machine::new(bus)
    };
    let (first, second, inside) = (at(1, 0, 0), at(2, 0, 0), at(0, 3, 0));
    let machine = root_ports(ALL);
    assert_ne!(machine.group(first), machine.group(second));
    let machine = root_ports(ALL & !Acs::SOURCE_VALIDATION.bits());
    let lie = Request { from: first, requester: second, target: Target::Memory(1 << 45) };
    assert_eq!(machine.bus.route(&lie), Arrival::Iommu(second));
    assert_eq!(machine.group(first), machine.group(second));
    assert_eq!(machine.group(first), machine.group(inside));
    // A switch's port that doesn't look is bounded by the root port that does.
    let bus = FakeBus::new(0, 0)
        .with(1, 0, FakeFunction::root_port(ALL))
        .with_behind(&[1], 0, 0, FakeFunction::switch_port(5, 0))
        .with_behind(&[1, 0], 0, 0, FakeFunction::switch_port(6, ALL & !1))
        .with_behind(&[1, 0, 0], 0, 0, end())
        .with_behind(&[1, 0], 1, 0, FakeFunction::switch_port(6, ALL))
        .with_behind(&[1, 0, 1], 0, 0, end())
        .with(2, 0, end());
    let machine = Machine::new(bus);
    assert_eq!(machine.group(at(3, 0, 0)), machine.group(at(4, 0, 0)));
    assert_ne!(machine.group(at(3, 0, 0)), machine.group(at(0, 2, 0)));
}

#[test]
fn who_reaches_a_bridges_registers_has_what_is_behind_it() {
    let with_registers = |acs: u16| FakeFunction::switch_port(5, acs).bar(0, 0x4_0000, 0);
    let ends = [at(3, 0, 0), at(4, 0, 0)];
    let machine = switch(FakeFunction::root_port(ALL), with_registers(0), &[ALL, ALL]);
    assert_eq!(machine.write(ends[0], at(1, 0, 0)), Arrival::Function(at(1, 0, 0)));
    assert_eq!(machine.group(ends[0]), machine.group(ends[1]));
    let reaches = &machine.members[machine.position(ends[0])].reaches;
    assert!(reaches.iter().any(|reach| reach.lack == Lack::Target && reach.at == at(1, 0, 0)), "{reaches:?}");
    let machine = switch(FakeFunction::root_port(ALL), with_registers(0), &[ENHANCED, ENHANCED]);
    assert_eq!(machine.write(ends[0], at(1, 0, 0)), Arrival::Iommu(ends[0]));
    assert_ne!(machine.group(ends[0]), machine.group(ends[1]));
    // Whoever has a root port's registers has its checks.
    let port = |acs: u16| FakeFunction::root_port(acs).bar(0, 0x4000, 0);
    let two = |port: FakeFunction| {
        let bus = FakeBus::new(0, 0).with(1, 0, port).with_behind(&[1], 0, 0, end()).with(2, 0, end());
        let machine = Machine::new(bus);
        machine.group(at(1, 0, 0)) == machine.group(at(0, 2, 0))
    };
    assert!(two(port(ALL)));
    assert!(!two(port(ENHANCED)));
    // A page with the vectors of the port holds nothing else.
    assert!(!two(FakeFunction::root_port(ALL).bar(0, 0x1000, 0).msix(1, (0, 0), (0, 0x800))));
    assert!(two(FakeFunction::root_port(ALL).bar(0, 0x2000, 0).msix(1, (0, 0), (0, 0x800))));
}

#[test]
fn functions_of_one_device_are_kept_apart_by_their_own_acs_only() {
    let pair = |first: FakeFunction, second: FakeFunction| {
        let bus = FakeBus::new(0, 0).with(2, 0, first.multifunction()).with(2, 1, second);
        let machine = Machine::new(bus);
        machine.group(at(0, 2, 0)) == machine.group(at(0, 2, 1))
    };
    assert!(pair(end(), end()), "no ACS");
    assert!(pair(end().acs(0x0c), end()), "in one of them only");
    assert!(!pair(end().acs(0x0c), end().acs(0x0c)));
    assert!(!pair(end().acs(0), end().acs(0)), "a capability without services: they never do");
    let egress = |functions: u16| end().acs(0x20 | functions << 8);
    assert!(!pair(egress(8), egress(8)), "egress control bars them");
    assert!(pair(egress(1), egress(1)), "a vector that has no bit for the sibling");
}

#[test]
fn multicast_is_off() {
    let bus = FakeBus::new(0, 0).with(1, 0, end().loose_extended(extended::MULTICAST, 0x30));
    let control = 0x100 + extended::MULTICAST_CONTROL;
    bus.write(at(0, 1, 0), control, Width::B2, 0x8000);
    enumerate(&bus, &board(), &bus);
    assert_eq!(bus.read(at(0, 1, 0), control, Width::B2), 0);
}

#[test]
fn a_bus_that_all_hear_is_one_group() {
    let machine = Machine::new(switched());
    assert_eq!(machine.group(at(1, 0, 0)), machine.group(at(1, 0, 1)), "a slot without ACS");
    assert_ne!(machine.group(at(1, 0, 0)), machine.group(at(0, 1, 0)), "whose port isolates");
    assert_ne!(machine.group(at(1, 0, 0)), machine.group(at(4, 0, 0)), "behind another root port");
    assert_eq!(machine.group(at(7, 7, 0)), machine.group(at(7, 8, 0)), "a conventional bus");
    assert_eq!(machine.group(at(7, 7, 0)), machine.group(at(6, 0, 0)), "with its bridge");
    assert_eq!(machine.group(at(5, 0, 0)), machine.group(at(3, 2, 0)), "a port of a switch without ACS");
    assert_eq!(
        machine.group(at(5, 0, 0)),
        machine.group(at(4, 0, 0)),
        "which reaches the others of its switch"
    );
    assert_eq!(machine.group(at(5, 0, 0)), machine.group(at(7, 7, 0)));
}

#[test]
fn what_is_off_now_counts() {
    let bus = FakeBus::new(0, 0)
        .with(4, 0, FakeFunction::root_port(ISOLATION))
        .with_behind(&[4], 0, 0, FakeFunction::nvme())
        .with(5, 0, FakeFunction::nvme());
    let functions = enumerate(&bus, &board(), &bus);
    let joined = || {
        let numbers: Vec<u32> = groups(&functions, &bus).iter().map(|member| member.group).collect();
        numbers[1] == numbers[2]
    };
    assert!(!joined());
    bus.write(at(0, 4, 0), 0x106, Width::B2, 0);
    assert!(joined());
}

/// A function made up by chance: what it has beside its place.
#[derive(Clone, Debug)]
struct Made {
    acs: u16,
    /// Bit 0: registers, bit 1: I/O ports, bit 2: a page of vectors.
    bars: u8,
}

#[derive(Clone, Debug)]
enum Below {
    Nothing,
    Device(Vec<Made>),
    Conventional { bars: u8, devices: Vec<Made> },
    Switch { upstream: Made, beside: Option<Made>, ports: Vec<(Made, Below)> },
}

fn made() -> impl Strategy<Value = Made> {
    let acs = prop_oneof![
        2 => Just(0u16),
        3 => Just(ALL),
        4 => Just(ENHANCED),
        3 => (0u16..0x100).prop_map(|bits| bits | 0x0800),
        4 => (0u32..7).prop_map(|bit| ENHANCED & !(1 << bit)),
    ];
    (acs, 0u8..16).prop_map(|(acs, bars)| Made { acs, bars: if bars < 8 { bars } else { 0 } })
}

fn below() -> impl Strategy<Value = Below> {
    let devices = || prop::collection::vec(made(), 1..3);
    let leaf = prop_oneof![
        1 => Just(Below::Nothing),
        5 => devices().prop_map(Below::Device),
        1 => (0u8..4, devices()).prop_map(|(bars, devices)| Below::Conventional { bars, devices }),
    ];
    leaf.prop_recursive(2, 12, 3, move |inner| {
        (made(), prop::option::weighted(0.3, made()), prop::collection::vec((made(), inner), 1..4))
            .prop_map(|(upstream, beside, ports)| Below::Switch { upstream, beside, ports })
    })
}

fn with_bars(mut function: FakeFunction, bars: u8) -> FakeFunction {
    if bars & 1 != 0 {
        function = function.bar(0, 0x2000, 0);
    }
    match bars >> 1 {
        1 => function.bar(1, 0x100, 1),
        2 => function.bar(1, 0x1000, 0).msix(1, (1, 0), (1, 0x800)),
        _ => function,
    }
}

fn port(kind: u16, made: &Made) -> FakeFunction {
    with_bars(FakeFunction::switch_port(kind, made.acs), made.bars)
}

fn endpoint(made: &Made) -> FakeFunction {
    let end = end().bar(2, 0x20, 1);
    if made.acs == 0 { end } else { end.acs(made.acs) }
}

fn plug(mut bus: FakeBus, path: &[u8], below: &Below) -> FakeBus {
    let deeper = |device: u8| [path, &[device]].concat();
    match below {
        Below::Nothing => {}
        Below::Device(functions) => {
            for (number, made) in (0..).zip(functions) {
                bus = bus.with_behind(path, 0, number, endpoint(made).multifunction());
            }
        }
        Below::Conventional { bars, devices } => {
            bus = bus.with_behind(path, 0, 0, with_bars(FakeFunction::conventional_bridge(), *bars));
            for (device, _) in (1..).zip(devices) {
                bus = bus.with_behind(&deeper(0), device, 0, FakeFunction::edu());
            }
        }
        Below::Switch { upstream, beside, ports } => {
            bus = bus.with_behind(path, 0, 0, port(5, upstream).multifunction());
            if let Some(made) = beside {
                bus = bus.with_behind(path, 0, 1, endpoint(made));
            }
            for (device, (made, below)) in (0..).zip(ports) {
                bus = bus.with_behind(&deeper(0), device, 0, port(6, made));
                bus = plug(bus, &[path, &[0, device]].concat(), below);
            }
        }
    }
    bus
}

/// The functions in whose power those are that have the registers of a bridge.
fn power(machine: &Machine, bridge: &Function) -> Vec<PciAddress> {
    use express::PortType;
    let above = |function: &Function| -> Vec<PciAddress> {
        bridges_above(&machine.functions, function).iter().map(|bridge| bridge.address).collect()
    };
    let top = match bridge.port {
        Some(PortType::RootPort) => None,
        Some(PortType::Downstream) => bridge.parent,
        _ => Some(bridge.address),
    };
    let ends = machine.functions.iter().filter(|function| !function.bridge);
    ends.filter(|end| top.is_none_or(|top| above(end).contains(&top))).map(|end| end.address).collect()
}

/// Whom a function reaches, by sending to everything there is in every way.
fn sends_to(machine: &Machine, from: &Function) -> Vec<PciAddress> {
    let mut reached = Vec::new();
    let send = |requester, target| machine.bus.route(&Request { from: from.address, requester, target });
    for to in machine.functions.iter().filter(|to| to.address != from.address) {
        let mut targets = Vec::new();
        for bar in &to.bars {
            let vectors =
                to.bridge && bar.size <= 0x1000 && to.msix.is_some_and(|msix| msix.table.0 == bar.index);
            match bar.address {
                Some(address) if bar.kind == BarKind::Io => targets.push(Target::Io(address)),
                Some(address) if !vectors => {
                    targets.extend([Target::Memory(address), Target::Translated(address)]);
                }
                _ => {}
            }
        }
        if !to.bridge {
            targets.push(Target::Completion(to.address));
        }
        let there = targets.iter().any(|&target| send(from.address, target) == Arrival::Function(to.address));
        if there {
            reached.push(to.address);
            if to.bridge {
                reached.extend(power(machine, to));
            }
        }
        // With the other's id. One device's functions, and those of the root complex, don't lie about that.
        let same = to.address.bus == from.address.bus && from.address.bus != 0;
        let same = same && find(&machine.functions, to.address).parent == from.parent;
        let arrives = send(to.address, Target::Memory(1 << 45)) == Arrival::Iommu(to.address);
        if !to.bridge && from.parent.is_some() && !same && arrives {
            reached.push(to.address);
        }
    }
    reached
}

/// The groups that sending everything everywhere gives, as the least position of each.
fn simulated(machine: &Machine) -> Vec<usize> {
    let mut least: Vec<usize> = (0..machine.functions.len()).collect();
    for (position, from) in machine.functions.iter().enumerate().filter(|(_, from)| !from.bridge) {
        for other in sends_to(machine, from) {
            let (a, b) = (least[position], least[machine.position(other)]);
            for entry in least.iter_mut().filter(|entry| **entry == a || **entry == b) {
                *entry = a.min(b);
            }
        }
    }
    least
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn groups_are_what_requests_reach(
        ports in prop::collection::vec((made(), below()), 1..4),
        inside in prop::collection::vec(made(), 0..3),
        together in any::<bool>(),
    ) {
        let mut bus = FakeBus::new(0, 0);
        for (number, (made, below)) in (0..).zip(&ports) {
            // Root ports are often the functions of one device.
            let (device, number) = if together { (1, number) } else { (number + 1, 0) };
            let root = with_bars(FakeFunction::root_port(made.acs), made.bars).multifunction();
            bus = plug(bus.with(device, number, root), &[device | number << 5], below);
        }
        for (number, made) in (0..).zip(&inside) {
            bus = bus.with(9, number, endpoint(made).multifunction());
        }
        let machine = Machine::new(bus);
        let expected = simulated(&machine);
        let ends: Vec<usize> = (0..expected.len()).filter(|&at| !machine.functions[at].bridge).collect();
        // What counts as reached though no request shows it here: a conventional bus' requests may keep their ids
        // (PCI-X), and I/O requests for a bridge's own ports may have been blocked further down.
        let unseen = machine.functions.iter().any(|it| {
            it.port == Some(express::PortType::ToConventional)
                || it.bridge && it.bars.iter().any(|bar| bar.kind == BarKind::Io)
        });
        for &a in &ends {
            for &b in &ends {
                let (group, sent) = (machine.members[a].group == machine.members[b].group, expected[a] == expected[b]);
                let names = (machine.functions[a].address, machine.functions[b].address);
                prop_assert!(group || !sent, "{names:?} reach each other and aren't one group");
                prop_assert!(!group || sent || unseen, "{names:?} are one group for no reason");
            }
        }
    }
}
