//! QEMU, new enough: an SMMUv3 with a second stage came with 9.1.

use anyhow::Result;

use super::{packages, sources};
use crate::{process, say};

const OLDEST: (u32, u32) = (9, 1);
/// The second has the cards' boot ROMs, without which QEMU doesn't start with a card of its own choice.
const PACKAGES: &[&str] = &["qemu-system-arm", "ipxe-qemu"];

/// The program that emulates the architecture.
pub fn program(arch: &str) -> String {
    format!("qemu-system-{arch}")
}

/// Makes sure that a QEMU is there that can do what AxVM needs.
pub fn ensure(arch: &str) -> Result<()> {
    let found = installed(arch);
    if found.is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    let have = found.map_or("none".to_owned(), |(major, minor)| format!("{major}.{minor}"));
    let need = format!("QEMU {}.{} or newer is needed ({have} is here)", OLDEST.0, OLDEST.1);
    if process::find("apt-get").is_none() {
        return say::missing(format!("{need}: install {} by this machine's package manager", program(arch)));
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
        packages::install(PACKAGES, Some(&backports))?;
    } else {
        packages::install(PACKAGES, None)?;
    }
    match installed(arch) {
        Some(version) if version >= OLDEST => Ok(()),
        _ => say::missing(format!("{need}, and this machine's package sources have no newer one")),
    }
}

/// The version that is installed.
fn installed(arch: &str) -> Option<(u32, u32)> {
    process::find(&program(arch))?;
    version(&process::output(process::command(program(arch)).arg("--version")).ok()?)
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
        assert!(version("QEMU emulator version 9.1.0").unwrap() >= OLDEST);
        assert!(version("QEMU emulator version 7.2.17 (Debian)").unwrap() < OLDEST);
        assert_eq!(version("something else"), None);
    }
}
