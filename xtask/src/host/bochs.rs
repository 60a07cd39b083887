//! Bochs, an emulator of whole PCs whose processors have what QEMU's lack: SVM that says where the next instruction is (NRIPS), and
//! forgets the translations of one guest alone. Debian's is unpacked under `target/`, which needs no right of root's. Its boards have neither an
//! IOMMU nor PCI Express.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::AptRoot;
use super::grub;
use crate::{paths, process, say};

/// The suite whose version is one that works: 3.0.
const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &["bochs", "bochsbios", "vgabios"];

/// The CPUs of its board.
const CPUS: u32 = 3;

/// A board that boots from a CD and has its first serial line in a file. Its display is one that nobody looks at.
const BOARD: &str = r#"display_library: rfb, options="timeout=0"
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, parallel=0, serial=1
memory: guest=512, host=512
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
boot: cdrom
clock: sync=none, time0=1735689600
panic: action=fatal
error: action=ignore
info: action=report
debug: action=ignore
"#;

/// What its log says of a machine that was switched off.
pub const SWITCHED_OFF: &str = "soft power off";

fn folder() -> PathBuf {
    paths::target().join("bochs")
}

fn program() -> PathBuf {
    folder().join("bochs")
}

/// Makes sure that it is there.
pub fn ensure() -> Result<()> {
    if program().is_file() {
        return Ok(());
    }
    let folder = folder();
    say::step(format_args!("fetching Debian's Bochs ({SUITE}, about 62 MB) into {}", paths::shown(&folder)));
    let by_hand = |why: &str| {
        format!("some tests run in Bochs, of Debian's {SUITE}, which is unpacked here, for which {why}")
    };
    let host = process::output(process::command("dpkg").arg("--print-architecture")).unwrap_or_default();
    let host = match host.trim() {
        "amd64" => "amd64",
        "arm64" => "arm64",
        _ => return say::missing(by_hand("this machine has no packages of Debian's")),
    };
    let apt = AptRoot::open(folder.join("apt"), host, SUITE, &[], |program| {
        by_hand(&format!("`{program}` is missing"))
    })?;
    apt.unpack_with_needs(PACKAGES, &folder.join("root"))
        .with_context(|| by_hand("apt must be able to fetch it"))?;
    paths::write_atomically(&program(), START.as_bytes())?;
    super::qemu::make_executable(&program())
}

/// Has a board boot from a CD with these files, to which GRUB's are added: `folder` has them, and gets the CD, the description of the board,
/// and what comes of it.
pub fn command(folder: &Path, files: &Path) -> Result<Machine> {
    let at = |name: &str| folder.join(name);
    grub::make_cd_with(files, &at("boot.iso"))?;
    let root = self::folder().join("root/usr/share");
    let line = |key: &str, path: PathBuf, more: &str| format!("{key}{}{more}\n", path.display());
    let board = [
        BOARD.to_owned(),
        format!("cpu: model=ryzen, count={CPUS}, ips=50000000, reset_on_triple_fault=1\n"),
        line("romimage: file=", root.join("bochs/BIOS-bochs-latest"), ""),
        line("vgaromimage: file=", root.join("vgabios/vgabios.bin"), ""),
        line("ata0-master: type=cdrom, path=", at("boot.iso"), ", status=inserted"),
        line("com1: enabled=1, mode=file, dev=", at("serial.txt"), ""),
        line("log: ", at("bochs.log"), ""),
    ];
    paths::write_atomically(&at("board.txt"), board.concat().as_bytes())?;
    // It adds to what is there.
    let _ = std::fs::remove_file(at("serial.txt"));
    let mut command = process::command(program());
    command.arg("-q").arg("-f").arg(at("board.txt"));
    Ok(Machine { command, serial: at("serial.txt"), log: at("bochs.log") })
}

/// A board that is ready to be started.
pub struct Machine {
    /// What starts it.
    pub command: Command,
    /// What it says on its first serial line.
    pub serial: PathBuf,
    /// What Bochs says of it.
    pub log: PathBuf,
}

/// Starts the unpacked one by its own loader and with its own libraries and plugins, wherever the folder lies.
const START: &str = r#"#!/bin/sh
# Starts the Bochs that is unpacked beside this file, with the libraries that came with it.
root=$(cd "$(dirname "$0")" && pwd)/root
for libraries in "$root"/usr/lib/*-linux-gnu; do
    for loader in "$libraries"/ld-linux-*.so.*; do
        [ -f "$loader" ] || continue
        export LTDL_LIBRARY_PATH="$libraries/bochs/plugins"
        exec "$loader" --library-path "$libraries:$libraries/pulseaudio" "$root/usr/bin/bochs-bin" "$@"
    done
done
echo "bochs: $root isn't whole" >&2
exit 127
"#;
