//! The virtual host bridge.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::board::Board;
use crate::edu::{Edu, functions_of};
use crate::machine::{load32, load64, store16, store32, store64};

const COMMAND: u64 = 0x04;
const BAR0: u64 = 0x10;
const NOBODY: u32 = u32::MAX;

/// Functions that don't answer must not be reachable by writing either.
pub fn config_poke(board: &Board) -> String {
    let (mut present, mut absent) = (0, 0);
    for ((device, function), config) in functions_of(board) {
        if load32(config) != Ok(NOBODY) {
            present += 1;
            continue;
        }
        absent += 1;
        for offset in [COMMAND, BAR0, 0x3c, 0x40, 0x100] {
            let _ = store32(config + offset, 0x0010_0406);
        }
        if load32(config) != Ok(NOBODY) || load32(config + COMMAND) != Ok(NOBODY) {
            return format!("succeeded: {device:02x}.{function} answered");
        }
    }
    format!("blocked: {present} present, {absent} absent")
}

/// No other function than the VM's own is seen; `axvm.functions` says how many those are.
pub fn config_foreign(board: &Board) -> String {
    let Some(own) = board.number("axvm.functions") else { return "skipped: no axvm.functions".into() };
    let seen: Vec<_> = functions_of(board)
        .filter(|(_, config)| !matches!(load32(*config), Ok(NOBODY) | Err(_)))
        .map(|(address, _)| address)
        .collect();
    if seen.len() as u64 > own {
        format!("succeeded: {seen:x?} answer")
    } else {
        format!("blocked: {seen:x?}")
    }
}

/// A present function's identity, capabilities pointer and ROM can't be changed.
pub fn config_identity(board: &Board) -> String {
    let mut tried = 0;
    for ((device, function), config) in functions_of(board) {
        let Ok(id) = load32(config) else { continue };
        if id == NOBODY {
            continue;
        }
        for offset in [0x00, 0x08, 0x2c, 0x30, 0x34] {
            let before = load32(config + offset);
            let _ = store32(config + offset, 0x5a5a_5a5a);
            if load32(config + offset) != before {
                return format!("succeeded: {device:02x}.{function} offset {offset:#x} changed");
            }
            tried += 1;
        }
    }
    if tried == 0 { "skipped: no function".into() } else { format!("blocked: {tried} registers") }
}

/// A BAR put over RAM must not hide it, nor be reached there; put back, it works again.
pub fn bar_over_ram(board: &Board) -> String {
    let Some(edu) = Edu::of(board) else { return "skipped: no edu".into() };
    let mark = 0x1122_3344_5566_7788u64;
    let place = (board.scratch + 0xf_ffff) & !0xf_ffff;
    let Ok(old) = load32(edu.config + BAR0) else { return "broken: no BAR".into() };
    let Ok(kept) = load64(place) else { return "skipped: no RAM there".into() };
    let moved = store64(place, mark)
        .and_then(|()| store16(edu.config + COMMAND, 0))
        .and_then(|()| store32(edu.config + BAR0, place as u32))
        .and_then(|()| store16(edu.config + COMMAND, 2));
    let seen = load64(place);
    let _ = store16(edu.config + COMMAND, 0);
    let _ = store32(edu.config + BAR0, old);
    let _ = store16(edu.config + COMMAND, 6);
    let _ = store64(place, kept);
    match (moved, seen) {
        (Ok(()), Ok(seen)) if seen == mark => "blocked: RAM is still RAM".into(),
        (moved, seen) => format!("succeeded: {moved:?}, then {seen:x?}"),
    }
}
