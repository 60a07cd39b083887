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
        Some(VERSION) if built_for(&bytes).is_some_and(|other| other != arch) => {
            Err(format!("the hypervisor image \"{}\" is not for {}", path.display(), name(arch)))
        }
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

/// The architecture that an image is for, where its form says that: arm64's Image header (Linux, Documentation/arch/arm64/booting.rst),
/// or ELF's of an x86-64 file.
fn built_for(image: &[u8]) -> Option<Arch> {
    const X86_64: [u8; 2] = 62_u16.to_le_bytes();
    if image.get(56..60) == Some(b"ARM\x64") {
        return Some(Arch::Aarch64);
    }
    (image.starts_with(b"\x7fELF") && image.get(18..20) == Some(&X86_64)).then_some(Arch::X86_64)
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
    fn an_image_is_for_what_its_form_says() {
        let with = |at: usize, bytes: &[u8]| {
            let mut image = b"\x7fELF".to_vec();
            image.resize(64, 0);
            image[at..at + bytes.len()].copy_from_slice(bytes);
            built_for(&image)
        };
        assert_eq!(with(18, &[62, 0]), Some(Arch::X86_64));
        assert_eq!(with(18, &[183, 0]), None);
        assert_eq!(with(56, b"ARM\x64"), Some(Arch::Aarch64));
        assert_eq!(built_for(axvm_system::IMAGE_MARK.as_bytes()), None);
    }

    #[test]
    fn an_image_says_its_version_and_other_files_say_none() {
        let image = [b"\0code", axvm_system::IMAGE_MARK.as_bytes(), b"\0more"].concat();
        assert_eq!(version(&image).as_deref(), Some(VERSION));
        assert_eq!(version(b"no mark at all"), None);
    }
}
