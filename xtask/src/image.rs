//! The hypervisor's ELF as boot loaders want it: a flat image. Linked at address 0, its first byte is the
//! arm64 Image header, so memory order is file order.

use anyhow::{Context, Result, bail};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ReadRef};

/// Offset and value of the magic number in an arm64 Image (Documentation/arch/arm64/booting.rst).
const ARM64_MAGIC: (usize, &[u8; 4]) = (56, b"ARM\x64");

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
            for word in [offset, *address, *address, bytes.len() as u64, bytes.len() as u64, 4096] {
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

    #[test]
    fn the_arm64_header_is_recognised() {
        let mut image = vec![0; 64];
        assert!(!has_arm64_header(&image));
        image[56..60].copy_from_slice(b"ARM\x64");
        assert!(has_arm64_header(&image));
        assert!(!has_arm64_header(&[]));
    }
}
