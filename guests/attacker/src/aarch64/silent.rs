//! A VM without device interrupts (`interrupts = "none"`): its timer and its own software interrupts come, its device's don't.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::Gic;
use axvm_guest_runtime::icc;

use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, Edu, RAISE};
use crate::machine::{Fault, frequency, mpidr, now, send_sgi, start_timer, stop_timer, store32};

const SGI: u64 = 3;

/// What comes within a tenth of a second. The caller ends it.
fn comes() -> u64 {
    let start = now();
    loop {
        let intid = icc::acknowledge();
        if intid != icc::NONE || now() - start > frequency() / 10 {
            return intid;
        }
    }
}

/// Listens to everything.
pub fn silent(board: &Board) -> String {
    let test = || {
        let gic = Gic::find(&board.platform).ok_or(Fault)?;
        let own = gic.redistributor(mpidr())?;
        gic.start()?;
        own.start()?;
        icc::open();
        own.enable(SGI as u32)?;
        send_sgi(SGI << 24 | 1 << (mpidr() & 0xf));
        let software = comes();
        icc::end(software);
        // The third of the binding is the virtual timer's.
        let timer = board.platform.timer.get(2).ok_or(Fault)?.irq.0;
        own.enable(timer)?;
        start_timer(frequency() / 1000);
        let ticked = comes();
        // Its level goes before its end, or it would come again.
        stop_timer();
        icc::end(ticked);
        if (software, ticked) != (SGI, timer.into()) {
            return Ok(format!("broken: {software} in place of {SGI}, {ticked} in place of {timer}"));
        }
        let Some(edu) = Edu::find(&board.platform) else { return Ok("skipped: no edu".into()) };
        for intid in 32..512 {
            gic.enable_line(intid, mpidr())?;
        }
        store32(edu.registers + RAISE, 1)?;
        let heard = comes();
        store32(edu.registers + ACKNOWLEDGE, 1)?;
        if heard != icc::NONE {
            icc::end(heard);
        }
        Ok(if heard == icc::NONE { "ok".into() } else { format!("broken: {heard} came") })
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
