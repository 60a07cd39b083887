//! The encodings: Arm ARM, DDI 0487, C4.1.94, "Loads and Stores".

use crate::{Bank, Direction, Extension, Index, LoadStore, Mode, Offset};

/// Register 31: the zero register, the stack pointer, or a field that must be all ones.
const R31: u8 = 31;

/// `bits` bits from bit `low` on.
const fn field(word: u32, low: u32, bits: u32) -> u32 {
    word >> low & ((1 << bits) - 1)
}

/// The same, signed.
const fn signed(word: u32, low: u32, bits: u32) -> i64 {
    let shift = 64 - bits;
    (field(word, low, bits) as i64) << shift >> shift
}

const fn register(word: u32, low: u32) -> u8 {
    field(word, low, 5) as u8
}

const fn is_set(word: u32, bit: u32) -> bool {
    word >> bit & 1 != 0
}

/// The classes by their fixed bits; of each, what else must hold.
pub(crate) const fn decode(word: u32) -> Option<LoadStore> {
    let decoded = match field(word, 27, 3) {
        // op0 x1x0 with bits 29:27 = 101: pairs.
        0b101 if !is_set(word, 25) => pair(word),
        0b111 => match (field(word, 24, 2), is_set(word, 21)) {
            (0b01, _) => unsigned_offset(word),
            (0b00, false) => immediate(word),
            (0b00, true) if field(word, 10, 2) == 0b10 => register_offset(word),
            (0b00, true) => acquire_rcpc(word),
            _ => None,
        },
        0b001 => ordered(word),
        0b011 if field(word, 24, 3) == 0b001 => rcpc_unscaled(word),
        _ => None,
    };
    match decoded {
        Some(decoded) if is_settled(&decoded) => Some(decoded),
        _ => None,
    }
}

/// Whether the manual says what happens: not a pair loaded into one register, nor writeback of a register that holds data
/// (both CONSTRAINED UNPREDICTABLE).
const fn is_settled(it: &LoadStore) -> bool {
    let (twice, holds_base) = match it.second {
        Some(second) => (second == it.first, second == it.base || it.first == it.base),
        None => (false, it.first == it.base),
    };
    let writes_back = !matches!(it.mode, Mode::Offset);
    let overwritten = writes_back && holds_base && it.base != R31 && matches!(it.bank, Bank::General);
    !(overwritten || twice && matches!(it.direction, Direction::Load))
}

/// Size, direction and extension of a single register's access, by `size`, V and `opc`. PRFM has its place here and isn't
/// one.
const fn single(word: u32, offset: Offset, mode: Mode) -> Option<LoadStore> {
    let (size, opc) = (field(word, 30, 2) as u8, field(word, 22, 2));
    let (bank, log2_bytes, direction, extension) = if is_set(word, 26) {
        let direction = if opc & 1 == 0 { Direction::Store } else { Direction::Load };
        let log2_bytes = match (size, opc >> 1) {
            (size, 0) => size,
            (0, _) => 4,
            _ => return None,
        };
        (Bank::Vector, log2_bytes, direction, Extension::Zero)
    } else {
        let (direction, extension) = match (opc, size) {
            (0b00, _) => (Direction::Store, Extension::Zero),
            (0b01, _) => (Direction::Load, Extension::Zero),
            (0b10, 0..=2) => (Direction::Load, Extension::Sign64),
            (0b11, 0..=1) => (Direction::Load, Extension::Sign32),
            _ => return None,
        };
        (Bank::General, size, direction, extension)
    };
    let (first, base) = (register(word, 0), register(word, 5));
    Some(LoadStore { direction, bank, log2_bytes, extension, first, second: None, base, offset, mode })
}

/// Load/store register (unsigned immediate).
const fn unsigned_offset(word: u32) -> Option<LoadStore> {
    match single(word, Offset::Immediate(0), Mode::Offset) {
        Some(it) => {
            let bytes = (field(word, 10, 12) as i64) << it.log2_bytes;
            Some(LoadStore { offset: Offset::Immediate(bytes), ..it })
        }
        None => None,
    }
}

/// Load/store register (unscaled immediate), (immediate post-indexed), (unprivileged), (immediate pre-indexed).
const fn immediate(word: u32) -> Option<LoadStore> {
    let mode = match field(word, 10, 2) {
        0b00 => Mode::Offset,
        0b01 => Mode::PostIndex,
        // Unprivileged: general registers only.
        0b10 if is_set(word, 26) => return None,
        0b10 => Mode::Offset,
        _ => Mode::PreIndex,
    };
    single(word, Offset::Immediate(signed(word, 12, 9)), mode)
}

/// Load/store register (register offset).
const fn register_offset(word: u32) -> Option<LoadStore> {
    let index = match field(word, 13, 3) {
        0b010 => Index::Uxtw,
        0b011 => Index::Lsl,
        0b110 => Index::Sxtw,
        0b111 => Index::Sxtx,
        _ => return None,
    };
    match single(word, Offset::Immediate(0), Mode::Offset) {
        Some(it) => {
            let shift = if is_set(word, 12) { it.log2_bytes } else { 0 };
            let register = register(word, 16);
            Some(LoadStore { offset: Offset::Register { register, index, shift }, ..it })
        }
        None => None,
    }
}

/// LDAPR, which lies among the atomics: `size 111000 101 11111 110000 Rn Rt`.
const fn acquire_rcpc(word: u32) -> Option<LoadStore> {
    if word & 0x3fff_fc00 != 0x38bf_c000 {
        return None;
    }
    // Its opc reads 0b10, which elsewhere is a signed load.
    single(word & !(3 << 22) | 1 << 22, Offset::Immediate(0), Mode::Offset)
}

/// LDAR, LDLAR, STLR, STLLR: `size 001000 1 L 0 11111 o0 11111 Rn Rt`.
const fn ordered(word: u32) -> Option<LoadStore> {
    if word & 0x3fbf_7c00 != 0x089f_7c00 {
        return None;
    }
    let opc = if is_set(word, 22) { 1 << 22 } else { 0 };
    single(word & !(3 << 22) | opc, Offset::Immediate(0), Mode::Offset)
}

/// LDAPUR, STLUR: `size 011001 opc 0 imm9 00 Rn Rt`.
const fn rcpc_unscaled(word: u32) -> Option<LoadStore> {
    if is_set(word, 21) || field(word, 10, 2) != 0 {
        return None;
    }
    single(word, Offset::Immediate(signed(word, 12, 9)), Mode::Offset)
}

/// Load/store register pair, and no-allocate pair.
const fn pair(word: u32) -> Option<LoadStore> {
    let load = is_set(word, 22);
    let kind = field(word, 23, 2);
    let (bank, log2_bytes, extension) = match (is_set(word, 26), field(word, 30, 2)) {
        (false, 0b00) => (Bank::General, 2, Extension::Zero),
        (false, 0b10) => (Bank::General, 3, Extension::Zero),
        // LDPSW: no non-temporal form; with L=0 it is STGP.
        (false, 0b01) if load && kind != 0b00 => (Bank::General, 2, Extension::Sign64),
        (true, opc @ 0b00..=0b10) => (Bank::Vector, opc as u8 + 2, Extension::Zero),
        _ => return None,
    };
    let mode = match kind {
        0b00 | 0b10 => Mode::Offset,
        0b01 => Mode::PostIndex,
        _ => Mode::PreIndex,
    };
    Some(LoadStore {
        direction: if load { Direction::Load } else { Direction::Store },
        bank,
        log2_bytes,
        extension,
        first: register(word, 0),
        second: Some(register(word, 10)),
        base: register(word, 5),
        offset: Offset::Immediate(signed(word, 15, 7) << log2_bytes),
        mode,
    })
}
