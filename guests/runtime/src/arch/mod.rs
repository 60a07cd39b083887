//! What differs between architectures. Each gives `board`, what the guest was given; `machine`, all that touches the machine directly;
//! and `uart`, its console's.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{board, icc, machine, registers, uart};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{apic, board, machine, uart};
