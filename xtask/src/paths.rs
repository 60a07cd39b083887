//! Where things lie: the repository, and under `target/` everything that is made or fetched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's folder. Known when xtask is built, since it is always run from its own checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in a folder of the workspace")
}

/// The folder for everything made or fetched.
pub fn target() -> PathBuf {
    root().join("target")
}

/// What every guest may use, whatever its architecture.
pub fn guest_common() -> PathBuf {
    target().join("guest")
}

/// The guest's kernel, initramfs and disk for one architecture.
pub fn guest(arch: &str) -> PathBuf {
    guest_common().join(arch)
}

/// The hypervisor image for one architecture, where `axvm run` looks for it too.
pub fn hypervisor_image(arch: &str) -> PathBuf {
    target().join("axvm").join(arch).join("axvm-hypervisor.bin")
}

/// The hypervisor's test image, in which a protection can be off. `axvm run` doesn't look for it by itself.
pub fn test_image(arch: &str) -> PathBuf {
    hypervisor_image(arch).with_file_name("axvm-hypervisor-unprotected.bin")
}

/// The firmware from which tests start on a board with a secure world.
pub fn test_firmware(arch: &str) -> PathBuf {
    hypervisor_image(arch).with_file_name("axvm-test-firmware.bin")
}

/// Logs of everything that xtask starts.
pub fn logs() -> PathBuf {
    target().join("logs")
}

/// Writes a file beside its place and renames it there: a file that exists is whole, whenever it was interrupted.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    make_with(path, |partial| {
        std::fs::write(partial, bytes).with_context(|| format!("cannot write {}", partial.display()))
    })
}

/// Lets `make` produce a file under another name, then renames it to `path`.
pub fn make_with(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    make(&partial)?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot rename to {}", path.display()))
}

/// The path as people read it: relative to the repository where it lies in it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
