//! The bundle: what a boot loader carries to the hypervisor, the way it carries an initrd to Linux.
//!
//! ```text
//!  0   magic, 8 bytes
//!  8   u64  total length of the bundle in bytes: a multiple of 4 KiB
//! 16   the packed header (see `packed`): system, options, version, where each image lies
//!      zeros up to a multiple of 4 KiB
//!      images and the TOML text, each at a multiple of 4 KiB
//!      end - 8: a second magic, the last bytes of the bundle
//! ```
//!
//! # What is checked when
//!
//! The header has a checksum that is checked always. The images have one each, checked only where the header asks for it
//! ([`RunOptions::verify`]): a kernel and its initrd are tens of megabytes, so that a checksum over them would cost tens of
//! times the instructions of everything else at boot (a few for each byte; the goal for the whole boot is 2 million). QEMU
//! puts the file into memory from the page cache, where nothing gets lost; for a boot loader, which reads media and
//! networks, `axvm pack` asks for the check. Always checked, because it is free, is what goes wrong in practice: the length, and
//! the mark at the end that a cut or partly loaded bundle doesn't have.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::VmId;
use serde::{Deserialize, Serialize};

use crate::VERSION;
use crate::model::System;
use crate::packed::{self, CRC, PackedError, deserialize_in_order};

/// The first bytes of a bundle.
pub const MAGIC: [u8; 8] = *b"AxVMbndl";
const HEADER_MAGIC: [u8; 8] = *b"AxVMhead";
const END_MAGIC: [u8; 8] = *b"AxVMdone";

/// The alignment of everything in a bundle: a page, so that an image can be mapped where it lies.
pub const ALIGNMENT: u64 = 4096;

/// The bytes before the packed header.
const PREFIX: usize = 16;

/// The most bytes that a packed header may have: a system of a thousand devices is far below.
const MAX_HEADER: usize = 1 << 20;

/// How the hypervisor is to run, this once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunOptions {
    /// With it, all that the hypervisor writes is frames that carry this number (see [`crate::wire`]). No guest sees it.
    pub nonce: Option<[u8; 16]>,
    /// Probe and plan, report, and stop: no VM is started.
    pub plan_only: bool,
    /// A test image: the protection, by name, that is to be off. A release image refuses.
    pub protection_off: Option<String>,
    /// Check the images' checksums before use.
    pub verify: bool,
}

deserialize_in_order!(RunOptions { nonce, plan_only, protection_off, verify });

/// What an image is to its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ImageKind {
    /// `kernel`.
    Kernel,
    /// `initrd`.
    Initrd,
    /// `dtb`.
    DeviceTree,
}

impl core::fmt::Display for ImageKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::DeviceTree => "dtb",
        })
    }
}

/// Where an image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its VM, by position in the system file.
    pub vm: u16,
    /// What it is.
    pub kind: ImageKind,
    /// Where it starts in the bundle: a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Their CRC-32 (ISO-HDLC).
    pub checksum: u32,
}

/// What stands at the front of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Header {
    version: String,
    system: System,
    run: RunOptions,
    images: Vec<Image>,
    toml: (u64, u64),
}

deserialize_in_order!(Header { version, system, run, images, toml });

/// Why bytes are not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It doesn't begin as a bundle does.
    #[error("not an AxVM bundle: the first bytes are others")]
    Magic,
    /// Its length is none that a bundle can have.
    #[error("the bundle says that it has {0} bytes, which no bundle can have")]
    Length(u64),
    /// The system doesn't fit into the header.
    #[error(
        "the system takes {bytes} bytes in a bundle's header, which has room for {most}: it names too much"
    )]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What there is room for.
        most: usize,
    },
    /// Part of it is missing.
    #[error("the bundle has {needed} bytes, but only {there} were loaded")]
    Truncated {
        /// The bytes that it should have.
        needed: u64,
        /// The bytes there.
        there: u64,
    },
    /// Its last bytes are not the mark that ends a bundle.
    #[error("the bundle's last bytes are damaged: it was not loaded as a whole")]
    End,
    /// The header can't be read.
    #[error("the bundle's header: {0}")]
    Header(PackedError),
    /// Its tool and this reader are not of one release.
    #[error("the bundle was written by version {found}, this is version {VERSION}: they must be equal")]
    Version {
        /// The version found.
        found: String,
    },
    /// An image doesn't lie in the bundle.
    #[error("the {kind} of VM {vm} lies outside the bundle")]
    Outside {
        /// The VM.
        vm: u16,
        /// The image.
        kind: ImageKind,
    },
    /// The TOML text doesn't lie in the bundle, or isn't text.
    #[error("the system file's text lies outside the bundle or isn't UTF-8")]
    Toml,
    /// An image of a VM that the system doesn't have.
    #[error("the bundle has a {kind} for VM {vm}, but the system has only {vms}")]
    NoSuchVm {
        /// The VM.
        vm: u16,
        /// The image.
        kind: ImageKind,
        /// How many there are.
        vms: usize,
    },
    /// Two images of one kind for one VM.
    #[error("the bundle has two of the {kind} of VM {vm}")]
    Twice {
        /// The VM.
        vm: u16,
        /// The image.
        kind: ImageKind,
    },
    /// The system asks for an image that isn't there (a bundle that only plans may lack images).
    #[error("the bundle lacks the {kind} of VM {vm}")]
    Missing {
        /// The VM.
        vm: u16,
        /// The image.
        kind: ImageKind,
    },
    /// An image's checksum differs.
    #[error("the {kind} of VM {vm} is damaged: its checksum differs")]
    Damaged {
        /// The VM.
        vm: u16,
        /// The image.
        kind: ImageKind,
    },
}

/// A bundle in memory, checked: everything that it refers to is there.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    header: Header,
    bytes: &'a [u8],
    toml: &'a str,
}

impl<'a> Bundle<'a> {
    /// How many bytes the bundle has that begins with `front`, to be known before all of it is mapped. Looks at the
    /// first 16 bytes only.
    ///
    /// # Errors
    ///
    /// [`BundleError::Magic`], [`BundleError::Truncated`] (fewer than 16 bytes), [`BundleError::Length`].
    pub fn total_length(front: &[u8]) -> Result<u64, BundleError> {
        let short = BundleError::Truncated { needed: PREFIX as u64, there: front.len() as u64 };
        let Some((magic, rest)) = front.split_first_chunk::<8>() else { return Err(short) };
        if *magic != MAGIC {
            return Err(BundleError::Magic);
        }
        let total = u64::from_le_bytes(*rest.first_chunk::<8>().ok_or(short)?);
        if total < 2 * ALIGNMENT || !total.is_multiple_of(ALIGNMENT) {
            return Err(BundleError::Length(total));
        }
        Ok(total)
    }

    /// Reads a bundle from the front of `bytes`; there may be more (boot loaders round up). Checks everything but the
    /// images' checksums.
    ///
    /// # Errors
    ///
    /// Any [`BundleError`] but [`BundleError::Damaged`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let total = Self::total_length(bytes)?;
        let truncated = BundleError::Truncated { needed: total, there: bytes.len() as u64 };
        let length = usize::try_from(total).map_err(|_| truncated.clone())?;
        let bytes = bytes.get(..length).ok_or(truncated)?;
        if bytes.last_chunk::<8>() != Some(&END_MAGIC) {
            return Err(BundleError::End);
        }
        let front = bytes.get(PREFIX..length.min(MAX_HEADER)).ok_or(BundleError::Length(total))?;
        let (header, _) = packed::unpack::<Header>(HEADER_MAGIC, front).map_err(BundleError::Header)?;
        if header.version != VERSION {
            return Err(BundleError::Version { found: header.version });
        }
        let toml = part(bytes, header.toml.0, header.toml.1).and_then(|text| core::str::from_utf8(text).ok());
        let toml = toml.ok_or(BundleError::Toml)?;
        let bundle = Self { header, bytes, toml };
        bundle.check_images()?;
        Ok(bundle)
    }

    fn check_images(&self) -> Result<(), BundleError> {
        let vms = self.header.system.vms.len();
        for (position, image) in self.header.images.iter().enumerate() {
            let Image { vm, kind, .. } = *image;
            if usize::from(vm) >= vms {
                return Err(BundleError::NoSuchVm { vm, kind, vms });
            }
            let earlier = self.header.images.iter().take(position);
            if earlier.into_iter().any(|other| (other.vm, other.kind) == (vm, kind)) {
                return Err(BundleError::Twice { vm, kind });
            }
            if part(self.bytes, image.offset, image.length).is_none() {
                return Err(BundleError::Outside { vm, kind });
            }
        }
        if self.header.run.plan_only {
            return Ok(());
        }
        for (vm, said) in (0u16..).zip(&self.header.system.vms) {
            let wanted = [
                (ImageKind::Kernel, true),
                (ImageKind::Initrd, said.initrd.is_some()),
                (ImageKind::DeviceTree, said.dtb.is_some()),
            ];
            for (kind, needed) in wanted {
                if needed && self.image(VmId(vm), kind).is_none() {
                    return Err(BundleError::Missing { vm, kind });
                }
            }
        }
        Ok(())
    }

    /// What runs.
    pub fn system(&self) -> &System {
        &self.header.system
    }

    /// How it runs.
    pub fn run(&self) -> &RunOptions {
        &self.header.run
    }

    /// The version of the tool that wrote it: the reader's own.
    pub fn version(&self) -> &str {
        &self.header.version
    }

    /// The system file as it was written, for people.
    pub fn toml(&self) -> &'a str {
        self.toml
    }

    /// Where the images lie.
    pub fn images(&self) -> &[Image] {
        &self.header.images
    }

    /// The bytes of an image, if the bundle has it.
    pub fn image(&self, vm: VmId, kind: ImageKind) -> Option<&'a [u8]> {
        let image = self.header.images.iter().find(|image| (image.vm, image.kind) == (vm.0, kind))?;
        part(self.bytes, image.offset, image.length)
    }

    /// How many bytes the bundle has.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Checks the checksum of every image. Takes time in proportion to their size: call it where
    /// [`RunOptions::verify`] says so.
    ///
    /// # Errors
    ///
    /// [`BundleError::Damaged`] for the first that differs.
    pub fn verify(&self) -> Result<(), BundleError> {
        for image in &self.header.images {
            let content = part(self.bytes, image.offset, image.length);
            if content.map(|content| CRC.checksum(content)) != Some(image.checksum) {
                return Err(BundleError::Damaged { vm: image.vm, kind: image.kind });
            }
        }
        Ok(())
    }
}

/// `length` bytes at `offset`, where the offset is aligned and the bytes are there.
fn part(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    if !offset.is_multiple_of(ALIGNMENT) {
        return None;
    }
    let end = offset.checked_add(length)?;
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// Content for a bundle to be written: which VM's, what, and the bytes.
pub type Content<'a> = (VmId, ImageKind, &'a [u8]);

/// Whether a system fits into a bundle's header, with all the images that it can have and whatever options.
///
/// # Errors
///
/// [`BundleError::TooLarge`].
pub fn check(system: &System) -> Result<(), BundleError> {
    const KINDS: [ImageKind; 3] = [ImageKind::Kernel, ImageKind::Initrd, ImageKind::DeviceTree];
    let vms = (0u16..=u16::MAX).zip(&system.vms);
    let largest = |vm, kind| Image { vm, kind, offset: u64::MAX, length: u64::MAX, checksum: u32::MAX };
    let header = Header {
        version: VERSION.to_string(),
        system: system.clone(),
        run: RunOptions { nonce: Some([0xff; 16]), ..RunOptions::default() },
        images: vms.flat_map(|(vm, _)| KINDS.map(|kind| largest(vm, kind))).collect(),
        toml: (u64::MAX, u64::MAX),
    };
    pack_header(&header).map(|_| ())
}

/// Writes a bundle. Equal contents (two VMs with one kernel) are stored once.
///
/// # Errors
///
/// [`BundleError::Header`], if the system is too large to be packed.
pub fn write(
    system: &System,
    run: &RunOptions,
    toml: &str,
    contents: &[Content<'_>],
) -> Result<Vec<u8>, BundleError> {
    let mut header = Header {
        version: VERSION.to_string(),
        system: system.clone(),
        run: run.clone(),
        images: contents
            .iter()
            .map(|(vm, kind, content)| Image {
                vm: vm.0,
                kind: *kind,
                // As large as offsets get, so that the header's packed length below is the most that it can be.
                offset: u64::MAX,
                length: content.len() as u64,
                checksum: CRC.checksum(content),
            })
            .collect(),
        toml: (u64::MAX, toml.len() as u64),
    };
    let most = pack_header(&header)?.len().saturating_add(PREFIX);

    let mut bytes = alloc::vec![0; most];
    pad(&mut bytes);
    header.toml.0 = bytes.len() as u64;
    bytes.extend_from_slice(toml.as_bytes());
    pad(&mut bytes);
    for position in 0..contents.len() {
        let (_, _, content) = contents[position];
        let twin = contents[..position].iter().position(|(_, _, earlier)| *earlier == content);
        header.images[position].offset = match twin {
            Some(twin) => header.images[twin].offset,
            None => {
                let offset = bytes.len() as u64;
                bytes.extend_from_slice(content);
                pad(&mut bytes);
                offset
            }
        };
    }
    bytes.resize(bytes.len() + (ALIGNMENT as usize - END_MAGIC.len()), 0);
    bytes.extend_from_slice(&END_MAGIC);

    let total = bytes.len() as u64;
    let packed = pack_header(&header)?;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..PREFIX].copy_from_slice(&total.to_le_bytes());
    bytes[PREFIX..PREFIX + packed.len()].copy_from_slice(&packed);
    Ok(bytes)
}

fn pack_header(header: &Header) -> Result<Vec<u8>, BundleError> {
    let packed = packed::pack(HEADER_MAGIC, header).map_err(BundleError::Header)?;
    let most = MAX_HEADER - PREFIX;
    if packed.len() > most {
        return Err(BundleError::TooLarge { bytes: packed.len(), most });
    }
    Ok(packed)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
}

#[cfg(test)]
mod tests;
