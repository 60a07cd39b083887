//! No attack: a guest that is always at work, so that whoever looks at its memory sees whether it executes.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::format;
use alloc::string::String;

use crate::arch::{Hearing, MESSAGE, on_other_cpu};
use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE};
use crate::machine::{Fault, SURELY_S, store32, within};
use crate::println;

/// How far each CPU has counted.
static COUNTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn count(cpu: usize) {
    // Each has its own; with the MMU off there are no exclusive accesses.
    let own = &COUNTS[cpu];
    own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

extern "C" fn second() -> ! {
    loop {
        count(1);
    }
}

/// Two CPUs count, if there are so many. The first one has `edu` read memory meanwhile, `axvm.rounds` times, and takes the message at the
/// end of each.
pub fn counts(board: &Board) -> String {
    let rounds = board.number("axvm.rounds").unwrap_or(1);
    let test = || {
        let Some(hearing) = Hearing::begin(board)? else { return Ok("skipped: no edu".into()) };
        hearing.open()?;
        let edu = &hearing.edu;
        println!("ATTACK counts at {:#x}", COUNTS.as_ptr() as u64);
        if board.cpu_count() > 1 && !on_other_cpu(board, second) {
            return Ok("broken: its second CPU can't be started".into());
        }
        for round in 0..rounds {
            edu.read_and_tell(board.scratch)?;
            let mut came = None;
            // Before it comes there is nothing.
            within(SURELY_S, || {
                count(0);
                came = hearing.take();
                came.is_some()
            });
            if came != Some(MESSAGE) {
                return Ok(format!("broken: interrupt {came:?} in place of {MESSAGE} in round {round}"));
            }
            store32(edu.registers + ACKNOWLEDGE, DMA_DONE)?;
            edu.wait_until_idle()?;
        }
        Ok(format!("ok: {rounds} rounds"))
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
