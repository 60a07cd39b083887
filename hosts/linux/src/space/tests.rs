use std::collections::BTreeMap;
use std::sync::Mutex;

use axvm::space::Materialise;
use axvm_addr::{Gpa, Span};
use axvm_plan::config::MappingFlags;

use super::{Slots, Space};
use crate::error::Error;
use crate::memory::Place;

/// Where a slot is, what is there in this process, and whether it may be written.
type Used = (Span<Gpa>, u64, bool);

/// A kernel that keeps its contract: a slot is taken away as a whole, and no two overlap.
#[derive(Default)]
struct Fake {
    slots: Mutex<BTreeMap<u32, Used>>,
    fails: Mutex<Option<u32>>,
}

impl Slots for &Fake {
    fn set(&self, slot: u32, gpa: Span<Gpa>, place: Option<&Place>, writable: bool) -> Result<(), Error> {
        let mut fails = crate::lock(&self.fails);
        if let Some(left) = &mut *fails {
            if *left == 0 {
                return Err(Error::Unknown);
            }
            *left -= 1;
        }
        let mut slots = crate::lock(&self.slots);
        match place {
            Some(place) => {
                assert!(slots.values().all(|(span, ..)| !span.overlaps(&gpa)), "two slots overlap");
                assert!(slots.insert(slot, (gpa, place.address(), writable)).is_none(), "the slot is used");
            }
            None => assert_eq!(slots.remove(&slot).map(|(span, ..)| span), Some(gpa), "not that slot"),
        }
        Ok(())
    }
}

impl Fake {
    /// What is at an address: where in this process, and whether it may be written.
    fn at(&self, gpa: u64) -> Option<(u64, bool)> {
        let slots = crate::lock(&self.slots);
        let found = slots.values().find(|(span, ..)| span.contains(Gpa(gpa)));
        found.map(|(span, address, writable)| (address + (gpa - span.start().0), *writable))
    }
}

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

const MEMORY: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

#[test]
fn what_is_mapped_is_a_slot_and_may_be_written_if_the_plan_says_so() {
    let (kernel, place) = (Fake::default(), Place::allocate(0x4000).unwrap().0);
    let space = Space::new(&kernel);
    space.map(span(0x1000, 0x2000), &place, MEMORY).unwrap();
    space.map(span(0x8000, 0x1000), &place, MappingFlags::READ).unwrap();
    assert_eq!(kernel.at(0x1800), Some((place.address() + 0x800, true)));
    assert_eq!(kernel.at(0x8000), Some((place.address(), false)));
    assert_eq!(kernel.at(0x3000), None);
}

#[test]
fn more_than_backs_it_is_never_mapped() {
    let (kernel, place) = (Fake::default(), Place::allocate(0x1000).unwrap().0);
    let space = Space::new(&kernel);
    assert!(space.map(span(0x1000, 0x2000), &place, MEMORY).is_err());
    assert_eq!(kernel.at(0x1000), None);
}

#[test]
fn what_is_taken_from_the_middle_leaves_both_ends_where_they_were() {
    let (kernel, place) = (Fake::default(), Place::allocate(0x5000).unwrap().0);
    let space = Space::new(&kernel);
    space.map(span(0x1_0000, 0x5000), &place, MEMORY).unwrap();
    space.unmap(span(0x1_1000, 0x1000)).unwrap();
    assert_eq!(kernel.at(0x1_0fff), Some((place.address() + 0xfff, true)));
    assert_eq!(kernel.at(0x1_1000), None);
    assert_eq!(kernel.at(0x1_2000), Some((place.address() + 0x2000, true)));
    space.unmap(span(0x1_0000, 0x1000)).unwrap();
    space.unmap(span(0x1_2000, 0x3000)).unwrap();
    assert!(crate::lock(&kernel.slots).is_empty());
    // The slots are free again.
    space.map(span(0x1_0000, 0x1000), &place, MEMORY).unwrap();
    assert!(crate::lock(&kernel.slots).contains_key(&0));
}

#[test]
fn what_the_kernel_refuses_is_mapped_nowhere() {
    let (kernel, place) = (Fake::default(), Place::allocate(0x1000).unwrap().0);
    *crate::lock(&kernel.fails) = Some(0);
    let space = Space::new(&kernel);
    assert!(space.map(span(0, 0x1000), &place, MEMORY).is_err());
    *crate::lock(&kernel.fails) = None;
    space.map(span(0, 0x1000), &place, MEMORY).unwrap();
    assert_eq!(kernel.at(0), Some((place.address(), true)));
}
