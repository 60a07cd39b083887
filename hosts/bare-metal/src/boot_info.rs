//! What an entry hands over. Each entry (so far there is one: Linux's boot protocol with a device tree, `entry.rs`) fills one
//! [`BootInfo`]; nothing after it knows which it was.
//!
//! All of it is found without allocating: it says where the heap can be.

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt;
use axvm_platform::fdt::blob::Tree;
use axvm_platform::fdt::outline::{EarlyConsole, Outline, OutlineError};
use axvm_platform::model::Platform;

use crate::arch;

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

/// What describes the machine.
pub enum PlatformSource<'a> {
    /// A device tree.
    DeviceTree {
        /// Its bytes.
        blob: &'a [u8],
        /// The same, as far as it can be read without allocating.
        outline: Outline<'a>,
        /// Where it is.
        at: Hpa,
    },
}

/// Bytes of heap for each byte of the device tree's structure. Reading one takes 3 to 9 in real trees, 25 in one made to be the worst
/// (thousands of nodes with a `reg` and two empty properties).
const HEAP_PER_TREE_BYTE: u64 = 32;

impl PlatformSource<'_> {
    /// How many CPUs there are, at most.
    pub fn cpus(&self) -> usize {
        let Self::DeviceTree { outline, .. } = self;
        outline.cpus
    }

    /// Bytes of heap that reading it takes, at most.
    pub fn heap(&self) -> u64 {
        let Self::DeviceTree { outline, .. } = self;
        outline.size() as u64 * HEAP_PER_TREE_BYTE
    }

    /// Where it is.
    pub fn span(&self) -> Option<Span<Hpa>> {
        let Self::DeviceTree { blob, at, .. } = self;
        Span::new(*at, blob.len() as u64).ok()
    }

    /// Below which address memory must lie that the machine's own hardware walks.
    pub fn memory_limit(&self) -> Option<Hpa> {
        let Self::DeviceTree { outline, .. } = self;
        arch::memory_limit(outline)
    }

    /// Reads it. There is a heap.
    ///
    /// # Errors
    ///
    /// What can't be read of it.
    pub fn read(&self) -> Result<Platform, fdt::FdtError> {
        let Self::DeviceTree { blob, .. } = self;
        fdt::read_in(&Tree::parse(blob)?)
    }
}

/// What is known of memory before the platform is read.
pub enum MemoryMap<'a> {
    /// What a device tree says of it.
    DeviceTree(Outline<'a>),
}

impl MemoryMap<'_> {
    /// So many bytes of free memory, aligned, as high as can be, of which `taken` has nothing.
    ///
    /// # Errors
    ///
    /// What can't be read of it.
    pub fn free(
        &self,
        size: u64,
        align: u64,
        taken: &[Span<Hpa>],
    ) -> Result<Option<Span<Hpa>>, OutlineError> {
        let Self::DeviceTree(outline) = self;
        outline.free(size, align, taken)
    }
}
