//! GRUB on a CD, and UEFI's firmware, to boot x86 boards from: Debian's, unpacked under `target/`, which needs no right of root's.
//!
//! A CD has GRUB alone, which looks for a disk with what `axvm pack` writes and does as that says.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::AptRoot;
use crate::{paths, process, say};

/// The suite: the one that QEMU's packages are built upon.
const SUITE: &str = "trixie";
/// GRUB's maker of CDs with what it calls, and UEFI's firmware, which is the same for every machine that it is unpacked on.
const PROGRAMS: &[&str] = &["grub-common", "xorriso", "mtools", "ovmf"];

/// What starts the board before GRUB does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A BIOS: QEMU's own.
    Bios,
    /// UEFI: OVMF.
    Uefi,
}

impl Firmware {
    const ALL: [Self; 2] = [Self::Bios, Self::Uefi];

    /// The package with GRUB's modules for it, of amd64 whatever they are unpacked on, and where they are in it.
    const fn modules(self) -> (&'static str, &'static str) {
        match self {
            Self::Bios => ("grub-pc-bin", "i386-pc"),
            Self::Uefi => ("grub-efi-amd64-bin", "x86_64-efi"),
        }
    }

    /// The CD that it starts.
    pub fn cd(self) -> PathBuf {
        folder().join(format!("{}.iso", self.modules().1))
    }

    /// Words for QEMU.
    pub fn words(self) -> Vec<String> {
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi => vec!["-bios".to_owned(), uefi().display().to_string()],
        }
    }
}

/// What GRUB does on a CD. The disk is told by the file that `axvm pack` writes for GRUB; a BIOS has no console on the serial line.
const CONFIG: &str = r#"insmod part_msdos
insmod fat
if [ "$grub_platform" = pc ]; then
    serial --unit=0 --speed=115200
    terminal_output serial
fi
set timeout=0
set default=0
search --no-floppy --set=root --file /boot-grub.txt
source /boot-grub.txt
"#;

fn folder() -> PathBuf {
    paths::target().join("grub")
}

/// UEFI's firmware, as QEMU's `-bios` takes it.
fn uefi() -> PathBuf {
    folder().join("root/usr/share/ovmf/OVMF.fd")
}

/// Makes sure that all is there to boot after each of the two.
pub fn ensure() -> Result<()> {
    if Firmware::ALL.iter().all(|firmware| firmware.cd().is_file()) && uefi().is_file() {
        return Ok(());
    }
    let folder = folder();
    say::step(format_args!(
        "fetching Debian's GRUB and UEFI firmware ({SUITE}, about 20 MB) into {}",
        paths::shown(&folder)
    ));
    let by_hand = |why: &str| {
        format!("tests boot by GRUB and UEFI, of Debian's {SUITE}, which are unpacked here, for which {why}")
    };
    let host = process::output(process::command("dpkg").arg("--print-architecture")).unwrap_or_default();
    let host = match host.trim() {
        "amd64" => "amd64",
        "arm64" => "arm64",
        _ => return say::missing(by_hand("this machine has no packages of Debian's")),
    };
    let missing = |program: &str| by_hand(&format!("`{program}` is missing"));
    let fetched = || by_hand("apt must be able to fetch them");
    let apt = AptRoot::open(folder.join("apt"), host, SUITE, &[], missing)?;
    apt.unpack_with_needs(PROGRAMS, &folder.join("root")).with_context(fetched)?;
    let apt = AptRoot::open(folder.join("apt-amd64"), "amd64", SUITE, &[], missing)?;
    let programs = programs(&folder)?;
    for firmware in Firmware::ALL {
        let (package, modules) = firmware.modules();
        let unpacked = folder.join(package);
        apt.unpack(package, &unpacked).with_context(fetched)?;
        make_cd(&folder, &programs, &unpacked.join("usr/lib/grub").join(modules), &firmware.cd())?;
    }
    Ok(())
}

/// A folder with what starts the unpacked programs.
fn programs(folder: &Path) -> Result<PathBuf> {
    let programs = folder.join("bin");
    let start = programs.join("start");
    paths::write_atomically(&start, START.as_bytes())?;
    super::qemu::make_executable(&start)?;
    for program in ["grub-mkrescue", "xorriso", "mformat", "mcopy", "mmd"] {
        let link = programs.join(program);
        let _ = std::fs::remove_file(&link);
        symlink("start", &link)?;
    }
    Ok(programs)
}

/// Makes a CD for a BIOS that has, beside GRUB, all the files of a folder, to which GRUB's are added.
pub fn make_cd_with(content: &Path, cd: &Path) -> Result<()> {
    let (package, modules) = Firmware::Bios.modules();
    let modules = folder().join(package).join("usr/lib/grub").join(modules);
    let _ = std::fs::remove_file(cd);
    make_cd_of(content, &folder(), &programs(&folder())?, &modules, cd)
}

/// Makes a CD with these modules, and nothing but GRUB.
fn make_cd(folder: &Path, programs: &Path, modules: &Path, cd: &Path) -> Result<()> {
    make_cd_of(&folder.join("cd"), folder, programs, modules, cd)
}

fn make_cd_of(content: &Path, folder: &Path, programs: &Path, modules: &Path, cd: &Path) -> Result<()> {
    paths::write_atomically(&content.join("boot/grub/grub.cfg"), CONFIG.as_bytes())?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(programs.into()).chain(std::env::split_paths(&path)))?;
    paths::make_with(cd, |partial| {
        let mut make = process::command(programs.join("grub-mkrescue"));
        make.env("PATH", &path).env("pkgdatadir", folder.join("root/usr/share/grub"));
        make.arg("-d").arg(modules).arg("-o").arg(partial).arg(content);
        process::output(&mut make).map(drop)
    })
}

/// Starts an unpacked program, by the name that it is called by, with its own loader and libraries.
const START: &str = r#"#!/bin/sh
# Starts the program of this name that is unpacked beside this folder, with the libraries that came with it.
root=$(cd "$(dirname "$0")/.." && pwd)/root
name=$(basename "$0")
for libraries in "$root"/usr/lib/*-linux-gnu; do
    for loader in "$libraries"/ld-linux-*.so.*; do
        [ -f "$loader" ] || continue
        exec "$loader" --library-path "$libraries" --argv0 "$name" "$root/usr/bin/$name" "$@"
    done
done
echo "$name: $root isn't whole" >&2
exit 127
"#;
