//! Interrupts: the machine's local and I/O APICs, and what of them each VM gets.
//!
//! The machine's: `io_apic` (one of them), `vectors` (which of each CPU's vectors is whose), `messages` (messages of devices, which the
//! IOMMU makes vectors of), and `machine`, which is all of them to the rest of the hypervisor. A VM's: `guest` (the virtual APICs), and
//! `deliver` (an interrupt that was taken).

pub(super) mod deliver;
mod guest;
mod io_apic;
mod machine;
pub(super) mod messages;
pub(super) mod vectors;

pub use guest::{ApicBackend, GuestIrqchip, GuestIrqchipError, NotSeated, Seat};
pub use machine::{Caller, Irqchip, IrqchipError, registers};
pub use messages::Messages;
