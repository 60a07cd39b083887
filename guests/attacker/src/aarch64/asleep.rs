//! No attack: a machine that suspends itself is woken by its device's message, whoever delivers that.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_guest_runtime::gic::LPI;
use axvm_guest_runtime::icc;
use axvm_platform::model::PsciConduit;

use super::hears::Hearing;
use crate::board::Board;
use crate::machine::{Fault, frequency, now, power_off, start_timer, stop_timer, suspend_system};
use crate::println;

/// When the machine went to sleep.
static SINCE: AtomicU64 = AtomicU64::new(0);

/// PSCI SYSTEM_SUSPEND (5.1.19), beside such a transfer. What wakes the machine is pending when it goes on, at another place, as the only
/// thing that it still has of its interrupts; this is the last that the guest does.
pub fn system_suspended(board: &Board) -> String {
    let test = || {
        let Some(hearing) = Hearing::begin(board)? else { return Ok("skipped: no edu".into()) };
        hearing.open()?;
        SINCE.store(now(), Ordering::Relaxed);
        start_timer(frequency() * 2);
        hearing.edu.read_and_tell(board.scratch)?;
        let answer = suspend_system(board.platform.psci().unwrap_or(PsciConduit::Hvc), woken);
        stop_timer();
        Ok(format!("broken: SYSTEM_SUSPEND came back with {answer:?}"))
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// Where the machine goes on.
extern "C" fn woken() -> ! {
    let early = now() - SINCE.load(Ordering::Relaxed) < frequency() / 50;
    icc::open();
    let woken_by = icc::acknowledge();
    icc::end(woken_by);
    if woken_by == LPI && !early {
        println!("ATTACK system-suspended ok");
    } else {
        println!("ATTACK system-suspended broken: interrupt {woken_by}, too early: {early}");
    }
    println!("ATTACK done");
    power_off(None)
}
