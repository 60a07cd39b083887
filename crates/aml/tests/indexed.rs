//! What is written to hardware's registers: behind an index, and as parts of them.

use std::collections::BTreeMap;

use axvm_aml::{Aml, Data, Hardware, Space};

/// Registers at ports 0x70 (which) and 0x71, and 16 bytes of memory at 0x1000. The memory at 0x2000 gives no answer.
#[derive(Default)]
struct Registers {
    index: u8,
    behind: BTreeMap<u8, u8>,
    memory: [u8; 16],
    /// Each write: address, bytes, value.
    log: Vec<(u64, u8, u64)>,
    /// Whether the index can't be written.
    is_stuck: bool,
}

impl Registers {
    fn place(&mut self, address: u64, bytes: u8) -> Option<&mut [u8]> {
        let at = usize::try_from(address.checked_sub(0x1000)?).ok()?;
        self.memory.get_mut(at..at + usize::from(bytes))
    }
}

impl Hardware for Registers {
    fn read(&mut self, space: Space, address: u64, bytes: u8) -> Option<u64> {
        match (space, address, bytes) {
            (Space::Ports, 0x71, 1) => Some(self.behind.get(&self.index).copied().unwrap_or(0).into()),
            (Space::Memory, ..) => {
                let place = self.place(address, bytes)?;
                Some(place.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            _ => None,
        }
    }

    fn write(&mut self, space: Space, address: u64, bytes: u8, value: u64) -> bool {
        match (space, address, bytes) {
            (Space::Ports, 0x70, 1) if !self.is_stuck => self.index = value as u8,
            (Space::Ports, 0x71, 1) => {
                self.behind.insert(self.index, value as u8);
            }
            (Space::Memory, ..) => match self.place(address, bytes) {
                Some(place) => place.copy_from_slice(&value.to_le_bytes()[..bytes.into()]),
                None => return false,
            },
            _ => return false,
        }
        self.log.push((address, bytes, value));
        true
    }
}

fn loaded(registers: Registers) -> Aml<Registers> {
    let mut aml = Aml::new(registers);
    aml.load(include_bytes!("data/indexed.aml"));
    assert_eq!(aml.failures(), []);
    aml
}

/// What a method gives, and whether that is sure.
fn call(aml: &mut Aml<Registers>, name: &[u8; 4], argument: u64) -> (Data, bool) {
    let id = aml.child(aml.root(), name).unwrap();
    let answer = aml.evaluate(id, &[argument]).unwrap();
    (answer.value, answer.is_sure)
}

/// What is written when a method is called, and how many writes weren't taken.
fn written(aml: &mut Aml<Registers>, name: &[u8; 4], argument: u64) -> (Vec<(u64, u8, u64)>, u64) {
    let before = aml.writes();
    call(aml, name, argument);
    (std::mem::take(&mut aml.hardware_mut().log), aml.writes() - before)
}

#[test]
fn a_register_behind_an_index_is_chosen_and_then_written() {
    let mut aml = loaded(Registers::default());
    assert_eq!(written(&mut aml, b"WWHL", 0xa5), (vec![(0x70, 1, 0x10), (0x71, 1, 0xa5)], 0));
    // A field of two registers, each of which is chosen.
    let two = vec![(0x70, 1, 0x12), (0x71, 1, 0x34), (0x70, 1, 0x13), (0x71, 1, 0x12)];
    assert_eq!(written(&mut aml, b"WWRD", 0x1234), (two, 0));
    // The rest of a register stays: it is read first.
    aml.hardware_mut().behind.insert(0x11, 0x0f);
    assert_eq!(written(&mut aml, b"WHGH", 0x2), (vec![(0x70, 1, 0x11), (0x70, 1, 0x11), (0x71, 1, 0x2f)], 0));
}

#[test]
fn a_register_behind_an_index_is_chosen_and_then_read() {
    let mut aml = loaded(Registers::default());
    aml.hardware_mut().behind.extend([(0x10, 0x77), (0x12, 0xcd), (0x13, 0xab)]);
    assert_eq!(call(&mut aml, b"RWHL", 0), (Data::Integer(0x77), true));
    assert_eq!(call(&mut aml, b"RWRD", 0), (Data::Integer(0xabcd), true));
}

#[test]
fn what_can_not_be_chosen_is_neither_read_nor_written() {
    let mut aml = loaded(Registers { is_stuck: true, ..Registers::default() });
    assert_eq!(written(&mut aml, b"WWHL", 1), (vec![], 1));
    assert_eq!(call(&mut aml, b"RWHL", 0), (Data::Integer(0), false));
    // Behind an index that isn't there, or that is behind one itself.
    let mut aml = loaded(Registers::default());
    assert_eq!(written(&mut aml, b"WLST", 1), (vec![], 1));
    assert_eq!(written(&mut aml, b"WDEP", 1), (vec![], 1));
    assert_eq!(call(&mut aml, b"RDEP", 0), (Data::Integer(0), false));
}

#[test]
fn bits_around_a_field_become_what_its_rule_says() {
    let mut aml = loaded(Registers::default());
    assert_eq!(written(&mut aml, b"WONE", 0x5a), (vec![(0x1000, 4, 0xffff_f5af)], 0));
    assert_eq!(written(&mut aml, b"WZER", 0x5a), (vec![(0x1004, 4, 0x0000_05a0)], 0));
    // Across two registers, of which each keeps the rest.
    aml.hardware_mut().memory[8..12].copy_from_slice(&[0x11, 0x22, 0x33, 0x44]);
    assert_eq!(written(&mut aml, b"WOVR", 0x5a), (vec![(0x1008, 2, 0xa211), (0x100a, 2, 0x4435)], 0));
}

#[test]
fn nothing_is_written_past_a_region_s_end_or_where_the_rest_of_a_register_is_not_known() {
    let mut aml = loaded(Registers::default());
    assert_eq!(written(&mut aml, b"WGON", 7), (vec![(0x100f, 1, 7)], 1));
    assert_eq!(written(&mut aml, b"WDM1", 7), (vec![], 1));
}

/// Nothing is written that hardware has decided which gave no answer: neither what, nor whether.
#[test]
fn what_is_in_doubt_is_not_written() {
    let mut aml = loaded(Registers::default());
    assert_eq!(written(&mut aml, b"WDBT", 1), (vec![], 4));
}
