//! The 16550 (National Semiconductor PC16550D) at ports.

use super::machine::{Fault, in8, out8};

const LINE_STATUS: u16 = 5;
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
