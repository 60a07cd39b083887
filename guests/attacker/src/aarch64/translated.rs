//! Trapped registers and code that aren't where their virtual addresses say: with the first stage on.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::sync::atomic::Ordering;

use crate::board::Board;
use crate::machine::{FAULTS, Fault, load32, store32, store64};

const GIB: u64 = 1 << 30;

/// From a physical address in the first two GiB to its second virtual one.
const ALIAS: u64 = 2 * GIB;

/// A tag, which top byte ignore lets be.
const TAG: u64 = 0x5a << 56;

/// Level 1 blocks of 1 GiB (Arm ARM, D8.3): device and memory, where they are and once more.
fn write_table(table: u64) -> Result<(), Fault> {
    const BLOCK: u64 = 1;
    const ACCESSED: u64 = 1 << 10;
    const SHARED: u64 = 3 << 8;
    const MEMORY: u64 = 1 << 2;
    let device = BLOCK | ACCESSED | SHARED;
    let memory = device | MEMORY | GIB;
    for entry in 0..512 {
        store64(table + entry * 8, [device, memory][entry as usize % 2] * u64::from(entry < 4))?;
    }
    Ok(())
}

/// Turns the first stage on or off.
///
/// # Safety
///
/// Code, stack and whatever is accessed must lie at the same place in both.
unsafe fn translate(table: u64, on: bool) {
    /// Index 0 Device-nGnRnE, 1 Normal non-cacheable.
    const MAIR: u64 = 0x4400;
    /// T0SZ: 39 bits; EPD1: no upper half; TBI0.
    const TCR: u64 = 25 | 1 << 23 | 1 << 37;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "dsb sy",
            "msr mair_el1, {mair}",
            "msr tcr_el1, {tcr}",
            "msr ttbr0_el1, {table}",
            "isb",
            "tlbi vmalle1",
            "dsb sy",
            "mrs {scratch}, sctlr_el1",
            "bfi {scratch}, {on}, #0, #1",
            "msr sctlr_el1, {scratch}",
            "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) TCR,
            table = in(reg) table,
            on = in(reg) u64::from(on),
            scratch = out(reg) _,
        )
    };
}

/// A pair with writeback, by code and to registers that are at their second addresses, the latter tagged.
pub fn pairs(board: &Board) -> String {
    const MR: u64 = 0x04;
    const A: u32 = 0x1234_5678;
    const B: u32 = 0x8765_4321;
    let Some(clock) = board.number("axvm.clock") else { return "skipped: no axvm.clock".into() };
    let table = board.scratch;
    let there = [table, clock].iter().all(|&address| address < 2 * GIB);
    if !there || table < GIB || write_table(table).is_err() {
        return "skipped: RAM isn't in the second GiB".into();
    }
    let at = (clock + ALIAS + MR) | TAG;
    let before = FAULTS.load(Ordering::Relaxed);
    let par = 0x1234_5000u64;
    let (first, second, moved, kept): (u64, u64, u64, u64);
    // SAFETY: memory and registers are mapped one to one, as they are without translation; between the two jumps the same
    // code runs at its second address, and uses no stack. An exception's vectors are mapped in both.
    unsafe {
        translate(table, true);
        asm!(
            "msr par_el1, {par}",
            "adr {to}, 2f",
            "add {to}, {to}, {alias}",
            "br {to}",
            "2: stp {a:w}, {b:w}, [{at}], #8",
            "ldp {second:w}, {first:w}, [{at}, #-8]!",
            "adr {to}, 3f",
            "sub {to}, {to}, {alias}",
            "br {to}",
            "3: mrs {par}, par_el1",
            to = out(reg) _,
            alias = in(reg) ALIAS,
            a = in(reg) u64::from(A),
            b = in(reg) u64::from(B),
            at = inout(reg) at => moved,
            first = out(reg) first,
            second = out(reg) second,
            par = inout(reg) par => kept,
        );
        translate(table, false);
    }
    let faults = FAULTS.load(Ordering::Relaxed) - before;
    let plain = [load32(clock + MR), load32(clock + MR + 4)];
    let _ = store32(clock + MR, 0);
    match (faults, plain, (second, first), moved == at, kept == par) {
        (0, [Ok(A), Ok(B)], (second, first), true, true) if (second, first) == (A.into(), B.into()) => {
            "ok".into()
        }
        other => format!("broken: {other:x?}"),
    }
}
