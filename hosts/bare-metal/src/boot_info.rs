//! What an entry hands over. Each entry fills one [`BootInfo`] (`described`); nothing after it knows which it was.
//!
//! All of it is found without allocating: it says where the heap can be.

use axvm_addr::{Hpa, Span};
use axvm_platform::uart::EarlyConsole;

use crate::described::{MemoryMap, PlatformSource};

/// What boot begins with.
pub struct BootInfo<'a> {
    /// What describes the machine.
    pub platform: PlatformSource<'a>,
    /// What the boot loader carried: the bundle.
    pub initrd: Option<Span<Hpa>>,
    /// What is known of memory before the platform is read.
    pub memory: MemoryMap<'a>,
    /// By which it can be said what goes wrong.
    pub console: Option<EarlyConsole>,
    /// The clock at the first instruction.
    pub start: u64,
}
