//! The PVH entry of an ELF file: a Xen note (Xen, xen/include/public/elfnote.h; docs/misc/pvh.pandoc).

use elf::endian::LittleEndian;
use elf::file::Class;
use elf::note::{Note, NoteIterator};
use elf::segment::ProgramHeader;

use super::ImageError;

/// The notes' name, with its end.
const NAME: &[u8] = b"Xen\0";

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u64 = 18;

/// The physical address of the 32-bit entry, if the notes in this segment say one.
pub(super) fn entry(segment: &ProgramHeader, bytes: &[u8]) -> Result<Option<u64>, ImageError> {
    let broken = |why: &str| ImageError::Broken(why.into());
    let start = usize::try_from(segment.p_offset).ok();
    let notes = start.and_then(|start| {
        let size = usize::try_from(segment.p_filesz).ok()?;
        bytes.get(start..start.checked_add(size)?)
    });
    let notes = notes.ok_or_else(|| broken("its notes pass the end of the file"))?;
    let alignment = if segment.p_align == 8 { 8 } else { 4 };
    for note in NoteIterator::new(LittleEndian, Class::ELF64, alignment, notes) {
        let Note::Unknown(note) = note else { continue };
        if note.name != NAME || note.n_type != PHYS32_ENTRY {
            continue;
        }
        // It is as wide as the file's addresses, or 32 bits.
        let at = match note.desc.len() {
            4 => note.desc.try_into().ok().map(|field| u64::from(u32::from_le_bytes(field))),
            8 => note.desc.try_into().ok().map(u64::from_le_bytes),
            _ => None,
        };
        return match at {
            Some(at) if u32::try_from(at).is_ok() => Ok(Some(at)),
            Some(_) => Err(broken("its PVH entry lies above 4 GiB, where 32-bit code can't be")),
            None => Err(broken("its PVH note holds no address")),
        };
    }
    Ok(None)
}
