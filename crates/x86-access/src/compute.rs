//! What instructions compute: results and flags (AMD64 APM 3, 3).

use bitflags::bitflags;

use crate::model::{BitTest, Two, Unary, Width};

bitflags! {
    /// The arithmetic flags in RFLAGS (APM 1, 3.1.4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// CF.
        const CARRY = 1;
        /// PF: the lowest byte has an even number of ones.
        const PARITY = 1 << 2;
        /// AF: a carry out of bit 3.
        const ADJUST = 1 << 4;
        /// ZF.
        const ZERO = 1 << 6;
        /// SF.
        const SIGN = 1 << 7;
        /// OF.
        const OVERFLOW = 1 << 11;
    }
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result, of the operands' width.
    pub value: u64,
    /// RFLAGS, with all flags that aren't concerned as they were. Where the manual leaves AF open it is clear.
    pub rflags: u64,
}

const ALL: u64 = Flags::all().bits();

fn outcome(value: u64, width: Width, rflags: u64, mut flags: Flags, concerned: u64) -> Outcome {
    let value = value & width.mask();
    flags.set(Flags::ZERO, value == 0);
    flags.set(Flags::SIGN, value >> (8 * u32::from(width.bytes()) - 1) != 0);
    flags.set(Flags::PARITY, (value as u8).count_ones().is_multiple_of(2));
    Outcome { value, rflags: rflags & !concerned | flags.bits() & concerned }
}

/// The sum with a carry.
fn add(first: u64, second: u64, carry: u64, width: Width, rflags: u64, concerned: u64) -> Outcome {
    let (first, second) = (first & width.mask(), second & width.mask());
    let sum = u128::from(first) + u128::from(second) + u128::from(carry);
    let value = sum as u64;
    let top = 8 * u32::from(width.bytes()) - 1;
    let mut flags = Flags::empty();
    flags.set(Flags::CARRY, sum >> (top + 1) != 0);
    flags.set(Flags::ADJUST, (first ^ second ^ value) & 0x10 != 0);
    flags.set(Flags::OVERFLOW, ((first ^ value) & (second ^ value)) >> top & 1 != 0);
    outcome(value, width, rflags, flags, concerned)
}

/// The difference with a borrow.
fn subtract(first: u64, second: u64, borrow: u64, width: Width, rflags: u64, concerned: u64) -> Outcome {
    let (first, second) = (first & width.mask(), second & width.mask());
    let value = first.wrapping_sub(second).wrapping_sub(borrow);
    let top = 8 * u32::from(width.bytes()) - 1;
    let mut flags = Flags::empty();
    flags.set(Flags::CARRY, u128::from(first) < u128::from(second) + u128::from(borrow));
    flags.set(Flags::ADJUST, (first ^ second ^ value) & 0x10 != 0);
    flags.set(Flags::OVERFLOW, ((first ^ second) & (first ^ value)) >> top & 1 != 0);
    outcome(value, width, rflags, flags, concerned)
}

impl Two {
    /// What it makes of two values, in the order of the operands, and of the flags.
    pub fn compute(self, first: u64, second: u64, width: Width, rflags: u64) -> Outcome {
        let carry = rflags & Flags::CARRY.bits();
        let logical = |value| outcome(value, width, rflags, Flags::empty(), ALL);
        match self {
            Self::Add => add(first, second, 0, width, rflags, ALL),
            Self::Adc => add(first, second, carry, width, rflags, ALL),
            Self::Sub | Self::Cmp => subtract(first, second, 0, width, rflags, ALL),
            Self::Sbb => subtract(first, second, carry, width, rflags, ALL),
            Self::And | Self::Test => logical(first & second),
            Self::Or => logical(first | second),
            Self::Xor => logical(first ^ second),
        }
    }
}

impl Unary {
    /// What it makes of a value, and of the flags.
    pub fn compute(self, value: u64, width: Width, rflags: u64) -> Outcome {
        let but_carry = ALL & !Flags::CARRY.bits();
        match self {
            Self::Not => Outcome { value: !value & width.mask(), rflags },
            Self::Neg => subtract(0, value, 0, width, rflags, ALL),
            Self::Inc => add(value, 1, 0, width, rflags, but_carry),
            Self::Dec => subtract(value, 1, 0, width, rflags, but_carry),
        }
    }
}

impl BitTest {
    /// What it makes of a value's bit, and of the carry. Other flags stay, though the manual leaves them open.
    pub fn compute(self, value: u64, number: u8, width: Width, rflags: u64) -> Outcome {
        let bit = 1 << (number & (8 * width.bytes() - 1));
        let carry = Flags::CARRY.bits();
        let rflags = if value & bit != 0 { rflags | carry } else { rflags & !carry };
        let value = match self {
            Self::Test => value,
            Self::Set => value | bit,
            Self::Reset => value & !bit,
            Self::Complement => value ^ bit,
        };
        Outcome { value: value & width.mask(), rflags }
    }
}
