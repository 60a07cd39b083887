//! x86_64 in 64-bit mode.

pub mod apic;
pub mod board;
mod boot;
mod interrupts;
pub mod machine;
pub mod uart;
