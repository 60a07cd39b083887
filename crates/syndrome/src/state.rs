//! The processor's state (SPSR_EL2) where an instruction is dealt with in its place.

use crate::{Length, bit, bits};

/// SPSR_EL2.M\[4\]: AArch32.
const AARCH32: u32 = 4;
/// SPSR_EL2.T, of AArch32: T32.
const T32: u32 = 5;
/// Software step: an instruction was executed (SS).
const STEP: u64 = 1 << 21;
/// How the instruction was branched to (BTYPE), of AArch64.
const BRANCH_TYPE: u64 = 3 << 10;
/// The places of IT\[1:0\] and IT\[7:2\], of AArch32.
const IT_FIELDS: u64 = 3 << 25 | 0x3f << 10;

/// Whether the processor executes AArch32 (SPSR_EL2.M\[4\]).
#[inline(always)]
pub const fn is_aarch32(state: u64) -> bool {
    bit(state, AARCH32)
}

/// Whether the processor is at EL0 (SPSR_EL2.M\[3:0\]).
#[inline(always)]
pub const fn is_el0(state: u64) -> bool {
    bits(state, 3, 0) == 0
}

/// A condition of AArch32 (DDI 0487, C1.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition(pub u8);

impl Condition {
    /// Whether it holds, by the flags N, Z, C, V (31:28).
    pub const fn holds(self, state: u64) -> bool {
        let (n, z, c, v) = (bit(state, 31), bit(state, 30), bit(state, 29), bit(state, 28));
        let base = match self.0 >> 1 & 7 {
            0b000 => z,
            0b001 => c,
            0b010 => n,
            0b011 => v,
            0b100 => c && !z,
            0b101 => n == v,
            0b110 => n == v && !z,
            _ => return true,
        };
        base != (self.0 & 1 != 0)
    }
}

/// IT\[7:0\], of T32.
const fn it(state: u64) -> u64 {
    bits(state, 15, 10) << 2 | bits(state, 26, 25)
}

/// Whether an instruction under this condition is executed: without one, that of its IT block.
pub(crate) const fn holds(condition: Option<Condition>, state: u64) -> bool {
    match condition {
        Some(condition) => condition.holds(state),
        None if bit(state, AARCH32) && bit(state, T32) && it(state) & 0xf != 0 => {
            Condition((it(state) >> 4) as u8).holds(state)
        }
        None => true,
    }
}

/// PC and processor state past an instruction of this length that was dealt with: in AArch64 the guard of its branch is over, in
/// AArch32 its place in an IT block (ITAdvance, DDI 0487, E1.2.4), and it is a step that was made.
#[inline(always)]
pub const fn past(pc: u64, state: u64, length: Length) -> (u64, u64) {
    if is_aarch32(state) {
        (pc.wrapping_add(length.bytes()), past_aarch32(state))
    } else {
        (pc.wrapping_add(length.bytes()), past_aarch64(pc, state).1)
    }
}

/// The same where it is known to be an instruction of AArch64.
#[inline(always)]
pub const fn past_aarch64(pc: u64, state: u64) -> (u64, u64) {
    (pc.wrapping_add(Length::Four.bytes()), state & !(BRANCH_TYPE | STEP))
}

#[inline(never)]
const fn past_aarch32(state: u64) -> u64 {
    let it = it(state);
    let next = if it & 7 == 0 { 0 } else { it & 0xe0 | it << 1 & 0x1f };
    state & !(IT_FIELDS | STEP) | (next >> 2) << 10 | (next & 3) << 25
}
