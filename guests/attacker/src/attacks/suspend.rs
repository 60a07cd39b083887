//! No attack: a CPU that sleeps is woken by its device's message, whoever delivers that.

use alloc::format;
use alloc::string::String;

use crate::arch::{Hearing, MESSAGE};
use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE};
use crate::machine::{Fault, frequency, now, store32};

/// Sleeps beside a transfer at whose end `edu` sends a message: a tenth of a second later. A timer that fires much later ends a sleep that
/// nothing else ends.
pub fn suspended(board: &Board) -> String {
    const TIMES: u32 = 3;
    let test = || {
        let Some(hearing) = Hearing::begin(board)? else { return Ok("skipped: no edu".into()) };
        hearing.open()?;
        for _ in 0..TIMES {
            let start = now();
            hearing.edu.read_and_tell(board.scratch)?;
            let woken_by = match hearing.sleep(frequency() * 2) {
                Ok(woken_by) => woken_by,
                Err(refused) => return Ok(refused),
            };
            store32(hearing.edu.registers + ACKNOWLEDGE, DMA_DONE)?;
            let early = now() - start < frequency() / 50;
            if woken_by != Some(MESSAGE) || early {
                return Ok(format!("broken: woken by interrupt {woken_by:?}, too early: {early}"));
            }
        }
        Ok("ok".into())
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
