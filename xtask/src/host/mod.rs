//! The machine that xtask runs on: its packages, compilers and QEMU.

use anyhow::Result;

pub mod packages;
pub mod qemu;
pub mod sources;
pub mod toolchain;

/// What the machine is to be ready for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Building and running.
    Demo,
    /// The same, and the checks of the source.
    Tests,
}

/// Makes sure that the host's programs are there, or says what to install.
pub fn prepare(arch: &str, purpose: For) -> Result<()> {
    let mut wanted = vec![
        packages::Wanted { programs: &["mke2fs", "e2fsck", "debugfs"], package: "e2fsprogs" },
        packages::Wanted { programs: &["dtc"], package: "device-tree-compiler" },
    ];
    if purpose == For::Tests && toolchain::beside_cargo("cargo-clippy").is_none() {
        toolchain::add_component("clippy", "rust-web-clippy", &mut wanted);
    }
    if purpose == For::Tests && toolchain::beside_cargo("cargo-fmt").is_none() {
        toolchain::add_component("rustfmt", "rustfmt-web", &mut wanted);
    }
    packages::ensure(&wanted)?;
    qemu::ensure(arch)?;
    toolchain::BareMetal::find(arch)?;
    Ok(())
}
