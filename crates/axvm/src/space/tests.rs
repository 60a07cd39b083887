//! The ledger against a map of single pages, on two kinds of hosts.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;

/// A host with page tables: every page by itself.
#[derive(Default)]
struct Pages {
    pages: RefCell<BTreeMap<u64, (u64, MappingFlags)>>,
    fail: Cell<bool>,
}

impl Materialise for Pages {
    type Backing = Hpa;
    type Error = &'static str;

    fn map(&self, gpa: Span<Gpa>, backing: &Hpa, flags: MappingFlags) -> Result<(), &'static str> {
        if self.fail.get() {
            return Err("no table");
        }
        for block in blocks(gpa.start(), *backing, gpa.size()) {
            for page in (0..block.size.bytes()).step_by(PAGE_SIZE as usize) {
                let old = self.pages.borrow_mut().insert(block.gpa.0 + page, (block.hpa.0 + page, flags));
                assert_eq!(old, None, "mapped over");
            }
        }
        Ok(())
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), &'static str> {
        if self.fail.get() {
            return Err("no table");
        }
        for page in (gpa.start().0..gpa.end().0).step_by(PAGE_SIZE as usize) {
            assert!(self.pages.borrow_mut().remove(&page).is_some(), "unmapped what wasn't there");
        }
        Ok(())
    }
}

fn rw() -> MappingFlags {
    MappingFlags::READ | MappingFlags::WRITE
}

#[test]
fn guest_and_host_addresses_may_differ_and_both_are_honoured() {
    let (host, mut space) = (Pages::default(), AddrSpace::new(40));
    space.map_linear(&host, "RAM", Gpa(0x4000_0000), Hpa(0x1_2340_0000), 0x3000, rw()).unwrap();
    assert_eq!(space.translate(Gpa(0x4000_1234)), Some((Hpa(0x1_2340_1234), rw())));
    assert_eq!(space.translate(Gpa(0x4000_3000)), None);
    assert_eq!(space.translate(Gpa(0x3fff_ffff)), None);
    assert_eq!(host.pages.borrow()[&0x4000_2000], (0x1_2340_2000, rw()));
}

#[test]
fn an_overlap_names_both_regions_and_changes_nothing() {
    let (host, mut space) = (Pages::default(), AddrSpace::new(40));
    space.map_linear(&host, "RAM", Gpa(0x10_0000), Hpa(0), 0x2000, rw()).unwrap();
    for (start, length) in
        [(0x10_1000, 0x1000), (0xf_f000, 0x2000), (0xf_0000, 0x2_0000), (0x10_0000, 0x2000)]
    {
        let error = space.map_linear(&host, "uart", Gpa(start), Hpa(0x900_0000), length, rw()).unwrap_err();
        assert!(
            matches!(&error, SpaceError::Overlap { name, other, .. } if name == "uart" && other == "RAM")
        );
        assert!(error.to_string().contains("uart") && error.to_string().contains("RAM"));
    }
    assert_eq!((space.iter().count(), host.pages.borrow().len()), (1, 2));
    space.map_linear(&host, "uart", Gpa(0x10_2000), Hpa(0x900_0000), 0x1000, rw()).unwrap();
}

#[test]
fn what_is_not_whole_pages_or_out_of_reach_is_refused() {
    let (host, mut space) = (Pages::default(), AddrSpace::new(32));
    for (gpa, length) in [(0x800, 0x1000), (0, 0x800), (0, 0)] {
        let error = space.map_linear(&host, "x", Gpa(gpa), Hpa(0), length, rw()).unwrap_err();
        assert!(matches!(error, SpaceError::Unaligned { .. }));
    }
    for (gpa, hpa, length) in
        [(0xffff_f000, 0, 0x2000), (!0xfff, 0, 0x1000), (0, !0xfff, 0x2000), (0x1000, 0, u64::MAX)]
    {
        let error = space.map_linear(&host, "x", Gpa(gpa), Hpa(hpa), length, rw()).unwrap_err();
        assert!(matches!(error, SpaceError::OutOfReach { .. }), "{error}");
    }
    space.map_linear(&host, "last", Gpa(0xffff_f000), Hpa(0), 0x1000, rw()).unwrap();
}

#[test]
fn what_the_host_cannot_do_is_not_in_the_ledger() {
    let (host, mut space) = (Pages::default(), AddrSpace::new(40));
    host.fail.set(true);
    let error = space.map_linear(&host, "RAM", Gpa(0), Hpa(0), 0x1000, rw()).unwrap_err();
    assert!(error.to_string().contains("RAM") && error.to_string().contains("no table"));
    assert_eq!(space.iter().count(), 0);
    host.fail.set(false);
    space.map_linear(&host, "RAM", Gpa(0), Hpa(0), 0x1000, rw()).unwrap();
    host.fail.set(true);
    space.unmap(&host, Span::new(Gpa(0), 0x1000).unwrap()).unwrap_err();
    assert!(space.translate(Gpa(0)).is_some());
}

#[test]
fn a_hole_in_a_region_leaves_both_sides_with_their_own_backing() {
    let (host, mut space) = (Pages::default(), AddrSpace::new(40));
    space.map_linear(&host, "RAM", Gpa(0x10_0000), Hpa(0x50_0000), 0x5000, rw()).unwrap();
    space.unmap(&host, Span::new(Gpa(0x10_1000), 0x2000).unwrap()).unwrap();
    assert_eq!(space.translate(Gpa(0x10_0fff)), Some((Hpa(0x50_0fff), rw())));
    assert_eq!(space.translate(Gpa(0x10_1000)), None);
    assert_eq!(space.translate(Gpa(0x10_3000)), Some((Hpa(0x50_3000), rw())));
    let error = space.unmap(&host, Span::new(Gpa(0x10_0000), 0x5000).unwrap()).unwrap_err();
    assert_eq!(error, SpaceError::NotMapped(Gpa(0x10_1000)));
}

#[derive(Clone, Debug)]
enum Step {
    Map { gpa: u64, hpa: u64, pages: u64, write: bool },
    Unmap { gpa: u64, pages: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..40, 0u64..1000, 0u64..12, any::<bool>()).prop_map(|(gpa, hpa, pages, write)| Step::Map {
            gpa,
            hpa,
            pages,
            write
        }),
        (0u64..40, 0u64..12).prop_map(|(gpa, pages)| Step::Unmap { gpa, pages }),
    ]
}

proptest! {
    #[test]
    fn the_ledger_is_a_map_of_pages(steps in proptest::collection::vec(step(), 0..40)) {
        let (host, mut space) = (Pages::default(), AddrSpace::new(18)); // 64 pages
        let mut model: BTreeMap<u64, (u64, MappingFlags)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Map { gpa, hpa, pages, write } => {
                    let flags = if write { rw() } else { MappingFlags::READ };
                    let free = pages > 0 && (gpa..gpa + pages).all(|page| !model.contains_key(&(page << 12)));
                    let done = space.map_linear(&host, "r", Gpa(gpa << 12), Hpa(hpa << 12), pages << 12, flags);
                    prop_assert_eq!(done.is_ok(), free);
                    if free {
                        model.extend((0..pages).map(|page| ((gpa + page) << 12, ((hpa + page) << 12, flags))));
                    }
                }
                Step::Unmap { gpa, pages } => {
                    let all = pages > 0 && (gpa..gpa + pages).all(|page| model.contains_key(&(page << 12)));
                    let done = space.unmap(&host, Span::new(Gpa(gpa << 12), pages << 12).unwrap());
                    prop_assert_eq!(done.is_ok(), all);
                    if all {
                        model.retain(|page, _| !(gpa << 12..(gpa + pages) << 12).contains(page));
                    }
                }
            }
            prop_assert_eq!(&*host.pages.borrow(), &model);
            for page in 0..64u64 {
                let expected = model.get(&(page << 12)).map(|&(hpa, flags)| (Hpa(hpa + 5), flags));
                prop_assert_eq!(space.translate(Gpa((page << 12) + 5)), expected);
            }
            let spans: Vec<Span<Gpa>> = space.iter().map(|region| region.gpa).collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
        }
    }
}
