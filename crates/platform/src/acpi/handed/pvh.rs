//! Xen's PVH direct boot (xen, docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h), which QEMU does too.

use axvm_addr::{Hpa, Span};

use super::{Handed, HandedError, Left, number};
use crate::acpi::MemoryMap;

/// What a start info begins with.
const MAGIC: u64 = 0x336e_c578;
/// Bytes of one of version 1: magic, version, flags, number of modules, and the addresses of the modules, the command line, the RSDP and
/// the memory map, whose number of entries follows.
const START_INFO: u64 = 0x38;
/// Bytes of an entry of the memory map, and of a module: address and size come first in both.
const ENTRY: u64 = 24;
const MODULE: u64 = 32;
/// More entries than any firmware's map has.
const MOST_ENTRIES: u64 = 4096;

/// Reads a start info.
///
/// # Errors
///
/// [`HandedError`] says what of it can't be used.
pub fn read<'a>(at: Hpa, left: Left<'_, 'a>) -> Result<Handed<'a>, HandedError> {
    let info = left(at, START_INFO).unwrap_or_default();
    if number(info, 0, 4) != MAGIC {
        return Err(HandedError::NoStartInfo);
    }
    if number(info, 4, 4) == 0 {
        return Err(HandedError::OldStartInfo);
    }
    let (modules, list) = (number(info, 0xc, 4), Hpa(number(info, 0x10, 8)));
    let (rsdp, map) = (Hpa(number(info, 0x20, 8)), Hpa(number(info, 0x28, 8)));
    let entries = number(info, 0x30, 4).min(MOST_ENTRIES);
    if rsdp == Hpa(0) {
        return Err(HandedError::NoRsdp);
    }
    if entries == 0 {
        return Err(HandedError::NoMap);
    }
    let bytes = left(map, entries * ENTRY).ok_or(HandedError::NoMap)?;
    let module = match modules {
        0 => &[],
        1 => left(list, MODULE).unwrap_or_default(),
        several => return Err(HandedError::Modules(several)),
    };
    let place = |at, size| Span::new(at, size).unwrap_or_default();
    Ok(Handed {
        rsdp,
        map: MemoryMap::E820 { bytes, entry: ENTRY as usize },
        bundle: Span::new(Hpa(number(module, 0, 8)), number(module, 8, 8)).ok().filter(|it| !it.is_empty()),
        places: [place(at, START_INFO), place(map, entries * ENTRY), place(list, modules * MODULE)],
    })
}
