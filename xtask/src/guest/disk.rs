//! The guest's disk: an ext4 image that the host makes and, after the run, checks.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::payload::{self, Payloads};
use crate::{paths, process, say};

/// Big enough for the reference file, what the guest writes, and the journal.
const SIZE: &str = "192M";

fn master(arch: &str) -> PathBuf {
    paths::guest(arch).join("disk.master.img")
}

/// The image that the system files name. The guest writes to it; [`refresh`] gives a new one.
pub fn image(arch: &str) -> PathBuf {
    paths::guest(arch).join("disk.img")
}

/// Makes the untouched image once, and the guest's own from it if there is none.
pub fn prepare(arch: &str, payloads: &Payloads) -> Result<()> {
    let master = master(arch);
    if !master.is_file() {
        say::step(format_args!("making the guest's disk ({})", paths::shown(&master)));
        let content = paths::guest(arch).join("disk.content");
        std::fs::create_dir_all(&content)?;
        std::fs::copy(&payloads.disk, content.join("reference.bin"))?;
        paths::make_with(&master, |partial| {
            let _ = std::fs::remove_file(partial);
            let mut mke2fs = process::command("mke2fs");
            mke2fs.args(["-q", "-t", "ext4", "-L", "axvm", "-d"]).arg(&content).arg(partial).arg(SIZE);
            process::output(&mut mke2fs).map(drop)
        })?;
        std::fs::remove_dir_all(&content)?;
    }
    if image(arch).is_file() { Ok(()) } else { refresh(arch) }
}

/// Gives the guest a disk on which nobody has written yet.
pub fn refresh(arch: &str) -> Result<()> {
    paths::make_with(&image(arch), |partial| {
        std::fs::copy(master(arch), partial).map(drop).context("cannot copy the guest's disk")
    })
}

/// Checks the image after a run: its structure is clean, the reference file is untouched, and what the guest
/// wrote is there with the sum that the guest said.
pub fn verify(arch: &str, written_sum: &str, payloads: &Payloads) -> Result<()> {
    let image = image(arch);
    let mut check = process::command("e2fsck");
    process::output(check.arg("-fn").arg(&image)).context("the guest's file system is damaged")?;
    let reference = dump(&image, "/reference.bin")?;
    if reference != payloads.disk_sum {
        bail!(
            "the reference file on the disk changed: its SHA-256 is {reference}, not {}",
            payloads.disk_sum
        );
    }
    let written = dump(&image, "/written.bin")?;
    if written != written_sum {
        bail!("the disk's file has SHA-256 {written}, but the guest says that it wrote {written_sum}");
    }
    Ok(())
}

/// SHA-256 of a file in the image.
fn dump(image: &Path, name: &str) -> Result<String> {
    let place = image.with_extension("dump");
    let _ = std::fs::remove_file(&place);
    let mut debugfs = process::command("debugfs");
    let request = format!("dump {name} {}", place.display());
    process::output(debugfs.arg("-R").arg(request).arg(image))?;
    // debugfs ends with 0 whatever happens; the file tells.
    let bytes = std::fs::read(&place).with_context(|| format!("{name} isn't on the guest's disk"))?;
    std::fs::remove_file(&place)?;
    Ok(payload::sum(&bytes))
}
