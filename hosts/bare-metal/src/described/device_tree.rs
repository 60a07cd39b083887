//! The entry by Linux's boot protocol: a device tree says all.

use core::fmt::Write as _;

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt;
use axvm_platform::fdt::blob::Tree;
use axvm_platform::fdt::outline::{Outline, OutlineError};
use axvm_platform::model::Platform;

use crate::arch::{self, Rights};
use crate::boot_info::BootInfo;
use crate::{boot, console};

/// What describes the machine.
pub struct PlatformSource<'a> {
    blob: &'a [u8],
    /// The same, as far as it can be read without allocating.
    outline: Outline<'a>,
    at: Hpa,
}

/// Bytes of heap for each byte of the device tree's structure. Reading one takes 3 to 9 in real trees, 25 in one made to be the worst
/// (thousands of nodes with a `reg` and two empty properties).
const HEAP_PER_TREE_BYTE: u64 = 32;

/// In how many places what it is read from is.
pub const PLACES: usize = 1;

impl PlatformSource<'_> {
    /// What it is called in messages.
    pub const NAME: &'static str = "the device tree";
    /// Who has the memory that it is in.
    pub const OWNER: &'static str = "the board's device tree";

    /// How many CPUs there are, at most.
    pub fn cpus(&self) -> usize {
        self.outline.cpus
    }

    /// Bytes of heap that reading it takes, at most.
    pub fn heap(&self) -> u64 {
        self.outline.size() as u64 * HEAP_PER_TREE_BYTE
    }

    /// The memory that it is read from.
    pub fn places(&self) -> [Span<Hpa>; PLACES] {
        [self.span().unwrap_or_default()]
    }

    /// Where it is for good: outside of memory that is free.
    pub fn span(&self) -> Option<Span<Hpa>> {
        Span::new(self.at, self.blob.len() as u64).ok()
    }

    /// Below which address memory must lie that the machine's own hardware walks.
    pub fn memory_limit(&self) -> Option<Hpa> {
        arch::memory_limit(&self.outline)
    }

    /// Reads it. There is a heap.
    ///
    /// # Errors
    ///
    /// What can't be read of it.
    pub fn read(&self) -> Result<Platform, fdt::FdtError> {
        fdt::read_in(&Tree::parse(self.blob)?)
    }
}

/// What is known of memory before the platform is read.
pub struct MemoryMap<'a>(Outline<'a>);

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
        self.0.free(size, align, taken)
    }
}

/// Called by the architecture's first instructions, on the first CPU, with the image mapped: the device tree's address, and the clock
/// at the first of them.
pub fn with_device_tree(at: Hpa, start: u64) -> ! {
    // SAFETY: the boot protocol: the device tree is there, and nothing else.
    let blob = unsafe { map_tree(at) };
    let outline = Outline::open(blob).unwrap_or_else(|error| boot::last_words(&error));
    arch::find_firmware(&outline);
    boot::main(BootInfo {
        platform: PlatformSource { blob, outline, at },
        initrd: outline.initrd(),
        memory: MemoryMap(outline),
        console: outline.console(),
        start,
    })
}

/// Maps the device tree: as much of it as its header says.
///
/// # Safety
///
/// There must be a device tree or other memory at the address.
unsafe fn map_tree(at: Hpa) -> &'static [u8] {
    let tree = |bytes| {
        Span::new(at, bytes).unwrap_or_else(|_| boot::last_words(&"the device tree's address isn't one"))
    };
    // SAFETY: by the caller's promise; the pages are the tree's. Its size is big-endian, at offset 4 (Devicetree Specification 0.4,
    // 5.2). It is memory that nobody writes.
    unsafe {
        boot::early_map(tree(8), Rights::Data);
        let size = u32::from_be(((at.0 + 4) as *const u32).read_unaligned());
        let bytes = u64::from(size).clamp(8, arch::DEVICE_TREE_MAX);
        boot::early_map(tree(bytes), Rights::Data);
        core::slice::from_raw_parts(at.0 as *const u8, bytes as usize)
    }
}

/// Says, with the MMU off, why this machine can't be booted, and stays: nothing has been taken over.
///
/// # Safety
///
/// The MMU is off, and at `device_tree` is a device tree or other memory.
pub unsafe fn refuse_early(device_tree: Hpa, why: &str) -> ! {
    // SAFETY: by the caller's promise: without translation everything is where it is.
    let blob = unsafe {
        let size = u32::from_be(((device_tree.0 + 4) as *const u32).read_volatile());
        core::slice::from_raw_parts(
            device_tree.0 as *const u8,
            u64::from(size).clamp(8, arch::DEVICE_TREE_MAX) as usize,
        )
    };
    let uart = Outline::open(blob).ok().and_then(|outline| outline.console());
    // SAFETY: the device tree says so.
    let mut out = unsafe { console::early_emergency(uart.map(|it| (it.uart, it.place))) };
    let _ = writeln!(out, "axvm: error: {why}\r");
    arch::halt()
}
