//! A [`Platform`] as a file: what `axvm inspect --save` writes and `axvm check --platform` reads.
//!
//! A magic number, a version, the length and the CRC-32 of the rest, then the model in postcard's encoding.

use alloc::vec::Vec;

use crate::model::Platform;

const MAGIC: [u8; 8] = *b"AXVMPLAT";
/// Counts up when the model changes: the encoding has no names, so an older snapshot can't be read.
const VERSION: u32 = 15;
const HEADER: usize = 20;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// A snapshot that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It doesn't begin like one.
    #[error("not a saved platform")]
    Magic,
    /// It is of another version of AxVM.
    #[error("the saved platform has format version {0}, this is version {VERSION}: save it again")]
    Version(u32),
    /// It is cut short, too long or changed.
    #[error("the saved platform is damaged")]
    Damaged,
    /// It can't be written.
    #[error("the platform can't be saved")]
    Encode,
}

/// Whether a file begins like a snapshot.
pub fn is_snapshot(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The platform as bytes.
///
/// # Errors
///
/// [`SnapshotError::Encode`], if it is too big for the format.
pub fn save(platform: &Platform) -> Result<Vec<u8>, SnapshotError> {
    let body = postcard::to_allocvec(platform).map_err(|_| SnapshotError::Encode)?;
    let length = u32::try_from(body.len()).map_err(|_| SnapshotError::Encode)?;
    let mut bytes = MAGIC.to_vec();
    for word in [VERSION, length, CRC.checksum(&body)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The platform in a snapshot.
///
/// # Errors
///
/// [`SnapshotError`] says why it can't be used.
pub fn load(bytes: &[u8]) -> Result<Platform, SnapshotError> {
    if !is_snapshot(bytes) {
        return Err(SnapshotError::Magic);
    }
    let word = |offset: usize| {
        let field = bytes.get(offset..offset + 4).and_then(|field| field.try_into().ok());
        field.map(u32::from_le_bytes).ok_or(SnapshotError::Damaged)
    };
    let (version, length, crc) = (word(8)?, word(12)?, word(16)?);
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let body = bytes.get(HEADER..).ok_or(SnapshotError::Damaged)?;
    if body.len() != length as usize || CRC.checksum(body) != crc {
        return Err(SnapshotError::Damaged);
    }
    match postcard::take_from_bytes(body) {
        Ok((platform, [])) => Ok(platform),
        _ => Err(SnapshotError::Damaged),
    }
}
