//! Isolation groups: functions that may reach each other without passing the IOMMU.

use alloc::vec::Vec;

use crate::config::{ConfigSpace, Registers};
use crate::function::Function;
use crate::spec::express::PortType;
use crate::spec::extended::{self, Acs};

/// The group of each function, in the order of `functions`. Groups are numbered from 0 by their first
/// function.
///
/// Two functions share a group if they are in one multi-function slot and one of them doesn't send requests
/// to its siblings up (PCIe 6.12.1.2), if they are below a bridge to conventional PCI, whose devices hear
/// each other and share a requester id, or if they are below a port that doesn't have the ACS isolation on
/// (PCIe 6.12.1.1). The bridge or port is then of their group too.
pub fn groups<C: ConfigSpace + ?Sized>(functions: &[Function], config: &C) -> Vec<u32> {
    let isolating: Vec<bool> = functions
        .iter()
        .map(|function| !function.bridge || isolates(Registers::new(config, function.address), function))
        .collect();
    let mut sets = Sets((0..functions.len()).collect());
    for (position, function) in functions.iter().enumerate() {
        for (other, sibling) in functions.iter().enumerate().skip(position + 1) {
            let same_bus = function.address.segment == sibling.address.segment
                && function.address.bus == sibling.address.bus;
            let same_slot = same_bus && function.address.device() == sibling.address.device();
            let connected = same_slot
                && !(redirects(Registers::new(config, function.address), function)
                    && redirects(Registers::new(config, sibling.address), sibling));
            // On a link ACS of the port above says nothing about two devices, and there is only one.
            let orphans = same_bus && function.parent.is_some() && above(functions, function).is_none();
            if connected || orphans {
                sets.join(position, other);
            }
        }
        if let Some(bridge) = above(functions, function)
            && !path_isolates(functions, &isolating, bridge)
        {
            sets.join(position, bridge);
        }
    }
    let mut numbers: Vec<usize> = Vec::new();
    (0..functions.len())
        .map(|position| {
            let root = sets.root(position);
            let number = numbers.iter().position(|&known| known == root).unwrap_or_else(|| {
                numbers.push(root);
                numbers.len() - 1
            });
            u32::try_from(number).unwrap_or(u32::MAX)
        })
        .collect()
}

/// The position of the bridge above a function.
fn above(functions: &[Function], function: &Function) -> Option<usize> {
    let parent = function.parent?;
    functions.iter().position(|bridge| bridge.address == parent)
}

/// Whether nothing below `bridge` reaches anything but through the root.
fn path_isolates(functions: &[Function], isolating: &[bool], mut bridge: usize) -> bool {
    for _ in 0..functions.len() {
        let Some(function) = functions.get(bridge) else { return false };
        if isolating.get(bridge) != Some(&true) {
            return false;
        }
        match (function.parent, above(functions, function)) {
            (None, _) => return true,
            (Some(_), Some(next)) => bridge = next,
            (Some(_), None) => return false,
        }
    }
    false
}

/// Whether a bridge keeps what is below it from reaching anything but the root.
fn isolates<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, bridge: &Function) -> bool {
    match bridge.port {
        Some(PortType::RootPort | PortType::Downstream) => acs(registers, bridge)
            .is_some_and(|(_, enabled)| enabled.contains(Acs::ISOLATION) && !lets_through(enabled)),
        // What comes up from a switch's downstream ports is theirs to bound.
        Some(PortType::Upstream) => true,
        _ => false,
    }
}

/// Whether a function of a multi-function slot sends its requests to siblings up. What its ACS capability
/// doesn't list it can't do (PCIe 6.12.1.2).
fn redirects<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> bool {
    acs(registers, function).is_some_and(|(capable, enabled)| {
        enabled
            .contains(capable & (Acs::REQUEST_REDIRECT | Acs::COMPLETION_REDIRECT | Acs::UPSTREAM_FORWARDING))
            && !lets_through(enabled)
    })
}

fn lets_through(enabled: Acs) -> bool {
    enabled.intersects(Acs::DIRECT_TRANSLATED | Acs::EGRESS_CONTROL)
}

/// What a function's ACS is capable of, and what is on.
fn acs<C: ConfigSpace + ?Sized>(registers: Registers<'_, C>, function: &Function) -> Option<(Acs, Acs)> {
    let offset = function.extended_capability(extended::ACS)?;
    Some((
        Acs::from_bits_retain(registers.read16(offset + extended::ACS_CAPABILITY)),
        Acs::from_bits_retain(registers.read16(offset + extended::ACS_CONTROL)),
    ))
}

/// Disjoint sets of positions; each points at one that is not above it, in the end at the least of its set.
struct Sets(Vec<usize>);

impl Sets {
    fn root(&self, mut position: usize) -> usize {
        while let Some(&next) = self.0.get(position)
            && next != position
        {
            position = next;
        }
        position
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if let Some(entry) = self.0.get_mut(a.max(b)) {
            *entry = a.min(b);
        }
    }
}
