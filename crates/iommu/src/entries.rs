//! Which entries of an interrupt table are whose.

use core::ops::Range;

use litemap::LiteMap;

/// The entries of a table, and who has which.
#[derive(Clone, Debug)]
pub struct Entries<K> {
    all: u32,
    taken: LiteMap<K, Range<u32>>,
}

impl<K: Ord> Entries<K> {
    /// A table of so many, at most 65,536. Nobody has any.
    pub const fn new(all: u32) -> Self {
        Self { all, taken: LiteMap::new() }
    }

    /// The first of `count` entries in a row that this sender has from now on, or has already. `None`: there is no such room, or it has
    /// fewer.
    pub fn take(&mut self, sender: K, count: u32) -> Option<u16> {
        if let Some(had) = self.taken.get(&sender) {
            return if had.end - had.start >= count { u16::try_from(had.start).ok() } else { None };
        }
        let step = count.max(1).checked_next_power_of_two()?;
        let is_free = |wanted: &Range<u32>| {
            wanted.end <= self.all
                && self.taken.values().all(|had| had.end <= wanted.start || wanted.end <= had.start)
        };
        let mut places = (0..self.all).step_by(step as usize).map(|first| first..first.saturating_add(count));
        let found = places.find(is_free)?;
        let first = u16::try_from(found.start).ok()?;
        self.taken.insert(sender, found);
        Some(first)
    }

    /// The entry of a sender's interrupt `number`, if it has that.
    pub fn find(&self, sender: &K, number: u16) -> Option<u16> {
        let had = self.taken.get(sender)?;
        let at = had.start.checked_add(number.into())?;
        had.contains(&at).then(|| u16::try_from(at).ok())?
    }

    /// These have none any more. Whoever had something routed by them has taken that away before.
    pub fn give_back(&mut self, whose: impl Fn(&K) -> bool) {
        self.taken.retain(|sender, _| !whose(sender));
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sender_keeps_what_it_has() {
        let mut entries = Entries::new(64);
        assert_eq!(entries.take(1, 3), Some(0));
        assert_eq!(entries.take(2, 3), Some(4), "at a multiple of 4");
        assert_eq!((entries.take(1, 3), entries.take(1, 2)), (Some(0), Some(0)));
        assert_eq!(entries.take(1, 4), None, "it has fewer");
        assert_eq!(entries.find(&2, 2), Some(6));
        assert_eq!((entries.find(&2, 3), entries.find(&3, 0)), (None, None));
    }

    #[test]
    fn what_has_no_room_takes_nothing() {
        let mut entries = Entries::new(8);
        assert_eq!(entries.take(1, 9), None);
        assert_eq!(entries.take(1, 8), Some(0));
        assert_eq!(entries.take(2, 1), None);
        assert_eq!(entries.take(2, u32::MAX), None);
        entries.give_back(|sender| *sender == 1);
        assert_eq!(entries.take(2, 1), Some(0));
        let mut most = Entries::new(0x1_0000);
        assert_eq!(most.take(1, 0x1_0000), Some(0));
        assert_eq!(most.find(&1, u16::MAX), Some(u16::MAX));
    }

    proptest! {
        /// Each entry is one sender's, and those of one are in a row, at a multiple of their number.
        #[test]
        fn no_entry_is_two_senders(steps in prop::collection::vec((0u8..6, 1u32..40, any::<bool>()), 1..60)) {
            let mut entries = Entries::new(96);
            let mut model: BTreeMap<u8, (u16, u32)> = BTreeMap::new();
            for (sender, count, gives) in steps {
                if gives {
                    entries.give_back(|it| *it == sender);
                    model.remove(&sender);
                } else if let Some(first) = entries.take(sender, count) {
                    let had = *model.entry(sender).or_insert((first, count));
                    prop_assert_eq!(had.0, first);
                    prop_assert!(had.1 >= count);
                    prop_assert_eq!(u32::from(first) % had.1.next_power_of_two(), 0);
                }
                let mut owners: BTreeMap<u16, u8> = BTreeMap::new();
                for (sender, (first, count)) in &model {
                    let all: Vec<u16> = (0..*count as u16).map(|number| entries.find(sender, number).unwrap()).collect();
                    prop_assert_eq!(&all, &(*first..first + *count as u16).collect::<Vec<_>>());
                    for entry in all {
                        prop_assert!(entry < 96);
                        prop_assert_eq!(owners.insert(entry, *sender), None);
                    }
                }
            }
        }
    }
}
