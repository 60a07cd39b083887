//! The PL011 (Arm DDI 0183).

use super::machine::{Fault, load32, store32};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const LCR_H: u64 = 0x2c;
const LCR_H_FEN: u32 = 0x70;
const CR: u64 = 0x30;
/// UARTEN, TXE, RXE.
const CR_ON: u32 = 0x301;

/// Sends a byte, once there is room for it or it has been waited for.
pub fn send(base: u64, byte: u8) -> Result<(), Fault> {
    for _ in 0..100_000 {
        if load32(base + FR).unwrap_or(0) & FR_TXFF == 0 {
            break;
        }
    }
    store32(base + DR, byte.into())
}

/// Gets ready for what is typed: with its FIFOs on.
pub fn listen(base: u64) -> Result<(), Fault> {
    store32(base + LCR_H, LCR_H_FEN)?;
    store32(base + CR, CR_ON)
}

/// Takes a byte that was typed, if there is one.
pub fn receive(base: u64) -> Result<Option<u8>, Fault> {
    if !has_come(base)? {
        return Ok(None);
    }
    load32(base + DR).map(|byte| Some(byte as u8))
}

/// Whether a byte was typed.
pub fn has_come(base: u64) -> Result<bool, Fault> {
    Ok(load32(base + FR)? & FR_RXFE == 0)
}
