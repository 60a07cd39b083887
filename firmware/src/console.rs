//! Words for people, when something is wrong.

use core::fmt::{self, Write};

use crate::board::{self, UART};

/// PL011 (Arm DDI 0183): data, and control with UARTEN and TXE.
const DATA: usize = 0x00;
const CONTROL: usize = 0x30;

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            board::write32(UART + DATA, byte.into());
        }
        Ok(())
    }
}

/// Says it on the first serial line, whoever has that: the machine goes off next.
pub fn say(text: fmt::Arguments<'_>) {
    board::write32(UART + CONTROL, 1 | 1 << 8);
    // Writing to it doesn't fail.
    let _ = Uart.write_fmt(text);
}
