//! The demo's guest: Debian's kernel, an initramfs of busybox and the distribution's modules, and a disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::host::ubuntu;
use crate::{paths, say};

pub mod boot_disk;
mod cpio;
pub mod debian;
pub mod disk;
mod modules;
pub mod payload;

pub use debian::Series;

/// Modules that the demo's devices need; what these need is found from the modules themselves.
const MODULES: &[&str] =
    &["crc32c_generic", "ext4", "nvme", "e1000e", "igb", "virtio_pci", "virtio_net", "virtio_blk"];

/// Modules of what only an architecture's boards have.
fn more_modules(arch: &str) -> &'static [&'static str] {
    match arch {
        "aarch64" => &["sbsa_gwdt", "8139cp", "ne2k_pci"],
        "x86_64" => &["wdat_wdt", "button", "8139cp", "e1000", "ne2k_pci"],
        _ => &[],
    }
}

/// Raised when the way an initramfs is put together changes, so that old ones are made again.
const BUILDER: &str = "3";

pub use debian::{image_name, u_boot};

/// Makes sure that kernel, initramfs, payload and disk of the demo's guest are there.
pub fn prepare(arch: &str) -> Result<()> {
    disk::prepare(arch, &payload::prepare()?)?;
    prepare_kernel(arch, Series::DEFAULT)
}

/// Makes sure that a kernel and its initramfs are there.
pub fn prepare_kernel(arch: &str, series: Series) -> Result<()> {
    let kernel = debian::kernel(arch, series)?;
    let modules = [MODULES, more_modules(arch)].concat();
    let payloads = payload::prepare()?;
    let files = [
        File::program("init", script("init")?),
        File::program("bin/busybox", debian::busybox(arch)?),
        File::program("etc/axvm/dhcp", script("dhcp")?),
        File::text("etc/axvm/disk.sha256", &payloads.disk_sum),
        File::text("etc/axvm/http.sha256", &payloads.http_sum),
        File::text("etc/axvm/mebibyte.sha256", &payloads.mebibyte_sum),
    ];
    initramfs(&series.folder(arch), "the guest's", &modules, &kernel, &files)
}

/// Makes the initramfs of the guest whose instructions are counted: the demo's, and after it a second archive with what
/// that guest does, which the kernel unpacks over it. The small guests must have been built.
pub fn prepare_measuring(arch: &str) -> Result<()> {
    let folder = Series::DEFAULT.folder(arch);
    let read =
        |path: PathBuf| std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let program = read(paths::guest(arch).join("axvm-guest-measure.elf"))?;
    let script = read(paths::root().join("guests/linux/measure.sh"))?;
    let mut archive = cpio::Archive::new();
    archive.file("bin/measure", 0o755, &program)?;
    archive.file("measure.sh", 0o755, &script)?;
    let mut bytes = read(folder.join("initrd.cpio.gz"))?;
    bytes.extend(archive.finish()?);
    paths::write_atomically(&folder.join("measure.cpio.gz"), &bytes)
}

/// Modules of a Linux that is a host: what it gives devices away with, and reaches files of the machine outside by.
const HOST_MODULES: &[&str] = &["vfio_iommu_type1", "vfio_pci", "9p", "9pnet_virtio"];

/// Modules of KVM, where the kernel hasn't got it inside.
fn kvm_modules(arch: &str) -> &'static [&'static str] {
    if arch == "x86_64" { &["kvm_amd", "kvm_intel"] } else { &[] }
}

/// Makes sure that the initramfs of a Linux host is there, and says where. Its kernel is that of a guest of the demo.
pub fn prepare_host(arch: &str, series: Series) -> Result<PathBuf> {
    let kernel = debian::kernel(arch, series)?;
    let wanted = [MODULES, more_modules(arch), HOST_MODULES, kvm_modules(arch)].concat();
    let files =
        [File::program("init", script("host-init")?), File::program("bin/busybox", debian::busybox(arch)?)];
    let folder = series.within(paths::linux_host(arch));
    initramfs(&folder, "the Linux host's", &wanted, &kernel, &files)?;
    Ok(folder.join("initrd.cpio.gz"))
}

/// Makes sure that the initramfs of a Linux host on a kernel of Ubuntu's is there.
pub fn prepare_host_on(series: &ubuntu::Series) -> Result<()> {
    let kernel = series.kernel()?;
    let files = [
        File::program("init", script("host-init")?),
        File::program("bin/busybox", debian::busybox("x86_64")?),
    ];
    initramfs(&series.folder(), "another Linux host's", series.modules, &kernel, &files)
}

/// Programs of Debian's for a Linux host, by the packages that bring them and their libraries.
const TOOLS: &[&str] = &["setcap", "mdadm", "dmsetup"];
const TOOL_PACKAGES: &[&str] = &[
    "libcap2-bin",
    "mdadm",
    "dmsetup",
    "libc6",
    "libcap2",
    "libdevmapper1.02.1",
    "libselinux1",
    "libpcre2-8-0",
    "libudev1",
];

/// Modules of what is made of disks.
const TOOL_MODULES: &[&str] = &["loop", "raid1", "dm_mod"];

/// Makes sure that the initramfs of a Linux host with more programs is there, and says where: the other one, and behind it an archive that the kernel
/// unpacks over it.
pub fn prepare_host_with_tools(arch: &str) -> Result<PathBuf> {
    let folder = paths::linux_host(arch);
    let unpacked = folder.join("tools");
    if !unpacked.is_dir() {
        debian::unpack(arch, TOOL_PACKAGES, &unpacked)?;
    }
    let kernel = debian::kernel(arch, Series::DEFAULT)?;
    let mut archive = cpio::Archive::new();
    archive.folder("lib64")?;
    let mut list = String::new();
    for module in modules::resolve(&kernel.modules, TOOL_MODULES)? {
        let name = format!("lib/modules/{}.ko", module.name);
        list.push_str(&format!("/{name}\n"));
        archive.file(&name, 0o644, &module.bytes)?;
    }
    archive.file("etc/axvm/more-modules", 0o644, list.as_bytes())?;
    let mut folders = vec![unpacked];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if TOOLS.contains(&name.as_str()) && folder.ends_with("sbin") {
                archive.file(&format!("bin/{name}"), 0o755, &std::fs::read(&path)?)?;
            } else if name.starts_with("ld-linux") {
                // By the path that the programs name, which differs by architecture.
                let place = if arch == "x86_64" { "lib64" } else { "lib" };
                // One of its names may be a link to where it would be if it were installed.
                if let Ok(bytes) = std::fs::read(&path) {
                    archive.file(&format!("{place}/{name}"), 0o755, &bytes)?;
                }
            } else if name.contains(".so.")
                && folder.ends_with(format!("{arch}-linux-gnu"))
                && let Ok(bytes) = std::fs::read(&path)
            {
                archive.file(&format!("lib/{name}"), 0o755, &bytes)?;
            }
        }
    }
    let place = folder.join("initrd-tools.cpio.gz");
    let first = folder.join("initrd.cpio.gz");
    let mut bytes = std::fs::read(&first).with_context(|| format!("cannot read {}", first.display()))?;
    bytes.extend(archive.finish()?);
    paths::write_atomically(&place, &bytes)?;
    Ok(place)
}

/// A file of an initramfs.
struct File {
    name: &'static str,
    mode: u32,
    bytes: Vec<u8>,
}

impl File {
    fn program(name: &'static str, bytes: Vec<u8>) -> File {
        File { name, mode: 0o755, bytes }
    }

    fn text(name: &'static str, text: &str) -> File {
        File { name, mode: 0o644, bytes: text.into() }
    }
}

/// A file of those that Linux guests and hosts are made of.
fn script(name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = paths::root().join("guests/linux").join(name);
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// An initramfs with these files and modules, made again when anything in it changed.
fn initramfs(
    folder: &Path,
    whose: &str,
    wanted: &[&str],
    kernel: &debian::Kernel,
    files: &[File],
) -> Result<()> {
    let place = folder.join("initrd.cpio.gz");
    let mut key = Sha256::new();
    key.update(BUILDER);
    key.update(&kernel.release);
    key.update(wanted.join(","));
    for file in files {
        key.update(Sha256::digest(&file.bytes));
    }
    let key = payload::hex(&key.finalize());
    let stamp = folder.join("initrd.key");
    if place.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(());
    }

    say::step(format_args!("building {whose} initramfs ({})", paths::shown(&place)));
    let modules = modules::resolve(&kernel.modules, wanted)?;
    let mut archive = cpio::Archive::new();
    for folder in ["bin", "dev", "etc", "etc/axvm", "lib", "lib/modules", "proc", "sys", "tmp", "run"] {
        archive.folder(folder)?;
    }
    // The kernel opens this for init before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1)?;
    for file in files {
        archive.file(file.name, file.mode, &file.bytes)?;
    }
    let mut list = String::new();
    for module in &modules {
        let name = format!("lib/modules/{}.ko", module.name);
        list.push_str(&format!("/{name}\n"));
        archive.file(&name, 0o644, &module.bytes)?;
    }
    archive.file("etc/axvm/modules", 0o644, list.as_bytes())?;
    paths::write_atomically(&place, &archive.finish()?)?;
    paths::write_atomically(&stamp, key.as_bytes())?;
    say::note(format_args!("{} modules", modules.len()));
    Ok(())
}
