//! What is done between the marks.

use core::ffi::CStr;

use crate::arguments::Arguments;
use crate::linux::{self, Failed, File};
use crate::{mark, ping};

/// What a reading task needs: a block, aligned as direct I/O wants it.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Does what the arguments say; the exit status.
pub fn run(arguments: &Arguments) -> i32 {
    if linux::process() == 1 {
        mark::user_space();
        linux::execute(c"/measure.sh", arguments, 0);
        return fail(c"/measure.sh can't be run");
    }
    if let (Some(b"launch"), Some(program)) = (arguments.get(1).map(CStr::to_bytes), arguments.get(2)) {
        mark::launch();
        linux::execute(program, arguments, 2);
        return fail(c"the program can't be run");
    }
    let numbers = || Some((number(arguments.get(3)?)?, number(arguments.get(4)?)?));
    let (Some(work), Some(target), Some((count, rounds))) = (arguments.get(1), arguments.get(2), numbers())
    else {
        return fail(c"usage: measure reads DISK COUNT ROUNDS, measure pings ADDRESS COUNT ROUNDS, or measure launch PROGRAM ARGUMENTS");
    };
    let done = match work.to_bytes() {
        b"reads" => reads(target, count, rounds),
        b"pings" => pings(target, count, rounds),
        _ => return fail(c"there is reads, and pings"),
    };
    match done {
        Ok(()) => 0,
        Err(Failed) => fail(c"a call of the kernel failed"),
    }
}

fn fail(why: &CStr) -> i32 {
    linux::say(c"measure: ");
    linux::say(why);
    linux::say(c"\n");
    1
}

/// A decimal number.
fn number(text: &CStr) -> Option<u32> {
    text.to_bytes().iter().try_fold(0u32, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// `rounds` times `count` of it, a mark before, between and after. The round before the first mark finds caches and the
/// network's neighbours cold.
fn repeat(
    count: u32,
    rounds: u32,
    mark: fn(),
    mut work: impl FnMut() -> Result<(), Failed>,
) -> Result<(), Failed> {
    for _ in 0..=rounds {
        for _ in 0..count {
            work()?;
        }
        mark();
    }
    Ok(())
}

fn reads(disk: &CStr, count: u32, rounds: u32) -> Result<(), Failed> {
    let disk = File::open_direct(disk)?;
    let mut block = Block([0; 4096]);
    let mut at = 0u64;
    repeat(count, rounds, mark::reads, || {
        let read = disk.read_at(&mut block.0, at)?;
        // At the disk's end from its start again; at once, as a loop that never ends isn't wanted on an empty disk.
        at = if read == block.0.len() { at + read as u64 } else { 0 };
        Ok(())
    })
}

fn pings(address: &CStr, count: u32, rounds: u32) -> Result<(), Failed> {
    let mut numbers = address.to_bytes().split(|byte| *byte == b'.').map(|part| {
        part.iter().try_fold(0u8, |value, digit| {
            let digit = char::from(*digit).to_digit(10)?;
            value.checked_mul(10)?.checked_add(u8::try_from(digit).ok()?)
        })
    });
    let mut next = || numbers.next().flatten().ok_or(Failed);
    let mut peer = ping::Peer::new([next()?, next()?, next()?, next()?])?;
    repeat(count, rounds, mark::pings, || peer.ping())
}
