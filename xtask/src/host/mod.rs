//! The machine that xtask runs on: its packages, compilers and QEMU.

use anyhow::Result;

pub mod apt;
pub mod bochs;
pub mod grub;
pub mod linux;
pub mod packages;
pub mod peers;
pub mod qemu;
pub mod sources;
pub mod toolchain;
pub mod ubuntu;

/// The architectures that things are built for.
pub const ARCHITECTURES: [&str; 2] = ["aarch64", "x86_64"];

/// What the machine is to be ready for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Building and running.
    Demo,
    /// The same, and the checks of the source.
    Tests,
    /// Building and the checks of the source; nothing is run.
    Checks,
}

/// Makes sure that the host's programs are there for these architectures, or says what to install.
pub fn prepare(architectures: &[&str], purpose: For) -> Result<()> {
    let mut wanted = vec![
        packages::Wanted { programs: &["mke2fs", "e2fsck", "debugfs"], package: "e2fsprogs" },
        packages::Wanted { programs: &["dtc"], package: "device-tree-compiler" },
    ];
    if purpose != For::Demo && toolchain::beside_cargo("cargo-clippy").is_none() {
        toolchain::add_component("clippy", "rust-web-clippy", &mut wanted);
    }
    if purpose != For::Demo && toolchain::beside_cargo("cargo-fmt").is_none() {
        toolchain::add_component("rustfmt", "rustfmt-web", &mut wanted);
    }
    packages::ensure(&wanted)?;
    for arch in architectures {
        if purpose != For::Checks {
            qemu::ensure(arch)?;
        }
        if purpose == For::Tests && *arch == "x86_64" {
            grub::ensure()?;
        }
        toolchain::BareMetal::find(arch)?;
    }
    Ok(())
}
