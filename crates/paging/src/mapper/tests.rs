extern crate std;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::amd_io::AmdIoFormat;
use crate::format::MemoryType;
use crate::intel_io::{IntelIoFeatures, IntelIoFormat};
use crate::nested::NestedFormat;

const K4: u64 = 1 << 12;
const M2: u64 = 1 << 21;
const G1: u64 = 1 << 30;

/// Memory for tables that knows what is allocated, and a walker that holds what it saw until told to forget.
#[derive(Debug, Default)]
struct Fake {
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    words: BTreeMap<u64, u64>,
    allocated: BTreeMap<u64, usize>,
    next: u64,
    limit: Option<usize>,
    /// Table pages that a walker could still hold: not to be freed before an invalidation.
    held: BTreeSet<u64>,
    /// Entries that were valid since the last invalidation, with the value a walker may hold.
    seen: BTreeMap<u64, u64>,
    /// Entries written since the last barrier: walkers may see them in any order.
    unordered: BTreeSet<u64>,
    invalidations: Vec<Span<Gpa>>,
    invalidation_fails: bool,
    /// The bits of an entry of which one is set in each that is valid.
    valid: u64,
    /// What an entry leads to that is a table's.
    leads_to: Option<fn(u64) -> Option<u64>>,
}

impl Inner {
    fn leads_to(&self, entry: u64) -> Option<u64> {
        self.leads_to.and_then(|leads_to| leads_to(entry))
    }
}

impl Fake {
    fn new() -> Self {
        Self::of(|entry| (entry & 0xfff == 3).then_some(entry & 0xffff_ffff_f000))
    }

    /// For a format whose entries of tables are known so.
    fn of(leads_to: fn(u64) -> Option<u64>) -> Self {
        let fake = Self::default();
        fake.inner.borrow_mut().next = 0x10_0000;
        fake.inner.borrow_mut().valid = 1;
        fake.inner.borrow_mut().leads_to = Some(leads_to);
        fake
    }

    fn pages(&self) -> usize {
        self.inner.borrow().allocated.values().sum()
    }

    /// What a walker that was told of nothing new finds, as the hardware does it.
    fn walk(&self, root: Hpa, format: &impl Format, address: u64) -> Option<(u64, Attributes)> {
        let mut table = root.0;
        for level in format.start_level()..=3 {
            let shift = level_shift(level);
            let index = address >> shift;
            let index = if level == format.start_level() { index } else { index & 511 };
            let entry = self.read(Hpa(table + index * 8));
            match format.decode(entry, level) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next.0,
                Entry::Leaf(start, attributes) => {
                    return Some((start.0 + (address & ((1 << shift) - 1)), attributes));
                }
            }
        }
        None
    }
}

impl TableMemory for Fake {
    fn allocate(&self, pages: usize) -> Option<Hpa> {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(limit) = &mut inner.limit {
            *limit = limit.checked_sub(pages)?;
        }
        let size = pages as u64 * K4;
        let table = inner.next.next_multiple_of(size);
        inner.next = table + size;
        inner.allocated.insert(table, pages);
        Some(Hpa(table))
    }

    fn free(&self, table: Hpa, pages: usize) {
        let inner = &mut *self.inner.borrow_mut();
        assert_eq!(inner.allocated.remove(&table.0), Some(pages), "{table} was not allocated so");
        let end = table.0 + pages as u64 * K4;
        assert!(
            inner.held.range(table.0..end).next().is_none(),
            "{table} is freed while walkers may hold it"
        );
        inner.words.retain(|address, _| !(table.0..end).contains(address));
    }

    fn read(&self, entry: Hpa) -> u64 {
        let inner = self.inner.borrow();
        let (table, pages) = inner.allocated.range(..=entry.0).next_back().expect("a read of no table");
        assert!(entry.0 < table + *pages as u64 * K4, "a read of no table");
        inner.words.get(&entry.0).copied().unwrap_or(0)
    }

    fn write(&self, entry: Hpa, value: u64) {
        let old = self.read(entry);
        let inner = &mut *self.inner.borrow_mut();
        if value & inner.valid != 0 {
            assert_eq!(old & inner.valid, 0, "{entry}: a valid entry was replaced without a break");
            if let Some(seen) = inner.seen.get(&entry.0) {
                panic!("{entry}: {seen:#x} may still be held while {value:#x} is made");
            }
        }
        if old & inner.valid != 0 {
            inner.seen.insert(entry.0, old);
            inner.held.insert(entry.0 & !0xfff);
            // A table entry that goes may be held, and with it the table.
            if let Some(table) = inner.leads_to(old).filter(|table| inner.allocated.contains_key(table)) {
                inner.held.insert(table);
            }
        }
        if let Some(table) = inner.leads_to(value) {
            let unordered = inner.unordered.range(table..table + K4).next();
            assert_eq!(unordered, None, "{entry}: a table is linked before its entries are there");
        }
        inner.unordered.insert(entry.0);
        inner.words.insert(entry.0, value);
    }

    fn barrier(&self) {
        self.inner.borrow_mut().unordered.clear();
    }
}

impl Invalidate for Fake {
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated> {
        let inner = &mut *self.inner.borrow_mut();
        assert!(inner.unordered.is_empty(), "an invalidation may overtake {:x?}", inner.unordered);
        inner.invalidations.push(span);
        if inner.invalidation_fails {
            return Err(NotInvalidated);
        }
        inner.seen.clear();
        inner.held.clear();
        Ok(())
    }
}

fn span(start: u64, size: u64) -> Span<Gpa> {
    Span::new(Gpa(start), size).unwrap()
}

fn mapper(fake: &Fake, bits: u32) -> Mapper<&Fake> {
    Mapper::new(fake, Stage2Format::new(bits).unwrap()).unwrap()
}

#[test]
fn the_largest_block_that_both_addresses_allow_is_taken() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    mapper.map(span(G1, G1 + M2 + K4), Hpa(4 * G1), Attributes::RAM).unwrap();
    assert_eq!(mapper.query(Gpa(G1 + 5)), Some((Hpa(4 * G1 + 5), Attributes::RAM, 1)));
    assert_eq!(mapper.query(Gpa(2 * G1)), Some((Hpa(5 * G1), Attributes::RAM, 2)));
    assert_eq!(mapper.query(Gpa(2 * G1 + M2)), Some((Hpa(5 * G1 + M2), Attributes::RAM, 3)));
    assert_eq!(mapper.query(Gpa(2 * G1 + M2 + K4)), None);
    // The guest's side is aligned to 1 GiB, the host's to 4 KiB only.
    mapper.map(span(8 * G1, 2 * M2), Hpa(K4), Attributes::DMA).unwrap();
    assert_eq!(mapper.query(Gpa(8 * G1)), Some((Hpa(K4), Attributes::DMA, 3)));
    // Root of two pages; one level 2 and one level 3 for the first, one level 2 and two level 3 for the second.
    assert_eq!(mapper.pages_held(), 2 + 2 + 3);
    assert_eq!(fake.pages(), mapper.pages_held());
}

#[test]
fn concatenated_roots_resolve_the_highest_address() {
    for bits in [32, 39, 40, 43, 44, 48] {
        let fake = Fake::new();
        let mut mapper = mapper(&fake, bits);
        let top = (1 << bits) - K4;
        mapper.map(span(top, K4), Hpa(top), Attributes::REGISTERS).unwrap();
        assert_eq!(
            fake.walk(mapper.root(), mapper.format(), top + 4),
            Some((top + 4, Attributes::REGISTERS))
        );
        assert_eq!(mapper.query(Gpa(top)), Some((Hpa(top), Attributes::REGISTERS, 3)));
        assert_eq!(mapper.query(Gpa(1 << bits)), None);
        assert!(matches!(
            mapper.map(span(top, 2 * K4), Hpa(0), Attributes::RAM),
            Err(MapError::InputOutOfRange { .. })
        ));
    }
}

#[test]
fn an_overlap_names_the_address_and_changes_nothing() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    mapper.map(span(M2, M2), Hpa(M2), Attributes::RAM).unwrap();
    let before = fake.inner.borrow().words.clone();
    let pages = fake.pages();
    assert_eq!(
        mapper.map(span(0, M2 + 3 * K4), Hpa(8 * G1), Attributes::RAM),
        Err(MapError::AlreadyMapped { address: Gpa(M2), existing: Hpa(M2), requested: span(0, M2 + 3 * K4) })
    );
    assert_eq!(
        mapper.map(span(M2 + K4, K4), Hpa(0), Attributes::RAM),
        Err(MapError::AlreadyMapped {
            address: Gpa(M2 + K4),
            existing: Hpa(M2 + K4),
            requested: span(M2 + K4, K4)
        })
    );
    assert_eq!((fake.inner.borrow().words.clone(), fake.pages()), (before, pages));
}

#[test]
fn what_is_not_whole_pages_in_range_is_refused() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    for (start, size, output) in [(1, K4, 0), (0, 0x800, 0), (0, K4, 0x10), (0, 0, 0)] {
        assert!(matches!(
            mapper.map(span(start, size), Hpa(output), Attributes::RAM),
            Err(MapError::NotWholePages { .. })
        ));
    }
    assert!(matches!(
        mapper.map(span(0, 2 * K4), Hpa((1 << 48) - K4), Attributes::RAM),
        Err(MapError::OutputOutOfRange { .. })
    ));
    assert!(matches!(
        mapper.map(span(0, 2 * K4), Hpa(!0xfff), Attributes::RAM),
        Err(MapError::OutputOutOfRange { .. })
    ));
    assert_eq!(mapper.unmap(span(0, 1), &fake), Err(UnmapError::NotWholePages { span: span(0, 1) }));
    assert!(matches!(mapper.unmap(span(1 << 40, K4), &fake), Err(UnmapError::InputOutOfRange { .. })));
}

#[test]
fn without_memory_for_tables_nothing_is_half_mapped_or_half_unmapped() {
    for limit in 0..4 {
        let fake = Fake::new();
        let mut mapper = mapper(&fake, 40);
        let held = fake.pages();
        fake.inner.borrow_mut().limit = Some(limit);
        // Two tables at each end.
        let wanted = span(G1 - K4, 2 * K4);
        assert_eq!(mapper.map(wanted, Hpa(0), Attributes::RAM), Err(MapError::OutOfTables { needed: 4 }));
        assert_eq!((fake.pages(), mapper.pages_held()), (held, held));
        assert!(mapper.query(Gpa(G1 - K4)).is_none() && mapper.query(Gpa(G1)).is_none());
    }
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    mapper.map(span(0, G1), Hpa(0), Attributes::RAM).unwrap();
    fake.inner.borrow_mut().limit = Some(1);
    assert_eq!(mapper.unmap(span(K4, K4), &fake), Err(UnmapError::OutOfTables { needed: 2 }));
    assert_eq!(mapper.query(Gpa(K4)), Some((Hpa(K4), Attributes::RAM, 1)));
    assert!(fake.inner.borrow().invalidations.is_empty());
}

#[test]
fn whichever_table_cannot_be_had_all_is_as_before_and_goes_well_later() {
    let fake = Fake::new();
    fake.inner.borrow_mut().limit = Some(1);
    let format = Stage2Format::new(40).unwrap();
    assert!(matches!(Mapper::new(&fake, format), Err(MapError::OutOfTables { .. })), "a root of two pages");
    assert_eq!(fake.pages(), 0);
    for limit in 0..20 {
        let fake = Fake::new();
        let mut mapper = mapper(&fake, 40);
        mapper.map(span(0, G1), Hpa(0), Attributes::RAM).unwrap();
        let held = fake.pages();
        let query = |mapper: &Mapper<&Fake>, at: u64| mapper.query(Gpa(at)).map(|(to, ..)| to);
        // A large one from the end of a block on, and a hole at both ends of another.
        let (wanted, hole) = (span(2 * G1 - K4, G1 + 2 * K4), span(K4, G1 - 2 * K4));
        fake.inner.borrow_mut().limit = Some(limit);
        let mapped = mapper.map(wanted, Hpa(8 * G1 - K4), Attributes::RAM);
        if mapped.is_err() {
            assert_eq!((fake.pages(), mapper.pages_held()), (held, held), "{limit}");
            assert_eq!((query(&mapper, 2 * G1 - K4), query(&mapper, 2 * G1)), (None, None), "{limit}");
            fake.inner.borrow_mut().limit = None;
            mapper.map(wanted, Hpa(8 * G1 - K4), Attributes::RAM).unwrap();
        }
        fake.inner.borrow_mut().limit = Some(limit);
        let held = fake.pages();
        let unmapped = mapper.unmap(hole, &fake);
        if unmapped.is_err() {
            assert_eq!((fake.pages(), mapper.pages_held()), (held, held), "{limit}");
            assert_eq!(query(&mapper, G1 / 2), Some(Hpa(G1 / 2)), "{limit}");
            fake.inner.borrow_mut().limit = None;
            mapper.unmap(hole, &fake).unwrap();
        }
        assert_eq!((query(&mapper, G1 / 2), query(&mapper, 0)), (None, Some(Hpa(0))));
        assert_eq!((mapped.is_err(), unmapped.is_err()), (limit < 4, limit < 3), "{limit}");
        mapper.destroy(&fake).unwrap();
        assert_eq!(fake.pages(), 0);
    }
}

#[test]
fn a_hole_in_a_block_breaks_it_once_and_leaves_the_largest_rest() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    mapper.map(span(G1, G1), Hpa(2 * G1), Attributes::RAM).unwrap();
    assert_eq!(mapper.unmap(span(G1 + M2 + K4, K4), &fake), Ok(K4));
    assert_eq!(mapper.query(Gpa(G1)), Some((Hpa(2 * G1), Attributes::RAM, 2)));
    assert_eq!(mapper.query(Gpa(G1 + M2)), Some((Hpa(2 * G1 + M2), Attributes::RAM, 3)));
    assert_eq!(mapper.query(Gpa(G1 + M2 + K4)), None);
    assert_eq!(mapper.query(Gpa(G1 + M2 + 2 * K4)).unwrap().2, 3);
    assert_eq!(mapper.query(Gpa(G1 + 2 * M2)).unwrap().2, 2);
    assert_eq!(fake.inner.borrow().invalidations, [span(G1, G1), span(G1 + M2 + K4, K4)]);
    assert_eq!(mapper.unmap(span(0, 4 * G1), &fake), Ok(G1 - K4));
    assert_eq!((fake.pages(), mapper.pages_held()), (2, 2));
    assert_eq!(mapper.unmap(span(0, 4 * G1), &fake), Ok(0));
    assert_eq!(
        fake.inner.borrow().invalidations.len(),
        3,
        "nothing was mapped, so nothing is to be forgotten"
    );
}

#[test]
fn an_invalidation_that_does_not_complete_frees_no_table_and_leaves_nothing_mapped() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 40);
    mapper.map(span(0, K4), Hpa(0), Attributes::RAM).unwrap();
    mapper.map(span(G1, G1), Hpa(G1), Attributes::RAM).unwrap();
    let held = fake.pages();
    fake.inner.borrow_mut().invalidation_fails = true;
    assert_eq!(mapper.unmap(span(0, G1 + K4), &fake), Err(UnmapError::NotInvalidated(NotInvalidated)));
    assert_eq!((fake.pages(), mapper.pages_held()), (held, held));
    assert!(mapper.query(Gpa(0)).is_none() && mapper.query(Gpa(G1)).is_none());
}

#[test]
fn a_revoked_tree_translates_nothing_and_is_destroyed_whole() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 43);
    mapper.map(span(0, M2 + K4), Hpa(0), Attributes::RAM).unwrap();
    mapper.map(span(1 << 42, K4), Hpa(0), Attributes::REGISTERS).unwrap();
    mapper.clear_root(&fake).unwrap();
    assert_eq!(fake.walk(mapper.root(), mapper.format(), 0), None);
    assert_eq!((mapper.query(Gpa(0)), mapper.is_revoked()), (None, true));
    assert_eq!(mapper.map(span(0, K4), Hpa(0), Attributes::RAM), Err(MapError::Revoked));
    assert_eq!(mapper.unmap(span(0, K4), &fake), Err(UnmapError::Revoked));
    assert_eq!(fake.inner.borrow().invalidations, [span(0, 1 << 43)]);
    fake.inner.borrow_mut().invalidation_fails = true;
    let (mapper, _) = mapper.destroy(&fake).unwrap_err();
    assert_ne!(fake.pages(), 0);
    fake.inner.borrow_mut().invalidation_fails = false;
    mapper.destroy(&fake).unwrap();
    assert_eq!(fake.pages(), 0);
}

#[test]
fn a_tree_that_is_shut_translates_nothing_until_it_is_opened_again_and_can_be_changed_meanwhile() {
    let fake = Fake::new();
    let mut mapper = mapper(&fake, 43);
    let reaches =
        |mapper: &Mapper<&Fake>, address| fake.walk(mapper.root(), mapper.format(), address).is_some();
    mapper.map(span(0, M2 + K4), Hpa(0), Attributes::RAM).unwrap();
    mapper.map(span(1 << 42, K4), Hpa(0), Attributes::REGISTERS).unwrap();
    mapper.open();
    assert!(reaches(&mapper, 0), "it was open");
    for _ in 0..2 {
        mapper.shut(&fake).unwrap();
        assert!(!reaches(&mapper, 0) && !reaches(&mapper, 1 << 42));
        assert!(mapper.query(Gpa(0)).is_some() && !mapper.is_revoked());
    }
    assert_eq!(fake.inner.borrow().invalidations, [span(0, 1 << 43); 2]);
    // In a table that is there, in one that isn't, and away with what is there.
    mapper.map(span(M2 + K4, K4), Hpa(0), Attributes::RAM).unwrap();
    mapper.map(span(1 << 41, K4), Hpa(0), Attributes::RAM).unwrap();
    mapper.unmap(span(1 << 42, K4), &fake).unwrap();
    assert!([0, M2 + K4, 1 << 41, 1 << 42].iter().all(|&address| !reaches(&mapper, address)));
    mapper.open();
    assert!([0, M2 + K4, 1 << 41].iter().all(|&address| reaches(&mapper, address)));
    assert!(!reaches(&mapper, 1 << 42));
    // What is revoked is so for good.
    mapper.shut(&fake).unwrap();
    mapper.clear_root(&fake).unwrap();
    mapper.shut(&fake).unwrap();
    mapper.open();
    assert!(mapper.is_revoked() && !reaches(&mapper, 0) && mapper.query(Gpa(0)).is_none());
    mapper.destroy(&fake).unwrap();
    assert_eq!(fake.pages(), 0);
}

/// Page by page, what is mapped.
type Model = BTreeMap<u64, (u64, Attributes)>;

#[derive(Clone, Debug)]
enum Action {
    Map { page: u64, pages: u64, output: u64, attributes: Attributes },
    Unmap { page: u64, pages: u64 },
    Starve(usize),
    Shut,
    Open,
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let memory =
        prop_oneof![Just(MemoryType::Normal), Just(MemoryType::NormalNonCacheable), Just(MemoryType::Device)];
    (memory, any::<[bool; 3]>()).prop_map(|(memory, [read, write, execute])| Attributes {
        memory,
        read,
        write,
        execute,
    })
}

/// Pages around two 1 GiB boundaries, often aligned to 2 MiB or 1 GiB.
fn page() -> impl Strategy<Value = u64> {
    let base = prop_oneof![Just(0u64), Just(G1 - 2 * M2), Just(G1), Just(512 * G1 - M2), Just(512 * G1)];
    (base, 0..4u64, prop_oneof![3 => Just(0u64), 2 => 0..512u64])
        .prop_map(|(base, blocks, page)| base / K4 + blocks * 512 + page)
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![30 => 1..1500u64, 15 => (1..4u64).prop_map(|blocks| blocks * 512), 1 => Just(G1 / K4)]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (page(), pages(), page(), attributes())
            .prop_map(|(page, pages, output, attributes)| Action::Map { page, pages, output, attributes }),
        4 => (page(), pages()).prop_map(|(page, pages)| Action::Unmap { page, pages }),
        1 => (0..4usize).prop_map(Action::Starve),
        1 => Just(Action::Shut),
        1 => Just(Action::Open),
    ]
}

/// Carries out any sequence on a tree, and compares what a walker finds with a map of pages.
fn compare<F: Format + Copy>(fake: &Fake, format: F, actions: Vec<Action>) -> Result<(), TestCaseError> {
    let mut mapper = Mapper::new(fake, format).unwrap();
    let mut model = Model::new();
    let mut touched = BTreeSet::new();
    let mut shut = false;
    for action in actions {
        fake.inner.borrow_mut().limit = None;
        match action {
            Action::Map { page, pages, output, attributes } => {
                let taken = model.range(page..page + pages).next().map(|(page, (to, _))| (*page, *to));
                let result = mapper.map(span(page * K4, pages * K4), Hpa(output * K4), attributes);
                if !format.serves(attributes) {
                    let refused = matches!(result, Err(MapError::NotServed { .. }));
                    prop_assert!(refused);
                    continue;
                }
                match taken {
                    None => {
                        prop_assert_eq!(result, Ok(()));
                        model.extend((0..pages).map(|n| (page + n, (output + n, attributes))));
                    }
                    Some((at, to)) => prop_assert_eq!(
                        result,
                        Err(MapError::AlreadyMapped {
                            address: Gpa(at * K4),
                            existing: Hpa(to * K4),
                            requested: span(page * K4, pages * K4),
                        })
                    ),
                }
                touched.extend([
                    page.saturating_sub(1),
                    page,
                    page + pages / 2,
                    page + pages - 1,
                    page + pages,
                ]);
            }
            Action::Unmap { page, pages } => {
                let gone: Vec<u64> = model.range(page..page + pages).map(|(page, _)| *page).collect();
                let result = mapper.unmap(span(page * K4, pages * K4), fake);
                prop_assert_eq!(result, Ok(gone.len() as u64 * K4));
                for page in gone {
                    model.remove(&page);
                }
                touched.extend([
                    page.saturating_sub(1),
                    page,
                    page + pages / 2,
                    page + pages - 1,
                    page + pages,
                ]);
            }
            Action::Starve(limit) => {
                // What fails for want of memory changes nothing, which the comparison below shows.
                fake.inner.borrow_mut().limit = Some(limit);
                if let Some((page, _)) = model.first_key_value() {
                    let page = *page;
                    match mapper.unmap(span(page * K4, K4), &fake) {
                        Ok(bytes) => {
                            prop_assert_eq!(bytes, K4);
                            model.remove(&page);
                        }
                        Err(error) => {
                            let starved = matches!(error, UnmapError::OutOfTables { .. });
                            prop_assert!(starved)
                        }
                    }
                    touched.extend([page, page + 1]);
                }
            }
            Action::Shut => {
                prop_assert_eq!(mapper.shut(fake), Ok(()));
                shut = true;
            }
            Action::Open => {
                mapper.open();
                shut = false;
            }
        }
        prop_assert_eq!(fake.pages(), mapper.pages_held());
        let samples = model.keys().step_by(model.len() / 64 + 1).chain(touched.iter());
        for page in samples {
            let expected = model.get(page).map(|(to, attributes)| (to * K4 + 0x123, *attributes));
            let address = page * K4 + 0x123;
            let walked = fake.walk(mapper.root(), mapper.format(), address);
            prop_assert_eq!(walked, expected.filter(|_| !shut), "{:#x}", address);
            let found = mapper.query(Gpa(address)).map(|(to, attributes, _)| (to.0, attributes));
            prop_assert_eq!(found, expected, "{:#x}", address);
        }
    }
    prop_assert_eq!(mapper.unmap(span(0, 1 << format.input_bits()), &fake), Ok(model.len() as u64 * K4));
    prop_assert_eq!(fake.pages(), mapper.format().root_pages(), "an empty tree is its root");
    prop_assert!(mapper.destroy(&fake).is_ok());
    prop_assert_eq!(fake.pages(), 0);
    Ok(())
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    prop::collection::vec(action(), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_sequence_maps_what_a_map_of_pages_says(bits in prop_oneof![Just(40u32), Just(44)], actions in actions()) {
        compare(&Fake::new(), Stage2Format::new(bits).unwrap(), actions)?;
    }

    /// AMD64 APM 2, 5.3: present, written, user and accessed, without the bits of a block or page.
    #[test]
    fn any_sequence_of_nested_tables_does(huge: bool, actions in actions()) {
        let fake = Fake::of(|entry| (entry & 0xfff == 0x27).then_some(entry & 0xf_ffff_ffff_f000));
        compare(&fake, NestedFormat::new(48, huge), actions)?;
    }

    /// 48882, 2.2.3: Next Level 1 to 3.
    #[test]
    fn any_sequence_of_io_tables_does(actions in actions()) {
        let fake = Fake::of(|entry| {
            (entry & 1 != 0 && (1..4).contains(&(entry >> 9 & 7))).then_some(entry & 0xf_ffff_ffff_f000)
        });
        compare(&fake, AmdIoFormat::new(48).unwrap(), actions)?;
    }

    /// D51397, 9.8: read and written, no block. What an entry has in bits 53:52, no table has.
    #[test]
    fn any_sequence_of_second_stage_tables_does(blocks_2m: bool, blocks_1g: bool, snoop_control: bool, actions in actions()) {
        let fake = Fake::of(|entry| {
            (entry & 0x83 == 3 && entry >> 52 & 3 == 0).then_some(entry & 0xf_ffff_ffff_f000)
        });
        fake.inner.borrow_mut().valid = 3;
        let features = IntelIoFeatures { blocks_2m, blocks_1g, snoop_control };
        compare(&fake, IntelIoFormat::new(4, features).unwrap(), actions)?;
    }
}
