//! Debian's kernel and busybox for the guest's architecture, fetched by apt into a root of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::apt::AptRoot;
use crate::host::sources;
use crate::{paths, process, say};

/// A series of kernels, by the first two numbers of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series(&'static str);

impl Series {
    /// What is run where nothing else is said.
    pub const DEFAULT: Series = Series("6.12");

    const ALL: [Series; 2] = [Series::DEFAULT, Series("6.1")];

    /// The series of that name, of those that the tests promise.
    pub fn named(name: &str) -> Result<Series> {
        let known = || Series::ALL.map(|series| series.0).join(" and ");
        Series::ALL
            .into_iter()
            .find(|series| series.0 == name)
            .with_context(|| format!("there is no kernel series {name} here; there are {}", known()))
    }

    /// Its folder for one architecture: `Image` (`bzImage` on x86), `initrd.cpio.gz` and what they are made of.
    pub fn folder(self, arch: &str) -> PathBuf {
        self.within(paths::guest(arch))
    }

    /// Its folder in one that is for all series.
    pub fn within(self, folder: PathBuf) -> PathBuf {
        if self == Series::DEFAULT { folder } else { folder.join(self.0) }
    }

    fn has(self, version: &str) -> bool {
        version.strip_prefix(self.0).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// A kernel that lies ready.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The folder of its modules: `kernel/` and the list of what is built in.
    pub modules: PathBuf,
}

fn debian_arch(arch: &str) -> Result<&'static str> {
    match arch {
        "aarch64" => Ok("arm64"),
        "x86_64" => Ok("amd64"),
        _ => bail!("there is no guest for {arch} yet"),
    }
}

/// What the kernel's file is called in the guest's folder: as the format that it has.
pub fn image_name(arch: &str) -> &'static str {
    if arch == "x86_64" { "bzImage" } else { "Image" }
}

/// Debian's kernel: its image in the series' folder, its modules in a folder below.
pub fn kernel(arch: &str, series: Series) -> Result<Kernel> {
    let folder = series.folder(arch);
    let image = folder.join(image_name(arch));
    let release_file = folder.join("kernel.release");
    let unpacked = folder.join("linux");
    if image.is_file()
        && let Ok(release) = std::fs::read_to_string(&release_file)
        && let Ok(modules) = modules_folder(&unpacked, &release)
    {
        return Ok(Kernel { release, modules });
    }
    say::step(format_args!("fetching Debian's kernel {} for the guest (about 90 MB)", series.0));
    let (apt, package, version) = apt_with_kernel(arch, series)?;
    say::note(format_args!("{package} {version} from {}", apt.suite()));
    apt.unpack(&format!("{package}={version}"), &unpacked)?;
    let release = package.strip_prefix("linux-image-").unwrap_or(&package).to_owned();
    let modules = modules_folder(&unpacked, &release)?;
    // arm64: the package's vmlinuz already is an uncompressed Image. amd64: it is a bzImage.
    let vmlinuz = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    paths::make_with(&image, |partial| {
        std::fs::copy(&vmlinuz, partial).map(drop).with_context(|| format!("{package} has no kernel image"))
    })?;
    paths::write_atomically(&release_file, release.as_bytes())?;
    Ok(Kernel { release, modules })
}

/// A board's device tree.
pub struct DeviceTree {
    /// Its path without its end, as `qcom/qcs404-evb-1000`.
    pub name: String,
    pub file: PathBuf,
    /// The package that it is from.
    pub package: String,
}

/// The suite whose kernels are the newest that are built for a release, and bring their device trees in a package of a few MB.
const NEWEST_TREES: &str = "trixie-backports";

/// The device trees that kernels' packages bring, each name once: the newest.
pub fn device_trees(arch: &str) -> Result<Vec<DeviceTree>> {
    let (release, root) = newest_trees(arch)?;
    let mut trees: Vec<DeviceTree> = Vec::new();
    add_trees(&mut trees, &format!("linux-base-{release}"), &root)?;
    for series in Series::ALL {
        let package = format!("linux-image-{}", kernel(arch, series)?.release);
        let root = series.folder(arch).join("linux/usr/lib").join(&package);
        add_trees(&mut trees, &package, &root)?;
    }
    Ok(trees)
}

/// Adds the device trees below a folder, but for names that are there.
fn add_trees(trees: &mut Vec<DeviceTree>, package: &str, root: &Path) -> Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("{package} has no device trees"))? {
            let file = entry?.path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|extension| extension == "dtb") {
                let name = file.strip_prefix(root)?.with_extension("").display().to_string();
                if !trees.iter().any(|tree| tree.name == name) {
                    trees.push(DeviceTree { name, file, package: package.to_owned() });
                }
            }
        }
    }
    Ok(())
}

/// The release of the newest kernel and the folder of its device trees. They stay those that were fetched first.
fn newest_trees(arch: &str) -> Result<(String, PathBuf)> {
    let folder = paths::guest(arch).join("trees");
    let release_file = folder.join("release");
    let root = |release: &str| folder.join("linux/usr/lib/modules").join(release).join("dtb");
    if let Ok(release) = std::fs::read_to_string(&release_file)
        && root(&release).is_dir()
    {
        return Ok((release.clone(), root(&release)));
    }
    say::step("fetching the device trees of Debian's newest kernel (about 5 MB)");
    let apt = open(arch, NEWEST_TREES)?;
    let shown = process::output(apt.command("apt-cache").args([
        "show",
        "--all-versions",
        &format!("linux-image-{}", apt.arch()),
    ]))?;
    let release =
        newest_release(&shown).with_context(|| format!("{NEWEST_TREES} has no kernel for {arch}"))?;
    apt.unpack(&format!("linux-base-{release}"), &folder.join("linux"))?;
    paths::write_atomically(&release_file, release.as_bytes())?;
    let root = root(&release);
    Ok((release, root))
}

/// A static busybox for the guest.
pub fn busybox(arch: &str) -> Result<Vec<u8>> {
    let unpacked = paths::guest(arch).join("busybox");
    let read =
        || ["bin/busybox", "usr/bin/busybox"].iter().find_map(|name| std::fs::read(unpacked.join(name)).ok());
    if let Some(bytes) = read() {
        return Ok(bytes);
    }
    say::step("fetching Debian's busybox for the guest");
    let (apt, ..) = apt_with_kernel(arch, Series::DEFAULT)?;
    apt.unpack("busybox-static", &unpacked)?;
    read().context("the package busybox-static has no busybox")
}

/// Packages for a Linux host, without what they need, in one folder.
pub fn unpack(arch: &str, packages: &[&str], folder: &Path) -> Result<()> {
    say::step(format_args!("fetching Debian's {} for a Linux host", packages.join(", ")));
    let (apt, ..) = apt_with_kernel(arch, Series::DEFAULT)?;
    let packages: Vec<String> = packages.iter().map(|it| (*it).to_owned()).collect();
    apt.unpack_all(&packages, folder)
}

/// Debian's U-Boot for QEMU's board of the architecture.
pub fn u_boot(arch: &str) -> Result<PathBuf> {
    let unpacked = paths::guest(arch).join("u-boot");
    let image =
        unpacked.join("usr/lib/u-boot").join(format!("qemu_{}", debian_arch(arch)?)).join("u-boot.bin");
    if image.is_file() {
        return Ok(image);
    }
    say::step("fetching Debian's U-Boot for the board");
    let mut reasons = Vec::new();
    for suite in sources::guest_suites() {
        match open(arch, suite).and_then(|apt| apt.unpack("u-boot-qemu", &unpacked)) {
            Ok(()) if image.is_file() => return Ok(image),
            Ok(()) => reasons.push(format!("{suite}: the package u-boot-qemu hasn't got it")),
            Err(error) if error.is::<say::Missing>() => return Err(error),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no Debian suite has a U-Boot for {arch}:\n  {}", reasons.join("\n  "))
}

/// Where a kernel's modules are below what its packages were unpacked to.
pub fn modules_folder(unpacked: &Path, release: &str) -> Result<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|folder| unpacked.join(folder).join(release))
        .find(|folder| folder.join("kernel").is_dir())
        .with_context(|| format!("there are no modules of {release} in {}", unpacked.display()))
}

/// An apt root whose suites have a kernel of the series; the kernel's package and version.
fn apt_with_kernel(arch: &str, series: Series) -> Result<(AptRoot, String, String)> {
    let mut reasons = Vec::new();
    // The host's own release first; the other one may have the same series too.
    for suite in sources::guest_suites() {
        let apt = open(arch, suite)?;
        match kernel_package(&apt, series) {
            Ok((package, version)) => return Ok((apt, package, version)),
            Err(reason) => reasons.push(format!("{suite}: {reason}")),
        }
    }
    bail!("no Debian suite has a kernel {} for {arch}:\n  {}", series.0, reasons.join("\n  "))
}

fn open(arch: &str, suite: &'static str) -> Result<AptRoot> {
    // busybox is in the main suite; the kernel of an older release is in its backports.
    let others: &[&str] = if suite == "bookworm" { &["bookworm-backports"] } else { &[] };
    let root = paths::guest(arch).join("apt").join(suite);
    AptRoot::open(root, debian_arch(arch)?, suite, others, |program| {
        format!(
            "the guest's kernel and busybox come from Debian packages, which `{program}` fetches and this \
             machine doesn't have it;\nput Debian's kernel at {}, its modules and busybox as `dpkg-deb -x` \
             unpacks them under {}/linux and /busybox, and the kernel's release in kernel.release",
            paths::shown(&paths::guest(arch).join(image_name(arch))),
            paths::shown(&paths::guest(arch)),
        )
    })
}

/// The newest kernel of the series: what one of the versions of `linux-image-arm64` depends on.
fn kernel_package(apt: &AptRoot, series: Series) -> Result<(String, String)> {
    let meta = format!("linux-image-{}", apt.arch());
    let shown = process::output(apt.command("apt-cache").args(["show", "--all-versions", &meta]))?;
    newest_kernel(&shown, series).with_context(|| format!("no version of {meta} is {}", series.0))
}

/// From `apt-cache show --all-versions` (newest first): package and version of the series' kernel.
fn newest_kernel(records: &str, series: Series) -> Option<(String, String)> {
    records.split("\n\n").find_map(|record| {
        let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        field("Version:").filter(|version| series.has(version))?;
        let depends = field("Depends:")?;
        let (package, rest) = depends.split(',').next()?.trim().split_once(' ')?;
        let version = rest.trim().strip_prefix("(=")?.strip_suffix(')')?.trim();
        package.starts_with("linux-image-").then(|| (package.to_owned(), version.to_owned()))
    })
}

/// From `apt-cache show` (newest first): the release of the kernel that the meta package needs.
fn newest_release(records: &str) -> Option<String> {
    let needs = records.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let mut words = needs.split([' ', ',']);
    words.find_map(|word| word.strip_prefix("linux-image-")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_one_that_the_series_meta_package_needs() {
        let records = "Package: linux-image-arm64\nVersion: 6.19.1-1\n\
                       Depends: linux-image-6.19.1+deb13-arm64 (= 6.19.1-1)\n\n\
                       Package: linux-image-arm64\nVersion: 6.12.95-1~bpo12+1\n\
                       Depends: linux-image-6.12.95+deb12-arm64 (= 6.12.95-1~bpo12+1)\n\n\
                       Package: linux-image-arm64\nVersion: 6.1.176-1\n\
                       Depends: linux-image-6.1.0-50-arm64 (= 6.1.176-1)\n";
        let expected = ("linux-image-6.12.95+deb12-arm64".to_owned(), "6.12.95-1~bpo12+1".to_owned());
        assert_eq!(newest_kernel(records, Series::DEFAULT), Some(expected));
        let expected = ("linux-image-6.1.0-50-arm64".to_owned(), "6.1.176-1".to_owned());
        assert_eq!(newest_kernel(records, Series::named("6.1").unwrap()), Some(expected));
        assert_eq!(newest_kernel("Package: x\nVersion: 5.10\n", Series::DEFAULT), None);
    }

    #[test]
    fn the_newest_release_is_the_first_that_is_shown() {
        let records = "Version: 7.3.4-1\nDepends: linux-base-arm64 (= 7.3.4-1), linux-image-7.3.4+deb13-arm64 (= 7.3.4-1)\n\n\
                       Version: 7.2.1-1\nDepends: linux-image-7.2.1+deb13-arm64 (= 7.2.1-1)\n";
        assert_eq!(newest_release(records), Some("7.3.4+deb13-arm64".to_owned()));
        assert_eq!(newest_release("Version: 1\n"), None);
    }

    #[test]
    fn a_series_is_two_numbers_and_not_a_beginning_of_them() {
        let series = Series::named("6.1").unwrap();
        assert!(series.has("6.1.176-1") && !series.has("6.12.95-1") && !series.has("6.19"));
        assert!(Series::named("5.10").is_err());
    }
}
