//! Who can send to whom without passing the IOMMU (PCIe 6.12.1).
//!
//! A request is bounded where it comes in: the port by which it enters a switch or the root complex decides whether it
//! goes up or straight to a peer. So a port's ACS says what the functions below *it* can reach, and nothing of who
//! reaches them.

use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{PAGE_SIZE, PciAddress};
use serde::{Deserialize, Serialize};

use crate::acs::Control;
use crate::config::{ConfigSpace, Registers};
use crate::function::{Bar, BarKind, Function};
use crate::spec::express::PortType;
use crate::spec::extended::Acs;

/// A bridge chain longer than there are bus numbers is a loop.
const MOST_BRIDGES: usize = 256;

/// A way from one function to another that passes no IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The function that it leads to.
    pub to: PciAddress,
    /// Where it isn't barred.
    pub at: PciAddress,
    /// What is missing there.
    pub lack: Lack,
}

/// What would bar a way, and isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lack {
    /// A bus of their own: all hear each other on the bus behind this bridge.
    OwnBus,
    /// ACS in this function of a multi-function device.
    Function,
    /// Redirection of requests and completions in this port.
    Redirect,
    /// Upstream forwarding in this port: it sends back down what came up for what is below it.
    Forwarding,
    /// Control of who reaches this bridge's own registers. Who has them has what is behind it.
    Target,
    /// Source validation in this port: requests may carry another's requester id.
    Source,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, at, lack } = self;
        write!(f, "{to}: {at} ")?;
        f.write_str(match lack {
            Lack::OwnBus => "has one bus for all",
            Lack::Function => "has no ACS against functions of its own device",
            Lack::Redirect => "doesn't redirect requests to peers (ACS)",
            Lack::Forwarding => "sends them back down (no ACS upstream forwarding)",
            Lack::Target => "has registers open to requests from below (no ACS memory target control)",
            Lack::Source => "lets requests pass with the other's id (ACS source validation)",
        })
    }
}

/// What a function is to the traffic that comes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It ends there.
    End,
    /// A root port or a switch's downstream port.
    Link,
    /// A switch's upstream port.
    Upstream,
    /// Any other bridge: what is behind it hears everything there.
    Shared,
}

/// What is above a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Root,
    Bridge(usize),
    /// A bridge that isn't in the list.
    Unknown,
}

struct Node {
    kind: Kind,
    above: Above,
    acs: Option<Control>,
    /// A bridge's own registers.
    memory: bool,
    io: bool,
}

/// The functions of a machine as a graph. Functions are positions in the list.
pub(crate) struct Topology<'a> {
    functions: &'a [Function],
    nodes: Vec<Node>,
    /// Each function and the bridges above it, the nearest first.
    chains: Vec<Vec<usize>>,
}

impl<'a> Topology<'a> {
    /// Reads what ports and functions do with traffic between peers.
    pub fn new<C: ConfigSpace + ?Sized>(functions: &'a [Function], config: &C) -> Self {
        let nodes: Vec<Node> = functions.iter().map(|function| node(functions, function, config)).collect();
        let chains = (0..nodes.len())
            .map(|position| {
                let mut chain = alloc::vec![position];
                while let Some(&last) = chain.last()
                    && let Some(&Node { above: Above::Bridge(above), .. }) = nodes.get(last)
                    && chain.len() < MOST_BRIDGES
                {
                    chain.push(above);
                }
                chain
            })
            .collect();
        Self { functions, nodes, chains }
    }

    fn chain(&self, position: usize) -> &[usize] {
        self.chains.get(position).map_or(&[], Vec::as_slice)
    }

    fn kind(&self, position: usize) -> Kind {
        self.nodes.get(position).map_or(Kind::Shared, |node| node.kind)
    }

    fn above(&self, position: usize) -> Above {
        self.nodes.get(position).map_or(Above::Unknown, |node| node.above)
    }

    fn acs(&self, position: usize) -> Option<Control> {
        self.nodes.get(position)?.acs
    }

    fn address(&self, position: usize) -> Option<PciAddress> {
        self.functions.get(position).map(|function| function.address)
    }

    /// Whether a function is behind a bridge, or is it.
    fn is_below(&self, position: usize, bridge: usize) -> bool {
        self.chain(position).contains(&bridge)
    }

    /// Calls `found` for all that `from` reaches, with the place on the way that doesn't bar it. Of bridges those are
    /// meant of which it reaches the registers, and what is then in its power.
    pub fn reached_by(&self, from: usize, mut found: impl FnMut(usize, usize, Lack)) {
        let (ends, bridges): (Vec<usize>, Vec<usize>) =
            (0..self.nodes.len()).filter(|&to| to != from).partition(|&to| self.kind(to) == Kind::End);
        let with_registers = |to: &usize| self.nodes.get(*to).is_some_and(|node| node.memory || node.io);
        // What it reaches by itself comes first: that is what is told.
        for to in ends.into_iter().chain(bridges.into_iter().filter(with_registers)) {
            let is_bridge = self.kind(to) != Kind::End;
            let Some((at, lack)) = self.way(from, to) else { continue };
            found(to, at, lack);
            if is_bridge {
                self.below(self.power(to), from, |other| found(other, to, Lack::Target));
            }
        }
        let up = self.chain(from).get(1..).unwrap_or(&[]);
        let mut ports = up.iter().copied().filter(|&port| self.kind(port) == Kind::Link);
        let nearest = ports.clone().next();
        let validates = |port: &usize| self.acs(*port).is_some_and(|acs| acs.has(Acs::SOURCE_VALIDATION));
        let orphan = self.chain(from).last().is_some_and(|&last| self.above(last) == Above::Unknown);
        // Its id may be any with a bus number behind the first port that looks at it. Functions of one device are
        // told apart by the device, those of the root complex by that.
        let (bound, at) = match (ports.find(validates), nearest) {
            (Some(port), _) => (Some(port), port),
            (None, Some(port)) => (None, port),
            (None, None) if orphan => (None, from),
            (None, None) => return,
        };
        self.below(bound, from, |other| {
            if !self.one_device(from, other) {
                found(other, at, Lack::Source);
            }
        });
    }

    /// Calls `found` for the functions behind a bridge, or for all of the segment, but for bridges and `from`.
    fn below(&self, bridge: Option<usize>, from: usize, mut found: impl FnMut(usize)) {
        let segment = |position| self.address(position).map(|address| address.segment);
        for other in (0..self.nodes.len()).filter(|&it| it != from && self.kind(it) == Kind::End) {
            if bridge.map_or(segment(other) == segment(from), |bridge| self.is_below(other, bridge)) {
                found(other);
            }
        }
    }

    /// The bridge behind which all is in the power of whoever has the registers of `bridge`; `None`: the whole segment,
    /// since a root port's checks are the last.
    fn power(&self, bridge: usize) -> Option<usize> {
        match (self.kind(bridge), self.above(bridge)) {
            (Kind::Link, Above::Bridge(above)) => Some(above),
            (Kind::Link, _) => None,
            _ => Some(bridge),
        }
    }

    /// Where a request of `from` for `to` isn't barred.
    fn way(&self, from: usize, to: usize) -> Option<(usize, Lack)> {
        let down = self.chain(to);
        let mut below = None;
        for &at in self.chain(from) {
            if let Some(below) = below {
                let open = if at == to {
                    self.registers(at, below).then_some(Lack::Target)
                } else {
                    let turns = self.kind(at) == Kind::Link && down.contains(&at);
                    (turns && !self.forwards(at)).then_some(Lack::Forwarding)
                };
                if let Some(lack) = open {
                    return Some((at, lack));
                }
            }
            // What of the way down is on this bus: another one, or the way down begins higher up.
            if let Some(&peer) = down.iter().find(|&&peer| peer != at && self.one_bus(peer, at))
                && let Some(open) = self.between(at, peer, to)
            {
                return Some(open);
            }
            below = Some(at);
        }
        None
    }

    /// Whether a request that comes up to a bridge, from `below` it, reaches its own registers.
    fn registers(&self, bridge: usize, below: usize) -> bool {
        // The port by which it came in decides, for itself and for the upstream port of its switch.
        let (port, bars) = match self.kind(bridge) {
            Kind::Link => (bridge, Acs::PORT_TARGET_BLOCK | Acs::PORT_TARGET_REDIRECT),
            Kind::Upstream if self.kind(below) == Kind::Link => {
                (below, Acs::UPSTREAM_TARGET_BLOCK | Acs::UPSTREAM_TARGET_REDIRECT)
            }
            _ => return true,
        };
        self.opens(port, bridge, bars)
    }

    /// Whether the ACS of `port` lets requests through to the registers of `bridge`.
    fn opens(&self, port: usize, bridge: usize, bars: Acs) -> bool {
        let (Some(node), acs) = (self.nodes.get(bridge), self.acs(port)) else { return true };
        let memory = node.memory && !acs.is_some_and(|acs| acs.has_any(bars));
        let io = node.io && !acs.is_some_and(|acs| acs.has(Acs::IO_BLOCKING));
        memory || io
    }

    /// Whether a port sends on up what came up for something below it.
    fn forwards(&self, port: usize) -> bool {
        let all = Acs::UPSTREAM_FORWARDING | Acs::REDIRECT;
        self.acs(port).is_some_and(|acs| match self.above(port) {
            Above::Root => acs.has_listed(all),
            _ => acs.has(Acs::UPSTREAM_FORWARDING),
        })
    }

    /// Whether a port sends up what comes in by it for a peer.
    fn redirects(&self, port: usize) -> bool {
        self.acs(port).is_some_and(|acs| {
            let on = match self.above(port) {
                Above::Root => acs.has_listed(Acs::REDIRECT),
                _ => acs.has(Acs::REDIRECT),
            };
            on && !acs.lets_through()
        })
    }

    /// Whether what `at` passes on or sends reaches `peer` on the same bus, on the way to `to`.
    fn between(&self, at: usize, peer: usize, to: usize) -> Option<(usize, Lack)> {
        let above = self.above(at);
        if let Above::Bridge(bridge) = above
            && matches!(self.kind(bridge), Kind::Shared | Kind::End)
        {
            return Some((bridge, Lack::OwnBus));
        }
        if self.kind(at) == Kind::Link {
            if peer == to && self.kind(peer) == Kind::Link {
                let bars = Acs::PORT_TARGET_BLOCK | Acs::PORT_TARGET_REDIRECT;
                return self.opens(at, peer, bars).then_some((peer, Lack::Target));
            }
            return (!self.redirects(at)).then_some((at, Lack::Redirect));
        }
        if self.one_device(at, peer) {
            let number = self.address(peer).map_or(0, |address| address.function());
            let keeps = self.acs(at).is_some_and(|acs| acs.keeps_from(number));
            return (!keeps).then_some((at, Lack::Function));
        }
        // Devices inside the root complex are kept apart by it. On a switch's own bus there are ports only.
        (above != Above::Root).then_some((at, Lack::Redirect))
    }

    fn one_bus(&self, a: usize, b: usize) -> bool {
        let bus = |position| self.address(position).map(|address| (address.segment, address.bus));
        bus(a) == bus(b)
    }

    /// Whether two functions are of one device. On a link there is one only.
    fn one_device(&self, a: usize, b: usize) -> bool {
        let device = |position| self.address(position).map(|address| address.device());
        let link = matches!(self.above(a), Above::Bridge(port) if self.kind(port) == Kind::Link);
        self.one_bus(a, b) && (link || device(a) == device(b))
    }
}

fn node<C: ConfigSpace + ?Sized>(functions: &[Function], function: &Function, config: &C) -> Node {
    let kind = match function.port {
        _ if !function.bridge => Kind::End,
        Some(PortType::RootPort | PortType::Downstream) => Kind::Link,
        Some(PortType::Upstream) => Kind::Upstream,
        _ => Kind::Shared,
    };
    let above = match function.parent {
        None => Above::Root,
        Some(parent) => {
            functions.iter().position(|bridge| bridge.address == parent).map_or(Above::Unknown, Above::Bridge)
        }
    };
    let mut own = function.bars.iter().filter(|bar| function.bridge && !is_vectors(function, bar));
    Node {
        kind,
        above,
        acs: Control::read(Registers::new(config, function.address), function),
        memory: own.clone().any(|bar| bar.kind != BarKind::Io),
        io: own.any(|bar| bar.kind == BarKind::Io),
    }
}

/// Whether a BAR holds MSI-X vectors and nothing else: nothing else may be in their page (PCI 6.8.2). Those of bridges
/// are off.
fn is_vectors(function: &Function, bar: &Bar) -> bool {
    bar.size <= PAGE_SIZE
        && function.msix.is_some_and(|msix| [msix.table.0, msix.pending.0].contains(&bar.index))
}
