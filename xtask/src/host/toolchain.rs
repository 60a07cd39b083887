//! Compilers: the cargo that runs xtask, for the host; and one that can build for bare metal. The second is the
//! same where it has the target (rustup), else Debian's own with the library built from its sources.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::{self, Wanted};
use super::sources;
use crate::{paths, process, say};

/// Debian's compiler, found beside whatever comes first in PATH.
pub const DEBIAN: &str = "/usr/bin";

/// The oldest compiler that the workspace is built with (`rust-version`).
const OLDEST: (u32, u32) = (1, 95);

/// The target on which code for an architecture's bare metal is built.
pub fn triple(arch: &str) -> Result<&'static str> {
    match arch {
        "aarch64" => Ok("aarch64-unknown-none-softfloat"),
        // It uses no register of the floating-point units, which are the guest's, either.
        "x86_64" => Ok("x86_64-unknown-none"),
        _ => bail!("there is no bare-metal target for {arch} yet"),
    }
}

/// The cargo that runs xtask.
fn host_cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// A program that belongs to the cargo that runs xtask, such as `cargo-clippy`.
pub fn beside_cargo(program: &str) -> Option<PathBuf> {
    let path = host_cargo().parent()?.join(program);
    path.is_file().then_some(path)
}

/// Whether the cargo that runs xtask is one of rustup's.
fn by_rustup() -> bool {
    std::env::var_os("RUSTUP_TOOLCHAIN").is_some() && process::find("rustup").is_some()
}

/// Gets a component of the host's toolchain: by rustup at once, else as a package to be installed.
pub fn add_component(component: &'static str, package: &'static str, wanted: &mut Vec<Wanted>) {
    if by_rustup() {
        say::step(format_args!("adding rustup's component {component}"));
        if process::run(process::command("rustup").args(["component", "add", component])).is_ok() {
            return;
        }
    }
    wanted.push(Wanted { programs: &["/nowhere"], package });
}

/// A cargo command for the host. `clippy` and `fmt` are those of the same toolchain, whatever PATH says.
pub fn host(subcommand: &str) -> Command {
    let Some(program) = beside_cargo(&format!("cargo-{subcommand}")) else {
        let mut command = process::command(host_cargo());
        command.arg(subcommand);
        return command;
    };
    let mut command = process::command(program);
    command.arg(subcommand);
    if let Some(rustfmt) = beside_cargo("rustfmt") {
        command.env("RUSTFMT", rustfmt);
    }
    command
}

/// A compiler that builds for bare metal.
pub struct BareMetal {
    triple: &'static str,
    kind: Kind,
}

enum Kind {
    /// The toolchain that runs xtask has the target's libraries, and a linker of its own.
    Ready,
    /// Debian's, with `core` and `alloc` built from the package rust-web-src.
    FromSource { linker: PathBuf },
}

impl BareMetal {
    /// Finds such a compiler or installs one.
    pub fn find(arch: &str) -> Result<BareMetal> {
        let triple = triple(arch)?;
        if let Some(found) = BareMetal::ready(triple).or_else(|| BareMetal::from_source(triple)) {
            return Ok(found);
        }
        if by_rustup() {
            say::step(format_args!("adding rustup's target {triple}"));
            let mut rustup = process::command("rustup");
            if process::run(rustup.args(["target", "add", triple])).is_ok()
                && let Some(found) = BareMetal::ready(triple)
            {
                return Ok(found);
            }
            say::note("rustup can't; trying Debian's compiler");
        }
        install_debian()
            .with_context(|| format!("no compiler for {triple}; by rustup: rustup target add {triple}"))?;
        BareMetal::from_source(triple)
            .with_context(|| format!("no compiler for {triple} after installing it"))
    }

    fn ready(triple: &'static str) -> Option<BareMetal> {
        let rustc = beside_cargo("rustc")?;
        let has_target = sysroot(&rustc)?.join("lib/rustlib").join(triple).join("lib").is_dir();
        has_target.then_some(BareMetal { triple, kind: Kind::Ready })
    }

    fn from_source(triple: &'static str) -> Option<BareMetal> {
        let rustc = Path::new(DEBIAN).join("rustc");
        if !rustc.is_file() || !Path::new(DEBIAN).join("cargo").is_file() {
            return None;
        }
        let said = process::output(process::command(&rustc).arg("--version")).ok()?;
        if version(&said)? < OLDEST {
            return None;
        }
        if !sysroot(&rustc)?.join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        let linker = process::find("ld.lld").or_else(|| process::find("rust-lld"))?;
        Some(BareMetal { triple, kind: Kind::FromSource { linker } })
    }

    /// The target's name.
    pub fn triple(&self) -> &'static str {
        self.triple
    }

    /// What is built goes to a folder for each compiler: they can't read each other's.
    pub fn target_dir(&self, variant: &str) -> PathBuf {
        let name = match self.kind {
            Kind::Ready => "bare-metal",
            Kind::FromSource { .. } => "bare-metal-debian",
        };
        let name = if variant.is_empty() { name.to_owned() } else { format!("{name}-{variant}") };
        paths::target().join(name)
    }

    /// A cargo command (`build`, `clippy`) for the target; a variant is built in a folder of its own.
    pub fn cargo(&self, subcommand: &str, variant: &str) -> Command {
        let mut command = match &self.kind {
            Kind::Ready => host(subcommand),
            Kind::FromSource { linker } => {
                let folder = Path::new(DEBIAN);
                let own = folder.join(format!("cargo-{subcommand}"));
                let mut command = process::command(if own.is_file() { own } else { folder.join("cargo") });
                command
                    .arg(subcommand)
                    .env("CARGO", folder.join("cargo"))
                    .env("RUSTC", folder.join("rustc"))
                    .env_remove("RUSTUP_TOOLCHAIN")
                    // Building the library from source is an unstable option; the code itself uses none.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env(self.variable("LINKER"), linker)
                    .args([
                        "-Zbuild-std=core,alloc",
                        "-Zbuild-std-features=compiler-builtins-mem,optimize_for_size",
                    ]);
                command
            }
        };
        command.args(["--target", self.triple]).arg("--target-dir").arg(self.target_dir(variant));
        // Added to those of .cargo/config.toml, which RUSTFLAGS would replace.
        let flags = self.shorter_paths();
        command.arg("--config").arg(format!("target.{}.rustflags={flags:?}", self.triple));
        command
    }

    /// What has a panic name a file by its package and path, wherever this machine keeps it: the image doesn't depend on that.
    fn shorter_paths(&self) -> Vec<String> {
        let cargo_home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let registries = cargo_home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
        let mut places: Vec<(PathBuf, &str)> =
            registries.into_iter().flatten().flatten().map(|registry| (registry.path(), "")).collect();
        places.sort();
        if let Kind::FromSource { .. } = self.kind {
            let sysroot = sysroot(Path::new(DEBIAN).join("rustc"));
            places.extend(sysroot.map(|sysroot| (sysroot.join("lib/rustlib/src/rust/library"), "std")));
        }
        places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect()
    }

    /// Whether it builds the library from source, for size like the rest: what the goals of figures are set for. A library that
    /// comes compiled is larger and otherwise inlined, and of whatever version.
    pub fn builds_library(&self) -> bool {
        matches!(self.kind, Kind::FromSource { .. })
    }

    /// Whether it has clippy.
    pub fn has_clippy(&self) -> bool {
        match self.kind {
            Kind::Ready => beside_cargo("cargo-clippy").is_some(),
            Kind::FromSource { .. } => Path::new(DEBIAN).join("cargo-clippy").is_file(),
        }
    }

    /// Its name in the log.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Ready => format!("{} of the toolchain in use", self.triple),
            Kind::FromSource { .. } => format!("{} by Debian's compiler, library from source", self.triple),
        }
    }

    fn variable(&self, what: &str) -> String {
        format!("CARGO_TARGET_{}_{what}", self.triple.to_uppercase().replace('-', "_"))
    }
}

/// Has rustup add a target to the toolchain that runs xtask; whether it is there now.
pub fn add_target(triple: &str) -> bool {
    let there = || {
        let sysroot = beside_cargo("rustc").and_then(sysroot);
        sysroot.is_some_and(|sysroot| sysroot.join("lib/rustlib").join(triple).join("lib").is_dir())
    };
    if !there() && by_rustup() {
        say::step(format_args!("adding rustup's target {triple}"));
        // Whether it could is seen by what is there.
        let _ = process::run(process::command("rustup").args(["target", "add", triple]));
    }
    there()
}

/// Makes sure that Debian's compiler is there.
pub fn ensure_debian() -> Result<()> {
    let is_there = |version: (u32, u32)| version >= OLDEST;
    let said = process::output(process::command(Path::new(DEBIAN).join("rustc")).arg("--version"));
    if said.ok().and_then(|said| version(&said)).is_some_and(is_there) && process::find("ld.lld").is_some() {
        return Ok(());
    }
    install_debian()
}

/// Installs Debian's newer compiler, which in an older release comes with the security updates.
fn install_debian() -> Result<()> {
    if sources::is_debian() && packages::can_install() {
        packages::update()?;
        if packages::candidate("rustc-web").is_none_or(|version| version < OLDEST) {
            packages::add_source(&format!("{}-security", sources::codename()), sources::SECURITY_MIRROR)?;
        }
    }
    packages::install(&["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy", "lld"], None)
}

fn sysroot(rustc: impl AsRef<OsStr>) -> Option<PathBuf> {
    let mut command = process::command(Path::new(rustc.as_ref()));
    let said = process::output(command.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(said.trim()))
}

/// From `rustc 1.96.0 (...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_rustc_says() {
        assert_eq!(
            version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some((1, 96))
        );
        assert_eq!(version("rustc 1.97.0-nightly"), Some((1, 97)));
        assert_eq!(version("rustc"), None);
    }
}
