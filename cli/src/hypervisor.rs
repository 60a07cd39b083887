//! Which hypervisor image is used.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use axvm_system::model::Arch;
use axvm_system::{VERSION, VERSION_MARK};

/// What an architecture is called in file names, the system file and QEMU.
pub const fn name(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "aarch64",
        Arch::X86_64 => "x86_64",
        Arch::Riscv64 => "riscv64",
    }
}

/// The image for `arch`, as an absolute path: the one given, `$AXVM_HYPERVISOR`, the repository's build, the installed
/// one.
///
/// # Errors
///
/// In words: there is none, or it is of another version.
pub fn find(given: Option<&Path>, arch: Arch) -> Result<PathBuf, String> {
    // A variable that is set to nothing names nothing.
    let named = || env::var_os("AXVM_HYPERVISOR").filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match given.map(Path::to_path_buf).or_else(named) {
        Some(path) => path,
        None => built_or_installed(arch).ok_or_else(|| {
            let arch = name(arch);
            format!("there is no hypervisor image for {arch}: build it (`cargo xtask build --arch {arch}`) or say --hypervisor FILE")
        })?,
    };
    let complain =
        |error: std::io::Error| format!("the hypervisor image \"{}\" can't be read: {error}", path.display());
    // Reading a pipe or a device might never end.
    if !fs::metadata(&path).map_err(complain)?.is_file() {
        return Err(format!("the hypervisor image \"{}\" is not a file", path.display()));
    }
    let bytes = fs::read(&path).map_err(complain)?;
    match version(&bytes).as_deref() {
        Some(VERSION) => fs::canonicalize(&path).map_err(complain),
        Some(version) => Err(format!(
            "the hypervisor image \"{}\" is of version {version}, this is {VERSION}: they must be equal",
            path.display()
        )),
        // Started all the same it would most likely say nothing, for ever.
        None => Err(format!("\"{}\" is no hypervisor image: it doesn't say its version", path.display())),
    }
}

/// The build lies in the target folder that this program was built into; an installed image beside this program.
fn built_or_installed(arch: Arch) -> Option<PathBuf> {
    let build = Path::new("axvm").join(name(arch)).join("axvm-hypervisor.bin");
    let installed = || {
        let program = env::current_exe().ok()?;
        Some(program.with_file_name(format!("axvm-hypervisor-{}.bin", name(arch))))
            .filter(|path| path.is_file())
    };
    in_target_folder(&build).or_else(installed)
}

/// A file of the target folder that this program was built into, if it is there.
pub fn in_target_folder(file: &Path) -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    program.ancestors().skip(1).take(4).map(|folder| folder.join(file)).find(|path| path.is_file())
}

/// The version that an image says it is of.
fn version(image: &[u8]) -> Option<String> {
    let mark = VERSION_MARK.as_bytes();
    let at = image.windows(mark.len()).position(|window| window == mark)?;
    let rest = image.get(at + mark.len()..)?;
    let end = rest.iter().take(32).position(|byte| *byte == b'\n')?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_its_version_and_other_files_say_none() {
        let image = [b"\0code", axvm_system::IMAGE_MARK.as_bytes(), b"\0more"].concat();
        assert_eq!(version(&image).as_deref(), Some(VERSION));
        assert_eq!(version(b"no mark at all"), None);
    }
}
