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
//! counter, a second CPU. There the command line names what else it may use: `axvm.window`, where PCI functions' registers may be (`edu`'s), and `axvm.line`,
//! the number of `edu`'s line; `axvm.direct` and `axvm.trapped`, the first ports of two more 16550s, of which the first is the second serial port, with its line;
//! `axvm.register`, a register of 32 bits that may be written what it has. With `axvm.x2apic=1` the local APICs are used in that mode.
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
