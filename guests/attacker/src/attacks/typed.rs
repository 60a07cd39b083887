//! What is typed at its console, more of it than anybody keeps for it.

use alloc::format;
use alloc::string::String;

use crate::board::Board;
use crate::machine::{Fault, frequency, now};
use crate::uart;

/// What is typed, again and again.
const TEXT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX";

/// Whether something was typed; from the first time on that this is asked.
pub fn has_come(board: &Board) -> bool {
    uart::listen(board.console).is_ok() && uart::has_come(board.console) == Ok(true)
}

/// Waits until what is typed has piled up, then reads `axvm.typed` bytes of it without saying anything: nothing but the reading
/// can call for more.
pub fn typed(board: &Board) -> String {
    let wanted = board.number("axvm.typed").unwrap_or(0) as usize;
    let test = || -> Result<String, Fault> {
        uart::listen(board.console)?;
        let start = now();
        while now() - start < frequency() {}
        let mut last = now();
        for count in 0..wanted {
            let byte = loop {
                if let Some(byte) = uart::receive(board.console)? {
                    break byte;
                }
                if now() - last > frequency() * 8 {
                    return Ok(format!("broken: nothing comes after {count} of {wanted} bytes"));
                }
            };
            last = now();
            if TEXT.get(count % TEXT.len()) != Some(&byte) {
                return Ok(format!("broken: byte {count} of {wanted} is {byte:#x}"));
            }
        }
        Ok(format!("ok: {wanted} bytes"))
    };
    test().unwrap_or_else(|Fault| "broken: its console doesn't answer".into())
}

/// Doesn't read anything, for as long as the run lasts.
pub fn deaf(board: &Board) -> String {
    let _ = uart::listen(board.console);
    loop {
        core::hint::spin_loop();
    }
}
