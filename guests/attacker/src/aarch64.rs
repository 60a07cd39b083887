//! What is tried on aarch64 alone, and how what is shared is done there.

use crate::attacks::Attack;

mod asleep;
mod cpu;
mod debug;
mod ends;
mod garble;
mod gic;
mod hears;
mod interface;
mod its;
mod raw;
mod registers;
mod silent;
mod translated;
mod trapped;

pub use hears::{Hearing, MESSAGE, keep, kept, on_other_cpu, reset};

/// What is tried on this architecture alone.
pub const ALL: &[Attack] = &[
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
    ("system-suspended", asleep::system_suspended),
    ("cpu-off", ends::cpu_off),
    ("watchdog", ends::watchdog),
    ("garble", garble::garble),
    // Registers of the CPU: what must work, then what must not be there, or not reach further.
    ("breakpoint", debug::breakpoint),
    ("os-lock", debug::lock),
    ("registers", registers::scan),
    // Not an attacker: a neighbour who notices whether it was attacked.
    ("victim", gic::victim),
];
