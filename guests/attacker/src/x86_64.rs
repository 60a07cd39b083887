//! What is tried on x86_64.

use alloc::format;
use alloc::string::String;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{frequency, load32, load64, now, store32, store64};
use axvm_guest_runtime::println;

use crate::carry;

mod apics;
mod instructions;
mod memory;
mod own_apic;
mod ports;
mod registers;

/// An attack: the word that asks for it, and what does it and says what came of it.
type Attack = (&'static str, fn(&Board) -> String);

/// All of them.
pub const ALL: &[Attack] = &[
    // `edu`: what must work, then what must not.
    ("edu-dma-inside", carry::inside),
    ("edu-dma-read", carry::read),
    ("edu-dma-write", carry::write),
    // Accesses.
    ("memory-outside", memory_outside),
    ("memory-outside-write", memory_outside_write),
    ("config-foreign", config_foreign),
    // Registers and instructions of the CPU.
    ("cpuid", registers::identify),
    ("msrs", registers::model_specific),
    ("control-registers", registers::control),
    ("instructions", instructions::hidden),
    ("calls", instructions::calls),
    ("crossing", instructions::crossing),
    // Memory.
    ("memory-above", memory::above),
    ("memory-of-the-machine", memory::of_the_machine),
    // Ports.
    ("ports", ports::read),
    ("ports-write", ports::write),
    // The interrupt controllers.
    ("apic-registers", apics::local),
    ("apic-commands", apics::commands),
    ("io-apic-registers", apics::io),
    // The CPU's own local APIC.
    ("own-apic-clean", own_apic::clean),
    ("own-apic-commands", own_apic::commands),
    ("own-apic-entries", own_apic::entries),
    ("own-apic-base", own_apic::base),
    ("own-apic-mess", own_apic::mess),
    // Not an attacker: a neighbour who notices whether it was attacked.
    ("victim", victim),
    ("pause", pause),
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

/// Looks for the function that every board of this kind has, and that no VM is given: the bridge to ISA at 00:1f.0.
fn config_foreign(board: &Board) -> String {
    const ISA_BRIDGE: u64 = 0x1f << 15;
    let Some(ecam) = board.ecam else { return "skipped: no config space".into() };
    match load32(ecam + ISA_BRIDGE) {
        Err(_) => "blocked: exception".into(),
        Ok(u32::MAX) => "blocked: nobody is there".into(),
        Ok(id) => format!("succeeded: {id:#x} is there"),
    }
}

/// A neighbour: its RAM keeps what it wrote.
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
    }
    seen.unwrap_or_else(|| "ok".into())
}

/// Gives a neighbour the time to start.
fn pause(_: &Board) -> String {
    let start = now();
    while now() - start < frequency() * 2 {}
    "ok".into()
}

/// Runs what the command line asks for, in its order.
pub fn run(board: &Board) {
    for word in board.cmdline.split_whitespace() {
        if let Some((name, attack)) = ALL.iter().find(|(name, _)| *name == word) {
            println!("ATTACK {name} begins");
            println!("ATTACK {name} {}", attack(board));
        }
    }
}
