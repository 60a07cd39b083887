//! The files whose sums the guest verifies: one on its disk, one that it downloads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{paths, say};

const MIB: usize = 1 << 20;
const DISK_MIB: usize = 16;
const HTTP_MIB: usize = 16;

/// Where the payloads are, and their sums as hexadecimal text.
pub struct Payloads {
    /// The file that the host puts on the disk.
    pub disk: PathBuf,
    /// Its SHA-256.
    pub disk_sum: String,
    /// The file that the guest downloads.
    pub http: PathBuf,
    /// Its SHA-256.
    pub http_sum: String,
    /// SHA-256 of its first mebibyte, which is what else comes to the guest.
    pub mebibyte_sum: String,
}

/// Makes both files if they aren't there. Their bytes look random and depend on their name alone.
pub fn prepare() -> Result<Payloads> {
    let disk = paths::guest_common().join("reference.bin");
    let http = paths::guest_common().join("payload.bin");
    let disk_sum = make(&disk, "disk", DISK_MIB)?;
    let http_sum = make(&http, "http", HTTP_MIB)?;
    let mebibyte_sum = sum(&first_mebibyte(&http)?);
    Ok(Payloads { disk, disk_sum, http, http_sum, mebibyte_sum })
}

impl Payloads {
    /// What comes to the guest by slow ways.
    pub fn mebibyte(&self) -> Result<Vec<u8>> {
        first_mebibyte(&self.http)
    }
}

fn first_mebibyte(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(path).with_context(|| format!("cannot read {}", paths::shown(path)))?;
    bytes.truncate(MIB);
    Ok(bytes)
}

fn make(path: &Path, seed: &str, mebibytes: usize) -> Result<String> {
    if let Ok(bytes) = std::fs::read(path)
        && bytes.len() == mebibytes * MIB
    {
        return Ok(sum(&bytes));
    }
    say::step(format_args!("making {} ({mebibytes} MiB)", paths::shown(path)));
    let mut bytes = Vec::with_capacity(mebibytes * MIB);
    for block in 0..(mebibytes * MIB / 32) as u64 {
        bytes.extend_from_slice(
            &Sha256::new().chain_update(seed).chain_update(block.to_le_bytes()).finalize(),
        );
    }
    paths::write_atomically(path, &bytes)?;
    Ok(sum(&bytes))
}

/// SHA-256 as hexadecimal text.
pub fn sum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
