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
        "aarch64" => &["sbsa_gwdt"],
        "x86_64" => &["wdat_wdt", "button", "8139cp"],
        _ => &[],
    }
}

/// Raised when the way an initramfs is put together changes, so that old ones are made again.
const BUILDER: &str = "3";

pub use debian::u_boot;

/// Makes sure that kernel, initramfs, payload and disk of the demo's guest are there.
pub fn prepare(arch: &str) -> Result<()> {
    disk::prepare(arch, &payload::prepare()?)?;
    prepare_kernel(arch, Series::DEFAULT)
}

/// Makes sure that a kernel and its initramfs are there.
pub fn prepare_kernel(arch: &str, series: Series) -> Result<()> {
    let kernel = debian::kernel(arch, series)?;
    let busybox = debian::busybox(arch)?;
    let modules = [MODULES, more_modules(arch)].concat();
    initramfs(&series.folder(arch), &modules, &kernel, &busybox, &payload::prepare()?)
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

/// The initramfs, made again when anything in it changed.
fn initramfs(
    folder: &Path,
    wanted: &[&str],
    kernel: &debian::Kernel,
    busybox: &[u8],
    payloads: &payload::Payloads,
) -> Result<()> {
    let place = folder.join("initrd.cpio.gz");
    let source = paths::root().join("guests/linux");
    let read = |name: &str| -> Result<Vec<u8>> {
        let path: PathBuf = source.join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let init = read("init")?;
    let dhcp = read("dhcp")?;

    let mut key = Sha256::new();
    key.update(BUILDER);
    key.update(&kernel.release);
    key.update(wanted.join(","));
    for part in [&init, &dhcp, &busybox.to_vec()] {
        key.update(Sha256::digest(part));
    }
    key.update(&payloads.disk_sum);
    key.update(&payloads.http_sum);
    key.update(&payloads.mebibyte_sum);
    let key = payload::hex(&key.finalize());
    let stamp = folder.join("initrd.key");
    if place.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(());
    }

    say::step(format_args!("building the guest's initramfs ({})", paths::shown(&place)));
    let modules = modules::resolve(&kernel.modules, wanted)?;
    let mut archive = cpio::Archive::new();
    for folder in ["bin", "dev", "etc", "etc/axvm", "lib", "lib/modules"] {
        archive.folder(folder)?;
    }
    // The kernel opens this for init before devtmpfs is mounted.
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, &init)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.file("etc/axvm/dhcp", 0o755, &dhcp)?;
    archive.file("etc/axvm/disk.sha256", 0o644, payloads.disk_sum.as_bytes())?;
    archive.file("etc/axvm/http.sha256", 0o644, payloads.http_sum.as_bytes())?;
    archive.file("etc/axvm/mebibyte.sha256", 0o644, payloads.mebibyte_sum.as_bytes())?;
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
