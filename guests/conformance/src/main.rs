//! A small bare-metal guest that says what its interrupt controller does, in a VM or on the bare board.
//!
//! What it does is the same in both places, and every line `SEEN scenario what` is one that the architecture (Arm IHI 0069)
//! leaves no choice about: a hypervisor whose VM says other lines than the bare board has a mistake. Words of its
//! command line choose the scenarios ([`scenarios::ALL`]), in that order; each ends with `CONFORMANCE scenario done`.
//!
//! `axvm.seed=N` and `axvm.steps=N` are for the walks, whose every step is said with the word `trace`.
//!
//! What the architecture does leave open, or what can't be the same in a VM, is not asked for:
//!
//! - the order of interrupts of one priority (of those, only which came is said);
//! - priorities in steps of less than 16, of which an implementation may have fewer than 256;
//! - a level that falls before its interrupt is taken. The bare board forgets it then. In a VM whose device's registers are
//!   mapped the hypervisor doesn't see the level fall: the interrupt comes once, and finds nothing to do;
//! - the priority of an interrupt that is changed while it is active.
//!
//! What the board must have: a GICv3 with an ITS, a PL061 and a PL031 with lines, two NVMe controllers, and a second CPU.
#![no_std]
#![no_main]

extern crate alloc;

mod cpu;
mod frames;
mod scenarios;
mod second;

axvm_guest_runtime::entry!("CONFORMANCE", scenarios::run);
