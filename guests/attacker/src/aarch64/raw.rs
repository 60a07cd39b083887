//! Interrupts of raw regions: they come under the number that the system file says.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::Gic;

use crate::board::Board;
use crate::machine::{Fault, frequency, load32, now, store32, take_interrupt};

/// Waits for a line: `raise` has the device raise it, `lower` has it stop.
fn line(
    board: &Board,
    intid: u64,
    raise: impl FnOnce() -> Result<(), Fault>,
    lower: impl FnOnce() -> Result<(), Fault>,
) -> Result<String, Fault> {
    let Some(gic) = Gic::find(&board.platform) else { return Ok("skipped: no GIC".into()) };
    gic.start()?;
    gic.enable_line(intid as u32, 0)?;
    // Acknowledges what may be there from before; then nothing comes until the device raises it.
    let before = take_interrupt();
    raise()?;
    let start = now();
    let mut came = 1023;
    while came == 1023 && now() - start < 2 * frequency() {
        came = take_interrupt();
    }
    lower()?;
    // It may have come again before it was lowered.
    let mut after = came;
    for _ in 0..8 {
        after = take_interrupt();
    }
    gic.disable_line(intid as u32)?;
    Ok(match (before, came, after) {
        (1023, came, 1023) if came == intid => format!("ok: {intid}"),
        other => format!("broken: {other:?} came around {intid}"),
    })
}

fn answer(result: Result<String, Fault>) -> String {
    result.unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// A PL031 (Arm DDI 0224): its clock reaches the match register.
pub fn clock(board: &Board) -> String {
    const MR: u64 = 0x04;
    const LR: u64 = 0x08;
    const IMSC: u64 = 0x10;
    const ICR: u64 = 0x1c;
    let (Some(clock), Some(intid)) = (board.number("axvm.clock"), board.number("axvm.clock-line")) else {
        return "skipped: no axvm.clock, axvm.clock-line".into();
    };
    let raise = || {
        store32(clock + ICR, 1)?;
        store32(clock + IMSC, 1)?;
        store32(clock + LR, 1000)?;
        store32(clock + MR, 1001)
    };
    let lower = || {
        store32(clock + IMSC, 0)?;
        store32(clock + ICR, 1)?;
        load32(clock + ICR).map(drop)
    };
    answer(line(board, intid, raise, lower))
}

/// A PL061 (Arm DDI 0190): a pin that is low, told to be one that interrupts while it is. `axvm.pins` is where its GPIODIR
/// (0x400) is.
pub fn pins(board: &Board) -> String {
    const DIR: u64 = 0x00;
    const IS: u64 = 0x04;
    const IBE: u64 = 0x08;
    const IEV: u64 = 0x0c;
    const IE: u64 = 0x10;
    let (Some(pins), Some(intid)) = (board.number("axvm.pins"), board.number("axvm.pins-line")) else {
        return "skipped: no axvm.pins, axvm.pins-line".into();
    };
    let raise = || {
        for (register, value) in [(DIR, 0), (IS, 1), (IBE, 0), (IEV, 0), (IE, 1)] {
            store32(pins + register, value)?;
        }
        Ok(())
    };
    let lower = || store32(pins + IE, 0);
    answer(line(board, intid, raise, lower))
}
