//! DMA by `edu`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::typed;
use crate::arch::{keep, kept};
use crate::board::Board;
use crate::carry::{PATTERN, carry, fill, inside, with_edu};
use crate::edu::Edu;
use crate::machine::{Fault, frequency, load64, mask_everything, now};
use crate::println;

/// The same over and over, until something is typed: a neighbour who is none the worse for what others do. (It takes no memory meanwhile:
/// what such a guest takes doesn't come back.)
pub fn neighbour(board: &Board) -> String {
    with_edu(board, |edu| {
        let mut transfers = 0;
        while !typed::has_come(board) {
            let seen = carry(edu, board)?;
            if seen != PATTERN {
                return Ok(format!("broken: {seen:#x} in place of {PATTERN:#x} after {transfers} transfers"));
            }
            transfers += 1;
        }
        Ok(format!("ok: {transfers} transfers"))
    })
}

/// Many accesses outside, as fast as the device makes them: a blocked one makes an event for each four bytes.
pub fn flood(board: &Board) -> String {
    /// All of the device's buffer.
    const LENGTH: u64 = 0x1000;
    const TRANSFERS: u64 = 24;
    let Some(target) = board.target() else { return "skipped: no target".into() };
    with_edu(board, |edu| {
        for page in 0..TRANSFERS {
            edu.write_bytes(target.wrapping_add(page << 12), LENGTH)?;
        }
        Ok(format!("ok: {TRANSFERS} transfers asked for; the report says what became of them"))
    })
}

/// A storm: 64 KiB outside the VM's RAM, by all its devices at once, over and over (`axvm.rounds` transfers of each).
pub fn storm(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    transfers(board, target)
}

/// What a storm is to be compared with: as much within the VM's RAM.
pub fn calm(board: &Board) -> String {
    transfers(board, board.scratch)
}

fn transfers(board: &Board, target: u64) -> String {
    /// All of a device's buffer.
    const LENGTH: u64 = 0x1000;
    const PAGES: u64 = 16;
    let all = || -> Result<String, Fault> {
        let edus: Vec<Edu> = Edu::all_of(board).collect();
        let rounds = board.number("axvm.rounds").unwrap_or(1);
        for transfer in 0..rounds {
            for (edu, nth) in edus.iter().zip(transfer..) {
                edu.begin_to_write(target.wrapping_add(nth % PAGES * LENGTH), LENGTH)?;
            }
            edus.iter().try_for_each(Edu::wait_until_idle)?;
        }
        Ok(format!("ok: {rounds} transfers of {} devices", edus.len()))
    };
    all().unwrap_or_else(|Fault| "broken: edu's registers don't answer".into())
}

/// A device that was taken from the bus doesn't reach its own VM either.
pub fn gone(board: &Board) -> String {
    let seen = inside(board);
    if seen == "ok" {
        "succeeded: the device still masters the bus".into()
    } else {
        "blocked: the device is off the bus".into()
    }
}

/// Breaks the rules on a CPU that nothing can interrupt, and keeps the CPU busy: whoever wants to stop it has to take it.
pub fn hold_core(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    with_edu(board, |edu| {
        mask_everything();
        edu.write(target)?;
        let start = now();
        // Far longer than it takes to be stopped.
        let seconds = board.number("axvm.seconds").unwrap_or(1000);
        while now() - start < frequency() * seconds {}
        Ok("succeeded: nobody took the CPU".into())
    })
}

/// Not an attack: DMA without a pause, each transfer checked, until somebody ends the VM. How often it was started a device keeps, as for
/// `resets`; the last of `axvm.starts` ends by itself.
pub fn on(board: &Board) -> String {
    /// So many transfers there and back are enough to say that it works.
    const ENOUGH: u64 = 3;
    let (Some(kept), Some(starts)) = (kept(board), board.number("axvm.starts")) else {
        return "skipped: nothing keeps the count of starts, or no axvm.starts".into();
    };
    with_edu(board, |edu| {
        edu.wait_until_idle()?;
        let start = kept? + 1;
        let (from, to) = (board.scratch, board.scratch + 0x1000);
        for round in 1.. {
            fill(from, PATTERN ^ round)?;
            edu.read(from)?;
            edu.write(to)?;
            let seen = load64(to)?;
            if seen != PATTERN ^ round {
                return Ok(format!("broken: {seen:#x} in round {round} of start {start}"));
            }
            if round == ENOUGH {
                let is_last = u64::from(start) >= starts;
                keep(board, if is_last { 0 } else { start })?;
                if is_last {
                    return Ok(format!("ok: start {start}"));
                }
                println!("ATTACK edu-dma-on goes on: start {start}");
            }
        }
        Ok("broken".into())
    })
}
