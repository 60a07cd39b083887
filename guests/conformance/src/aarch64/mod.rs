//! What is seen of a GICv3 with an ITS (Arm IHI 0069).
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

mod cpu;
mod frames;
pub mod scenarios;
mod second;
