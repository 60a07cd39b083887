//! Debug registers: what a guest's debugger needs works, and nothing reaches beyond the guest (Arm ARM, DDI 0487, D24.3).

use alloc::format;
use alloc::string::String;
use core::arch::asm;

use crate::board::Board;
use crate::machine::{self, Fault};
use crate::registers::{Register, Registers};

const MDSCR: Register = Register::new(2, 0, 0, 2, 2);
const OSECCR: Register = Register::new(2, 0, 0, 6, 2);
const OSLAR: Register = Register::new(2, 0, 1, 0, 4);
const OSLSR: Register = Register::new(2, 0, 1, 1, 4);
const BREAKPOINT_VALUE: Register = Register::new(2, 0, 0, 0, 4);
const BREAKPOINT_CONTROL: Register = Register::new(2, 0, 0, 0, 5);
const WATCHPOINT_VALUE: Register = Register::new(2, 0, 0, 0, 6);
const WATCHPOINT_CONTROL: Register = Register::new(2, 0, 0, 0, 7);

/// ESR_EL1.EC of a breakpoint and of a watchpoint, from the level that takes it.
const BREAKPOINT: u64 = 0x31;
const WATCHPOINT: u64 = 0x35;

/// MDSCR_EL1.MDE and KDE: breakpoints, also at EL1.
const MONITOR: u64 = 1 << 15 | 1 << 13;

fn write(registers: &Registers, register: Register, value: u64) -> Result<(), Fault> {
    // SAFETY: debug registers; where they make the program take an exception, the vectors step over it.
    unsafe { registers.write(register, value) }
}

fn read(registers: &Registers, register: Register) -> Result<u64, Fault> {
    // SAFETY: debug registers, whose reads change nothing.
    unsafe { registers.read(register) }
}

/// A breakpoint and a watchpoint fire at EL1, as a kernel's debugger sets them.
pub fn breakpoint(board: &Board) -> String {
    let registers = Registers::new(board.scratch);
    match fire(&registers, board.scratch + 0x1000) {
        Ok((BREAKPOINT, WATCHPOINT)) => "ok".into(),
        Ok(classes) => format!("broken: exceptions {classes:#x?}"),
        Err(Fault) => "broken: a debug register isn't there".into(),
    }
}

/// The classes of the exceptions that a breakpoint and a watchpoint on `target` give; 0 for none.
fn fire(registers: &Registers, target: u64) -> Result<(u64, u64), Fault> {
    // What every kernel does first: opens the OS lock.
    write(registers, OSLAR, 0)?;
    machine::store32(target, 0xd503_201f)?; // nop
    machine::store32(target + 4, 0xd65f_03c0)?; // ret
    // At EL1 (PMC), all four bytes (BAS).
    write(registers, BREAKPOINT_VALUE, target)?;
    write(registers, BREAKPOINT_CONTROL, 0xf << 5 | 1 << 1 | 1)?;
    write(registers, MDSCR, MONITOR)?;
    let code = caught(|| {
        // SAFETY: a nop and a return, just written; the breakpoint's exception is stepped over. Debug exceptions are unmasked for
        // as long.
        unsafe {
            asm!(
                "ic ivau, {0}", "dsb sy", "isb", "msr daifclr, #8", "isb", "blr {0}", "msr daifset, #8",
                in(reg) target, out("x30") _,
            )
        }
    });
    write(registers, BREAKPOINT_CONTROL, 0)?;
    // Stores (LSC) of EL1 (PAC) to any of eight bytes (BAS).
    write(registers, WATCHPOINT_VALUE, target + 0x40)?;
    write(registers, WATCHPOINT_CONTROL, 0xff << 5 | 2 << 3 | 1 << 1 | 1)?;
    let data = caught(|| {
        // SAFETY: a store to memory that nothing uses.
        unsafe {
            asm!(
                "msr daifclr, #8", "isb", "str xzr, [{0}]", "dsb sy", "msr daifset, #8",
                in(reg) target + 0x40,
            )
        }
    });
    write(registers, WATCHPOINT_CONTROL, 0)?;
    write(registers, MDSCR, 0)?;
    Ok((code, data))
}

/// The class of the exception that something gives; 0 for none.
fn caught(what: impl FnOnce()) -> u64 {
    let before = machine::FAULTS.load(core::sync::atomic::Ordering::Relaxed);
    what();
    let after = machine::FAULTS.load(core::sync::atomic::Ordering::Relaxed);
    if after == before { 0 } else { Registers::syndrome() >> 26 }
}

/// Closes the OS lock and, behind it, masks interrupts for the external debugger, has breakpoints halt the core, and changes which
/// exceptions are caught.
pub fn lock(board: &Board) -> String {
    /// MDSCR_EL1.SS, TDCC, KDE, MDE: what is a guest's.
    const OWN: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15;
    let registers = Registers::new(board.scratch);
    // No single step: this program's next instruction would be one.
    let all = !1;
    let tried = (|| {
        write(&registers, OSLAR, 1)?;
        let lock = read(&registers, OSLSR)? & 2;
        write(&registers, MDSCR, all)?;
        let control = read(&registers, MDSCR)? & !OWN;
        write(&registers, MDSCR, 0)?;
        let caught = write(&registers, OSECCR, u64::MAX).and_then(|()| read(&registers, OSECCR)).unwrap_or(0);
        write(&registers, OSECCR, 0).unwrap_or(());
        write(&registers, OSLAR, 0)?;
        Ok::<_, Fault>((lock, control, caught))
    })();
    match tried {
        Ok((0, 0, 0)) => "blocked".into(),
        Ok((lock, control, caught)) => {
            format!("succeeded: lock {lock}, MDSCR_EL1 {control:#x}, OSECCR_EL1 {caught:#x}")
        }
        Err(Fault) => "broken: a debug register isn't there".into(),
    }
}
