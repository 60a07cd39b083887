//! QEMU, new enough: an SMMUv3 with a second stage came with 9.1, an AMD-Vi that translates DMA with 11.1.
//!
//! One that is in PATH and new enough is taken. Else, for aarch64, the machine's package is installed; for x86_64, where hardly any
//! machine has a package that is new enough, Debian's is unpacked under `target/`, which needs no right of root's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::AptRoot;
use super::{packages, sources};
use crate::{paths, process, say};

/// The version that an architecture needs.
fn oldest(arch: &str) -> (u32, u32) {
    if arch == "x86_64" { (11, 1) } else { (9, 1) }
}

/// The package of a machine's own. The second has the cards' boot ROMs, without which QEMU doesn't start with a card of its own choice.
const PACKAGES: &[&str] = &["qemu-system-arm", "ipxe-qemu"];

/// The suite that has a QEMU for x86_64, and what its packages are built upon.
const OWN_SUITE: (&str, &[&str]) = ("trixie-backports", &["trixie"]);
const OWN_PACKAGES: &[&str] = &["qemu-system-x86", "ipxe-qemu"];

/// The program that emulates the architecture, as it is called in PATH.
fn name(arch: &str) -> String {
    format!("qemu-system-{arch}")
}

/// What runs the QEMU that was unpacked for an architecture; `axvm` looks for it there too.
fn own_program(arch: &str) -> PathBuf {
    paths::target().join("qemu").join(arch).join(name(arch))
}

/// The program that emulates the architecture: the one in PATH, if it is new enough, else the one that was unpacked.
pub fn program(arch: &str) -> PathBuf {
    let own = own_program(arch);
    if in_path(arch).is_none_or(|version| version < oldest(arch)) && own.is_file() {
        return own;
    }
    PathBuf::from(name(arch))
}

/// The interface that a plugin of it is built for: what `xtask/plugin/count.c` knows.
pub fn plugin_interface(arch: &str) -> u32 {
    let version = version_of(&mut process::command(program(arch)));
    if version.is_some_and(|version| version >= (11, 1)) { 7 } else { 3 }
}

/// Makes sure that a QEMU is there that can do what AxVM needs.
pub fn ensure(arch: &str) -> Result<()> {
    let (major, minor) = oldest(arch);
    let found = in_path(arch);
    let is_enough = |version: Option<(u32, u32)>| version.is_some_and(|version| version >= (major, minor));
    if is_enough(found) || is_enough(version_of(&mut Command::new(own_program(arch)))) {
        return Ok(());
    }
    let have = found.map_or("none".to_owned(), |(major, minor)| format!("{major}.{minor}"));
    let need = format!("QEMU {major}.{minor} or newer is needed ({have} is here)");
    if arch == "x86_64" {
        return unpack(arch, &need);
    }
    install(&need)?;
    if is_enough(in_path(arch)) {
        return Ok(());
    }
    say::missing(format!("{need}, and this machine's package sources have no newer one"))
}

/// Unpacks Debian's under `target/`, where nothing else on the machine sees it.
fn unpack(arch: &str, need: &str) -> Result<()> {
    let own = own_program(arch);
    let folder = own.parent().context("a program lies in a folder")?;
    let (suite, others) = OWN_SUITE;
    say::step(format_args!("{need}: fetching Debian's ({suite}, about 40 MB) into {}", paths::shown(folder)));
    let by_hand = |why: &str| {
        format!(
            "{need}: put one into PATH as {}, or let Debian's be unpacked here ({OWN_PACKAGES:?} of {suite}), for which {why}",
            name(arch)
        )
    };
    let host = process::output(process::command("dpkg").arg("--print-architecture")).unwrap_or_default();
    let host = match host.trim() {
        "amd64" => "amd64",
        "arm64" => "arm64",
        _ => return say::missing(by_hand("this machine has no packages of Debian's")),
    };
    let apt = AptRoot::open(folder.join("apt"), host, suite, others, |program| {
        by_hand(&format!("`{program}` is missing"))
    })?;
    apt.unpack_with_needs(OWN_PACKAGES, &folder.join("root"))
        .with_context(|| by_hand("apt must be able to fetch them"))?;
    paths::write_atomically(&own, START.as_bytes())?;
    make_executable(&own)?;
    match version_of(&mut Command::new(&own)) {
        Some((major, minor)) if (major, minor) >= oldest(arch) => {
            say::note(format_args!("QEMU {major}.{minor} is in {}", paths::shown(&own)));
            Ok(())
        }
        Some((major, minor)) => say::missing(by_hand(&format!("{suite} has {major}.{minor} only"))),
        None => {
            let said = process::output(Command::new(&own).arg("--version"));
            said.map(drop).with_context(|| by_hand("it must start"))?;
            say::missing(by_hand("it must say its version"))
        }
    }
}

/// Starts an unpacked QEMU by its own loader and with its own libraries, wherever the folder lies.
const START: &str = r#"#!/bin/sh
# Starts the QEMU that is unpacked beside this file, with the libraries that came with it.
root=$(cd "$(dirname "$0")" && pwd)/root
name=$(basename "$0")
for libraries in "$root"/usr/lib/*-linux-gnu; do
    for loader in "$libraries"/ld-linux-*.so.*; do
        [ -f "$loader" ] || continue
        export QEMU_MODULE_DIR="$libraries/qemu"
        exec "$loader" --library-path "$libraries:$libraries/pulseaudio" "$root/usr/bin/$name" \
            -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
    done
done
echo "$name: $root isn't whole" >&2
exit 127
"#;

/// Lets everybody start a file.
pub fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", file.display()))
}

/// Installs the machine's own package for aarch64.
fn install(need: &str) -> Result<()> {
    if process::find("apt-get").is_none() {
        return say::missing(format!(
            "{need}: install {} by this machine's package manager",
            name("aarch64")
        ));
    }
    let backports = format!("{}-backports", sources::codename());
    let by_backports = sources::codename() == "bookworm";
    if !packages::can_install() {
        let target = if by_backports { format!("-t {backports} ") } else { String::new() };
        let source = if by_backports && !known(&backports) {
            format!(
                "  echo 'deb {} {backports} main' > /etc/apt/sources.list.d/{backports}.list\n",
                sources::mirror()
            )
        } else {
            String::new()
        };
        return say::missing(format!(
            "{need}; as root:\n{source}  apt-get update\n  apt-get install {target}{}",
            PACKAGES.join(" ")
        ));
    }
    if by_backports {
        if !known(&backports) {
            packages::add_source(&backports, &sources::mirror())?;
        }
        return packages::install(PACKAGES, Some(&backports));
    }
    packages::install(PACKAGES, None)
}

/// The version of the one in PATH.
fn in_path(arch: &str) -> Option<(u32, u32)> {
    process::find(&name(arch))?;
    version_of(&mut process::command(name(arch)))
}

fn version_of(program: &mut Command) -> Option<(u32, u32)> {
    version(&process::output(program.arg("--version")).ok()?)
}

/// Whether apt has a suite among its sources.
fn known(suite: &str) -> bool {
    let policy = process::output(process::command("apt-cache").arg("policy")).unwrap_or_default();
    policy.contains(&format!("n={suite}")) || policy.contains(&format!("a={suite}"))
}

/// From `QEMU emulator version 10.0.2 (...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some((10, 0)));
        assert!(version("QEMU emulator version 9.1.0").unwrap() >= oldest("aarch64"));
        assert!(version("QEMU emulator version 7.2.17 (Debian)").unwrap() < oldest("aarch64"));
        assert!(version("QEMU emulator version 10.2.0").unwrap() < oldest("x86_64"));
        assert!(
            version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)").unwrap()
                >= oldest("x86_64")
        );
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn an_unpacked_one_is_started_with_its_own_loader_and_libraries() {
        let folder = paths::target().join("test-unpacked-qemu");
        let libraries = folder.join("root/usr/lib/some-linux-gnu");
        let start = folder.join("qemu-system-some");
        paths::write_atomically(&start, START.as_bytes()).unwrap();
        make_executable(&start).unwrap();
        let loader = libraries.join("ld-linux-some.so.2");
        assert!(process::output(&mut Command::new(&start)).unwrap_err().to_string().contains("isn't whole"));
        // In the loader's place, what says how it was called.
        paths::write_atomically(&loader, b"#!/bin/sh\necho \"$@\"\n").unwrap();
        make_executable(&loader).unwrap();
        let said = process::output(Command::new(&start).args(["-M", "q35"])).unwrap();
        let root = folder.join("root");
        let (root, libraries) = (root.display(), libraries.display());
        assert!(
            said.starts_with(&format!(
                "--library-path {libraries}:{libraries}/pulseaudio {root}/usr/bin/qemu-system-some -L"
            )) && said.ends_with("-M q35\n"),
            "{said}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
