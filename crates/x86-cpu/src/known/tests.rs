//! What is known against what is found out anew, while registers, tables and instructions change.

extern crate std;

use super::*;
use crate::exit::{Direction, Instruction as Exited};
use crate::vmcb::Attributes;
use core::cell::RefCell;
use proptest::prelude::*;
use std::vec::Vec;

const PAGES_OF_RAM: u64 = 16;
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;

/// RAM from 0 on. Its places are addresses.
struct Ram {
    bytes: RefCell<Vec<u8>>,
    /// How many blocks a place is to be had in: with fewer, some aren't seen.
    seen: u64,
}

impl Memory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory> {
        let bytes = self.bytes.borrow();
        let at = usize::try_from(address).map_err(|_| NoMemory(address))?;
        let part = at.checked_add(into.len()).and_then(|end| bytes.get(at..end)).ok_or(NoMemory(address))?;
        into.copy_from_slice(part);
        Ok(())
    }
}

impl Sight for Ram {
    type Place = u64;

    fn place(&self, address: u64, bytes: u64) -> Option<u64> {
        assert!(address % PAGE + bytes <= PAGE, "a place crosses a page");
        (address / PAGE < self.seen).then_some(address)
    }

    fn look<const FURTHER: usize>(&self, place: u64) -> u64 {
        let mut word = [0; 8];
        self.read(place + FURTHER as u64, &mut word).unwrap();
        u64::from_le_bytes(word)
    }
}

impl Ram {
    fn put(&self, address: u64, bytes: &[u8]) {
        self.bytes.borrow_mut()[address as usize..address as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn entry(&self, table: u64, index: u64, value: u64) {
        self.put(table * PAGE + index * 8, &value.to_le_bytes());
    }
}

/// Where the code is seen, and where the data.
const CODE: u64 = 0x40_0000_0000;
const DATA: u64 = CODE + 0x1000;

/// Two sets of tables (roots in pages 1 and 8): four levels to the code in page 5, and to data in page 6; and by a large page to all of RAM.
fn ram() -> Ram {
    let ram = Ram { bytes: RefCell::new(std::vec![0; (PAGES_OF_RAM * PAGE) as usize]), seen: PAGES_OF_RAM };
    let all = P | RW | US;
    for first in [1, 8] {
        ram.entry(first, 0, ((first + 1) * PAGE) | all);
        ram.entry(first + 1, 256, ((first + 2) * PAGE) | all);
        ram.entry(first + 2, 0, ((first + 3) * PAGE) | all);
        ram.entry(first + 2, 1, all | PS);
        ram.entry(first + 3, 0, (5 * PAGE) | P | RW);
        ram.entry(first + 3, 1, (6 * PAGE) | P | RW | NX);
    }
    // CPUID at three places; a store, with a page's end behind it; RDMSR.
    ram.put(5 * PAGE, &[0x0f, 0xa2, 0x66, 0x0f, 0xa2]);
    ram.put(5 * PAGE + 0x100, &[0x89, 0x03]);
    ram.put(5 * PAGE + 0x200, &[0x0f, 0x32]);
    ram.put(5 * PAGE + 0xffe, &[0x0f, 0xa2]);
    ram
}

fn save_with(change: impl FnOnce(&mut Save)) -> Save {
    let mut changed = save();
    change(&mut changed);
    changed
}

fn save() -> Save {
    let mut save = Save::zero();
    save.cr0 = 1 << 31 | 1 << 16 | 1;
    save.cr3 = PAGE;
    save.cr4 = 1 << 5;
    save.efer = 1 << 12 | 1 << 11 | 1 << 10 | 1 << 8;
    save.cs.attributes = Attributes::CODE64;
    save.rip = CODE;
    save
}

const CPUID: (Kind, Exit) = (0x72, Exit::Instruction(Exited::Cpuid));
const RDMSR: (Kind, Exit) = (0x7c, Exit::Msr(Direction::Read));
const BITS: u8 = 40;

fn slow_length(save: &Save, exit: &Exit, ram: &Ram) -> Option<u8> {
    let bytes = fetch::bytes(save, BITS, ram).ok()?;
    fetch::decode(bytes.as_slice(), walk::code(save), exit).ok().map(|found| found.length)
}

fn slow_access(save: &Save, ram: &Ram) -> Option<Instruction> {
    let bytes = fetch::bytes(save, BITS, ram).ok()?;
    Instruction::decode(bytes.as_slice(), walk::code(save)).ok()
}

// What is known of a guest in a state.

fn length(known: &mut Known<u64>, save: &Save, kind: Kind, ram: &Ram) -> Option<u8> {
    let state = known.state(save);
    known.length(state, save.rip, kind, ram)
}

fn access(known: &mut Known<u64>, save: &Save, assisted: &[u8], ram: &Ram) -> Option<Instruction> {
    let state = known.state(save);
    known.access(state, save.rip, assisted, ram).map(|reach| reach.instruction)
}

fn translate(known: &mut Known<u64>, save: &Save, linear: u64, access: Access, ram: &Ram) -> Option<u64> {
    let state = known.state(save);
    known.translate(state, save, linear, access, ram)
}

#[test]
fn what_was_found_is_known() {
    let ram = ram();
    for rip in [CODE, CODE + 2, CODE + 0x20_0000 + 5 * PAGE] {
        let (mut known, save) = (Known::default(), save_with(|save| save.rip = rip));
        let (kind, exit) = CPUID;
        assert_eq!(length(&mut known, &save, kind, &ram), None);
        let found = known.find_length(&save, kind, &exit, BITS, &ram);
        assert_eq!(found, Some(if rip == CODE + 2 { 3 } else { 2 }));
        assert_eq!(length(&mut known, &save, kind, &ram), found);
        assert_eq!(length(&mut known, &save, RDMSR.0, &ram), None, "another exit");
        known.forget();
        assert_eq!(length(&mut known, &save, kind, &ram), None);
    }
    let (mut known, store) = (Known::default(), save_with(|save| save.rip = CODE + 0x100));
    assert!(access(&mut known, &store, &[], &ram).is_none());
    known.find_access(&store, BITS, &ram).unwrap();
    assert_eq!(access(&mut known, &store, &[], &ram), slow_access(&store, &ram));
    // What the processor says that it has executed counts, if it says it.
    let mut told = |bytes: &[u8]| access(&mut known, &store, bytes, &ram).is_some();
    assert!(told(&[0x89, 0x03]) && told(&[0x89, 0x03, 0x90]));
    assert!(!told(&[0x89]) && !told(&[0x89, 0x13]));
    for linear in [DATA + 8, CODE + 0x20_0000 + 6 * PAGE + 8] {
        assert_eq!(translate(&mut known, &store, linear, Access::Write, &ram), None);
        assert_eq!(known.find_page(&store, linear, Access::Write, BITS, &ram), Ok(6 * PAGE + 8));
        assert_eq!(translate(&mut known, &store, linear + 8, Access::Write, &ram), Some(6 * PAGE + 16));
        assert_eq!(translate(&mut known, &store, linear, Access::Read, &ram), None, "another access");
    }
}

/// Guests switch between address spaces: what is known of a few of them stays so, and of many is found anew.
#[test]
fn what_is_known_is_so_in_several_states() {
    let (ram, mut known, (kind, exit)) = (ram(), Known::default(), CPUID);
    let at = |space: u64, rip: u64| save_with(|save| (save.cr3, save.rip) = (space, CODE + rip));
    let (one, other) = (at(PAGE, 0), at(8 * PAGE, 2));
    known.find_length(&one, kind, &exit, BITS, &ram);
    known.find_length(&other, kind, &exit, BITS, &ram);
    for _ in 0..3 {
        assert_eq!(length(&mut known, &one, kind, &ram), Some(2));
        assert_eq!(length(&mut known, &other, kind, &ram), Some(3));
        assert_eq!(length(&mut known, &at(8 * PAGE, 0), kind, &ram), None, "found in another space");
    }
    // Of another ring and mode nothing of it holds.
    for number in [0, 1, 2, 3, 4, 6] {
        let mut changed = one;
        flip(&mut changed, number, 0);
        assert_eq!(length(&mut known, &changed, kind, &ram), None, "{number}");
    }
    assert_eq!(length(&mut known, &one, kind, &ram), Some(2));
    for space in 0..20 {
        known.state(&at((space * PAGE) | 8, 0));
    }
    assert_eq!(length(&mut known, &one, kind, &ram), None);
    assert_eq!(known.find_length(&one, kind, &exit, BITS, &ram), Some(2));
    assert_eq!(length(&mut known, &one, kind, &ram), Some(2));
}

#[test]
fn what_isn_t_seen_or_crosses_a_page_isn_t_kept() {
    let (kind, exit) = CPUID;
    let mut known = Known::default();
    // At a page's end: what follows may be another page's.
    let at_end = save_with(|save| save.rip = CODE + 0xffe);
    assert_eq!(known.find_length(&at_end, kind, &exit, BITS, &ram()), Some(2));
    assert_eq!(length(&mut known, &at_end, kind, &ram()), None);
    let dim = Ram { seen: 4, ..ram() };
    assert_eq!(known.find_length(&save(), kind, &exit, BITS, &dim), Some(2));
    assert_eq!(length(&mut known, &save(), kind, &dim), None);
    // Of tables of other kinds nothing is kept.
    let five = save_with(|save| {
        save.cr4 |= 1 << 12;
        save.cr3 = 8 * PAGE;
    });
    let deep = ram();
    deep.entry(8, 0, PAGE | P | RW | US);
    assert_eq!(known.find_length(&five, kind, &exit, BITS, &deep), Some(2));
    assert_eq!(length(&mut known, &five, kind, &deep), None);
    let flat = save_with(|save| {
        (save.efer, save.cr0, save.rip) = (0, 1, 5 * PAGE);
        save.cs.attributes = Attributes::CODE32;
        save.cs.limit = u32::MAX;
    });
    assert_eq!(known.find_length(&flat, kind, &exit, BITS, &deep), Some(2));
    assert_eq!(length(&mut known, &flat, kind, &deep), None);
}

/// Something that a guest does.
#[derive(Clone, Debug)]
enum Step {
    /// It changes a bit of an entry.
    Entry { table: u64, index: u64, bit: u32 },
    /// It changes a byte of its code.
    Code { at: u64, byte: u8 },
    /// It changes a bit of a register.
    Register { number: usize, bit: u32 },
    /// It goes on elsewhere.
    Jump { rip: u64 },
    /// It is as it was at the beginning.
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let entry = (1u64..12, prop_oneof![Just(0u64), Just(1), Just(256)], 0u32..64)
        .prop_map(|(table, index, bit)| Step::Entry { table, index, bit });
    let code = (
        prop_oneof![0u64..16, 0x100u64..0x110, 0x200u64..0x210, 0xff8u64..0x1000],
        prop_oneof![
            any::<u8>(),
            proptest::sample::select(&[0x0f, 0xa2, 0x66, 0x89, 0x8b, 0x32, 0x48, 0x03][..])
        ],
    )
        .prop_map(|(at, byte)| Step::Code { at, byte });
    let register = (0usize..7, 0u32..64).prop_map(|(number, bit)| Step::Register { number, bit });
    prop_oneof![4 => entry, 2 => code, 3 => register, 4 => jump(), 4 => Just(Step::Restore)]
}

fn jump() -> impl Strategy<Value = Step> {
    const OFFSETS: [u64; 8] = [0, 2, 0x100, 0x200, 0xffe, 0xff1, 0xff2, 0x20_0000 + 5 * PAGE];
    proptest::sample::select(&OFFSETS[..]).prop_map(|offset| Step::Jump { rip: CODE + offset })
}

fn flip(save: &mut Save, number: usize, bit: u32) {
    match number {
        0 => save.cr0 ^= 1 << [16, 31, 0][bit as usize % 3],
        1 => save.cr3 = if save.cr3 == PAGE { 8 * PAGE } else { PAGE },
        2 => save.cr4 ^= 1 << [20, 21, 12, 5][bit as usize % 4],
        3 => save.efer ^= 1 << [11, 10][bit as usize % 2],
        4 => save.cpl ^= 3,
        5 => save.rflags ^= 1 << 18,
        _ => save.cs.attributes = Attributes(save.cs.attributes.0 ^ 1 << [9, 10][bit as usize % 2]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever is known is what would be found now.
    #[test]
    fn what_is_known_is_what_would_be_found(steps in proptest::collection::vec(step(), 1..40)) {
        let (ram, mut save, mut known) = (ram(), save(), Known::default());
        for step in steps {
            match step {
                Step::Entry { table, index, bit } => {
                    let at = table * PAGE + index * 8;
                    // What is beyond RAM isn't asked for.
                    let value = ram.look::<0>(at) ^ 1 << bit;
                    ram.put(at, &value.to_le_bytes());
                }
                Step::Code { at, byte } => ram.put(5 * PAGE + at, &[byte]),
                Step::Register { number, bit } => flip(&mut save, number, bit),
                Step::Jump { rip } => save.rip = rip,
                Step::Restore => {
                    let (fresh, rip) = (self::ram(), save.rip);
                    ram.bytes.swap(&fresh.bytes);
                    save = save_with(|save| save.rip = rip);
                }
            }
            for (kind, exit) in [CPUID, RDMSR] {
                let now = slow_length(&save, &exit, &ram);
                if let Some(length) = self::length(&mut known, &save, kind, &ram) {
                    prop_assert_eq!(Some(length), now);
                }
                prop_assert_eq!(known.find_length(&save, kind, &exit, BITS, &ram), now);
            }
            let now = slow_access(&save, &ram);
            if let Some(access) = self::access(&mut known, &save, &[], &ram) {
                prop_assert_eq!(Some(access), now);
            }
            prop_assert_eq!(known.find_access(&save, BITS, &ram), fetch::bytes(&save, BITS, &ram));
            for (linear, access) in [
                (DATA + 0x10, Access::Read),
                (DATA + 0x18, Access::Write),
                (CODE + 0x20_0000 + 7 * PAGE, Access::Write),
            ] {
                let now = walk::translate(&save, linear, access, BITS, &ram);
                if let Some(address) = translate(&mut known, &save, linear, access, &ram) {
                    prop_assert_eq!(Ok(address), now);
                }
                prop_assert_eq!(known.find_page(&save, linear, access, BITS, &ram), now);
            }
        }
    }
}
