//! A small bare-metal guest that measures what traps and interrupts cost, in a VM or on the bare board.
//!
//! Its unit is the tick of the virtual counter. Under QEMU with `-icount shift=0,sleep=off -cpu max` one tick is one
//! instruction executed, whoever executed it: the guest or, while it was left, the hypervisor. Each figure gives one line
//!
//! ```text
//! PROBE name ticks
//! ```
//!
//! or `PROBE name skipped: why`, then `PROBE done`, and it powers itself off. See `probes::ALL` of each architecture for the names, and
//! its `measure` for what exactly lies between the two readings of the counter. What the board must have for all of them: on aarch64
//! a GICv3 with ITS, a PL031, a PL061, an `edu` on the root bus and a second CPU; on x86_64, where the counter is the time stamp
//! counter, a second CPU.
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64/mod.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod arch;

axvm_guest_runtime::entry!("PROBE", arch::probes::run);
