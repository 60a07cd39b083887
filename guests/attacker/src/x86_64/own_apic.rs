//! The local APIC of the guest's own CPU, by its model-specific registers: what of it would reach others, and what it leaves behind.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{read_msr, write_msr};

const BASE: u32 = 0x1b;
const ID: u32 = 0x802;
const TASK_PRIORITY: u32 = 0x808;
const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const IN_SERVICE: u32 = 0x810;
const REQUESTED: u32 = 0x820;
const COMMAND: u32 = 0x830;
const TIMER: u32 = 0x832;
const LAST_ENTRY: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDER: u32 = 0x83e;
const SELF: u32 = 0x83f;

const ON: u64 = 0x1ff;
const MASKED: u64 = 1 << 16;
const PERIODIC: u64 = 1 << 17;
const ASSERT: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const LOGICAL: u64 = 1 << 11;
const OTHERS: u64 = 3 << 18;
/// What is sent: no other interrupt of the guest's has it.
const VECTOR: u8 = 0x50;

/// Whether an interrupt of this vector waits. Interrupts are masked.
fn waits(vector: u8) -> bool {
    let word = read_msr(REQUESTED + u32::from(vector / 32)).unwrap_or(0);
    word >> (vector % 32) & 1 != 0
}

/// Sends by the command register to every id but one's own, in both modes of destinations: the VM has this CPU alone, so that nobody is there.
/// Ids are the VM's: where they were the machine's, one of them would be this very CPU. Then everything else that can be sent.
pub fn commands(_: &Board) -> String {
    let (Ok(id), Ok(())) = (read_msr(ID), write_msr(SPURIOUS, ON)) else {
        return "broken: it doesn't answer".into();
    };
    let mut sent = 0u32;
    for target in (0..256u64).filter(|target| *target != id) {
        let _ = write_msr(COMMAND, target << 32 | ASSERT | u64::from(VECTOR));
        sent += 1;
        if waits(VECTOR) {
            return format!("succeeded: id {target} is this CPU in the machine, which has id {id} in the VM");
        }
    }
    for mode in 0..8u64 {
        let mut send = |command: u64| {
            // What is refused is refused.
            let _ = write_msr(COMMAND, command | mode << 8 | ASSERT | u64::from(VECTOR));
            sent += 1;
        };
        for target in (0..256u64).filter(|target| *target != id) {
            send(target << 32);
            send(target << 32 | LEVEL);
            // Of clusters of 16, all but that of this CPU.
            send((target + 1) << 48 | 0xffff << 32 | LOGICAL);
        }
        send(OTHERS);
        send(OTHERS | LEVEL);
    }
    if waits(VECTOR) {
        "succeeded: an interrupt came".into()
    } else {
        format!("blocked: nothing came of {sent} commands")
    }
}

/// Entries of the local vector table that would give SMI, NMI, INIT or ExtINT where the processor has the delivery of the timer's for itself.
pub fn entries(_: &Board) -> String {
    let mut taken = String::from("blocked: none is taken");
    for entry in TIMER..=LAST_ENTRY {
        for mode in [2u64, 4, 5, 7] {
            let value = MASKED | mode << 8 | u64::from(VECTOR);
            let written = write_msr(entry, value);
            if entry == TIMER && written.is_ok() && read_msr(entry) == Ok(value) {
                taken = format!("succeeded: the timer delivers by mode {mode}");
            }
        }
        let _ = write_msr(entry, MASKED);
    }
    taken
}

/// Moves it, turns it off, changes its mode.
pub fn base(_: &Board) -> String {
    let Ok(before) = read_msr(BASE) else { return "broken: it doesn't answer".into() };
    for value in [0, before & !(1 << 10), before & !(3 << 10), before ^ 1 << 12, before | 1 << 40] {
        if write_msr(BASE, value).is_ok() || read_msr(BASE) != Ok(before) {
            return format!("succeeded: it is {:x?}", read_msr(BASE));
        }
    }
    format!("blocked: it is {before:#x} still")
}

/// Leaves as much behind as it can: everything requested that a vector can be, exceptions' among them; what is in service never ends, and
/// nothing else comes through; the timer runs, as often as an emulated machine stands.
pub fn mess(_: &Board) -> String {
    let mut requested = 0u32;
    let _ = (write_msr(SPURIOUS, ON), write_msr(TASK_PRIORITY, 0xff));
    for vector in 16..256u64 {
        requested += u32::from(write_msr(SELF, vector).is_ok());
    }
    let _ = (write_msr(DIVIDER, 0xb), write_msr(TIMER, PERIODIC | 0x12), write_msr(INITIAL, 10_000_000));
    format!("done: {requested} interrupts wait")
}

/// A CPU begins with nothing of whoever had it before.
pub fn clean(_: &Board) -> String {
    let word = |register: u32| read_msr(register).unwrap_or(u64::MAX);
    let rest = (0..8).map(|number| (word(IN_SERVICE + number), word(REQUESTED + number)));
    if let Some((number, found)) = (0u32..).zip(rest).find(|(_, found)| *found != (0, 0)) {
        return format!("broken: of vectors {} on {found:x?} are in service and requested", number * 32);
    }
    let registers = [(TASK_PRIORITY, 0), (TIMER, MASKED), (INITIAL, 0), (CURRENT, 0), (DIVIDER, 0)];
    match registers.into_iter().find(|(register, reset)| word(*register) != *reset) {
        Some((register, _)) => format!("broken: register {register:#x} is {:#x}", word(register)),
        None => {
            let _ = write_msr(EOI, 0);
            "ok".into()
        }
    }
}
