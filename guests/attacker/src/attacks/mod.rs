//! What is tried.

use alloc::string::String;

use crate::board::Board;
use crate::println;

mod cpu;
mod dma;
mod gic;
mod its;
mod pci;

/// An attack: the word that asks for it, and what does it and says what came of it.
type Attack = (&'static str, fn(&Board) -> String);

/// All of them.
pub const ALL: &[Attack] = &[
    // `edu`: what must work, then what must not.
    ("edu-dma-inside", dma::inside),
    ("edu-dma-read", dma::read),
    ("edu-dma-write", dma::write),
    ("edu-dma-flood", dma::flood),
    // The virtual host bridge.
    ("config-poke", pci::config_poke),
    ("config-identity", pci::config_identity),
    ("bar-over-ram", pci::bar_over_ram),
    // Accesses, calls.
    ("mmio-outside", cpu::mmio_outside),
    ("mmio-outside-write", cpu::mmio_outside_write),
    ("smc-unknown", cpu::unknown_calls),
    ("smc-poweroff-other", cpu::calls_for_others),
    // Interrupts.
    ("gicd-foreign", gic::distributor),
    ("sgi-foreign", gic::software_interrupts),
    ("its-bad-commands", its::bad_commands),
    // Not an attacker: a neighbour who notices whether it was attacked.
    ("victim", gic::victim),
];

/// Runs what the command line asks for, in its order.
pub fn run(board: &Board) {
    for word in board.cmdline.split_whitespace() {
        if let Some((name, attack)) = ALL.iter().find(|(name, _)| *name == word) {
            println!("ATTACK {name} begins");
            println!("ATTACK {name} {}", attack(board));
        }
    }
}
