//! The PL011 (Arm DDI 0183).

use super::machine::{Fault, load32, store32};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;

/// Sends a byte, once there is room for it or it has been waited for.
pub fn send(base: u64, byte: u8) -> Result<(), Fault> {
    for _ in 0..100_000 {
        if load32(base + FR).unwrap_or(0) & FR_TXFF == 0 {
            break;
        }
    }
    store32(base + DR, byte.into())
}
