//! No attack: a guest that is always at work, so that whoever looks at its memory sees whether it executes.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::LPI;
use axvm_guest_runtime::icc;

use super::interface::on_other_cpu;
use super::suspend::arm;
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
        let Some(edu) = arm(board)? else { return Ok("skipped: no edu".into()) };
        println!("ATTACK counts at {:#x}", COUNTS.as_ptr() as u64);
        if board.platform.cpus.len() > 1 && !on_other_cpu(board, second) {
            return Ok("broken: its second CPU can't be started".into());
        }
        for round in 0..rounds {
            edu.read_and_tell(board.scratch)?;
            let mut came = 0;
            let is_there = within(SURELY_S, || {
                count(0);
                // Before it comes there is nothing.
                came = icc::acknowledge();
                came != icc::NONE
            });
            if !is_there || came != LPI {
                return Ok(format!("broken: interrupt {came} in place of {LPI} in round {round}"));
            }
            store32(edu.registers + ACKNOWLEDGE, DMA_DONE)?;
            icc::end(came);
            edu.wait_until_idle()?;
        }
        Ok(format!("ok: {rounds} rounds"))
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
