//! Where things lie: the repository, and under `target/` everything that is made or fetched.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

/// The repository's folder: the one that xtask runs in. Where it was compiled says nothing, since cargo finds it fresh in a tree
/// that was copied with its target folder.
/// Ends the program if it is run neither by cargo nor inside of the repository.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Cargo says at run time which package it runs.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let here = std::env::current_dir().unwrap_or_default();
        workspace(package.as_deref(), &here).unwrap_or_else(|| {
            eprintln!("error: {} isn't inside of AxVM's repository", here.display());
            std::process::exit(2);
        })
    })
}

/// The workspace that `package` (a folder of cargo's choice) lies in, if that is this package; else the one around `here`.
fn workspace(package: Option<&Path>, here: &Path) -> Option<PathBuf> {
    let has_xtask =
        |folder: &&Path| folder.join("xtask/Cargo.toml").is_file() && folder.join("Cargo.toml").is_file();
    let by_cargo = package.filter(|it| it.ends_with("xtask")).and_then(Path::parent).filter(has_xtask);
    by_cargo.or_else(|| here.ancestors().find(has_xtask)).map(Path::to_path_buf)
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

/// What is made for a Linux host under QEMU.
pub fn linux_host(arch: &str) -> PathBuf {
    target().join("linux-host").join(arch)
}

/// The user's tool for a Linux host.
pub fn linux_tool(arch: &str) -> PathBuf {
    linux_host(arch).join("axvm")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_tree_is_the_tree_that_xtask_works_in() {
        let folder = target().join("test-copied-tree");
        let copy = folder.join("copy");
        for file in ["Cargo.toml", "xtask/Cargo.toml", "crates/vgic/Cargo.toml"] {
            write_atomically(&copy.join(file), b"").unwrap();
        }
        let (package, inside) = (copy.join("xtask"), copy.join("crates/vgic"));
        assert_eq!(workspace(Some(&package), root()).unwrap(), copy, "cargo's word counts");
        assert_eq!(workspace(None, &inside).unwrap(), copy, "without cargo it is what is around");
        assert_eq!(workspace(Some(&inside), &inside).unwrap(), copy, "another package's folder says nothing");
        assert_eq!(workspace(None, Path::new("/")), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_program_holds_no_path_of_where_it_was_compiled() {
        // What cargo tells a test at run time is where this tree is now.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap();
        assert_eq!(Some(root()), package.parent());
    }
}
