//! What is tried on each architecture. What of it depends on the machine is in `crate::arch`.

use alloc::string::String;

use crate::arch;
use crate::board::Board;
use crate::{carry, machine, println};

mod counts;
mod dma;
mod message;
mod pci;
mod resets;
mod suspend;
mod turns;
mod typed;

/// An attack: the word that asks for it, and what does it and says what came of it.
pub type Attack = (&'static str, fn(&Board) -> String);

/// Those that each architecture has.
const SHARED: &[Attack] = &[
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
    // A machine that sleeps, starts again, and changes hands.
    ("suspended", suspend::suspended),
    ("resets", resets::resets),
    ("message", message::message),
    ("neighbour", dma::neighbour),
    ("turn-finds", turns::finds),
    ("turn-leaves", turns::leaves),
    ("turn-message", turns::message),
    ("counts", counts::counts),
    // What is typed.
    ("typed", typed::typed),
    ("deaf", typed::deaf),
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
        if let Some((name, attack)) = arch::ALL.iter().chain(SHARED).find(|(name, _)| *name == word) {
            println!("ATTACK {name} begins");
            println!("ATTACK {name} {}", attack(board));
        }
    }
}
