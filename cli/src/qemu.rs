//! QEMU: which one, whether it is new enough, and what it is told.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use axvm_system::model::Arch;

use crate::hypervisor;

/// The oldest version with what an architecture needs, and what that is.
const fn oldest(arch: Arch) -> ((u32, u32), &'static str) {
    match arch {
        Arch::Aarch64 => ((9, 1), "the second stage of its SMMUv3"),
        Arch::X86_64 => ((11, 1), "an AMD-Vi that translates DMA"),
        Arch::Riscv64 => ((10, 0), "its IOMMU"),
    }
}

/// A QEMU, and what is wrong with it.
pub struct Found {
    /// What starts it.
    pub program: OsString,
    /// In words, with what to install: it isn't there, or too old.
    pub problem: Option<String>,
}

/// The QEMU for `arch`: the one that `$AXVM_QEMU` names, for tests; the one in PATH; where that can't be used, the one that `cargo xtask
/// setup` has put into the target folder that this program was built into.
pub fn find(arch: Arch) -> Found {
    if let Some(given) = env::var_os("AXVM_QEMU") {
        // It is started in the system file's folder, where a relative path would name something else.
        let program = if Path::new(&given).components().count() > 1 {
            std::path::absolute(&given).map(PathBuf::into_os_string).unwrap_or(given)
        } else {
            given
        };
        return Found { problem: check(&program, arch).err(), program };
    }
    let name = format!("qemu-system-{}", hypervisor::name(arch));
    let in_path = Found { problem: check(name.as_ref(), arch).err(), program: name.clone().into() };
    if in_path.problem.is_none() {
        return in_path;
    }
    let place = Path::new("qemu").join(hypervisor::name(arch)).join(name);
    match hypervisor::in_target_folder(&place) {
        Some(program) => Found { problem: check(program.as_os_str(), arch).err(), program: program.into() },
        None => in_path,
    }
}

/// Whether it is there and new enough.
fn check(program: &OsStr, arch: Arch) -> Result<(), String> {
    let shown = program.display();
    let ((major, minor), why) = oldest(arch);
    let install = match arch {
        Arch::Aarch64 => "Debian: qemu-system-arm, in Debian 12 from bookworm-backports",
        Arch::X86_64 => {
            "Debian: qemu-system-x86 from trixie-backports; in the repository `cargo xtask setup` gets it"
        }
        Arch::Riscv64 => "Debian: qemu-system-riscv, in Debian 12 from bookworm-backports",
    };
    let install = format!("install QEMU {major}.{minor} or newer ({install})");
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("QEMU (`{shown}`) can't be started: {error}; {install}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    match version(first) {
        Some(found) if found >= (major, minor) => Ok(()),
        Some((a, b)) => Err(format!(
            "QEMU (`{shown}`) is version {a}.{b}: too old, {why} needs {major}.{minor}; {install}"
        )),
        None => Err(format!("QEMU (`{shown}`) doesn't say its version but \"{first}\"; {install}")),
    }
}

/// Major and minor in `QEMU emulator version 10.0.2 (Debian ...)`.
fn version(line: &str) -> Option<(u32, u32)> {
    let number = line.split_once("version ")?.1;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// How the hypervisor gets into the machine.
pub enum Boot<'a> {
    /// As QEMU's kernel, with the bundle as its initial RAM disk.
    Kernel {
        /// The hypervisor's image.
        hypervisor: &'a Path,
        /// The bundle.
        bundle: &'a Path,
    },
    /// By U-Boot, from a disk.
    Firmware {
        /// The boot loader.
        firmware: &'a Path,
        /// The folder that is the disk.
        medium: &'a Path,
    },
    /// By GRUB on a CD, from a disk.
    Cd {
        /// The CD.
        cd: &'a Path,
        /// The folder that is the disk.
        medium: &'a Path,
    },
}

/// QEMU with its first serial line on its standard input and output. `restarts`: a reset starts it again; else it ends.
pub fn command(program: &OsStr, given: &[&str], boot: &Boot<'_>, folder: &Path, restarts: bool) -> Command {
    let mut command = Command::new(program);
    // First, so that further serial lines (`--qemu -serial`) come after the tool's own.
    command.args(["-serial", "stdio"]);
    command.args(given);
    match boot {
        Boot::Kernel { hypervisor, bundle } => {
            command.arg("-kernel").arg(hypervisor).arg("-initrd").arg(bundle);
        }
        Boot::Firmware { firmware, medium } => {
            command.arg("-bios").arg(firmware);
            // Not a PCI function: the board is to be the one that the system file describes.
            let mut drive = OsString::from("if=none,id=axvm-boot,format=raw,read-only=on,file=fat:");
            drive.push(medium);
            command.arg("-drive").arg(drive).args(["-device", "virtio-blk-device,drive=axvm-boot"]);
        }
        Boot::Cd { cd, medium } => {
            // At the board's own disk controller, for the same reason. A hard disk there can't be read-only: what is written is forgotten.
            let mut drive = OsString::from("if=none,id=axvm-boot,format=raw,snapshot=on,file=fat:");
            drive.push(medium);
            command.arg("-drive").arg(drive).args(["-device", "ide-hd,drive=axvm-boot,bus=ide.1"]);
            let mut drive = OsString::from("if=none,id=axvm-cd,media=cdrom,format=raw,read-only=on,file=");
            drive.push(cd);
            command.arg("-drive").arg(drive).args(["-device", "ide-cd,drive=axvm-cd,bus=ide.0,bootindex=0"]);
        }
    }
    command.args(["-display", "none"]);
    if !restarts {
        command.arg("-no-reboot");
    }
    if !given.iter().any(|argument| matches!(argument.trim_start_matches('-'), "monitor" | "mon")) {
        command.args(["-monitor", "none"]);
    }
    command.current_dir(folder);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let debian = version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)");
        assert_eq!(debian, Some((10, 0)));
        assert!(debian > Some((9, 1)));
        assert!(version("QEMU emulator version 7.2.15") < Some((9, 1)));
        assert_eq!(version("something else"), None);
    }
}
