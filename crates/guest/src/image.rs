//! Kernel images: what they are, how much memory they want, where they may go.
//!
//! Everything here reads bytes that came with a system file, so nothing of them is trusted: every field is
//! checked against the file's length and against overflow.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{Address, Gpa};
use serde::{Deserialize, Serialize};

mod bzimage;
mod elf;
mod linux;
mod pvh;
#[cfg(test)]
mod tests;

/// What the plan needs to know of all VMs' images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// One for each VM, in the order of the system file.
    pub vms: Vec<VmImages>,
}

/// What the plan needs to know of one VM's images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmImages {
    /// The kernel, or why it can't be started.
    pub kernel: Result<ImageInfo, ImageError>,
    /// The initial RAM disk's length in bytes, if there is one.
    pub initrd_len: Option<u64>,
    /// The length in bytes of the VM's own device tree, if the file brings one.
    pub dtb_len: Option<u64>,
}

/// A kernel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// An arm64 Linux `Image` (Linux, Documentation/arch/arm64/booting.rst).
    LinuxImage,
    /// A 64-bit little-endian ELF executable for AArch64.
    Elf,
    /// Bytes, placed and entered where the system file says.
    Raw,
    /// An x86 Linux `bzImage` with a 64-bit entry (Linux, Documentation/arch/x86/boot.rst).
    BzImage,
    /// An ELF executable for x86 with a PVH entry (Xen, docs/misc/pvh.pandoc), which is in 32-bit code.
    PvhElf,
    /// An ELF executable for x86 without one, which begins in 64-bit code.
    ElfX86,
}

impl ImageKind {
    /// What people call it, with its article.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinuxImage => "an arm64 Linux Image",
            Self::Elf => "an ELF file for AArch64",
            Self::Raw => "a raw binary",
            Self::BzImage => "an x86 bzImage",
            Self::PvhElf | Self::ElfX86 => "an ELF file for x86",
        }
    }
}

/// What a `bzImage` says to who boots it, beside what every kernel says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Its setup header, from `setup_sects` at 0x1f1 on: it becomes part of the boot parameters.
    pub header: Vec<u8>,
    /// `cmdline_size`: the most bytes of a command line, without its end.
    pub command_line: u32,
    /// `initrd_addr_max`: the highest address that the initial RAM disk may take.
    pub initrd_last: u64,
}

/// A part of the file and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it starts in the file.
    pub file_offset: u64,
    /// How many bytes the file has of it.
    pub file_size: u64,
    /// Where it goes, from the image's first byte in memory.
    pub offset: u64,
    /// How many bytes it takes in memory: those past `file_size` are zero.
    pub memory_size: u64,
}

/// A kernel image, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Its format.
    pub kind: ImageKind,
    /// Where its first byte must be; `None`: at `text_offset` from any multiple of `alignment`.
    pub load: Option<Gpa>,
    /// What the base that `text_offset` counts from is a multiple of: a power of two.
    pub alignment: u64,
    /// From the base to the first byte.
    pub text_offset: u64,
    /// The memory it takes from its first byte on, which may be more than the file has.
    pub memory_size: u64,
    /// The first instruction, from the first byte.
    pub entry_offset: u64,
    /// What is copied: in order, not overlapping, all within `memory_size`. The rest is zero.
    pub segments: Vec<Segment>,
    /// Of a `bzImage`: its setup header.
    pub setup: Option<Setup>,
}

/// A file that isn't a kernel which can be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ImageError {
    /// The file couldn't be read.
    #[error("the kernel can't be read: {0}")]
    Unreadable(String),
    /// The file is empty.
    #[error("the kernel is empty")]
    Empty,
    /// It is compressed.
    #[error("the kernel is compressed ({format}): unpack it first (`{hint}`)")]
    Compressed {
        /// The compression.
        format: String,
        /// The command that unpacks it.
        hint: String,
    },
    /// It is for another processor.
    #[error("the kernel is {0}, which this board can't run")]
    WrongArchitecture(String),
    /// The format isn't known.
    #[error(
        "the kernel is neither a Linux Image or bzImage nor an ELF file; a raw binary needs `load` and `entry`"
    )]
    Unknown,
    /// The header contradicts itself or the file.
    #[error("the kernel's header is broken: {0}")]
    Broken(String),
    /// It is right, but it isn't supported.
    #[error("the kernel isn't supported: {0}")]
    Unsupported(String),
}

/// A kernel image with its bytes.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    /// What it is.
    pub info: ImageInfo,
    bytes: &'a [u8],
}

/// A part of a kernel, ready to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSegment<'a> {
    /// Where it goes, from the image's first byte in memory.
    pub offset: u64,
    /// What is copied there.
    pub data: &'a [u8],
    /// How many zero bytes follow.
    pub zeros: u64,
}

impl ImageInfo {
    /// What the file holds. With `raw`, the address of its first byte and of its first instruction, a file
    /// that isn't known otherwise is taken as it is.
    ///
    /// # Errors
    ///
    /// [`ImageError`] says why it can't be started, with a hint where there is one.
    pub fn parse(bytes: &[u8], raw: Option<(Gpa, Gpa)>) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if let Some((load, entry)) = raw {
            return Self::raw(bytes.len() as u64, load, entry);
        }
        // Its EFI stub makes a bzImage begin with "MZ", as that of an `Image` does, but nothing else is alike.
        if cfg!(feature = "x86_64") && bzimage::is_bzimage(bytes) {
            return bzimage::parse(bytes);
        }
        if linux::is_image(bytes) {
            return linux::parse(bytes);
        }
        if elf::is_elf(bytes) {
            return elf::parse(bytes);
        }
        Err(foreign(bytes))
    }

    fn raw(length: u64, load: Gpa, entry: Gpa) -> Result<Self, ImageError> {
        let entry_offset = entry
            .get()
            .checked_sub(load.get())
            .filter(|&offset| offset < length)
            .ok_or_else(|| ImageError::Broken("`entry` lies outside the binary at `load`".into()))?;
        if !entry.is_aligned(4) {
            return Err(ImageError::Broken("`entry` isn't a multiple of 4".into()));
        }
        load.checked_add(length)
            .ok_or_else(|| ImageError::Broken("at `load` it passes the end of the address space".into()))?;
        Ok(Self {
            kind: ImageKind::Raw,
            load: Some(load),
            alignment: 1,
            text_offset: 0,
            memory_size: length,
            entry_offset,
            segments: vec![Segment { file_offset: 0, file_size: length, offset: 0, memory_size: length }],
            setup: None,
        })
    }

    /// Where its first byte goes in RAM that starts at `ram`: as low as it may. `None` if that is past the
    /// end of the address space.
    pub fn place(&self, ram: Gpa) -> Option<Gpa> {
        match self.load {
            Some(load) => Some(load),
            None => {
                let base = ram.get().checked_next_multiple_of(self.alignment)?;
                base.checked_add(self.text_offset).map(Gpa)
            }
        }
    }
}

impl<'a> Kernel<'a> {
    /// Reads a kernel: see [`ImageInfo::parse`].
    ///
    /// # Errors
    ///
    /// [`ImageError`] says why it can't be started.
    pub fn parse(bytes: &'a [u8], raw: Option<(Gpa, Gpa)>) -> Result<Self, ImageError> {
        Ok(Self { info: ImageInfo::parse(bytes, raw)?, bytes })
    }

    /// What is copied, and where.
    pub fn segments(&self) -> impl Iterator<Item = LoadSegment<'a>> + '_ {
        self.info.segments.iter().filter_map(|segment| {
            let start = usize::try_from(segment.file_offset).ok()?;
            let end = usize::try_from(segment.file_offset.checked_add(segment.file_size)?).ok()?;
            let data = self.bytes.get(start..end)?;
            Some(LoadSegment {
                offset: segment.offset,
                data,
                zeros: segment.memory_size.saturating_sub(segment.file_size),
            })
        })
    }
}

/// Why a file that is neither an `Image` nor an ELF file can't be started, as helpfully as its first bytes
/// allow.
fn foreign(bytes: &[u8]) -> ImageError {
    let compressed =
        |format: &str, hint: &str| ImageError::Compressed { format: format.into(), hint: hint.into() };
    let word = |offset: usize| linux::word(bytes, offset);
    // x86's boot protocol (Documentation/arch/x86/boot.rst): boot_flag at 0x1fe, header at 0x202. An EFI stub
    // makes it begin with "MZ" too, so it is looked for first.
    if bytes.get(0x202..0x206) == Some(b"HdrS".as_slice()) {
        return ImageError::WrongArchitecture("an x86 bzImage".into());
    }
    // Documentation/arch/riscv/boot-image-header.rst: magic2 at 56.
    if word(56) == Some(u32::from_le_bytes(*b"RSC\x05")) {
        return ImageError::WrongArchitecture("a RISC-V Image".into());
    }
    if word(0x24) == Some(0x016f_2818) {
        return ImageError::WrongArchitecture("a 32-bit Arm zImage".into());
    }
    if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg".as_slice()) {
        return compressed("EFI zboot", "take `Image` from the kernel's build in place of `vmlinuz.efi`");
    }
    for (magic, format, hint) in [
        (b"\x1f\x8b".as_slice(), "gzip", "gzip -dc Image.gz > Image"),
        (b"\xfd7zXZ\0", "xz", "xz -dc Image.xz > Image"),
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc Image.zst > Image"),
        (b"\x02\x21\x4c\x18", "lz4", "lz4 -dc Image.lz4 > Image"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc Image.lz4 > Image"),
        (b"BZh", "bzip2", "bzip2 -dc Image.bz2 > Image"),
        (b"\x5d\0\0", "lzma", "xz -dc --format=lzma Image.lzma > Image"),
    ] {
        if bytes.starts_with(magic) {
            return compressed(format, hint);
        }
    }
    ImageError::Unknown
}
