//! What is tried.

use alloc::string::String;

use crate::board::Board;
use crate::{carry, machine, println};

mod counts;
mod cpu;
mod cycles;
mod debug;
mod dma;
mod gic;
mod interface;
mod its;
mod pci;
mod raw;
mod registers;
mod resets;
mod silent;
mod suspend;
mod translated;
mod trapped;
mod turns;
mod typed;

/// An attack: the word that asks for it, and what does it and says what came of it.
type Attack = (&'static str, fn(&Board) -> String);

/// All of them.
pub const ALL: &[Attack] = &[
    // `edu`: what must work, then what must not.
    ("edu-dma-inside", carry::inside),
    ("edu-dma-read", carry::read),
    ("edu-dma-write", carry::write),
    ("edu-dma-flood", dma::flood),
    ("storm", dma::storm),
    ("calm", dma::calm),
    ("edu-dma-gone", dma::gone),
    ("edu-dma-hold-core", dma::hold_core),
    ("edu-dma-on", dma::on),
    // The virtual host bridge.
    ("config-poke", pci::config_poke),
    ("config-identity", pci::config_identity),
    ("config-foreign", pci::config_foreign),
    ("bar-over-ram", pci::bar_over_ram),
    // Accesses, calls.
    ("mmio-outside", cpu::mmio_outside),
    ("mmio-outside-write", cpu::mmio_outside_write),
    ("smc-unknown", cpu::unknown_calls),
    ("smc-poweroff-other", cpu::calls_for_others),
    ("smc-system-off", cpu::system_off),
    ("system-error", cpu::system_error),
    // Interrupts.
    ("gicd-foreign", gic::distributor),
    ("sgi-foreign", gic::software_interrupts),
    ("its-bad-commands", its::bad_commands),
    ("its-own-device", its::own_device),
    ("its-foreign-device", its::foreign_device),
    // Raw regions: what must work, then what must not.
    ("trap-widths", trapped::widths),
    ("trap-pairs", trapped::pairs),
    ("trap-vectors", trapped::vectors),
    ("trap-translated", translated::pairs),
    ("trap-refused", trapped::refused),
    ("trap-block", trapped::block),
    ("trap-silence", trapped::silence),
    ("raw-clock", raw::clock),
    ("raw-pins", raw::pins),
    // The CPU interface where interrupts are passthrough: what must work, then what must not reach further.
    ("priority-mask", interface::priority_mask),
    ("split-end", interface::split_end),
    ("forged-spin", interface::forged_spin),
    ("forged-sleep", interface::forged_sleep),
    ("closed-sleep", interface::closed_sleep),
    ("foreign-end", interface::foreign_end),
    ("line-victim", interface::line_victim),
    ("silent", silent::silent),
    ("suspended", suspend::suspended),
    ("system-suspended", suspend::system_suspended),
    // A machine that starts again.
    ("resets", resets::resets),
    ("message", cycles::message),
    ("neighbour", dma::neighbour),
    ("turn-finds", turns::finds),
    ("turn-leaves", turns::leaves),
    ("turn-message", turns::message),
    ("counts", counts::counts),
    ("cpu-off", resets::cpu_off),
    ("watchdog", resets::watchdog),
    // What is typed.
    ("typed", typed::typed),
    ("deaf", typed::deaf),
    ("garble", typed::garble),
    // Registers of the CPU: what must work, then what must not be there, or not reach further.
    ("breakpoint", debug::breakpoint),
    ("os-lock", debug::lock),
    ("registers", registers::scan),
    // Not an attacker: a neighbour who notices whether it was attacked.
    ("victim", gic::victim),
    ("pause", pause),
];

/// Gives a neighbour the time to start.
fn pause(_: &Board) -> String {
    let start = machine::now();
    while machine::now() - start < machine::frequency() * 2 {}
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
