extern crate std;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::cell::{Cell, RefCell};

use super::*;

/// Two guests with so much room for what is typed; none: without a console.
struct Fake {
    room: [Cell<Option<usize>>; 2],
    took: RefCell<[Vec<u8>; 2]>,
    now_s: Cell<u64>,
    said: RefCell<Vec<String>>,
}

impl Fake {
    fn new(room: [Option<usize>; 2]) -> Self {
        Self {
            room: room.map(Cell::new),
            took: RefCell::default(),
            now_s: Cell::new(100),
            said: RefCell::default(),
        }
    }

    fn type_in(&self, waiting: &mut Waiting, count: usize) {
        (0..count).for_each(|at| waiting.keep(at as u8));
    }
}

impl Guests for Fake {
    fn offer(&self, vm: VmId, typed: &[u8]) -> Option<usize> {
        let room = &self.room[usize::from(vm.0)];
        let took = room.get()?.min(typed.len());
        room.set(Some(room.get()? - took));
        self.took.borrow_mut()[usize::from(vm.0)].extend_from_slice(&typed[..took]);
        Some(took)
    }

    fn name(&self, vm: VmId) -> &str {
        ["first", "second"][usize::from(vm.0)]
    }

    fn now_ns(&self) -> u64 {
        self.now_s.get() * 1_000_000_000
    }

    fn warn(&self, what: fmt::Arguments<'_>) {
        self.said.borrow_mut().push(format!("{what}"));
    }
}

#[test]
fn what_a_guest_has_no_room_for_waits_in_order() {
    let fake = Fake::new([Some(3), Some(0)]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, 5);
    waiting.offer(&fake);
    assert_eq!(fake.took.borrow()[0], [0, 1, 2]);
    fake.room[0].set(Some(9));
    waiting.offer(&fake);
    assert_eq!(fake.took.borrow()[0], [0, 1, 2, 3, 4]);
    assert!(fake.said.borrow().is_empty());
}

#[test]
fn what_was_typed_before_the_focus_moved_goes_to_the_one_that_had_it() {
    let fake = Fake::new([Some(0), Some(9)]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, 2);
    waiting.set_focus(VmId(1), &fake);
    fake.type_in(&mut waiting, 1);
    fake.room[0].set(Some(9));
    waiting.offer(&fake);
    assert_eq!(*fake.took.borrow(), [vec![0, 1], vec![0]]);
}

#[test]
fn a_guest_without_a_console_keeps_nothing() {
    let fake = Fake::new([None, None]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, 2);
    waiting.offer(&fake);
    fake.room[0].set(Some(9));
    waiting.offer(&fake);
    assert!(fake.took.borrow()[0].is_empty());
}

#[test]
fn a_guest_that_takes_nothing_holds_the_keys_for_as_long_as_it_is_waited_for_and_no_longer() {
    let fake = Fake::new([Some(0), Some(0)]);
    let mut waiting = Waiting::new(2, VmId(0));
    assert!(waiting.reads(&fake));
    fake.type_in(&mut waiting, MOST);
    assert!(!waiting.reads(&fake));
    assert_eq!(waiting.unread_for(&fake), Some(PATIENCE_S * 1_000_000_000));
    fake.now_s.set(101);
    assert!(!waiting.reads(&fake));
    fake.now_s.set(102);
    assert!(waiting.reads(&fake));
    assert_eq!(waiting.unread_for(&fake), None);
    // What comes now is lost, and nothing else.
    fake.type_in(&mut waiting, 7);
    assert!(waiting.reads(&fake));
    fake.room[0].set(Some(2 * MOST));
    waiting.offer(&fake);
    assert_eq!(fake.took.borrow()[0].len(), MOST);
    let said = fake.said.borrow();
    assert!(said[0].starts_with("first: it has taken nothing for 2 s"), "{said:?}");
    assert_eq!(said[1], "first: 7 bytes that were typed for it are lost");
    assert_eq!(said.len(), 2);
}

#[test]
fn a_guest_that_takes_something_is_waited_for_again() {
    let fake = Fake::new([Some(0), Some(0)]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, MOST + 10);
    assert!(!waiting.reads(&fake));
    fake.now_s.set(101);
    fake.room[0].set(Some(5));
    waiting.offer(&fake);
    fake.now_s.set(102);
    assert!(!waiting.reads(&fake), "it took something a second ago");
    fake.now_s.set(103);
    assert!(waiting.reads(&fake));
}

#[test]
fn with_room_again_the_keys_are_read_and_nothing_is_lost() {
    let fake = Fake::new([Some(0), Some(0)]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, MOST);
    assert!(!waiting.reads(&fake));
    fake.room[0].set(Some(5));
    waiting.offer(&fake);
    assert!(waiting.reads(&fake));
    fake.type_in(&mut waiting, 1);
    fake.room[0].set(Some(MOST));
    waiting.offer(&fake);
    assert_eq!(fake.took.borrow()[0].len(), MOST + 1);
    assert!(fake.said.borrow().is_empty());
}

#[test]
fn who_leaves_a_guest_that_takes_nothing_is_told_what_was_lost() {
    let fake = Fake::new([Some(0), Some(0)]);
    let mut waiting = Waiting::new(2, VmId(0));
    fake.type_in(&mut waiting, MOST);
    assert!(!waiting.reads(&fake));
    fake.now_s.set(200);
    assert!(waiting.reads(&fake));
    fake.type_in(&mut waiting, 3);
    waiting.set_focus(VmId(1), &fake);
    assert_eq!(fake.said.borrow()[1], "first: 3 bytes that were typed for it are lost");
}
