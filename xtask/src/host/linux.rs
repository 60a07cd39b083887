//! A compiler for programs of Linux on another machine that need nothing there: linked with all of their libraries.
//!
//! For this machine's own architecture that is the cargo that runs xtask. For another one it is Debian's compiler with Debian's library for
//! that architecture, unpacked under `target/`, and LLVM's linker, which links for any; or rustup's, which brings all of that.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::AptRoot;
use super::toolchain::{self, DEBIAN};
use super::{qemu, sources};
use crate::{paths, process, say};

/// How much the compiler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What is soon there, for tests.
    Quick,
    /// What users run, for figures.
    Tool,
}

/// A compiler that builds such programs.
pub struct Static {
    arch: String,
    kind: Kind,
}

enum Kind {
    /// For the architecture of this machine.
    Own,
    /// Debian's, with its library for the other architecture below a folder, and what starts the linker.
    Debian { root: PathBuf, linker: PathBuf },
    /// rustup's, whose target for musl has all that is linked.
    Rustup,
}

impl Static {
    /// Finds such a compiler or gets one.
    pub fn find(arch: &str) -> Result<Self> {
        let of = |kind| Self { arch: arch.to_owned(), kind };
        if std::env::consts::ARCH == arch {
            return Ok(of(Kind::Own));
        }
        if !sources::is_debian() {
            let triple = musl(arch);
            if toolchain::add_target(&triple) {
                return Ok(of(Kind::Rustup));
            }
            return say::missing(format!(
                "no compiler for programs of Linux on {arch}; by rustup: rustup target add {triple}"
            ));
        }
        toolchain::ensure_debian()?;
        let folder = paths::linux_host(arch);
        let root = folder.join("compiler");
        if !library(&root, arch).is_dir() {
            fetch(arch, &folder.join("apt"), &root)?;
        }
        let linker = folder.join("link");
        paths::write_atomically(&linker, linker_script(&root, arch)?.as_bytes())?;
        qemu::make_executable(&linker)?;
        Ok(of(Kind::Debian { root, linker }))
    }

    /// The target's name.
    fn triple(&self) -> String {
        match self.kind {
            Kind::Own | Kind::Debian { .. } => gnu(&self.arch),
            Kind::Rustup => musl(&self.arch),
        }
    }

    fn target_dir(&self) -> PathBuf {
        paths::target().join("linux-host").join("build")
    }

    /// What is built for it, by its name.
    pub fn built(&self, name: &str, profile: Profile) -> PathBuf {
        let folder = match profile {
            Profile::Quick => "debug",
            Profile::Tool => "tool",
        };
        self.target_dir().join(self.triple()).join(folder).join(name)
    }

    /// `cargo build` for it. Without what a debugger reads, which is most of what would be written.
    pub fn build(&self, profile: Profile) -> Result<Command> {
        let mut command = match &self.kind {
            Kind::Own | Kind::Rustup => toolchain::host("build"),
            Kind::Debian { .. } => {
                let mut command = process::command(debian("cargo"));
                command
                    .arg("build")
                    .env("CARGO", debian("cargo"))
                    .env("RUSTC", debian("rustc"))
                    .env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        let mut flags =
            vec!["-Ctarget-feature=+crt-static".to_owned(), "-Crelocation-model=static".to_owned()];
        match &self.kind {
            Kind::Own => {}
            Kind::Rustup => flags.extend(
                ["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Clink-self-contained=yes"]
                    .map(str::to_owned),
            ),
            Kind::Debian { root, linker } => {
                flags.push(format!("--sysroot={}", root.join("usr").display()));
                flags.push(format!("-Clinker={}", linker.display()));
                flags.push("-Clinker-flavor=ld".to_owned());
                for folder in [libraries(root, &self.arch), gcc(root, &self.arch)?] {
                    flags.push(format!("-Lnative={}", folder.display()));
                }
            }
        }
        command.args(["--target", &self.triple()]).arg("--target-dir").arg(self.target_dir());
        if profile == Profile::Tool {
            command.args(["--profile", "tool"]);
        }
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        command.arg("--config").arg(format!("target.{}.rustflags={flags:?}", self.triple()));
        Ok(command)
    }
}

fn debian(program: &str) -> String {
    Path::new(DEBIAN).join(program).display().to_string()
}

fn gnu(arch: &str) -> String {
    format!("{arch}-unknown-linux-gnu")
}

fn musl(arch: &str) -> String {
    format!("{arch}-unknown-linux-musl")
}

/// Rust's library of the architecture, in the tree of packages.
fn library(root: &Path, arch: &str) -> PathBuf {
    root.join("usr/lib/rustlib").join(gnu(arch)).join("lib")
}

/// C's library.
fn libraries(root: &Path, arch: &str) -> PathBuf {
    root.join("usr/lib").join(format!("{arch}-linux-gnu"))
}

/// What GCC links into every program: the folder of its version.
fn gcc(root: &Path, arch: &str) -> Result<PathBuf> {
    let folder = root.join("usr/lib/gcc").join(format!("{arch}-linux-gnu"));
    let versions = std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let found = versions.flatten().map(|entry| entry.path()).find(|path| path.join("libgcc.a").is_file());
    found.with_context(|| format!("there is no libgcc.a below {}", folder.display()))
}

/// A linker that gives a program its first and last pieces, as the System V ABI's AArch64 and x86-64 supplements order them.
fn linker_script(root: &Path, arch: &str) -> Result<String> {
    let (libraries, gcc) = (libraries(root, arch), gcc(root, arch)?);
    let linker = process::find("ld.lld").context("there is no ld.lld; install the package lld")?;
    let piece = |folder: &Path, name: &str| format!("'{}'", folder.join(name).display());
    Ok(format!(
        "#!/bin/sh\n# Links a program that needs no library where it runs.\nexec '{}' {} {} {} \"$@\" {} {}\n",
        linker.display(),
        piece(&libraries, "crt1.o"),
        piece(&libraries, "crti.o"),
        piece(&gcc, "crtbeginT.o"),
        piece(&gcc, "crtend.o"),
        piece(&libraries, "crtn.o"),
    ))
}

/// Unpacks Debian's libraries for the architecture: Rust's, of the very version of the compiler, and what it stands on.
fn fetch(arch: &str, place: &Path, root: &Path) -> Result<()> {
    let name = match arch {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        _ => bail!("there is no Debian for {arch} here"),
    };
    say::step(format_args!("fetching Debian's libraries for programs of {arch} (about 40 MB)"));
    let codename = sources::codename();
    let by_hand = |program: &str| {
        format!(
            "the Linux host's program for {arch} is built with Debian's libraries, for which `{program}` is missing"
        )
    };
    let security = format!("{codename}-security");
    let apt = AptRoot::open(place.to_path_buf(), name, &codename, &[&security], by_hand)?;
    let version =
        process::output(process::command("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]))?;
    let names = process::output(apt.command("apt-cache").args(["pkgnames", "libgcc-"]))?;
    let gcc = newest_gcc(&names).context("Debian has no libgcc-N-dev")?;
    let packages = [format!("libstd-rust-web-dev={}", version.trim()), "libc6-dev".to_owned(), gcc];
    apt.unpack_all(&packages, root)
}

/// Of packages' names the one of the newest GCC's own library: `libgcc-12-dev`.
fn newest_gcc(names: &str) -> Option<String> {
    let version = |name: &str| name.strip_prefix("libgcc-")?.strip_suffix("-dev")?.parse::<u32>().ok();
    let newest = names.lines().filter_map(|name| version(name.trim())).max()?;
    Some(format!("libgcc-{newest}-dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_is_chosen_by_number() {
        let names = "libgcc-9-dev\nlibgcc-12-dev\nlibgcc-11-dev\nlibgcc-s1\nlibgcc-12-dev-armhf-cross\n";
        assert_eq!(newest_gcc(names).as_deref(), Some("libgcc-12-dev"));
        assert_eq!(newest_gcc("libgcc-s1\n"), None);
    }
}
