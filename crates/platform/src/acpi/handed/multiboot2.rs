//! Multiboot2 (GNU's "Multiboot2 Specification", version 2.0, section 3.6: boot information), which GRUB does: after a BIOS and after UEFI.

use axvm_addr::{Address, Hpa, Span};

use super::{Handed, HandedError, Left, number};
use crate::acpi::MemoryMap;

/// What EAX is at the entry (3.3).
pub const MAGIC: u32 = 0x36d7_6289;
/// Bytes of the information's head, its size and a reserved word, and of a tag's, its type and its size.
const HEAD: usize = 8;
/// Every tag begins at a multiple of it.
const ALIGN: usize = 8;
/// More than the names of a boot loader's sections and the largest memory map take.
const MOST: u64 = 4 << 20;
/// Bytes of an entry of each kind of memory map, at least.
const E820_ENTRY: usize = 24;
const EFI_ENTRY: usize = 40;
/// Bytes of ACPI's root of each kind, at least.
const OLD_RSDP: usize = 20;
const NEW_RSDP: usize = 36;

/// Types of tags.
const END: u64 = 0;
const MODULE: u64 = 3;
const MEMORY_MAP: u64 = 6;
const RSDP_OLD: u64 = 14;
const RSDP_NEW: u64 = 15;
const EFI_MEMORY_MAP: u64 = 17;
const EFI_BOOT_SERVICES: u64 = 18;

/// What is found in the tags.
#[derive(Default)]
struct Found<'a> {
    e820: Option<MemoryMap<'a>>,
    efi: Option<MemoryMap<'a>>,
    old: Option<Hpa>,
    new: Option<Hpa>,
    module: Option<Span<Hpa>>,
    modules: u64,
}

/// Reads the boot information. ACPI's root is the copy in it. Of memory maps UEFI's own counts, where there is one: it alone says what
/// firmware goes on to use.
///
/// # Errors
///
/// [`HandedError`] says what of it can't be used.
pub fn read<'a>(at: Hpa, left: Left<'_, 'a>) -> Result<Handed<'a>, HandedError> {
    let size = number(left(at, HEAD as u64).unwrap_or_default(), 0, 4);
    if size < HEAD as u64 || size > MOST {
        return Err(HandedError::Damaged("its size can't be"));
    }
    let place =
        Span::new(at, size).map_err(|_| HandedError::Damaged("it passes the end of all addresses"))?;
    let bytes = left(at, size).ok_or(HandedError::Damaged("it isn't in memory"))?;
    let mut found = Found::default();
    let mut offset = HEAD;
    while offset < bytes.len() {
        let (kind, size) = (number(bytes, offset, 4), number(bytes, offset + 4, 4) as usize);
        let tag = offset.checked_add(size).and_then(|end| bytes.get(offset..end));
        let tag = tag.filter(|tag| tag.len() >= HEAD).ok_or(HandedError::Damaged("a tag's size can't be"))?;
        if kind == END {
            break;
        }
        found.take(kind, tag, at.checked_add(offset as u64).unwrap_or(at))?;
        offset = (offset + size).next_multiple_of(ALIGN);
    }
    if found.modules > 1 {
        return Err(HandedError::Modules(found.modules));
    }
    Ok(Handed {
        rsdp: found.new.or(found.old).ok_or(HandedError::NoRsdp)?,
        map: found.efi.or(found.e820).ok_or(HandedError::NoMap)?,
        bundle: found.module,
        places: [place, Span::default(), Span::default()],
    })
}

impl<'a> Found<'a> {
    /// Takes a tag in, which is at this address. Of two of a kind the first counts.
    fn take(&mut self, kind: u64, tag: &'a [u8], at: Hpa) -> Result<(), HandedError> {
        match kind {
            EFI_BOOT_SERVICES => return Err(HandedError::BootServices),
            MODULE => {
                let (start, end) = (number(tag, 8, 4), number(tag, 12, 4));
                let span = end.checked_sub(start).and_then(|size| Span::new(Hpa(start), size).ok());
                let span = span
                    .filter(|_| tag.len() >= 16)
                    .ok_or(HandedError::Damaged("a module ends before it begins"))?;
                self.modules += 1;
                self.module = self.module.or(Some(span).filter(|span| !span.is_empty()));
            }
            MEMORY_MAP => {
                let (bytes, entry) = entries(tag, E820_ENTRY)?;
                self.e820.get_or_insert(MemoryMap::E820 { bytes, entry });
            }
            EFI_MEMORY_MAP => {
                let (bytes, entry) = entries(tag, EFI_ENTRY)?;
                self.efi.get_or_insert(MemoryMap::Efi { bytes, entry });
            }
            RSDP_OLD | RSDP_NEW => {
                let (least, place) =
                    if kind == RSDP_NEW { (NEW_RSDP, &mut self.new) } else { (OLD_RSDP, &mut self.old) };
                if tag.len() < HEAD + least {
                    return Err(HandedError::Damaged("its copy of ACPI's root is cut short"));
                }
                *place = place.or(at.checked_add(HEAD as u64));
            }
            // The rest is of no use: the bundle has the options, ACPI the console, the way to switch off and UEFI's tables that matter.
            _ => {}
        }
        Ok(())
    }
}

/// The entries of a memory map, and how many bytes each has: the size comes first, then a version.
fn entries(tag: &[u8], least: usize) -> Result<(&[u8], usize), HandedError> {
    let entry = number(tag, 8, 4) as usize;
    let bytes = tag.get(16..).filter(|_| entry >= least && entry <= tag.len());
    bytes.map(|bytes| (bytes, entry)).ok_or(HandedError::Damaged("the entries of its memory map can't be"))
}
