//! Debian's packages fetched by apt into a root of its own and unpacked there: nothing is installed, the host's dpkg, its
//! architectures and its package sources are not touched, and no right of root's is needed. apt checks the archive's signatures.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::sources;
use crate::{paths, process, say};

/// An apt configuration of its own, for one architecture.
pub struct AptRoot {
    root: PathBuf,
    arch: &'static str,
    suite: String,
}

impl AptRoot {
    /// One below `root` for packages of an architecture (Debian's name) from a suite, with the other suites that these are built upon.
    /// Suites of security updates come from their own mirror. `instead`: what to do on a machine without apt.
    pub fn open(
        root: PathBuf,
        arch: &'static str,
        suite: &str,
        others: &[&str],
        instead: impl FnOnce(&str) -> String,
    ) -> Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            if process::find(program).is_none() {
                return say::missing(instead(program));
            }
        }
        let Some(keyring) = sources::keyring() else {
            return say::missing(
                "Debian's archive keys are missing; install them:  apt-get install debian-archive-keyring",
            );
        };
        let apt = Self { root, arch, suite: suite.to_owned() };
        for folder in [
            "etc/apt/sources.list.d",
            "etc/apt/preferences.d",
            "etc/apt/apt.conf.d",
            "etc/apt/trusted.gpg.d",
            "var/lib/dpkg",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
        ] {
            std::fs::create_dir_all(apt.root.join(folder))?;
        }
        // apt insists on a status file; an empty one means that nothing is installed.
        std::fs::write(apt.root.join("var/lib/dpkg/status"), "")?;
        let mirror = sources::mirror();
        let line = |suite: &&str| {
            let mirror = if suite.ends_with("-security") { sources::SECURITY_MIRROR } else { &mirror };
            format!("deb [arch={arch} signed-by={keyring}] {mirror} {suite} main\n")
        };
        let list: String = std::iter::once(&suite).chain(others).map(line).collect();
        std::fs::write(apt.root.join("etc/apt/sources.list"), list)?;
        process::output(apt.command("apt-get").arg("update")).with_context(|| {
            format!("cannot read Debian's package lists from {mirror}; is the network there?")
        })?;
        Ok(apt)
    }

    /// The suite that it was opened for.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// Debian's name of the architecture.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// One of apt's programs, at work in this root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = process::command(program);
        let option = |name: &str, value: &str| format!("{name}={value}");
        for pair in [
            option("Dir", &self.root.display().to_string()),
            option("Dir::State::status", &self.root.join("var/lib/dpkg/status").display().to_string()),
            option("APT::Architecture", self.arch),
            option("APT::Architectures", self.arch),
            option("Acquire::Languages", "none"),
            option("Acquire::Retries", "3"),
            option("APT::Sandbox::User", "root"),
        ] {
            command.arg("-o").arg(pair);
        }
        command
    }

    fn downloads(&self) -> PathBuf {
        self.root.join("var/cache/apt/archives")
    }

    /// Downloads a package and unpacks it into a folder, which exists only when it is whole.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let name = package.split('=').next().unwrap_or(package);
        process::run(
            self.command("apt-get").args(["download", "-q", package]).current_dir(self.downloads()),
        )?;
        let file = self
            .packages()?
            .into_iter()
            .find(|path| {
                path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
            })
            .with_context(|| format!("apt-get didn't leave the package {name}"))?;
        self.unpack_files(&[file], folder)
    }

    /// Downloads packages, without what they need, and unpacks them into one folder, which exists only when it is whole.
    pub fn unpack_all(&self, packages: &[String], folder: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        process::run(download.args(["download", "-q"]).args(packages).current_dir(self.downloads()))?;
        self.unpack_files(&self.packages()?, folder)
    }

    /// Downloads packages with all that they need, and unpacks them into one folder, which exists only when it is whole. What an
    /// interrupted call has downloaded the next one doesn't download again.
    pub fn unpack_with_needs(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let mut install = self.command("apt-get");
        install.args([
            "install",
            "-y",
            "-q",
            "--download-only",
            "--no-install-recommends",
            "-t",
            &self.suite,
        ]);
        // apt's own words say how far it is.
        process::run(install.args(packages))?;
        self.unpack_files(&self.packages()?, folder)
    }

    /// What was downloaded, and not unpacked yet.
    fn packages(&self) -> Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.downloads())?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        files.sort();
        Ok(files)
    }

    /// Unpacks packages and removes them.
    fn unpack_files(&self, files: &[PathBuf], folder: &Path) -> Result<()> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        paths::make_with(folder, |partial| {
            if partial.exists() {
                std::fs::remove_dir_all(partial)?;
            }
            files.iter().try_for_each(|file| {
                process::output(process::command("dpkg-deb").arg("-x").arg(file).arg(partial)).map(drop)
            })
        })?;
        files.iter().try_for_each(|file| Ok(std::fs::remove_file(file)?))
    }
}
