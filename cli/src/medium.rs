//! The disk that a boot loader boots from: a folder with what `axvm pack` writes.

use std::fs;
use std::path::Path;

use axvm_system::model::Arch;
use tempfile::TempDir;

use crate::pack;

/// A temporary folder, which goes when this is dropped.
pub struct Medium {
    folder: TempDir,
}

impl Medium {
    /// Writes the files.
    ///
    /// # Errors
    ///
    /// In words, if they can't be written.
    pub fn write(arch: Arch, image: &Path, bundle: Vec<u8>) -> Result<Self, String> {
        let complain = |error: std::io::Error| {
            format!("the boot loader's files can't be written to a temporary folder: {error}")
        };
        let image = fs::read(image).map_err(complain)?;
        let folder = tempfile::Builder::new().prefix("axvm-").tempdir().map_err(complain)?;
        for (name, content) in pack::boot_files(arch, image, bundle) {
            fs::write(folder.path().join(name), content).map_err(complain)?;
        }
        Ok(Self { folder })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The lines to type, as the file for users has them.
    ///
    /// # Errors
    ///
    /// In words, if there is no such file for this architecture.
    pub fn lines(&self) -> Result<Vec<String>, String> {
        let text = fs::read_to_string(self.folder().join(pack::UBOOT))
            .map_err(|error| format!("there are no lines for a boot loader: {error}"))?;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    }
}
