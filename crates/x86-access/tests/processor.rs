//! Results and flags are those of a processor: the one that the tests run on.
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use axvm_x86_access::{BitTest, Flags, Outcome, Two, Unary, Width};
use proptest::prelude::*;

/// Executes an instruction with two operands, written as so much of registers, and gives its first and the flags.
macro_rules! execute {
    ($operands:literal, $name:literal, $first:expr, $second:expr, $flags:expr) => {{
        let (mut value, mut flags): (u64, u64) = ($first, $flags);
        let second: u64 = $second;
        // SAFETY: registers and flags only, and what is pushed is popped.
        unsafe {
            asm!(
                "push {f}",
                "popfq",
                concat!($name, $operands),
                "pushfq",
                "pop {f}",
                a = inout(reg) value,
                b = in(reg) second,
                f = inout(reg) flags,
            );
        }
        (value, flags)
    }};
}

/// One with operands of 32 or 64 bits.
macro_rules! wide {
    ($name:literal, $first:expr, $second:expr, $flags:expr, $width:expr) => {{
        let (value, flags) = match $width {
            Width::B8 => execute!(" {a:r}, {b:r}", $name, $first, $second, $flags),
            _ => execute!(" {a:e}, {b:e}", $name, $first, $second, $flags),
        };
        (value & $width.mask(), flags)
    }};
}

/// One with operands of any width.
macro_rules! two {
    ($name:literal, $first:expr, $second:expr, $flags:expr, $width:expr) => {{
        let (value, flags) = match $width {
            Width::B1 => execute!(" {a:l}, {b:l}", $name, $first, $second, $flags),
            Width::B2 => execute!(" {a:x}, {b:x}", $name, $first, $second, $flags),
            width => wide!($name, $first, $second, $flags, width),
        };
        (value & $width.mask(), flags)
    }};
}

/// One with one operand: the second isn't named.
macro_rules! one {
    ($name:literal, $first:expr, $flags:expr, $width:expr) => {{
        let (value, flags) = match $width {
            Width::B1 => execute!(" {a:l} # {b}", $name, $first, 0, $flags),
            Width::B2 => execute!(" {a:x} # {b}", $name, $first, 0, $flags),
            Width::B4 => execute!(" {a:e} # {b}", $name, $first, 0, $flags),
            Width::B8 => execute!(" {a:r} # {b}", $name, $first, 0, $flags),
        };
        (value & $width.mask(), flags)
    }};
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        prop_oneof![
            Just(0u64),
            Just(1),
            Just(u64::MAX),
            Just(0x80),
            Just(0x7f),
            Just(0x8000),
            Just(0x7fff),
            Just(1 << 31),
            Just(i64::MAX as u64),
            Just(1 << 63),
            Just(0xf),
            Just(0x10)
        ]
    ]
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::B1), Just(Width::B2), Just(Width::B4), Just(Width::B8)]
}

/// Whether they agree in the flags that the manual doesn't leave open.
fn same(found: Outcome, (value, flags): (u64, u64), open: Flags) -> bool {
    let counts = (Flags::all() - open).bits();
    found.value == value && found.rflags & counts == flags & counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn two_operands(first in number(), second in number(), width in width(), flags in any::<u64>()) {
        // Interrupts on, and of the rest the arithmetic ones.
        let flags = flags & Flags::all().bits() | 0x202;
        let of = |two: Two| two.compute(first, second, width, flags);
        let none = Flags::empty();
        prop_assert!(same(of(Two::Add), two!("add", first, second, flags, width), none));
        prop_assert!(same(of(Two::Adc), two!("adc", first, second, flags, width), none));
        prop_assert!(same(of(Two::Sub), two!("sub", first, second, flags, width), none));
        prop_assert!(same(of(Two::Sbb), two!("sbb", first, second, flags, width), none));
        let (_, compared) = two!("cmp", first, second, flags, width);
        let subtracted = of(Two::Sub).value;
        prop_assert!(same(of(Two::Cmp), (subtracted, compared), none));
        prop_assert!(same(of(Two::And), two!("and", first, second, flags, width), Flags::ADJUST));
        prop_assert!(same(of(Two::Or), two!("or", first, second, flags, width), Flags::ADJUST));
        prop_assert!(same(of(Two::Xor), two!("xor", first, second, flags, width), Flags::ADJUST));
        let (_, tested) = two!("test", first, second, flags, width);
        prop_assert!(same(of(Two::Test), (of(Two::And).value, tested), Flags::ADJUST));
        prop_assert_eq!(of(Two::Add).rflags & !Flags::all().bits(), 0x202, "others stay");
    }

    #[test]
    fn one_operand(value in number(), width in width(), flags in any::<u64>()) {
        let flags = flags & Flags::all().bits() | 0x202;
        let of = |unary: Unary| unary.compute(value, width, flags);
        let none = Flags::empty();
        prop_assert!(same(of(Unary::Not), one!("not", value, flags, width), none));
        prop_assert!(same(of(Unary::Neg), one!("neg", value, flags, width), none));
        prop_assert!(same(of(Unary::Inc), one!("inc", value, flags, width), none));
        prop_assert!(same(of(Unary::Dec), one!("dec", value, flags, width), none));
    }

    /// With a register the number counts modulo the width, as with an immediate.
    #[test]
    fn a_bit(value in number(), number in 0u8..64, wide in prop_oneof![Just(Width::B4), Just(Width::B8)], flags in any::<u64>()) {
        let flags = flags & Flags::all().bits() | 0x202;
        let open = Flags::all() - Flags::CARRY;
        let of = |bit: BitTest| bit.compute(value, number, wide, flags);
        let second = u64::from(number);
        prop_assert!(same(of(BitTest::Test), wide!("bt", value, second, flags, wide), open));
        prop_assert!(same(of(BitTest::Set), wide!("bts", value, second, flags, wide), open));
        prop_assert!(same(of(BitTest::Reset), wide!("btr", value, second, flags, wide), open));
        prop_assert!(same(of(BitTest::Complement), wide!("btc", value, second, flags, wide), open));
    }
}
