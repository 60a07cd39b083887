//! A guest that leaves the board's UART unfit for use.

use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::out8;

/// Leaves its console, a 16550 of the board's, with another rate, five bits, without FIFOs, hearing itself in place of the line, with all its
/// interrupts on, and with the divisor in the way of its data (National Semiconductor PC16550D, 8: LCR, DLL, DLM, IER, FCR, MCR).
pub fn garble(board: &Board) -> String {
    const REGISTERS: [(u16, u8); 7] = [(3, 0x80), (0, 0x34), (1, 0x12), (3, 0), (1, 0x0f), (2, 0), (4, 0x10)];
    for (register, value) in REGISTERS {
        out8(board.console as u16 + register, value);
    }
    out8(board.console as u16 + 3, 0x80);
    "ok".into()
}
