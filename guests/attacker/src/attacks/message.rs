//! No attack: one life of many, with a device that interrupts.

use alloc::format;
use alloc::string::String;

use crate::arch::{Hearing, MESSAGE};
use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE, RAISE};
use crate::machine::{Fault, SURELY_S, store32, within};

/// Has `edu` send a message, and takes it. What was set up for that stays: it is there when the VM ends.
pub fn message(board: &Board) -> String {
    let test = || {
        let Some(hearing) = Hearing::begin(board)? else { return Ok("skipped: no edu".into()) };
        hearing.open()?;
        comes(&hearing)
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// Has `edu` send its message, and takes it.
pub(super) fn comes(hearing: &Hearing) -> Result<String, Fault> {
    let registers = hearing.edu.registers;
    store32(registers + RAISE, DMA_DONE)?;
    let mut came = None;
    let is_there = within(SURELY_S, || {
        came = hearing.take();
        came == Some(MESSAGE)
    });
    store32(registers + ACKNOWLEDGE, DMA_DONE)?;
    Ok(if is_there { "ok".into() } else { format!("broken: interrupt {came:?} in place of {MESSAGE}") })
}
