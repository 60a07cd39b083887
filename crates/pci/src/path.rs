//! The way from a function up to the root: the bridges on it, the requester ids that its requests arrive
//! with, and which bridges forward requests up.

use alloc::vec::Vec;

use axvm_addr::PciAddress;

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

/// The requester ids with which a function's requests may arrive at the root: its own first, then those that
/// the bridges above it put in its place. The last is the one that the root complex sees of requests that
/// every such bridge has taken over, messages among them.
///
/// A bridge from Express to conventional PCI takes them over as function 0 of its secondary bus (PCI Express
/// to PCI Bridge 1.0, 2.3), a bridge without an Express capability, or from conventional PCI to Express, as
/// itself. Ports pass them as they are.
pub fn requester_ids(all: &[Function], function: &Function) -> Vec<PciAddress> {
    let mut ids = alloc::vec![function.address];
    let mut below = function.address;
    for bridge in bridges_above(all, function) {
        let alias = match bridge.port {
            Some(PortType::ToConventional) => {
                Some(PciAddress::from_requester_id(below.segment, u16::from(below.bus) << 8))
            }
            None | Some(PortType::FromConventional) => Some(bridge.address),
            Some(_) => None,
        };
        if let Some(alias) = alias {
            // The last place is the outermost one's.
            ids.retain(|&id| id != alias || id == function.address);
            ids.push(alias);
        }
        below = bridge.address;
    }
    ids
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
