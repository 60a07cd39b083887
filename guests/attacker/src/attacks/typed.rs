//! What is typed at its console, more of it than anybody keeps for it.

use alloc::format;
use alloc::string::String;

use crate::board::Board;
use crate::machine::{Fault, frequency, load32, now, store32};

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const LCR_H: u64 = 0x2c;
const LCR_H_FEN: u32 = 0x70;
const CR: u64 = 0x30;
/// UARTEN, TXE, RXE.
const CR_ON: u32 = 0x301;

/// What is typed, again and again.
const TEXT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX";

fn listen(board: &Board) -> Result<(), Fault> {
    store32(board.console + LCR_H, LCR_H_FEN)?;
    store32(board.console + CR, CR_ON)
}

/// Whether something was typed; from the first time on that this is asked.
pub fn has_come(board: &Board) -> bool {
    listen(board).is_ok() && load32(board.console + FR).is_ok_and(|flags| flags & FR_RXFE == 0)
}

/// Waits until what is typed has piled up, then reads `axvm.typed` bytes of it without saying anything: nothing but the reading
/// can call for more.
pub fn typed(board: &Board) -> String {
    let wanted = board.number("axvm.typed").unwrap_or(0) as usize;
    let test = || -> Result<String, Fault> {
        listen(board)?;
        let start = now();
        while now() - start < frequency() {}
        let mut last = now();
        for count in 0..wanted {
            while load32(board.console + FR)? & FR_RXFE != 0 {
                if now() - last > frequency() * 8 {
                    return Ok(format!("broken: nothing comes after {count} of {wanted} bytes"));
                }
            }
            last = now();
            let byte = load32(board.console + DR)? as u8;
            if TEXT.get(count % TEXT.len()) != Some(&byte) {
                return Ok(format!("broken: byte {count} of {wanted} is {byte:#x}"));
            }
        }
        Ok(format!("ok: {wanted} bytes"))
    };
    test().unwrap_or_else(|Fault| "broken: its console doesn't answer".into())
}

/// Doesn't read anything, for as long as the run lasts.
pub fn deaf(board: &Board) -> String {
    let _ = listen(board);
    loop {
        core::hint::spin_loop();
    }
}

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
