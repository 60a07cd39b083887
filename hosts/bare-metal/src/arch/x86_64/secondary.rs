//! What a CPU is started with.

/// What a CPU needs before it can run Rust. The first CPU fills it in, `secondary_long` reads it.
#[repr(C)]
pub struct SecondaryBoot {
    /// CR3: the hypervisor's own map.
    pub root: u64,
    /// The top of its stack.
    pub stack: u64,
    /// Passed to `crate::cpus::secondary_main`.
    pub argument: u64,
}
