//! The way from a function up to the root: the bridges on it, the requester ids that its requests arrive
//! with, and which bridges forward requests up.

use alloc::vec::Vec;

use axvm_addr::PciAddress;

use crate::aliases::{self, Forwards};
use crate::config::{ConfigSpace, Registers};
use crate::function::Function;
use crate::silence::{NotSilent, stop_mastering};
use crate::spec::express::PortType;
use crate::spec::header::{self, Command};

/// The bridges above a function, the nearest first.
pub fn bridges_above<'a>(all: &'a [Function], function: &Function) -> Vec<&'a Function> {
    let mut bridges: Vec<&Function> = Vec::new();
    let mut parent = function.parent;
    // Each bridge once: a list that loops isn't one that enumeration made.
    while let Some(bridge) = parent.and_then(|above| all.iter().find(|it| it.address == above))
        && !bridges.iter().any(|known| known.address == bridge.address)
    {
        bridges.push(bridge);
        parent = bridge.parent;
    }
    bridges
}

/// The requester ids that a function's traffic may arrive with at the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequesterIds {
    /// Those of its requests, each once: its own first, then others that it sends with itself ([`aliases`]), then those that the
    /// bridges above it put in their place.
    pub requests: Vec<PciAddress>,
    /// That of its messages (MSIs).
    pub messages: PciAddress,
}

/// The requester ids with which a function's requests may arrive at the root, and its messages do.
///
/// A bridge from Express to conventional PCI takes requests over as function 0 of its secondary bus (PCI Express to PCI Bridge 1.0, 2.3), a
/// bridge without an Express capability, or from conventional PCI to Express, as itself. Ports pass them as they are. A bridge that has no
/// Express capability though a port of Express is above it is one to conventional PCI that doesn't say so, and may do either.
pub fn requester_ids(all: &[Function], function: &Function) -> RequesterIds {
    let mut ids = RequesterIds { requests: alloc::vec![function.address], messages: function.address };
    aliases::each(function, |id| ids.add(id));
    let bridges = bridges_above(all, function);
    let mut below = function.address;
    for (position, bridge) in bridges.iter().enumerate() {
        let first = PciAddress::from_requester_id(below.segment, u16::from(below.bus) << 8);
        let forwards = aliases::forwards(bridge);
        if forwards == Some(Forwards::ToIommu) {
            break;
        }
        let is_on_link = || {
            let above = bridges.get(position + 1).and_then(|above| above.port);
            above.is_some_and(|port| port != PortType::ToConventional)
        };
        let own = match bridge.port {
            Some(PortType::ToConventional) => Some(first),
            None if is_on_link() => {
                ids.add(first);
                ids.add(bridge.address);
                Some(if forwards == Some(Forwards::AsFunction0) { first } else { bridge.address })
            }
            None | Some(PortType::FromConventional) => Some(bridge.address),
            Some(_) => None,
        };
        if let Some(own) = own {
            ids.add(own);
            if forwards != Some(Forwards::Unchanged) {
                ids.messages = own;
            }
        }
        below = bridge.address;
    }
    ids
}

impl RequesterIds {
    fn add(&mut self, id: PciAddress) {
        if !self.requests.contains(&id) {
            self.requests.push(id);
        }
    }
}

/// Which bridges forward requests up: those above a function that may master the bus, and no others.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// The functions whose way up is open.
    open: Vec<PciAddress>,
}

impl Forwarding {
    /// Opens the way up of `function`, which is behind `bridges`.
    pub fn open<C: ConfigSpace + ?Sized>(
        &mut self,
        config: &C,
        function: PciAddress,
        bridges: &[PciAddress],
    ) {
        if !self.open.contains(&function) {
            self.open.push(function);
        }
        let on = Command::BUS_MASTER.bits();
        // From the root down, so that nothing is forwarded into a closed bridge.
        for &bridge in bridges.iter().rev() {
            Registers::new(config, bridge).update16(header::COMMAND, on, on);
        }
    }

    /// Closes the way up of `function` where it is no other's, and reads back that it is; `bridges_of` says what another is
    /// behind.
    ///
    /// # Errors
    ///
    /// The first bridge that goes on forwarding. The others are closed all the same.
    pub fn close<C: ConfigSpace + ?Sized>(
        &mut self,
        config: &C,
        function: PciAddress,
        bridges: &[PciAddress],
        bridges_of: impl Fn(PciAddress) -> Vec<PciAddress>,
    ) -> Result<(), NotSilent> {
        self.open.retain(|&other| other != function);
        let needed: Vec<PciAddress> = self.open.iter().flat_map(|&other| bridges_of(other)).collect();
        let mut result = Ok(());
        for &bridge in bridges.iter().filter(|bridge| !needed.contains(bridge)) {
            result = result.and(stop_mastering(config, bridge));
        }
        result
    }
}
