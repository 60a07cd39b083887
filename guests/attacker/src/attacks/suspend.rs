//! No attack: a CPU, or a machine, that suspends itself is woken by its device's message, whoever delivers that.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::icc;
use axvm_platform::model::PsciConduit;
use smccc::psci::PSCI_CPU_SUSPEND_64;

use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE, Edu, requester_id};
use crate::machine::{
    Fault, call, frequency, mpidr, now, power_off, start_timer, stop_timer, store32, suspend_system,
};
use crate::println;

/// Has `edu` send its message to this CPU. A timer can end a sleep that nothing else ends.
pub(super) fn arm(board: &Board) -> Result<Option<Edu>, Fault> {
    let (Some(edu), Some(id)) = (Edu::find(&board.platform), requester_id(&board.platform)) else {
        return Ok(None);
    };
    let gic = Gic::find(&board.platform).ok_or(Fault)?;
    let own = gic.redistributor(mpidr())?;
    gic.start()?;
    own.start()?;
    icc::open();
    gic.map_msi(id, &own, board.scratch.next_multiple_of(0x1_0000))?;
    edu.enable_msi(gic.doorbell().ok_or(Fault)?)?;
    // The third of the binding is the virtual timer's.
    own.enable(board.platform.timer.get(2).ok_or(Fault)?.irq.0)?;
    Ok(Some(edu))
}

/// PSCI CPU_SUSPEND (Arm DEN 0022, 5.4) in a standby state, beside a transfer at whose end `edu` sends an MSI: a tenth of a second
/// later. A timer that fires much later ends a sleep that nothing else ends.
pub fn suspended(board: &Board) -> String {
    const TIMES: u32 = 3;
    let test = || {
        let Some(edu) = arm(board)? else { return Ok("skipped: no edu".into()) };
        for _ in 0..TIMES {
            let start = now();
            start_timer(frequency() * 2);
            edu.read_and_tell(board.scratch)?;
            let answer =
                call(board.platform.psci().unwrap_or(PsciConduit::Hvc), PSCI_CPU_SUSPEND_64, [0, 0, 0]);
            let woken_by = icc::acknowledge();
            stop_timer();
            store32(edu.registers + ACKNOWLEDGE, DMA_DONE)?;
            icc::end(woken_by);
            let early = now() - start < frequency() / 50;
            if answer != Some(0) || woken_by != LPI || early {
                return Ok(format!("broken: {answer:?}, then interrupt {woken_by}, too early: {early}"));
            }
        }
        Ok("ok".into())
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// When the machine went to sleep.
static SINCE: AtomicU64 = AtomicU64::new(0);

/// PSCI SYSTEM_SUSPEND (5.1.19), beside such a transfer. What wakes the machine is pending when it goes on, at another place, as the only
/// thing that it still has of its interrupts; this is the last that the guest does.
pub fn system_suspended(board: &Board) -> String {
    let test = || {
        let Some(edu) = arm(board)? else { return Ok("skipped: no edu".into()) };
        SINCE.store(now(), Ordering::Relaxed);
        start_timer(frequency() * 2);
        edu.read_and_tell(board.scratch)?;
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
