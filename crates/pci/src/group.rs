//! Isolation groups: functions that may reach each other without passing the IOMMU.

use alloc::vec::Vec;

use crate::config::ConfigSpace;
use crate::function::Function;
use crate::reach::{Reach, Topology};

/// The group that a function is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Its number. Groups are numbered from 0 by their first function.
    pub group: u32,
    /// Ways from this function to others that made them one group. Not all that there are: one for each that joined.
    pub reaches: Vec<Reach>,
}

impl From<u32> for Membership {
    /// Of this group, without a word on why.
    fn from(group: u32) -> Self {
        Self { group, reaches: Vec::new() }
    }
}

/// The group of each function, in the order of `functions`.
///
/// Two functions share a group if one of them reaches the other, or something that reaches it or that it is reached by,
/// without passing the IOMMU: [`Reach`] says how. Bridges do nothing by themselves; one that doesn't bar a way is in the
/// group that it so makes.
pub fn groups<C: ConfigSpace + ?Sized>(functions: &[Function], config: &C) -> Vec<Membership> {
    let topology = Topology::new(functions, config);
    let mut sets = Sets((0..functions.len()).collect());
    let mut reaches: Vec<Vec<Reach>> = Vec::new();
    for (from, function) in functions.iter().enumerate() {
        let mut made = Vec::new();
        if !function.bridge {
            topology.reached_by(from, |to, at, lack| {
                let joined = sets.join(from, to);
                if functions.get(at).is_some_and(|place| place.bridge) {
                    sets.join(from, at);
                }
                if joined && let (Some(to), Some(at)) = (functions.get(to), functions.get(at)) {
                    made.push(Reach { to: to.address, at: at.address, lack });
                }
            });
        }
        reaches.push(made);
    }
    let mut numbers: Vec<usize> = Vec::new();
    reaches
        .into_iter()
        .enumerate()
        .map(|(position, reaches)| {
            let root = sets.root(position);
            let number = numbers.iter().position(|&known| known == root).unwrap_or_else(|| {
                numbers.push(root);
                numbers.len() - 1
            });
            Membership { group: u32::try_from(number).unwrap_or(u32::MAX), reaches }
        })
        .collect()
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

    /// Makes two sets one; says whether they weren't.
    fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        if let Some(entry) = self.0.get_mut(a.max(b)) {
            *entry = a.min(b);
        }
        a != b
    }
}
