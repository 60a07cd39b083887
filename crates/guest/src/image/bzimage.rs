//! The x86 Linux `bzImage` (Linux, Documentation/arch/x86/boot.rst, protocol 2.12 and later), entered at its 64-bit entry.
//!
//! The file is a real-mode part, of which only the setup header counts here, and the protected-mode kernel behind it, which is what is
//! loaded. That one unpacks the real kernel in place, for which it needs `init_size` bytes.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::Gpa;

use super::linux::word;
use super::{ImageError, ImageInfo, ImageKind, Segment, Setup};

/// Where fields of the setup header are in the file ("The Real-Mode Kernel Header").
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x200;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// The last field that protocol 2.12 has: `handover_offset`.
const HEADER_END: usize = 0x268;

/// `loadflags`: the protected-mode kernel is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;

/// `xloadflags`: it has a 64-bit entry; initial RAM disk, boot parameters and command line may lie above 4 GiB.
const KERNEL_64: u16 = 1 << 0;
const ABOVE_4G: u16 = 1 << 1;

/// The first version with `xloadflags`.
const VERSION_2_12: u16 = 0x020c;

/// Where the 64-bit entry is in the protected-mode kernel.
const ENTRY_64: u64 = 0x200;

/// Units of `setup_sects` and of `syssize`.
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;

/// Below are the boot parameters, and what firmware has on other machines.
const LOWEST: u64 = 1 << 20;

fn broken(why: &str) -> ImageError {
    ImageError::Broken(why.into())
}

fn unsupported(why: &str) -> ImageError {
    ImageError::Unsupported(why.into())
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(MAGIC..MAGIC + 4) == Some(b"HdrS".as_slice())
}

pub(super) fn parse(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    let cut = || broken("the file ends within it");
    let byte = |at: usize| bytes.get(at).copied().ok_or_else(cut);
    let half = |at| half(bytes, at).ok_or_else(cut);
    let field = |at| word(bytes, at).ok_or_else(cut);
    if half(BOOT_FLAG)? != 0xaa55 {
        return Err(broken("its boot_flag isn't 0xaa55"));
    }
    let version = half(VERSION)?;
    if version < VERSION_2_12 {
        return Err(ImageError::Unsupported(format!(
            "its boot protocol is {}.{:02}, older than 2.12 (Linux 3.8)",
            version >> 8,
            version & 0xff
        )));
    }
    // The header ends where its first instruction jumps to.
    let end = MAGIC + usize::from(byte(JUMP + 1)?);
    if end < HEADER_END {
        return Err(broken("its setup header is shorter than protocol 2.12 has it"));
    }
    let header: Vec<u8> = bytes.get(SETUP_SECTS..end).ok_or_else(cut)?.to_vec();
    if byte(LOADFLAGS)? & LOADED_HIGH == 0 {
        return Err(unsupported("it is a zImage, loaded below 1 MiB"));
    }
    let xloadflags = half(XLOADFLAGS)?;
    if xloadflags & KERNEL_64 == 0 {
        return Err(unsupported("it has no 64-bit entry (xloadflags): it is a 32-bit kernel"));
    }
    // 0 stands for 4, as in the oldest kernels.
    let sectors = match byte(SETUP_SECTS)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let start = (sectors + 1) * SECTOR;
    let rest = (bytes.len() as u64).checked_sub(start).filter(|&rest| rest > ENTRY_64);
    let rest = rest.ok_or_else(|| broken("setup_sects passes the end of the file"))?;
    // What follows, such as a signature, isn't part of the kernel.
    let size = u64::from(field(SYSSIZE)?) * PARAGRAPH;
    if size >= rest.saturating_add(PARAGRAPH) {
        return Err(broken("syssize says that it goes on after the end of the file"));
    }
    if size <= ENTRY_64 {
        return Err(broken("syssize leaves no room for its entry"));
    }
    let size = size.min(rest);
    let load = placed(byte(RELOCATABLE)? != 0, field(KERNEL_ALIGNMENT)?, double(bytes, PREF_ADDRESS)?)?;
    let memory_size = u64::from(field(INIT_SIZE)?);
    if memory_size < size {
        return Err(ImageError::Broken(format!("init_size {memory_size:#x} is less than the kernel has")));
    }
    let command_line = field(CMDLINE_SIZE)?;
    if command_line == 0 {
        return Err(broken("cmdline_size is 0"));
    }
    let above = xloadflags & ABOVE_4G != 0;
    Ok(ImageInfo {
        kind: ImageKind::BzImage,
        load: Some(Gpa(load)),
        alignment: 1,
        text_offset: 0,
        memory_size,
        entry_offset: ENTRY_64,
        segments: vec![Segment { file_offset: start, file_size: size, offset: 0, memory_size: size }],
        setup: Some(Setup {
            header,
            command_line,
            initrd_last: if above { u64::MAX } else { field(INITRD_ADDR_MAX)?.into() },
        }),
    })
}

fn double(bytes: &[u8], offset: usize) -> Result<u64, ImageError> {
    let field = bytes.get(offset..offset.saturating_add(8)).and_then(|field| field.try_into().ok());
    field.map(u64::from_le_bytes).ok_or_else(|| broken("the file ends within it"))
}

/// Where it is loaded: a relocatable kernel runs best at its preferred address, where it needn't be moved, and any other only there.
fn placed(relocatable: bool, alignment: u32, preferred: u64) -> Result<u64, ImageError> {
    if preferred < LOWEST {
        return Err(ImageError::Broken(format!("pref_address {preferred:#x} is below 1 MiB")));
    }
    if !relocatable {
        return Ok(preferred);
    }
    if !alignment.is_power_of_two() {
        return Err(ImageError::Broken(format!("kernel_alignment {alignment:#x} is no power of two")));
    }
    preferred
        .checked_next_multiple_of(alignment.into())
        .ok_or_else(|| broken("pref_address is at the end of the address space"))
}
