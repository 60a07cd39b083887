//! The PL011 (Arm DDI 0183), polled.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;

static BASE: AtomicU64 = AtomicU64::new(0);

/// Where the PL011 is.
pub fn set(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let base = BASE.load(Ordering::Relaxed);
        if base == 0 {
            return Err(fmt::Error);
        }
        for byte in text.bytes() {
            for _ in 0..100_000 {
                if machine::load32(base + FR).unwrap_or(0) & FR_TXFF == 0 {
                    break;
                }
            }
            machine::store32(base + DR, byte.into()).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

/// Prints; for [`println`].
pub fn print(arguments: fmt::Arguments<'_>) {
    let _ = Console.write_fmt(arguments);
    let _ = Console.write_str("\r\n");
}

/// A line on the console.
#[macro_export]
macro_rules! println {
    ($($arguments:tt)*) => { $crate::console::print(format_args!($($arguments)*)) };
}
