//! The entry by Linux's boot protocol: a device tree says all. It fills a [`BootInfo`].

use core::fmt::Write as _;

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt::outline::Outline;

use crate::arch::{self, Rights};
use crate::boot_info::{BootInfo, MemoryMap, PlatformSource};
use crate::{boot, console};

/// Called by the architecture's first instructions, on the first CPU, with the image mapped: the device tree's address, and the clock
/// at the first of them.
pub fn with_device_tree(at: Hpa, start: u64) -> ! {
    // SAFETY: the boot protocol: the device tree is there, and nothing else.
    let blob = unsafe { map_tree(at) };
    let outline = Outline::open(blob).unwrap_or_else(|error| boot::last_words(&error));
    arch::find_firmware(&outline);
    boot::main(BootInfo {
        platform: PlatformSource::DeviceTree { blob, outline, at },
        initrd: outline.initrd(),
        memory: MemoryMap::DeviceTree(outline),
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
    let mut out =
        unsafe { console::early_emergency(uart.and_then(|it| Some((it.uart, it.place.memory()?.start())))) };
    let _ = writeln!(out, "axvm: error: {why}\r");
    arch::halt()
}
