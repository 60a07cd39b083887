//! Every system register that MRS and MSR can name: what isn't in [`ALLOWED`] must not be there.

mod allowed;

use alloc::format;
use alloc::string::String;

use allowed::{ALLOWED, Access};

use crate::board::Board;
use crate::println;
use crate::registers::{Register, Registers};

/// Reads every register, writes back what was read, and writes 0 to what can't be read.
///
/// That is harmless to this program: interrupts are masked, the MMU is off, and a register that can only be written does something
/// to what its value names (an interrupt, a lock), of which 0 is none.
pub fn scan(board: &Board) -> String {
    /// So many are named.
    const MOST: usize = 400;
    /// CPACR_EL1: everything on that EL1 can switch on: ZEN, FPEN, SMEN; TTA stays zero.
    const CPACR: Register = Register::new(3, 0, 1, 0, 2);
    const ALL_ON: u64 = 3 << 16 | 3 << 20 | 3 << 24;
    let registers = Registers::new(board.scratch);
    // SAFETY: what it switches on is used by nothing here.
    if unsafe { registers.write(CPACR, ALL_ON) }.is_err() {
        return "broken: CPACR_EL1 isn't there".into();
    }
    let (mut readable, mut writable, mut beyond) = (0, 0, 0);
    for register in Register::all() {
        // SAFETY: as said above.
        let (read, written) = unsafe {
            let read = registers.read(register);
            (read, registers.write(register, read.unwrap_or(0)))
        };
        let access = match (read.is_ok(), written.is_ok()) {
            (false, false) => continue,
            (true, false) => Access::Read,
            (false, true) => Access::Write,
            (true, true) => Access::ReadWrite,
        };
        readable += u32::from(read.is_ok());
        writable += u32::from(written.is_ok());
        if ALLOWED.iter().any(|group| group.allows(register, access)) {
            continue;
        }
        beyond += 1;
        if beyond <= MOST {
            println!("REGISTER {register} {access:?} {:#x}", read.unwrap_or(0));
        }
    }
    if beyond == 0 {
        format!("blocked: {readable} can be read, {writable} written, all of them listed")
    } else {
        format!("succeeded: {beyond} of {readable} readable and {writable} writable registers aren't listed")
    }
}
