//! Another program that runs VMs by KVM, for a Linux host under QEMU, where figures are held against its: QEMU itself, Debian's, unpacked and not
//! installed. Debian has neither kvmtool nor crosvm.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::apt::AptRoot;
use super::sources;
use crate::{paths, say};

/// Makes sure that it is there: the folder that would be a Linux's root, in which it and its libraries lie.
pub fn ensure(arch: &str) -> Result<PathBuf> {
    // Their names in Debian. The second has what an x86 machine starts with.
    let (name, packages): (_, &[&str]) = match arch {
        "aarch64" => ("arm64", &["qemu-system-arm"]),
        "x86_64" => ("amd64", &["qemu-system-x86", "seabios"]),
        _ => bail!("there is no Debian for {arch} here"),
    };
    let folder = paths::linux_host(arch).join("peers");
    let root = folder.join("root");
    if root.is_dir() {
        return Ok(root);
    }
    let suite = sources::codename();
    let what = packages[0];
    say::step(format_args!(
        "fetching Debian's {what} for {arch}, beside which a Linux host's figures are held (about 60 MB)"
    ));
    let by_hand = |program: &str| {
        format!(
            "figures are held against those of Debian's {what}, for which `{program}` is missing: `--short` goes without"
        )
    };
    let apt = AptRoot::open(folder.join("apt"), name, &suite, &[], by_hand)?;
    apt.unpack_with_needs(packages, &root)?;
    Ok(root)
}
