//! Interrupts: the machine's GICv3 with its ITSs, and what of them each VM gets.
//!
//! The machine's: `gic` (distributor, redistributors), `gic_lpis` (LPIs at the latter), `cpu_interface` (the calling CPU's), `its` and its commands, `lpis` (which
//! there are, and their configuration), `groups` (which are whose), `limits` (what it can hold), and `machine`, which is all of them to the rest of the hypervisor. A VM's: `guest` (the virtual GIC),
//! `backend` (what that has done in hardware), `deliver` (an interrupt that was taken), `lists` (list registers), `direct` (the
//! interface of a vCPU that takes physical interrupts itself), `vpe` (virtual LPIs).

mod backend;
pub(super) mod cpu_interface;
pub(super) mod deliver;
pub(super) mod direct;
mod error;
mod gic;
mod gic_lpis;
pub(super) mod groups;
pub(super) mod guest;
mod its;
mod its_command;
mod limits;
pub(super) mod lists;
mod lpis;
mod machine;
mod messages;
mod vpe;

pub use guest::{GuestIrqchip, GuestIrqchipError, NotSeated, Seat};
pub use machine::{Caller, Irqchip, IrqchipError, memory_limit, registers};
pub use messages::Messages;
