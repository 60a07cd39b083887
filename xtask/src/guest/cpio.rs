//! The archive that Linux unpacks as its first root: cpio in "new ASCII" form (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst), compressed with gzip.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder, write::GzEncoder};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Times and owners are zero, so the same content gives the same bytes.
pub struct Archive {
    out: GzEncoder<Vec<u8>>,
    next_inode: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Archive {
        let out = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
        Archive { out, next_inode: 1 }
    }

    /// Adds a folder; its parents must have been added.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER | 0o755, (0, 0), &[])
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(name, FILE | mode, (0, 0), bytes)
    }

    /// Adds a character device's node.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Closes the archive and gives its compressed bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.out.finish()?)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too big for cpio"))?;
        let name_size = name.len() as u32 + 1;
        let inode = self.next_inode;
        self.next_inode += 1;
        // inode, mode, uid, gid, links, mtime, size, device of the file (2), device of the node (2), name, check
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        // Name and content each end on a multiple of four bytes, counted from the header.
        self.pad(header.len() + name_size as usize, 1)?;
        self.out.write_all(bytes)?;
        self.pad(bytes.len(), 0)
    }

    fn pad(&mut self, length: usize, terminators: usize) -> Result<()> {
        let zeros = length.next_multiple_of(4) - length + terminators;
        Ok(self.out.write_all(&[0; 8][..zeros])?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn entries_start_and_end_on_multiples_of_four() {
        let mut archive = Archive::new();
        archive.folder("a").unwrap();
        archive.file("a/file", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        let starts: Vec<usize> = (0..plain.len() - 6).filter(|&at| &plain[at..at + 6] == b"070701").collect();
        // folder: 110 + "a\0" = 112; file: 110 + "a/file\0" -> 120, + 5 -> 8 = 128
        assert_eq!(starts, [0, 112, 112 + 128]);
        assert_eq!(&plain[112 + 120..112 + 125], b"hello");
        assert_eq!(plain.len() % 4, 0);
    }
}
