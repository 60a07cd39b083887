//! What a CPU is started with.

/// What a CPU needs before it can run Rust with the MMU on. The first CPU fills it in, `_secondary_start` reads it with the
/// MMU off; so it is cleaned to the point of coherency in between.
#[repr(C)]
pub struct SecondaryBoot {
    /// MAIR_EL2.
    pub mair: u64,
    /// TCR_EL2.
    pub tcr: u64,
    /// TTBR0_EL2.
    pub ttbr: u64,
    /// SCTLR_EL2.
    pub sctlr: u64,
    /// The top of its stack.
    pub stack: u64,
    /// Passed to `crate::cpus::secondary_main`.
    pub argument: u64,
}
