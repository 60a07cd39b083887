//! The CPU interface of a VM whose interrupts are passthrough: what must work, and what must not reach further.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::gic::Gic;
use axvm_guest_runtime::icc;

use super::hears::on_other_cpu;
use crate::board::Board;
use crate::machine::{Fault, frequency, load32, mpidr, now, send_sgi, store32};

const SGI_FRAME: u64 = 0x1_0000;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ISACTIVER: u64 = 0x300;
const IPRIORITYR: u64 = 0x400;

/// The SGI that a CPU raises at itself here, its priority, and masks around that.
const SGI: u64 = 3;
const PRIORITY: u32 = 0xa0;
const CLOSED: u64 = 0x80;
const OPEN: u64 = 0xf0;

/// This CPU's SGI frame, with the SGI enabled.
fn set_up(board: &Board) -> Result<u64, Fault> {
    let gic = Gic::find(&board.platform).ok_or(Fault)?;
    gic.start()?;
    gic.redistributor(mpidr())?.start()?;
    // The first of the VM's.
    let frame = board.platform.gic().and_then(|gic| gic.redistributors.first()).ok_or(Fault)?.start().0;
    let frame = frame + SGI_FRAME;
    store32(frame + IPRIORITYR, PRIORITY * 0x0101_0101)?;
    store32(frame + IGROUPR, load32(frame + IGROUPR)? | 1 << SGI)?;
    store32(frame + ISENABLER, 1 << SGI)?;
    icc::open();
    Ok(frame)
}

fn to_self() -> bool {
    send_sgi(SGI << 24 | 1 << (mpidr() & 0xf))
}

/// What comes within a moment.
fn comes() -> u64 {
    let start = now();
    loop {
        let intid = icc::acknowledge();
        if intid != icc::NONE || now() - start > frequency() / 100 {
            return intid;
        }
    }
}

fn answer(result: Result<String, Fault>) -> String {
    result.unwrap_or_else(|Fault| "broken: registers don't answer".into())
}

/// A critical section by priority mask holds, and what waited comes when it is over.
pub fn priority_mask(board: &Board) -> String {
    let test = || {
        set_up(board)?;
        icc::set_mask(CLOSED);
        to_self();
        let masked = comes();
        if masked != icc::NONE {
            icc::end(masked);
            return Ok(format!("broken: {masked} came through the mask"));
        }
        icc::set_mask(OPEN);
        let open = comes();
        icc::end(open);
        Ok(if open == SGI { "ok".into() } else { format!("broken: {open} came after the mask") })
    };
    answer(test())
}

/// With EOImode the end of an interrupt drops the priority only, and ICC_DIR_EL1 ends its active state.
pub fn split_end(board: &Board) -> String {
    let test = || {
        let frame = set_up(board)?;
        let active = || Ok(load32(frame + ISACTIVER)? >> SGI & 1);
        let idle = icc::running_priority();
        icc::set_control(icc::control() | icc::EOI_MODE);
        to_self();
        let came = comes();
        let (running, taken) = (icc::running_priority(), active()?);
        icc::end(came);
        let (dropped, still) = (icc::running_priority(), active()?);
        icc::deactivate(came);
        let gone = active()?;
        icc::set_control(icc::control() & !icc::EOI_MODE);
        let seen = (came, idle, running, taken, dropped, still, gone);
        Ok(match seen {
            (SGI, 0xff, running, 1, 0xff, 1, 0) if running == u64::from(PRIORITY) => "ok".into(),
            other => format!("broken: {other:x?}"),
        })
    };
    answer(test())
}

/// Forges the highest active priority, which keeps every interrupt from this CPU: those of the hypervisor as well.
fn forge() {
    icc::open();
    icc::set_active_priorities(1);
}

extern "C" fn forge_and_spin() -> ! {
    forge();
    icc::spin()
}

extern "C" fn forge_and_sleep() -> ! {
    forge();
    icc::sleep()
}

extern "C" fn close_and_sleep() -> ! {
    icc::open();
    icc::set_group1(0);
    icc::set_mask(0);
    icc::sleep()
}

fn keep_a_cpu(board: &Board, function: extern "C" fn() -> !) -> String {
    if !on_other_cpu(board, function) {
        return "skipped: no second CPU".into();
    }
    let start = now();
    while now() - start < frequency() {}
    "ok: a CPU is lost, if the VM doesn't end when it is told to".into()
}

/// A CPU that no interrupt reaches, and that doesn't leave by itself.
pub fn forged_spin(board: &Board) -> String {
    keep_a_cpu(board, forge_and_spin)
}

/// A CPU that no interrupt reaches, asleep.
pub fn forged_sleep(board: &Board) -> String {
    keep_a_cpu(board, forge_and_sleep)
}

/// A CPU that takes no interrupt, asleep, without anything forged.
pub fn closed_sleep(board: &Board) -> String {
    keep_a_cpu(board, close_and_sleep)
}

/// Ends every line's interrupt, over and over. Whether one was another's, a `line-victim` says.
pub fn foreign_end(board: &Board) -> String {
    let seconds = board.number("axvm.seconds").unwrap_or(3);
    icc::open();
    let start = now();
    let mut rounds = 0u64;
    while now() - start < seconds * frequency() {
        for intid in 32..512 {
            // An end of interrupt does nothing on a CPU that serves none: of the least urgent priority is enough.
            icc::set_active_priorities(1 << 31);
            icc::end(intid);
            icc::deactivate(intid);
        }
        rounds += 1;
    }
    format!("ok: {rounds} rounds")
}

/// A neighbour with a PL061 (Arm DDI 0190; `axvm.pins`: its GPIODIR, at 0x400; `axvm.pins-line`: its INTID), who takes its level
/// interrupt slowly, makes it stop, ends it, and sees to it that it came once.
pub fn line_victim(board: &Board) -> String {
    const IE: u64 = 0x10;
    const IS: u64 = 0x04;
    const IEV: u64 = 0x0c;
    let (Some(pins), Some(intid)) = (board.number("axvm.pins"), board.number("axvm.pins-line")) else {
        return "skipped: no axvm.pins, axvm.pins-line".into();
    };
    let test = || {
        let gic = Gic::find(&board.platform).ok_or(Fault)?;
        gic.start()?;
        gic.enable_line(intid as u32, mpidr())?;
        icc::open();
        // A pin that is low, told to interrupt while it is.
        store32(pins + IEV, 0)?;
        store32(pins + IS, 1)?;
        let (start, seconds) = (now(), board.number("axvm.seconds").unwrap_or(3));
        let mut served = 0;
        while now() - start < seconds * frequency() {
            store32(pins + IE, 1)?;
            let came = comes();
            if came != intid {
                return Ok(format!("broken: {came} came, after {served}"));
            }
            let busy = now();
            while now() - busy < frequency() / 20 {}
            store32(pins + IE, 0)?;
            icc::end(came);
            // An access that the hypervisor answers: what it has kept back meanwhile would come with that.
            load32(gic.distributor)?;
            let again = comes();
            if again != icc::NONE {
                icc::end(again);
                return Ok(format!("broken: {again} came again, after {served}"));
            }
            served += 1;
        }
        gic.disable_line(intid as u32)?;
        Ok(format!("ok: {served} served"))
    };
    answer(test())
}
