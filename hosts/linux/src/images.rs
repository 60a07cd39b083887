//! The tool's bundle with the guests' images, seen in its file: they are read where a VM is loaded, which may be again, and needn't be in this process's
//! memory in between.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::mm::{Advice, madvise};
use vm_memory::{FileOffset, MmapRegion};

// Linux, include/uapi/asm-generic/mman-common.h and mman.h.
const PROT_READ: i32 = 1;
const MAP_PRIVATE: i32 = 0x2;

/// The bundle's file, mapped.
pub struct Images(MmapRegion);

impl Images {
    /// Maps it, for as long as this process is there.
    ///
    /// # Errors
    ///
    /// The kernel's; or the file is empty.
    pub fn open(path: &Path) -> io::Result<&'static Self> {
        let file = File::open(path)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let region = MmapRegion::build(Some(FileOffset::new(file, 0)), bytes, PROT_READ, MAP_PRIVATE);
        Ok(Box::leak(Box::new(Self(region.map_err(io::Error::other)?))))
    }

    /// What is in it.
    pub fn bytes(&'static self) -> &'static [u8] {
        // SAFETY: the mapping is never taken away, and nobody writes: neither by it, which is for reading, nor to the file, which is the tool's
        // own, with a name that nobody else has and for no other user, and is written before this process is started.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.size()) }
    }

    /// Nothing of it is needed for now: what is looked at later is read from the file again.
    pub fn let_go(&self) {
        // SAFETY: pages that were never written come back as they are in the file.
        let _ = unsafe { madvise(self.0.as_ptr().cast(), self.0.size(), Advice::LinuxDontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// KiB of this process's memory that are of a file's mapping.
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
        let rss = own.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn images_are_read_from_their_file_and_take_memory_only_while_they_are() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let written: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
        file.write_all(&written).unwrap();
        let images = Images::open(file.path()).unwrap();
        assert_eq!(images.bytes(), written);
        assert!(resident(file.path()) >= 1024);
        images.let_go();
        assert_eq!(resident(file.path()), 0);
        assert_eq!(images.bytes(), written, "they are there again");
    }

    #[test]
    fn a_file_without_anything_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Images::open(file.path()).is_err());
    }
}
