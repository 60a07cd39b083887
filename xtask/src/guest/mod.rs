//! The demo's guest: Debian's kernel, an initramfs of busybox and the distribution's modules, and a disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

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

/// Makes sure that the initramfs of a Linux host is there. Its kernel is the demo's guest's.
pub fn prepare_host(arch: &str) -> Result<()> {
    let kernel = debian::kernel(arch, Series::DEFAULT)?;
    let wanted = [MODULES, more_modules(arch), HOST_MODULES, kvm_modules(arch)].concat();
    let files =
        [File::program("init", script("host-init")?), File::program("bin/busybox", debian::busybox(arch)?)];
    initramfs(&paths::linux_host(arch), "the Linux host's", &wanted, &kernel, &files)
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
