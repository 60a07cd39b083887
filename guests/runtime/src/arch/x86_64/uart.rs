//! The 16550 (National Semiconductor PC16550D) at ports.

use super::machine::{Fault, in8, out8};

const FIFO_CONTROL: u16 = 2;
const LINE_STATUS: u16 = 5;
const HAS_BYTE: u8 = 1 << 0;
const HOLDS_NOTHING: u8 = 1 << 5;

/// Sends a byte, once there is room for it or it has been waited for.
pub fn send(base: u64, byte: u8) -> Result<(), Fault> {
    let port = u16::try_from(base).map_err(|_| Fault)?;
    for _ in 0..100_000 {
        if in8(port + LINE_STATUS) & HOLDS_NOTHING != 0 {
            break;
        }
    }
    out8(port, byte);
    Ok(())
}

/// Gets ready for what is typed: with its FIFOs on.
pub fn listen(base: u64) -> Result<(), Fault> {
    out8(u16::try_from(base).map_err(|_| Fault)? + FIFO_CONTROL, 1);
    Ok(())
}

/// Takes a byte that was typed, if there is one.
pub fn receive(base: u64) -> Result<Option<u8>, Fault> {
    let port = u16::try_from(base).map_err(|_| Fault)?;
    Ok(has_come(base)?.then(|| in8(port)))
}

/// Whether a byte was typed.
pub fn has_come(base: u64) -> Result<bool, Fault> {
    let port = u16::try_from(base).map_err(|_| Fault)?;
    Ok(in8(port + LINE_STATUS) & HAS_BYTE != 0)
}
