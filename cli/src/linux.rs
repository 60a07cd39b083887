//! The files in which a Linux tells of its machine.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use axvm_platform::sysfs::{self, Files, Machine, SysfsError};

/// Files below a folder: `/`, or a copy.
struct Root(PathBuf);

impl Files for Root {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.0.join(path)).ok()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.0.join(path)).ok()?;
        Some(String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned())
    }
}

/// The machine that a Linux runs on, whose `/` is this folder.
///
/// # Errors
///
/// [`SysfsError`].
pub fn machine(root: &Path) -> Result<Machine, SysfsError> {
    sysfs::read(&Root(root.to_path_buf()))
}

/// Whether a folder has a copy of what Linux tells of its machine.
pub fn is_copy(folder: &Path) -> bool {
    folder.join("sys/firmware").is_dir()
}
