//! What depends on the instruction set. One architecture is compiled in; the rest of the hypervisor uses what it exports
//! here.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
