//! The disk of a guest that boots by itself: one partition with the demo's kernel and initramfs, and what tells a boot loader of them
//! (extlinux.conf, as U-Boot's distro boot reads it).

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::Series;
use super::payload::Payloads;
use crate::{paths, process};

/// A sector, in which MBR and U-Boot count.
const SECTOR: u64 = 512;

/// Where the partition begins, in sectors.
const START: u32 = 2048;

/// Its size in sectors: 126 MiB, more than lies in it.
const LENGTH: u32 = 126 * 2048;

/// The loader's menu. What `init` is to check: one CPU, and the disk that it came from.
const MENU: &str = "default linux\nlabel linux\n    kernel /Image\n    initrd /initrd.cpio.gz\n    \
                    append console=ttyAMA0 axvm.cpus=1 axvm.tests=cpus,nvme,irq axvm.write_mib=8\n";

/// Makes it anew, since its guest writes to it. The demo's kernel, initramfs and reference file must be there.
pub fn refresh(arch: &str, payloads: &Payloads) -> Result<()> {
    let content = paths::guest(arch).join("boot.content");
    std::fs::create_dir_all(content.join("extlinux"))?;
    let folder = Series::DEFAULT.folder(arch);
    let files = ["Image", "initrd.cpio.gz"].map(|name| (folder.join(name), name));
    for (from, name) in files.iter().chain([&(payloads.disk.clone(), "reference.bin")]) {
        std::fs::copy(from, content.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    std::fs::write(content.join("extlinux/extlinux.conf"), MENU)?;
    paths::make_with(&paths::guest(arch).join("boot.img"), |partial| make(partial, &content))?;
    std::fs::remove_dir_all(&content).context("cannot remove the disk's content")
}

fn make(image: &Path, content: &Path) -> Result<()> {
    let _ = std::fs::remove_file(image);
    let mut mke2fs = process::command("mke2fs");
    mke2fs
        .args(["-q", "-t", "ext4", "-L", "boot", "-E"])
        .arg(format!("offset={}", u64::from(START) * SECTOR));
    mke2fs.arg("-d").arg(content).arg(image).arg(format!("{}k", u64::from(LENGTH) * SECTOR / 1024));
    process::output(&mut mke2fs)?;
    let mut file = OpenOptions::new().write(true).open(image)?;
    file.set_len((u64::from(START) + u64::from(LENGTH)) * SECTOR)?;
    file.seek(SeekFrom::Start(446))?;
    Ok(file.write_all(&partition_table())?)
}

/// An MBR's table from its byte 446 on (UEFI specification, 5.2.1): one partition, which is active, for Linux (0x83), by its
/// sectors' numbers.
fn partition_table() -> [u8; 66] {
    let mut table = [0; 66];
    table[..8].copy_from_slice(&[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&START.to_le_bytes());
    table[12..16].copy_from_slice(&LENGTH.to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    table
}
