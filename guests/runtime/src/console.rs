//! The console, polled.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::uart;

static BASE: AtomicU64 = AtomicU64::new(0);

/// Where the UART is: its registers, or its first port.
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
            uart::send(base, byte).map_err(|_| fmt::Error)?;
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
