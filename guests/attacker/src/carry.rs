//! What `edu` carries, within the VM's RAM and out of it.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::edu::{CHUNK, Edu};
use axvm_guest_runtime::machine::{Fault, load64, store64};

/// A pattern that no memory has by itself.
pub const PATTERN: u64 = 0x4158_564d_2041_5454;
/// Another.
pub const OTHER: u64 = 0x5a5a_1234_a5a5_4321;

/// Attacks with the board's `edu`, if there is one.
pub fn with_edu(board: &Board, attack: impl FnOnce(&Edu) -> Result<String, Fault>) -> String {
    match Edu::of(board) {
        None => "skipped: no edu".into(),
        Some(edu) => attack(&edu).unwrap_or_else(|Fault| "broken: edu's registers don't answer".into()),
    }
}

/// Fills what is moved at once.
pub fn fill(address: u64, value: u64) -> Result<(), Fault> {
    (0..CHUNK / 8).try_for_each(|word| store64(address + word * 8, value))
}

/// Within the VM's own RAM it works, or a blocked access elsewhere would show nothing.
pub fn inside(board: &Board) -> String {
    with_edu(board, |edu| {
        let seen = carry(edu, board)?;
        Ok(if seen == PATTERN { "ok".into() } else { format!("broken: {seen:#x} in place of {PATTERN:#x}") })
    })
}

/// Has the device carry [`PATTERN`] from one page to another; what arrives there.
pub fn carry(edu: &Edu, board: &Board) -> Result<u64, Fault> {
    let (from, to) = (board.scratch, board.scratch + 0x1000);
    fill(from, PATTERN)?;
    fill(to, OTHER)?;
    edu.read(from)?;
    edu.write(to)?;
    load64(to)
}

/// What the device reads at the target, brought home; the device's buffer held [`PATTERN`] before.
pub fn peek(edu: &Edu, board: &Board, target: u64) -> Result<u64, Fault> {
    let (from, to) = (board.scratch, board.scratch + 0x1000);
    fill(from, PATTERN)?;
    fill(to, OTHER)?;
    edu.read(from)?;
    edu.read(target)?;
    edu.write(to)?;
    load64(to)
}

/// Reads outside the VM's RAM.
pub fn read(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    with_edu(board, |edu| {
        let seen = peek(edu, board, target)?;
        Ok(match (seen, board.number("axvm.secret")) {
            (OTHER, _) => "broken: the buffer didn't come home".into(),
            (_, Some(secret)) if seen == secret => format!("succeeded: {target:#x} has {seen:#x}"),
            (_, Some(_)) | (PATTERN, None) => format!("blocked at {target:#x}"),
            // A read that failed gives zeros in QEMU; so does memory that is zero.
            (0, None) => "skipped: zero says nothing, `axvm.secret` must be what lies there".into(),
            (_, None) => format!("succeeded: {target:#x} has {seen:#x}"),
        })
    })
}

/// Writes outside the VM's RAM, and looks by DMA whether it is there.
pub fn write(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    with_edu(board, |edu| {
        fill(board.scratch + 0x2000, OTHER ^ PATTERN)?;
        edu.read(board.scratch + 0x2000)?;
        edu.write(target)?;
        let seen = peek(edu, board, target)?;
        Ok(if seen == OTHER ^ PATTERN {
            format!("succeeded: {target:#x} was written")
        } else {
            format!("blocked at {target:#x}")
        })
    })
}
