//! A small bare-metal guest that says what its interrupt controller does, in a VM or on the bare board.
//!
//! What it does is the same in both places, and every line `SEEN scenario what` is one that the architecture
//! leaves no choice about: a hypervisor whose VM says other lines than the bare board has a mistake. Words of its
//! command line choose the scenarios (`scenarios::ALL` of each architecture, whose module says what isn't asked for, and what the board
//! must have), in that order; each ends with `CONFORMANCE scenario done`.
//!
//! `axvm.seed=N` and `axvm.steps=N` are for the walks, whose every step is said with the word `trace`.
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64/mod.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod arch;
mod lot;

axvm_guest_runtime::entry!("CONFORMANCE", arch::scenarios::run);
