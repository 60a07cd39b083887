//! The arm64 Linux `Image` (Linux, Documentation/arch/arm64/booting.rst, "Call the kernel image").

use alloc::format;
use alloc::vec;

use super::{ImageError, ImageInfo, ImageKind, Segment};

/// `magic`: "ARM\x64" at 56.
const MAGIC: [u8; 4] = *b"ARM\x64";
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const MAGIC_OFFSET: usize = 56;
/// `flags`, bit 0: the kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1;
/// The base that `text_offset` counts from is 2 MiB aligned.
const ALIGNMENT: u64 = 2 << 20;

pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn double(bytes: &[u8], offset: usize) -> Result<u64, ImageError> {
    let field = bytes.get(offset..offset.saturating_add(8)).and_then(|field| field.try_into().ok());
    field.map(u64::from_le_bytes).ok_or_else(|| ImageError::Broken("the file ends within it".into()))
}

pub(super) fn is_image(bytes: &[u8]) -> bool {
    bytes.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) == Some(MAGIC.as_slice())
}

pub(super) fn parse(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    let text_offset = double(bytes, TEXT_OFFSET)?;
    let image_size = double(bytes, IMAGE_SIZE)?;
    let flags = double(bytes, FLAGS)?;
    if flags & FLAG_BIG_ENDIAN != 0 {
        return Err(ImageError::Unsupported("it is big-endian".into()));
    }
    if image_size == 0 {
        // Before 3.17 the size wasn't told, and how much memory to keep free was a guess.
        return Err(ImageError::Unsupported(
            "its header has no image_size, so it is older than Linux 3.17".into(),
        ));
    }
    if text_offset >= ALIGNMENT || text_offset & 3 != 0 {
        return Err(ImageError::Broken(format!("text_offset {text_offset:#x} isn't an offset within 2 MiB")));
    }
    let length = bytes.len() as u64;
    let memory_size = image_size.max(length);
    if memory_size > 1 << 40 {
        return Err(ImageError::Broken(format!("image_size {image_size:#x} is more than any memory")));
    }
    Ok(ImageInfo {
        kind: ImageKind::LinuxImage,
        load: None,
        alignment: ALIGNMENT,
        text_offset,
        memory_size,
        entry_offset: 0,
        segments: vec![Segment { file_offset: 0, file_size: length, offset: 0, memory_size }],
        setup: None,
    })
}
