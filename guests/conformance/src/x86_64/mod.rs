//! What is seen of local APICs (AMD APM 2, 16; Intel SDM 3, 11), in both modes, and of the I/O APIC (Intel 82093AA).
//!
//! What the architecture does leave open, or what can't be the same in a VM, is not asked for:
//!
//! - how long anything takes, but for what comes at all within a long time, and what doesn't;
//! - which of several CPUs gets an interrupt of the lowest priority;
//! - the version register, which says what else there is;
//! - the timer's mode by the time stamp counter: a VM offers it whether the machine does or not;
//! - what is written into reserved bits;
//! - an entry's remote IRR while its pin counts by the edge.
//!
//! What QEMU's APICs do otherwise than the manuals say is not asked for either, as the bare board would be no model:
//!
//! - one that is off by its spurious vector register takes interrupts, and its entries aren't masked by that;
//! - errors: neither the error status nor the entry of errors is served, vectors below 16 are delivered;
//! - the priority of arbitration reads as zero;
//! - in x2APIC mode what can only be written can be read, what can only be read can be written without an effect, reserved bits can be
//!   written, the command register's upper half can't be read back and reads as zero also where it was a register of its own;
//! - the logical destination of all ones names nobody who has no logical id (Intel SDM 3, 11.6.2.2: it names all).
//!
//! What the board must have: a second CPU, and a 16550 as its console with a line to the I/O APIC.

mod apic;
mod cpu;
mod line;
pub mod scenarios;
mod second;
