//! The hypervisor's ELF as boot loaders want it. On aarch64 that is a flat image: linked at address 0, its first byte is the
//! arm64 Image header, so memory order is file order. On x86_64 it stays an ELF file, with the note by which a loader finds its PVH
//! entry (Xen, docs/misc/pvh.pandoc), and the header by which one finds its multiboot2 entry (Multiboot2 Specification 2.0, 3.1).

use anyhow::{Context, Result, bail};
use object::elf::{FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ReadRef};

/// Offset and value of the magic number in an arm64 Image (Documentation/arch/arm64/booting.rst).
const ARM64_MAGIC: (usize, &[u8; 4]) = (56, b"ARM\x64");

/// The type of the note with the PVH entry, and whose note it is (Xen, xen/include/public/elfnote.h).
const PVH_NOTE: (u32, &[u8]) = (18, b"Xen");

/// The image of an architecture that a boot loader takes.
pub fn bootable(arch: &str, elf: &[u8]) -> Result<Vec<u8>> {
    if arch == "x86_64" {
        if !has_pvh_entry(elf)? {
            bail!("it has no note with a PVH entry");
        }
        let image = loaded(elf)?;
        if !has_multiboot2_header(&image) {
            bail!("it has no multiboot2 header where loaders look for one");
        }
        return Ok(image);
    }
    let flat = flatten(elf)?;
    if !has_arm64_header(&flat) {
        bail!("it doesn't begin with an arm64 Image header");
    }
    Ok(flat)
}

/// What QEMU's `-kernel` takes of an architecture: on x86_64 an ELF file with a PVH entry is enough.
pub fn for_qemu(arch: &str, elf: &[u8]) -> Result<Vec<u8>> {
    if arch != "x86_64" {
        return bootable(arch, elf);
    }
    if !has_pvh_entry(elf)? {
        bail!("it has no note with a PVH entry");
    }
    Ok(elf.to_vec())
}

/// The ELF file without what isn't loaded: sections, symbols, what a debugger reads. Its table of sections has the one that every table
/// begins with, which is none: GRUB takes a file without any for one with more than 65,279 (System V ABI 4.1, "Sections").
fn loaded(elf: &[u8]) -> Result<Vec<u8>> {
    /// Bytes of a section header.
    const SECTION: usize = 64;
    let header = FileHeader64::<Endianness>::parse(elf).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let table =
        header.e_phoff(endian) + u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
    let ends = header.program_headers(endian, elf)?.iter();
    let end = ends.map(|it| it.p_offset(endian).saturating_add(it.p_filesz(endian))).fold(table, u64::max);
    let mut kept = elf.get(..usize::try_from(end)?).context("a segment lies outside its file")?.to_vec();
    kept.resize(kept.len().next_multiple_of(8), 0);
    let at = (kept.len() as u64).to_le_bytes();
    kept.resize(kept.len() + SECTION, 0);
    // e_shoff; e_shentsize, e_shnum and e_shstrndx.
    let fields: [(usize, &[u8]); 2] = [(40, &at), (58, &[SECTION as u8, 0, 1, 0, 0, 0])];
    for (offset, bytes) in fields {
        let field = kept.get_mut(offset..offset + bytes.len());
        field.context("it is cut short")?.copy_from_slice(bytes);
    }
    Ok(kept)
}

/// Whether a loader finds a PVH entry in it.
pub fn has_pvh_entry(elf: &[u8]) -> Result<bool> {
    let header = FileHeader64::<Endianness>::parse(elf).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_NOTE {
            continue;
        }
        let Some(mut notes) = segment.notes(endian, elf)? else { continue };
        while let Some(note) = notes.next()? {
            if (note.n_type(endian), note.name()) == PVH_NOTE {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a loader finds a multiboot2 header in it: in the first 32 KiB, at a multiple of 8 bytes, with the right sum.
pub fn has_multiboot2_header(image: &[u8]) -> bool {
    /// What it begins with, and the architecture: an i386 in protected mode.
    const MAGIC: u32 = 0xe852_50d6;
    const I386: u32 = 0;
    let head = image.get(..image.len().min(32 << 10)).unwrap_or_default();
    head.chunks(8).zip(head.chunks(8).skip(1)).any(|(first, second)| {
        let word = |bytes: &[u8], at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map_or(0, u32::from_le_bytes)
        };
        let words = [word(first, 0), word(first, 4), word(second, 0), word(second, 4)];
        let [magic, arch, length, sum] = words;
        let total = [magic, arch, length, sum].iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
        (magic, arch, total) == (MAGIC, I386, 0) && length >= 16
    })
}

/// A loaded segment: where it lies, what the file has of it.
struct Segment<'data> {
    address: u64,
    bytes: &'data [u8],
}

/// The loaded bytes, from address 0 on. Memory that the file doesn't hold (`.bss`) is not in it: the header's
/// image size tells the boot loader of that.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let mut segments = Vec::new();
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_LOAD || segment.p_filesz(endian) == 0 {
            continue;
        }
        let bytes = elf
            .read_bytes_at(segment.p_offset(endian), segment.p_filesz(endian))
            .ok()
            .context("a segment lies outside its file")?;
        segments.push(Segment { address: segment.p_paddr(endian), bytes });
    }
    segments.sort_by_key(|segment| segment.address);
    let mut image = Vec::new();
    for segment in segments {
        let start = usize::try_from(segment.address)?;
        if start < image.len() {
            bail!("segments overlap at {start:#x}");
        }
        // A hole bigger than this is a linker script that isn't linked at 0.
        if start - image.len() > 64 << 20 {
            bail!("the segment at {start:#x} is far from the one before; is the image linked at 0?");
        }
        image.resize(start, 0);
        image.extend_from_slice(segment.bytes);
    }
    if image.is_empty() {
        bail!("nothing in it is loaded");
    }
    Ok(image)
}

/// Whether an arm64 boot loader would take it.
pub fn has_arm64_header(image: &[u8]) -> bool {
    let (at, magic) = ARM64_MAGIC;
    image.get(at..at + magic.len()) == Some(magic)
}

/// Names and sizes of what the ELF's sections occupy in memory, in order of address.
pub fn sections(elf: &[u8]) -> Result<Vec<(String, u64)>> {
    let file = object::read::elf::ElfFile64::<Endianness>::parse(elf)?;
    let mut sections = Vec::new();
    for section in file.sections() {
        let allocated = matches!(section.flags(), object::SectionFlags::Elf { sh_flags }
            if sh_flags & u64::from(object::elf::SHF_ALLOC) != 0);
        if allocated && section.size() > 0 {
            sections.push((section.address(), section.name()?.to_owned(), section.size()));
        }
    }
    sections.sort();
    Ok(sections.into_iter().map(|(_, name, size)| (name, size)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of program headers only: (type, address, content).
    fn elf(segments: &[(u32, u64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(2u16.to_le_bytes()); // ET_EXEC
        file.extend(183u16.to_le_bytes()); // EM_AARCH64
        file.extend(1u32.to_le_bytes());
        file.extend(0u64.to_le_bytes()); // entry
        file.extend(64u64.to_le_bytes()); // program headers
        file.extend(0u64.to_le_bytes()); // section headers
        file.extend(0u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut content = Vec::new();
        let start = 64 + 56 * segments.len();
        for (kind, address, bytes) in segments {
            file.extend(kind.to_le_bytes());
            file.extend(5u32.to_le_bytes());
            let offset = (start + content.len()) as u64;
            let align = if *kind == PT_NOTE { 4 } else { 4096 };
            for word in [offset, *address, *address, bytes.len() as u64, bytes.len() as u64, align] {
                file.extend(word.to_le_bytes());
            }
            content.extend_from_slice(bytes);
        }
        file.extend(content);
        file
    }

    #[test]
    fn segments_lie_at_their_addresses_and_holes_are_zero() {
        let image =
            flatten(&elf(&[(PT_LOAD, 8, b"data"), (PT_LOAD, 0, b"text"), (4, 100, b"note")])).unwrap();
        assert_eq!(image, b"text\0\0\0\0data");
    }

    #[test]
    fn overlapping_or_faraway_segments_are_refused() {
        assert!(flatten(&elf(&[(PT_LOAD, 0, b"text"), (PT_LOAD, 2, b"data")])).is_err());
        assert!(flatten(&elf(&[(PT_LOAD, 0x4000_0000, b"text")])).is_err());
        assert!(flatten(&elf(&[])).is_err());
        assert!(flatten(b"not an ELF file").is_err());
    }

    /// A note of the type, named `Xen`, whose description is an address.
    fn note(kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, 4, kind] {
            note.extend(u32::to_le_bytes(word));
        }
        note.extend(b"Xen\0");
        note.extend(0x10_0000u32.to_le_bytes());
        note
    }

    /// A multiboot2 header without tags, behind so many bytes.
    fn header(behind: usize, wrong: u32) -> Vec<u8> {
        let words = [0xe852_50d6u32, 0, 24, 0u32.wrapping_sub(0xe852_50d6 + 24 + wrong), 0, 8];
        let mut bytes = vec![0; behind];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_multiboot2_header_is_found_where_loaders_look_for_it() {
        let found = |behind, wrong| has_multiboot2_header(&header(behind, wrong));
        assert!(found(0, 0) && found(4096, 0) && found((32 << 10) - 24, 0));
        // Not at a multiple of 8; beyond where they look; with another sum.
        assert!(!found(4, 0) && !found(32 << 10, 0) && !found(4096, 1));
        assert!(!has_multiboot2_header(&[]) && !has_multiboot2_header(&header(0, 0)[..12]));
    }

    #[test]
    fn only_a_note_of_the_right_type_is_a_pvh_entry() {
        let code = header(0, 0);
        let with = |kind| {
            // 64 and two program headers of 56: a header behind is at a multiple of 8.
            elf(&[(PT_LOAD, 0x10_0000, &code), (PT_NOTE, 0x10_0100, &note(kind))])
        };
        assert!(has_pvh_entry(&with(18)).unwrap());
        assert!(!has_pvh_entry(&with(17)).unwrap());
        assert!(bootable("x86_64", &with(18)).is_ok() && bootable("x86_64", &with(17)).is_err());
        assert!(bootable("aarch64", &with(18)).is_err());
        assert!(!has_pvh_entry(&elf(&[(PT_LOAD, 0x10_0000, b"code")])).unwrap());
        assert!(has_pvh_entry(b"not an ELF file").is_err());
        let without = elf(&[(PT_LOAD, 0x10_0000, b"code"), (PT_NOTE, 0x10_0100, &note(18))]);
        assert!(bootable("x86_64", &without).unwrap_err().to_string().contains("multiboot2"));
    }

    #[test]
    fn what_is_not_loaded_is_left_out() {
        let mut file = elf(&[(PT_LOAD, 0x10_0000, &header(0, 0)), (PT_NOTE, 0x10_0100, &note(18))]);
        let whole = file.len();
        file.extend(b"symbols, and a table of sections");
        file[40..48].copy_from_slice(&(whole as u64).to_le_bytes());
        file[60..62].copy_from_slice(&1u16.to_le_bytes());
        let kept = bootable("x86_64", &file).unwrap();
        // All that is loaded, and a table with the section that is none.
        let table = whole.next_multiple_of(8);
        assert_eq!((kept.len(), &kept[table..]), (table + 64, &[0; 64][..]));
        assert_eq!((&kept[..40], &kept[64..whole]), (&file[..40], &file[64..whole]));
        let header = FileHeader64::<Endianness>::parse(&*kept).unwrap();
        let endian = header.endian().unwrap();
        assert_eq!((header.e_shoff(endian), header.e_shnum(endian)), (table as u64, 1));
        assert_eq!((header.e_shentsize(endian), header.e_shstrndx(endian)), (64, 0));
        assert_eq!(header.section_headers(endian, &*kept).unwrap().len(), 1);
    }

    #[test]
    fn the_arm64_header_is_recognised() {
        let mut image = vec![0; 64];
        assert!(!has_arm64_header(&image));
        image[56..60].copy_from_slice(b"ARM\x64");
        assert!(has_arm64_header(&image));
        assert!(!has_arm64_header(&[]));
    }
}
