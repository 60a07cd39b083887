//! What is tried on x86_64 alone, and how what is shared is done there.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::apic::{IoApic, Local, Signal};
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{frequency, load32, load64, now, sleep, store32, store64};
use axvm_guest_runtime::println;

use crate::attacks::Attack;

mod apics;
mod bars;
mod forged;
mod garble;
mod hears;
mod instructions;
mod memory;
mod others;
mod own_apic;
mod ports;
mod registers;

pub use hears::{Hearing, MESSAGE, keep, kept, on_other_cpu, reset};

/// What is tried on this architecture alone.
pub const ALL: &[Attack] = &[
    // What `edu` sends.
    ("edu-messages-dma", forged::by_dma),
    ("edu-messages-config", forged::by_configuration),
    ("edu-kinds-dma", forged::kinds_by_dma),
    ("edu-kinds-config", forged::kinds_by_configuration),
    ("edu-messages-heard", forged::heard),
    // Accesses.
    ("memory-outside", memory_outside),
    ("memory-outside-write", memory_outside_write),
    // Registers and instructions of the CPU.
    ("cpuid", registers::identify),
    ("msrs", registers::model_specific),
    ("control-registers", registers::control),
    ("instructions", instructions::hidden),
    ("calls", instructions::calls),
    ("state", instructions::state),
    ("crossing", instructions::crossing),
    ("changing", others::changing),
    // Memory.
    ("memory-above", memory::above),
    ("memory-of-the-machine", memory::of_the_machine),
    ("memory-tables", memory::tables),
    // Ports.
    ("ports", ports::read),
    ("ports-write", ports::write),
    ("ports-strings", ports::strings),
    ("bars", bars::moved),
    // The interrupt controllers.
    ("apic-registers", apics::local),
    ("apic-commands", apics::commands),
    ("io-apic-registers", apics::io),
    ("ipis", others::messages),
    // The CPU's own local APIC.
    ("own-apic-clean", own_apic::clean),
    ("own-apic-commands", own_apic::commands),
    ("own-apic-entries", own_apic::entries),
    ("own-apic-base", own_apic::base),
    ("own-apic-mess", own_apic::mess),
    ("garble", garble::garble),
    // Not an attacker: a neighbour who notices whether it was attacked.
    ("victim", victim),
    ("bars-victim", bars::victim),
    // Not one either: it ends itself as a machine does that has no table of interrupts any more.
    ("triple-fault", triple_fault),
    // Nor these: machines whose CPUs are all off for good.
    ("halts", others::halts),
    ("waits", others::waits),
    // Nor this: it sleeps, and goes on.
    ("sleeps", sleeps),
];

/// Reads where nothing was given: such an address reads as all ones.
fn memory_outside(board: &Board) -> String {
    let Some(target) = board.target() else { return "skipped: no target".into() };
    match load32(target) {
        Err(_) => format!("blocked at {target:#x}: exception"),
        Ok(u32::MAX) => format!("blocked at {target:#x}: reads as ones"),
        Ok(value) => format!("succeeded: {target:#x} has {value:#x}"),
    }
}

/// Writes where nothing was given.
fn memory_outside_write(board: &Board) -> String {
    const MARK: u32 = 0x4158_564d;
    let Some(target) = board.target() else { return "skipped: no target".into() };
    let written = store32(target, MARK);
    match (written, load32(target)) {
        (_, Ok(MARK)) => format!("succeeded: {target:#x} was written"),
        (Err(_), _) => format!("blocked at {target:#x}: exception"),
        (Ok(()), _) => format!("blocked at {target:#x}: ignored"),
    }
}

/// What a CPU's local APIC has to deliver: the first word of its requests that isn't empty.
fn requested(board: &Board) -> Option<u32> {
    const REQUESTED: u64 = 0x200;
    let base = board.madt.local_apic.0;
    (0..8).filter_map(|word| load32(base + REQUESTED + word * 0x10).ok()).find(|word| *word != 0)
}

/// A neighbour: its RAM keeps what it wrote, and it has no interrupt, of which it takes none.
fn victim(board: &Board) -> String {
    let (Some(first), Some(secret)) = (board.target(), board.number("axvm.secret")) else {
        return "skipped: no target, or no secret".into();
    };
    // In many places, 2 MiB apart: RAM lies at another address for the host, at a distance that is a multiple of that.
    let words = || (0..64u64).flat_map(move |place| (0..8).map(move |word| first + (place << 21) + word * 8));
    for word in words() {
        if store64(word, secret).is_err() {
            return format!("broken: {word:#x} isn't its RAM");
        }
    }
    if Local::new(board.madt.local_apic.0).start().is_err() {
        return "broken: no local APIC".into();
    }
    // A line of its own: with it the hypervisor has a vector for it, that somebody may forge.
    if let (Some(pin), Some(found)) = (board.number("axvm.line"), board.madt.io_apics.first()) {
        let signal = Signal { low: false, by_level: false };
        let id = board.cpus().next().unwrap_or(0);
        if IoApic::new(found.registers.0).route(pin as u32, signal, 0x61, id).is_err() {
            return "broken: no I/O APIC".into();
        }
    }
    println!("ATTACK victim waits");
    let (start, seconds) = (now(), board.number("axvm.seconds").unwrap_or(10));
    let mut seen: Option<String> = None;
    // To the end even then: with its VM its RAM would go, and with that what an attacker looks for there.
    while now() - start < seconds * frequency() {
        if seen.is_none() {
            seen = words()
                .find(|&word| load64(word) != Ok(secret))
                .map(|word| format!("broken: {word:#x} changed"));
        }
        if let Some(word) = requested(board) {
            return format!("broken: interrupts {word:#x} have come");
        }
    }
    seen.unwrap_or_else(|| "ok".into())
}

/// Sleeps until its timer interrupts it.
fn sleeps(board: &Board) -> String {
    const TIMER: u8 = 0x52;
    let apic = Local::new(board.madt.local_apic.0);
    let ticks = board.number("axvm.seconds").unwrap_or(10) * frequency();
    if apic.start().is_err() || apic.start_timer(TIMER, ticks).is_err() {
        return "broken: no local APIC".into();
    }
    match sleep(&apic) {
        Some(TIMER) => "ok".into(),
        other => format!("broken: it is woken by {other:?}"),
    }
}

/// It is reset, or the VM ends, by the file's word.
fn triple_fault(_: &Board) -> String {
    println!("ATTACK triple-fault comes");
    axvm_guest_runtime::machine::triple_fault()
}
