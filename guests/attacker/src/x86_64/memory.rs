//! Physical memory that the VM hasn't got, below 4 GiB and above, up to the last address that there is.

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;

use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::machine::{VECTOR, cpuid, load32, store32};

/// Where the second entry of the topmost table begins to translate.
const SECOND: u64 = 1 << 39;
/// Present, writable, and of a page of 1 GiB.
const PRESENT: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;

/// Maps 512 GiB of physical memory from `first` on, by pages of 1 GiB; where they are then.
fn map(first: u64) -> Option<u64> {
    // SAFETY: the layout isn't empty, and the tables are the program's, which runs by the first entry alone. Memory is mapped as it is.
    unsafe {
        let table = alloc_zeroed(Layout::from_size_align(4096, 4096).ok()?).cast::<u64>();
        if table.is_null() {
            return None;
        }
        for index in 0..512 {
            table.add(index).write_volatile((first + index as u64 * GIB) | LARGE | PRESENT);
        }
        walk_by(table as u64);
    }
    Some(SECOND)
}

/// Has what the topmost table's second entry translates be walked by the table at this place.
///
/// # Safety
///
/// Whatever that translates to is accessed by who knows.
unsafe fn walk_by(table: u64) {
    // SAFETY: by the caller's promise; the program runs by the first entry.
    unsafe {
        let top: u64;
        core::arch::asm!("mov {}, cr3", out(reg) top, options(nomem, nostack));
        (top as *mut u64).add(1).write_volatile(table | PRESENT);
        core::arch::asm!("mov cr3, {}", in(reg) top, options(nostack));
    }
}

/// Maps these pages one behind the other, at the second entry; where they are then.
pub fn map_pages(frames: &[u64]) -> Option<u64> {
    // SAFETY: the layout isn't empty, and the tables are the program's, which runs by the first entry alone.
    unsafe {
        let tables = alloc_zeroed(Layout::from_size_align(3 * 4096, 4096).ok()?).cast::<u64>();
        if tables.is_null() {
            return None;
        }
        let table = |number: usize| tables.add(number * 512);
        table(0).write_volatile(table(1) as u64 | PRESENT);
        table(1).write_volatile(table(2) as u64 | PRESENT);
        for (index, frame) in frames.iter().enumerate().take(512) {
            table(2).add(index).write_volatile(frame | PRESENT);
        }
        walk_by(tables as u64);
    }
    Some(SECOND)
}

/// Reads and writes there: at each place nobody answers.
pub fn above(_: &Board) -> String {
    const MARK: u32 = 0x4158_564d;
    let bits = cpuid(0x8000_0008, 0)[0] & 0xff;
    if cpuid(0x8000_0001, 0)[3] & 1 << 26 == 0 {
        return "skipped: no pages of 1 GiB".into();
    }
    let end = 1u64 << bits;
    let mut places = 0u32;
    // From 4 GiB on, in the middle, and the last.
    for first in [0, end / 2, end.saturating_sub(1 << 39)] {
        let Some(base) = map(first) else { return "skipped: no memory".into() };
        for gib in [4, 5, 8, 64, 255, 511] {
            let (at, physical) = (base + gib * GIB, first + gib * GIB);
            let _ = store32(at, MARK);
            match load32(at) {
                Ok(u32::MAX) | Err(_) => places += 1,
                Ok(value) => return format!("succeeded: {physical:#x} has {value:#x}"),
            }
            let _ = store32(at + GIB - 4, MARK);
            if load32(at + GIB - 4).is_ok_and(|value| value != u32::MAX) {
                return format!("succeeded: {:#x} has something", physical + GIB - 4);
            }
        }
    }
    // Addresses with more bits: no entry may have them (AMD APM 2, 5.3).
    for bit in u64::from(bits)..52 {
        let Some(base) = map(1 << bit) else { return "skipped: no memory".into() };
        if load32(base).is_ok_and(|value| value != u32::MAX) {
            return format!("succeeded: an address has bit {bit}, of {bits}");
        }
    }
    format!("blocked: {bits} bits of addresses, nobody at {places} places above")
}

/// Of what the machine has below 4 GiB, and the VM hasn't: RAM of others, config space, the event timer, IOMMUs, firmware.
const OTHERS: [u64; 8] =
    [0x800_0000, 0x2000_0000, 0x3fff_f000, 0xb000_0000, 0xfed0_0000, 0xfed8_0000, 0xfed9_0000, 0xffff_fff0];

/// A table of the guest's that lies there: the processor doesn't get to walk it, which would be another exception, that of a page that isn't
/// present.
pub fn tables(_: &Board) -> String {
    const PROTECTION: u64 = 13;
    for table in OTHERS.into_iter().map(|place| place & !0xfff).chain([4 * GIB, 1 << 36]) {
        // SAFETY: nothing of Rust's is accessed by it but by the load here.
        unsafe { walk_by(table) };
        match (load32(SECOND), VECTOR.load(Ordering::Relaxed)) {
            (Err(_), PROTECTION) => {}
            (Err(_), vector) => return format!("succeeded: it walks {table:#x}, to exception {vector}"),
            (Ok(value), _) => return format!("succeeded: by {table:#x} it finds {value:#x}"),
        }
    }
    format!("blocked: tables at {} places aren't walked", OTHERS.len() + 2)
}

/// Reads and writes what the machine has below 4 GiB, and the VM hasn't: at each place nobody answers.
pub fn of_the_machine(_: &Board) -> String {
    const MARK: u32 = 0x4158_564d;
    for place in OTHERS {
        let _ = store32(place, MARK);
        match load32(place) {
            Ok(u32::MAX) | Err(_) => {}
            Ok(value) => return format!("succeeded: {place:#x} has {value:#x}"),
        }
    }
    format!("blocked: nobody answers at {} places", OTHERS.len())
}
