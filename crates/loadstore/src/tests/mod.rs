//! The decoder against an assembler's encodings and against an encoder of its own.

mod table;

use proptest::prelude::*;

use crate::{Access, Bank, Direction, Extension, Fault, Index, LoadStore, Mismatch, Mode, Offset};

/// An access to one register's data.
#[expect(clippy::too_many_arguments, reason = "a table's columns")]
const fn one(
    direction: Direction,
    bank: Bank,
    bytes: u8,
    extension: Extension,
    first: u8,
    base: u8,
    offset: Offset,
    mode: Mode,
) -> LoadStore {
    let log2_bytes = bytes.trailing_zeros() as u8;
    LoadStore { direction, bank, log2_bytes, extension, first, second: None, base, offset, mode }
}

/// To two registers' data.
#[expect(clippy::too_many_arguments, reason = "a table's columns")]
const fn two(
    direction: Direction,
    bank: Bank,
    bytes: u8,
    extension: Extension,
    [first, second]: [u8; 2],
    base: u8,
    offset: Offset,
    mode: Mode,
) -> LoadStore {
    let second = Some(second);
    LoadStore { second, ..one(direction, bank, bytes, extension, first, base, offset, mode) }
}

const fn at(register: u8, index: Index, shift: u8) -> Offset {
    Offset::Register { register, index, shift }
}

#[test]
fn what_an_assembler_writes_is_decoded() {
    for (text, word, expected) in table::DECODED {
        assert_eq!(LoadStore::decode(*word).as_ref(), Some(expected), "{text} ({word:#010x})");
    }
}

#[test]
fn what_is_no_plain_access_is_refused() {
    for (text, word) in table::REFUSED {
        assert_eq!(LoadStore::decode(*word), None, "{text} ({word:#010x})");
    }
}

#[test]
fn the_base_moves_before_or_after() {
    let access = |offset, mode| {
        one(Direction::Load, Bank::General, 8, Extension::Zero, 0, 1, offset, mode).access(0x1000, u64::MAX)
    };
    let plain = |address| Access { address, writeback: None };
    assert_eq!(access(Offset::Immediate(-8), Mode::Offset), plain(0xff8));
    assert_eq!(
        access(Offset::Immediate(-8), Mode::PreIndex),
        Access { address: 0xff8, writeback: Some(0xff8) }
    );
    assert_eq!(
        access(Offset::Immediate(16), Mode::PostIndex),
        Access { address: 0x1000, writeback: Some(0x1010) }
    );
    assert_eq!(access(at(2, Index::Uxtw, 3), Mode::Offset), plain(0x1000 + (0xffff_ffff << 3)));
    assert_eq!(access(at(2, Index::Sxtw, 3), Mode::Offset), plain(0xff8));
    assert_eq!(access(at(2, Index::Lsl, 3), Mode::Offset), plain(0xff8));
    assert_eq!(access(at(2, Index::Sxtx, 0), Mode::Offset), plain(0xfff));
}

#[test]
fn a_load_extends_as_it_says() {
    let loaded = |bytes, extension, value| {
        one(Direction::Load, Bank::General, bytes, extension, 0, 1, Offset::Immediate(0), Mode::Offset)
            .loaded(value)
    };
    const ABOVE: u64 = 0x5555_5555_0000_0000;
    assert_eq!(loaded(1, Extension::Zero, ABOVE | 0x7780), 0x80);
    assert_eq!(loaded(1, Extension::Sign32, ABOVE | 0x7780), 0xffff_ff80);
    assert_eq!(loaded(1, Extension::Sign64, ABOVE | 0x7780), 0xffff_ffff_ffff_ff80);
    assert_eq!(loaded(2, Extension::Sign64, ABOVE | 0x7_7fff), 0x7fff);
    assert_eq!(loaded(2, Extension::Sign32, ABOVE | 0x7_8000), 0xffff_8000);
    assert_eq!(loaded(4, Extension::Sign64, ABOVE | 0x8000_0000), 0xffff_ffff_8000_0000);
    assert_eq!(loaded(4, Extension::Zero, ABOVE | 0x8000_0000), 0x8000_0000);
    assert_eq!(loaded(8, Extension::Zero, u64::MAX - 1), u64::MAX - 1);
    // Vectors of 16 bytes are not one value: nothing is shifted out of range.
    assert_eq!(loaded(16, Extension::Zero, 7), 7);
}

#[test]
fn what_did_not_fault_so_is_not_performed() {
    // ldp x0, x1, [x2], #16; stp x0, x1, [x2], #16
    let [load, store] = [0xa8c1_0440, 0xa881_0440].map(|word| LoadStore::decode(word).unwrap());
    let at = |it: &LoadStore, base, write, address| it.at_fault(base, 0, Fault { write, address });
    let good = Access { address: 0x1ff0, writeback: Some(0x2000) };
    assert_eq!(at(&load, 0x1ff0, false, 0x1ff0), Ok(good));
    assert_eq!(at(&load, 0x1ff0, false, 0x1fff), Ok(good), "the second register's last byte");
    assert_eq!(at(&load, 0x1ff0, false, 0x2000), Err(Mismatch::Access), "past it");
    assert_eq!(at(&load, 0x1ff0, false, 0x1fef), Err(Mismatch::Access), "before it");
    assert_eq!(at(&load, 0x1ff0, true, 0x1ff0), Err(Mismatch::Access), "a store");
    assert_eq!(at(&store, 0x1ff0, true, 0x1ff0), Ok(good));
    assert_eq!(at(&load, 0x1ff8, false, 0x1ff8), Err(Mismatch::Access), "over the end of the page");
    assert_eq!(at(&load, 0x1ff8, false, 0x2000), Err(Mismatch::Access), "from the page before");
    assert_eq!(at(&load, 0x1f01, false, 0x1f01), Err(Mismatch::Misaligned));
    let tagged = Access { address: 0x5a00_0000_0000_1f00, writeback: Some(0x5a00_0000_0000_1f10) };
    assert_eq!(at(&load, tagged.address, false, 0x1f00), Ok(tagged), "a tag that the fault hasn't");
    assert_eq!(at(&load, u64::MAX - 15, false, u64::MAX - 15).map(|access| access.writeback), Ok(Some(0)));
}

/// A pair in the way the manual draws it, from its fields.
fn encode_pair(opc: u32, vector: bool, kind: u32, load: bool, imm7: i32, [t, t2, n]: [u32; 3]) -> u32 {
    opc << 30
        | 0b101 << 27
        | u32::from(vector) << 26
        | kind << 23
        | u32::from(load) << 22
        | (imm7 as u32 & 0x7f) << 15
        | t2 << 10
        | n << 5
        | t
}

/// A single register's form with a 9-bit immediate.
fn encode_imm9(size: u32, vector: bool, opc: u32, imm9: i32, kind: u32, [t, n]: [u32; 2]) -> u32 {
    size << 30
        | 0b111 << 27
        | u32::from(vector) << 26
        | opc << 22
        | (imm9 as u32 & 0x1ff) << 12
        | kind << 10
        | n << 5
        | t
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever the instruction, the answer is one, and within bounds.
    #[test]
    fn any_word_is_answered(word: u32, base: u64, index: u64, value: u64) {
        if let Some(it) = LoadStore::decode(word) {
            prop_assert!(it.registers().chain(it.index()).all(|register| register < 32) && it.base() < 32);
            prop_assert!(matches!(it.bytes(), 1 | 2 | 4 | 8 | 16));
            prop_assert!(it.bytes() < 16 || it.bank() == Bank::Vector);
            let access = it.access(base, index);
            prop_assert!(access.writeback.is_none_or(|moved| access.address == base || access.address == moved));
            it.loaded(value);
        }
    }

    /// Whatever the instruction and the registers: what is performed lies in the page that faulted, the fault in it.
    #[test]
    fn nothing_leads_beyond_the_page_that_faulted(
        class in 0usize..3, rest: u32, base: u64, index: u64, write: bool, distance in -2i64..34,
    ) {
        // Words of the large classes, or most would be none: pairs, unsigned offsets, the other forms.
        let (fixed, mask) =
            [(0x2800_0000, 0x3a00_0000), (0x3900_0000, 0x3b00_0000), (0x3800_0000, 0x3b00_0000)][class];
        let Some(it) = LoadStore::decode(rest & !mask | fixed) else { return Ok(()) };
        // Around the end of a page.
        let aside = it.access(base, index).address.wrapping_sub(base);
        let base = (base & !0xfff | 0xfc0 | base & 0x3f & !(it.bytes() - 1)).wrapping_sub(aside);
        let fault = Fault { write, address: it.access(base, index).address.wrapping_add_signed(distance) };
        let untagged = |address: u64| address & ((1 << 56) - 1);
        match it.at_fault(base, index, fault) {
            Ok(access) => {
                prop_assert_eq!(access, it.access(base, index));
                prop_assert_eq!(it.direction() == Direction::Store, write);
                prop_assert_eq!(access.address % it.bytes(), 0);
                for byte in 0..it.total() {
                    let at = access.address.wrapping_add(byte);
                    prop_assert_eq!(untagged(at) >> 12, untagged(fault.address) >> 12);
                }
                prop_assert!(0 <= distance && distance < it.total() as i64);
            }
            Err(_) => {
                let address = it.access(base, index).address;
                let within = address & 0xfff <= 0x1000 - it.total();
                prop_assert!(
                    (it.direction() == Direction::Store) != write
                        || !(0..it.total() as i64).contains(&distance)
                        || address % it.bytes() != 0
                        || !within
                );
            }
        }
    }

    #[test]
    fn pairs_say_what_was_encoded(
        wide: bool, vector: bool, kind in 0u32..4, load: bool, imm7 in -64i32..64,
        t in 0u32..32, t2 in 0u32..32, n in 0u32..32,
    ) {
        let opc = if wide { 2 } else { 0 };
        let bytes = match (vector, wide) { (false, false) | (true, false) => 4, (false, true) => 8, (true, true) => 16 };
        let decoded = LoadStore::decode(encode_pair(opc, vector, kind, load, imm7, [t, t2, n]));
        let written_back = kind & 1 != 0;
        let open = load && t == t2 || written_back && !vector && n != 31 && (t == n || t2 == n);
        match decoded {
            None => prop_assert!(open),
            Some(it) => {
                prop_assert!(!open);
                prop_assert_eq!(it.bytes(), bytes);
                prop_assert_eq!(it.registers().map(u32::from).collect::<Vec<_>>(), vec![t, t2]);
                prop_assert_eq!(u32::from(it.base()), n);
                let moved = 0x10_0000i64 + i64::from(imm7) * bytes as i64;
                let access = it.access(0x10_0000, 0);
                let address = if kind == 1 { 0x10_0000 } else { moved };
                prop_assert_eq!(access.address as i64, address);
                prop_assert_eq!(access.writeback.map(|moved| moved as i64), written_back.then_some(moved));
            }
        }
    }

    #[test]
    fn single_registers_say_what_was_encoded(
        size in 0u32..4, signed: bool, load: bool, imm9 in -256i32..256, kind in 0u32..4,
        t in 0u32..32, n in 0u32..32,
    ) {
        // Stores, loads, loads with sign to 64 bits; not PRFM's place.
        let opc = match (load, signed) { (false, _) => 0, (true, false) => 1, (true, true) => 2 };
        prop_assume!(!(opc == 2 && size == 3));
        let written_back = kind & 1 != 0;
        let open = written_back && n != 31 && t == n;
        match LoadStore::decode(encode_imm9(size, false, opc, imm9, kind, [t, n])) {
            None => prop_assert!(open),
            Some(it) => {
                prop_assert!(!open);
                prop_assert_eq!(it.direction(), if load { Direction::Load } else { Direction::Store });
                prop_assert_eq!(it.bytes(), 1 << size);
                prop_assert_eq!(it.registers().map(u32::from).collect::<Vec<_>>(), vec![t]);
                let moved = 0x1000 + i64::from(imm9);
                let access = it.access(0x1000, 0);
                prop_assert_eq!(access.address as i64, if kind == 1 { 0x1000 } else { moved });
                prop_assert_eq!(access.writeback.map(|moved| moved as i64), written_back.then_some(moved));
            }
        }
    }
}
