//! Which VMs name the same thing, so that they can't run at one time.
//!
//! Where a host holds what a file names for the whole run ([`Claims::Once`]), that is refused. Where it holds it while a VM runs, several VMs
//! may name a CPU or a device, of which at most one starts by itself. Two that share a CPU, or a device that a running guest can't give
//! up, never run together: they needn't both find RAM and message interrupts. Two that share only PCI functions may still do so, once one of them has
//! given the functions up, so that in all sums they count as VMs that run together.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use axvm_platform::limits::Claims;
use axvm_system::model::System;

use super::board::Board;
use super::findings::{And, Findings, VmRef};
use crate::problem::Rule;

/// What two VMs name both: which of them can't run together, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bond {
    /// One of the two can give it up while it runs.
    Movable,
    /// They never run together.
    Lasting,
}

struct Pair {
    low: u16,
    high: u16,
    bond: Bond,
    /// What both name.
    things: Vec<String>,
}

/// The pairs of VMs that can't run together.
pub(super) struct Apart {
    claims: Claims,
    pairs: Vec<Pair>,
}

impl Apart {
    pub(super) fn new(board: &Board<'_>) -> Self {
        Self { claims: board.platform.limits.claims, pairs: Vec::new() }
    }

    /// Whether two VMs may name one thing.
    pub(super) fn allows_sharing(&self) -> bool {
        self.claims == Claims::ByTime
    }

    /// Notes that two VMs name the same thing. A problem, at the later one, if both of them start by themselves; the first thing that
    /// is found says it.
    pub(super) fn note(
        &mut self,
        system: &System,
        (a, b): (u16, u16),
        bond: Bond,
        what: impl fmt::Display,
        findings: &mut Findings,
    ) {
        let (low, high) = (a.min(b), a.max(b));
        if let Some(pair) = self.pairs.iter_mut().find(|pair| (pair.low, pair.high) == (low, high)) {
            pair.bond = pair.bond.max(bond);
            pair.things.push(what.to_string());
            return;
        }
        self.pairs.push(Pair { low, high, bond, things: alloc::vec![what.to_string()] });
        let starts = |vm: u16| system.vms.get(usize::from(vm)).is_some_and(|vm| vm.autostart);
        if starts(low) && starts(high) {
            findings.vm(
                VmRef::of(system, high),
                "autostart",
                Rule::Autostart,
                format_args!(
                    "it starts by itself as {} does, and both have {what}: say `autostart = false` for one of the two",
                    VmRef::of(system, low)
                ),
            );
        }
    }

    /// Whether two VMs may run at one time, now or once one of them has given something up.
    pub(super) fn may_meet(&self, a: u16, b: u16) -> bool {
        let (low, high) = (a.min(b), a.max(b));
        let lasting = |pair: &&Pair| pair.bond == Bond::Lasting && (pair.low, pair.high) == (low, high);
        a != b && !self.pairs.iter().any(|pair| lasting(&pair))
    }

    /// VMs by what is known of who runs with whom: of each list at most one runs at a time. Where that isn't known of a VM it is alone in
    /// its list, so that sums of the most that one of each list takes are never too small.
    pub(super) fn turns(&self, vms: u16) -> Vec<Vec<u16>> {
        let mut turns: Vec<Vec<u16>> = Vec::new();
        for vm in 0..vms {
            match turns.iter_mut().find(|turn| turn.iter().all(|&other| !self.may_meet(vm, other))) {
                Some(turn) => turn.push(vm),
                None => turns.push(alloc::vec![vm]),
            }
        }
        turns
    }

    /// Says which VMs can't run together.
    pub(super) fn say(&self, system: &System, findings: &mut Findings) {
        for Pair { low, high, bond, things } in &self.pairs {
            let how = match bond {
                Bond::Lasting => ": both name",
                Bond::Movable => " unless one of them is without",
            };
            findings.note(format_args!(
                "{} and {} can't run together{how} {}",
                VmRef::of(system, *low),
                VmRef::of(system, *high),
                And(things)
            ));
        }
    }
}
