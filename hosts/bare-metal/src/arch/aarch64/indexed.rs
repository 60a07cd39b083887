//! Registers of a family of sixteen, whose number is known only at run time: list registers, breakpoints, watchpoints.

/// Does the same for the register whose number is `$index`: `$register` stands for the number's text. Nothing for what isn't a number.
macro_rules! by_number {
    ($index:expr, $action:ident!($prefix:literal, $suffix:literal $(, $value:expr)?), $otherwise:expr) => {
        $crate::arch::aarch64::indexed::by_number!(
            @ $index, $action, $prefix, $suffix, [$($value)?], $otherwise,
            0 "0", 1 "1", 2 "2", 3 "3", 4 "4", 5 "5", 6 "6", 7 "7",
            8 "8", 9 "9", 10 "10", 11 "11", 12 "12", 13 "13", 14 "14", 15 "15"
        )
    };
    (@ $index:expr, $action:ident, $prefix:literal, $suffix:literal, $value:tt, $otherwise:expr, $($number:literal $text:literal),*) => {
        match $index {
            $($number => $crate::arch::aarch64::indexed::$action!(concat!($prefix, $text, $suffix), $value),)*
            _ => $otherwise,
        }
    };
}

/// Writes the register of this name.
macro_rules! write_named {
    ($name:expr, [$value:expr]) => {
        // SAFETY: registers of the guest's: list registers, breakpoints, watchpoints.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {0}"), in(reg) $value, options(nostack)) }
    };
}

/// Reads the register of this name.
macro_rules! read_named {
    ($name:expr, []) => {{
        let value: u64;
        // SAFETY: reading has no side effect.
        unsafe { core::arch::asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

pub(super) use {by_number, read_named, write_named};
