//! ELF executables (ELF for the Arm 64-bit Architecture, AAELF64; System V ABI, AMD64 supplement): loaded by their physical addresses,
//! or, if they are position-independent and apply their relocations themselves, anywhere.

use alloc::format;
use alloc::vec::Vec;

use axvm_addr::Gpa;
use elf::abi::{
    EI_CLASS, EI_DATA, EI_NIDENT, EI_VERSION, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, EM_386, EM_AARCH64,
    EM_ARM, EM_RISCV, EM_X86_64, ET_DYN, ET_EXEC, EV_CURRENT, PF_X, PT_INTERP, PT_LOAD, PT_NOTE,
};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::parse::{ParseAt, ParseError};
use elf::segment::{ProgramHeader, SegmentTable};

use super::{ImageError, ImageInfo, ImageKind, Segment};

/// What a position-independent file's base is a multiple of: enough for any page size and for blocks of the
/// second stage.
const ALIGNMENT: u64 = 2 << 20;

/// More loadable segments than any kernel has.
const MOST_SEGMENTS: usize = 64;

pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

fn broken(why: &str) -> ImageError {
    ImageError::Broken(why.into())
}

fn cut(_: ParseError) -> ImageError {
    broken("it ends within its header")
}

/// The file's header, if it is a 64-bit file for a little-endian processor that is served.
fn header(bytes: &[u8]) -> Result<FileHeader<LittleEndian>, ImageError> {
    let byte = |at: usize| bytes.get(at).copied();
    match (byte(EI_DATA), byte(EI_VERSION)) {
        (Some(ELFDATA2LSB), Some(EV_CURRENT)) => {}
        (Some(ELFDATA2MSB), _) => return Err(ImageError::Unsupported("it is big-endian".into())),
        _ => return Err(broken("its header is of an unknown kind")),
    }
    // What follows the identification begins with the same fields in files of 32 and of 64 bits.
    let ident = (LittleEndian, Class::ELF64, 0, 0);
    let header = FileHeader::parse_tail(ident, bytes.get(EI_NIDENT..).unwrap_or_default()).map_err(cut)?;
    let served =
        header.e_machine == EM_AARCH64 || (cfg!(feature = "x86_64") && header.e_machine == EM_X86_64);
    if !served || byte(EI_CLASS) != Some(ELFCLASS64) {
        let name = match header.e_machine {
            EM_386 | EM_X86_64 => "an ELF file for x86".into(),
            EM_ARM => "an ELF file for 32-bit Arm".into(),
            EM_RISCV => "an ELF file for RISC-V".into(),
            EM_AARCH64 => "a 32-bit ELF file".into(),
            other => format!("an ELF file for machine {other}"),
        };
        return Err(ImageError::WrongArchitecture(name));
    }
    Ok(header)
}

/// The segments of a file with this header.
fn segments<'a>(
    header: &FileHeader<LittleEndian>,
    bytes: &'a [u8],
) -> Result<SegmentTable<'a, LittleEndian>, ImageError> {
    if header.e_phoff == 0 {
        return Err(broken("it has no program headers"));
    }
    let each = ProgramHeader::validate_entsize(Class::ELF64, header.e_phentsize.into())
        .map_err(|_| broken("its program headers have a size of their own"))?;
    let table = usize::try_from(header.e_phoff).ok().and_then(|start| {
        let end = start.checked_add(each.checked_mul(header.e_phnum.into())?)?;
        bytes.get(start..end)
    });
    let table = table.ok_or_else(|| broken("its program headers pass the end of the file"))?;
    Ok(SegmentTable::new(LittleEndian, Class::ELF64, table))
}

pub(super) fn parse(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    let header = header(bytes)?;
    let is_x86 = cfg!(feature = "x86_64") && header.e_machine == EM_X86_64;
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(ImageError::Unsupported("it is an ELF file, but not an executable (unlinked?)".into()));
    }
    let mut load = Vec::new();
    let mut entry = None;
    let mut pvh: Option<u64> = None;
    for segment in segments(&header, bytes)? {
        if is_x86 && segment.p_type == PT_NOTE {
            pvh = super::pvh::entry(&segment, bytes)?.or(pvh);
        }
        if segment.p_type == PT_INTERP {
            return Err(ImageError::Unsupported(
                "it is a dynamically linked program of an operating system".into(),
            ));
        }
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let file_end =
            segment.p_offset.checked_add(segment.p_filesz).ok_or_else(|| broken("a segment wraps"))?;
        if file_end > bytes.len() as u64 {
            return Err(broken("a segment passes the end of the file"));
        }
        if segment.p_filesz > segment.p_memsz {
            return Err(broken("a segment has more bytes in the file than in memory"));
        }
        let end = segment.p_paddr.checked_add(segment.p_memsz);
        let end = end.ok_or_else(|| broken("a segment passes the end of the address space"))?;
        // e_entry is a virtual address; the guest starts with its MMU off, so it is entered at the physical
        // one.
        if let Some(offset) = header.e_entry.checked_sub(segment.p_vaddr)
            && offset < segment.p_memsz
            && segment.p_flags & PF_X != 0
        {
            entry = segment.p_paddr.checked_add(offset);
        }
        if load.len() == MOST_SEGMENTS {
            return Err(ImageError::Unsupported(format!("it has more than {MOST_SEGMENTS} segments")));
        }
        load.push((segment, end));
    }
    load.sort_unstable_by_key(|(segment, _)| segment.p_paddr);
    if load.iter().zip(load.iter().skip(1)).any(|((_, end), (next, _))| *end > next.p_paddr) {
        return Err(broken("two segments overlap"));
    }
    let (Some((first, _)), Some((_, end))) = (load.first(), load.last()) else {
        return Err(broken("it has nothing to load"));
    };
    let start = first.p_paddr;
    let kind = match (is_x86, pvh) {
        (false, _) => ImageKind::Elf,
        (true, None) => ImageKind::ElfX86,
        // The entry by the note is a physical address, and that of 32-bit code.
        (true, Some(at)) => {
            entry = load.iter().any(|(segment, end)| segment.p_paddr <= at && at < *end).then_some(at);
            ImageKind::PvhElf
        }
    };
    let entry = entry.ok_or_else(|| match pvh {
        None => broken("its entry lies in no executable segment"),
        Some(_) => broken("its PVH entry (the Xen note of type 18) lies in no segment"),
    })?;
    if entry & 3 != 0 && !is_x86 {
        return Err(broken("its entry isn't a multiple of 4"));
    }
    // The address that a PVH note says isn't relative to anything.
    let movable = header.e_type == ET_DYN && pvh.is_none();
    Ok(ImageInfo {
        kind,
        load: (!movable).then_some(Gpa(start)),
        alignment: if movable { ALIGNMENT } else { 1 },
        text_offset: if movable { start % ALIGNMENT } else { 0 },
        memory_size: end.saturating_sub(start),
        entry_offset: entry.saturating_sub(start),
        segments: load
            .iter()
            .map(|(segment, _)| Segment {
                file_offset: segment.p_offset,
                file_size: segment.p_filesz,
                offset: segment.p_paddr.saturating_sub(start),
                memory_size: segment.p_memsz,
            })
            .collect(),
        setup: None,
    })
}
