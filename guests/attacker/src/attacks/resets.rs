//! No attack: a guest that has its machine start again.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::format;
use alloc::string::String;

use crate::arch::{keep, kept, reset};
use crate::board::Board;
use crate::machine::{Fault, load32, store32};
use crate::println;

/// What the image brings, and what a start leaves in its place.
const LOADED: u32 = 0x10ad_ed00;
const USED: u32 = 0x05ed_05ed;
static WORD: AtomicU32 = AtomicU32::new(LOADED);

/// Where in the RAM that the attacks use nobody else writes.
const UNUSED: u64 = 0xf_0000;

/// Resets itself in each way that there is, in turns, `axvm.resets` times. How often it has been started a device keeps, which no reset of a VM
/// touches. Each time the image is as it was loaded, and all other memory zero.
pub fn resets(board: &Board) -> String {
    let (Some(kept), Some(wanted)) = (kept(board), board.number("axvm.resets")) else {
        return "skipped: nothing keeps the count of starts, or no axvm.resets".into();
    };
    let test = || {
        let before = kept?;
        let (word, unused) = (WORD.swap(USED, Ordering::Relaxed), load32(board.scratch + UNUSED)?);
        store32(board.scratch + UNUSED, USED)?;
        if (word, unused) != (LOADED, 0) {
            return Ok(format!("broken: start {} finds {word:#x} and {unused:#x}", before + 1));
        }
        if u64::from(before) >= wanted {
            keep(board, 0)?;
            return Ok(format!("ok: start {}", before + 1));
        }
        keep(board, before + 1)?;
        println!("ATTACK resets: the end of start {}", before + 1);
        Ok(reset(board, before))
    };
    test().unwrap_or_else(|Fault| "broken: registers don't answer".into())
}
