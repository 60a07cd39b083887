//! No attack: one life of many, with a device that interrupts.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::icc;

use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE, Edu, RAISE, requester_id};
use crate::machine::{Fault, SURELY_S, mpidr, store32, within};

/// Has `edu` send a message, and takes it. What was set up for that stays: it is there when the VM ends.
pub fn message(board: &Board) -> String {
    let test = || {
        let (Some(edu), Some(id)) = (Edu::find(&board.platform), requester_id(&board.platform)) else {
            return Ok("skipped: no edu".into());
        };
        let gic = Gic::find(&board.platform).ok_or(Fault)?;
        let own = gic.redistributor(mpidr())?;
        gic.start()?;
        own.start()?;
        icc::open();
        gic.map_msi(id, &own, board.scratch.next_multiple_of(0x1_0000))?;
        edu.enable_msi(gic.doorbell().ok_or(Fault)?)?;
        store32(edu.registers + RAISE, DMA_DONE)?;
        let mut came = 0;
        let is_there = within(SURELY_S, || {
            came = icc::acknowledge();
            came == LPI
        });
        store32(edu.registers + ACKNOWLEDGE, DMA_DONE)?;
        icc::end(came);
        Ok(if is_there { "ok".into() } else { format!("broken: interrupt {came} in place of {LPI}") })
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
