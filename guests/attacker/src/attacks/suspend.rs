//! No attack: a CPU that suspends itself is woken by its device's message, whoever delivers that.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::{Gic, LPI};
use axvm_guest_runtime::icc;
use axvm_platform::model::PsciConduit;
use smccc::psci::PSCI_CPU_SUSPEND_64;

use crate::board::Board;
use crate::edu::{ACKNOWLEDGE, DMA_DONE, Edu, requester_id};
use crate::machine::{Fault, call, frequency, mpidr, now, start_timer, stop_timer, store32};

/// PSCI CPU_SUSPEND (Arm DEN 0022, 5.4) in a standby state, beside a transfer at whose end `edu` sends an MSI: a tenth of a second
/// later. A timer that fires much later ends a sleep that nothing else ends.
pub fn suspended(board: &Board) -> String {
    const TIMES: u32 = 3;
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
        // The third of the binding is the virtual timer's.
        own.enable(board.platform.timer.get(2).ok_or(Fault)?.irq.0)?;
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
