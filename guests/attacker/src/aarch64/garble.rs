//! A guest that leaves the board's UART unfit for use.

use alloc::string::String;

use crate::board::Board;
use crate::machine::{Fault, store32};

const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;

/// Leaves its console, a PL011 of the board's, with another rate, five bits, without FIFOs, with all its interrupts on, and hearing itself in
/// place of the line (Arm DDI 0183, 3.3: IBRD, FBRD, LCR_H, IMSC, CR).
pub fn garble(board: &Board) -> String {
    const REGISTERS: [(u64, u32); 6] =
        [(0x24, 1), (0x28, 0x3f), (LCR_H, 0), (0x38, 0x7ff), (0x48, 0x7), (CR, 1 << 7 | 1 << 9)];
    match REGISTERS.iter().try_for_each(|&(register, value)| store32(board.console + register, value)) {
        Ok(()) => "ok".into(),
        Err(Fault) => "broken: its console doesn't answer".into(),
    }
}
