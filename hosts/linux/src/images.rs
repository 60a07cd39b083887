//! The guests' images: the files that the system file names. The tool has looked at them, and hands them to the process that runs the VMs open. They are
//! read into a VM's memory where it is loaded, which may be again, and take none of this machine's beside: nobody copies them.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use axvm_addr::{Gpa, VmId};
use axvm_guest::image;
use axvm_plan::LoadPlan;
use axvm_system::bundle::{Bundle, BundleError, ImageKind};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use vm_memory::{FileOffset, MmapRegion};

// Linux, include/uapi/asm-generic/mman-common.h and mman.h.
const PROT_READ: i32 = 1;
const MAP_PRIVATE: i32 = 0x2;

/// What tells whether a file is still as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    length: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() }
    }
}

/// An image's file that somebody looks at.
pub struct ImageFile {
    file: File,
    seen: Seen,
    /// None: it is empty, or nobody looks at it any more.
    region: Option<MmapRegion>,
}

impl ImageFile {
    /// Opens one, which is mapped as long as it is looked at: what nobody looks at isn't read.
    ///
    /// # Errors
    ///
    /// The kernel's; or it is no file.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for ever.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let bytes = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        let map = |file| MmapRegion::build(Some(FileOffset::new(file, 0)), bytes, PROT_READ, MAP_PRIVATE);
        let region = match bytes {
            0 => None,
            _ => Some(map(file.try_clone()?).map_err(io::Error::other)?),
        };
        Ok(Self { file, seen: Seen::of(&metadata), region })
    }

    /// What is in it; nothing, if nobody looks at it any more.
    pub fn bytes(&self) -> &[u8] {
        let Some(region) = &self.region else { return &[] };
        // SAFETY: the mapping is there as long as `self` is borrowed, and is only read by this process. The file is one that whoever starts VMs has
        // named, and he may write to it: bytes that are no longer what they were are bytes still, of which nothing is believed.
        unsafe { std::slice::from_raw_parts(region.as_ptr(), region.size()) }
    }

    /// Ends the looking.
    pub fn look_away(&mut self) {
        self.region = None;
    }

    /// Has it open in the processes that this one starts from now on, for a VM, and says what these are to be told.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn hand_over(&self, vm: VmId, kind: ImageKind) -> io::Result<Handed> {
        fcntl_setfd(&self.file, FdFlags::empty())?;
        Ok(Handed { vm: vm.0, kind, descriptor: self.file.as_raw_fd(), seen: self.seen })
    }
}

/// An image that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    vm: u16,
    kind: ImageKind,
    descriptor: RawFd,
    seen: Seen,
}

/// What the process that runs the VMs is given beside a bundle without images: what the plan needs to know of them, and where they are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Beside {
    /// What the tool has found out.
    pub known: image::Images,
    /// The files.
    pub handed: Vec<Handed>,
}

impl Beside {
    /// Puts it behind a bundle.
    ///
    /// # Errors
    ///
    /// It can't be packed.
    pub fn add_to(&self, bundle: &mut Vec<u8>) -> Result<(), postcard::Error> {
        bundle.extend(postcard::to_allocvec(self)?);
        Ok(())
    }

    /// Reads it there.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn behind(bundle: &[u8]) -> Result<Self, String> {
        let length = Bundle::total_length(bundle).map_err(|error: BundleError| error.to_string())?;
        let rest = usize::try_from(length).ok().and_then(|length| bundle.get(length..));
        let rest = rest.ok_or("it is cut")?;
        postcard::from_bytes(rest).map_err(|error| format!("what is said of images: {error}"))
    }
}

/// Why an image isn't loaded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Somebody has written to it.
    #[error(
        "its {0} has changed since the run began, and isn't what was planned any more: end the run and begin a new one"
    )]
    Changed(ImageKind),
    /// It can't be read.
    #[error("its {0} can't be read: {1}")]
    Unreadable(ImageKind, io::Error),
}

struct Image {
    vm: VmId,
    kind: ImageKind,
    seen: Seen,
    /// Whoever reads it says from where, and is at it alone.
    file: Mutex<File>,
}

/// A part of an image, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first byte in the file.
    pub from: u64,
    /// How many there are.
    pub bytes: u64,
    /// Where they go.
    pub at: Gpa,
}

/// All VMs' images.
#[derive(Default)]
pub struct Images {
    known: image::Images,
    list: Vec<Image>,
}

impl Images {
    /// Those that were handed to this process.
    ///
    /// # Errors
    ///
    /// One isn't there.
    ///
    /// # Safety
    ///
    /// Nobody else in this process has the files' descriptors, or closes them.
    pub unsafe fn take(beside: Beside) -> io::Result<Self> {
        let take = |handed: Handed| {
            // SAFETY: the caller has them open, and for this.
            let file = unsafe { File::from_raw_fd(handed.descriptor) };
            // What this process starts doesn't get it.
            fcntl_setfd(&file, FdFlags::CLOEXEC)?;
            let Handed { vm, kind, seen, .. } = handed;
            Ok(Image { vm: VmId(vm), kind, seen, file: Mutex::new(file) })
        };
        let list = beside.handed.into_iter().map(take).collect::<io::Result<_>>()?;
        Ok(Self { known: beside.known, list })
    }

    /// What the plan needs to know of them.
    pub const fn known(&self) -> &image::Images {
        &self.known
    }

    fn image(&self, vm: VmId, kind: ImageKind) -> Option<&Image> {
        self.list.iter().find(|image| (image.vm, image.kind) == (vm, kind))
    }

    /// The device trees that VMs bring themselves, with the VMs' positions.
    ///
    /// # Errors
    ///
    /// One can't be read.
    pub fn trees(&self) -> Result<Vec<(u16, Vec<u8>)>, ImageError> {
        let trees = self.list.iter().filter(|image| image.kind == ImageKind::DeviceTree);
        trees.map(|image| Ok((image.vm.0, image.whole()?))).collect()
    }

    /// Has everything of a VM's images read to where the plan puts it, part by part. RAM is zero before.
    ///
    /// # Errors
    ///
    /// [`ImageError`], or what `read` gives for the first part that it can't read.
    pub fn load<E: From<ImageError>>(
        &self,
        vm: VmId,
        plan: &LoadPlan,
        mut read: impl FnMut(&File, Part) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = self.known.vms.get(usize::from(vm.0));
        let segments =
            known.and_then(|known| known.kernel.as_ref().ok()).into_iter().flat_map(|it| &it.segments);
        let kernel: Vec<Part> = segments
            .map(|segment| Part {
                from: segment.file_offset,
                bytes: segment.file_size,
                // Beyond the last address there is no RAM, which `read` finds.
                at: Gpa(plan.kernel.0.saturating_add(segment.offset)),
            })
            .collect();
        let whole = |at: Option<Gpa>, kind| {
            let bytes = self.image(vm, kind)?.seen.length;
            Some(Part { from: 0, bytes, at: at? })
        };
        let initrd = whole(plan.initrd.map(|span| span.start()), ImageKind::Initrd);
        let tree = whole(Some(plan.description.start()), ImageKind::DeviceTree);
        let all = [
            (ImageKind::Kernel, kernel),
            (ImageKind::Initrd, initrd.into_iter().collect()),
            (ImageKind::DeviceTree, tree.into_iter().collect()),
        ];
        for (kind, parts) in all {
            let Some(image) = self.image(vm, kind).filter(|_| !parts.is_empty()) else { continue };
            image.with(|file| {
                parts.into_iter().try_for_each(|part| {
                    let mut place = file;
                    place
                        .seek(SeekFrom::Start(part.from))
                        .map_err(|error| ImageError::Unreadable(kind, error))?;
                    read(file, part)
                })
            })?;
        }
        Ok(())
    }
}

impl Image {
    /// Has somebody read it, if it is as it was, and is so afterwards.
    fn with<T, E: From<ImageError>>(&self, read: impl FnOnce(&File) -> Result<T, E>) -> Result<T, E> {
        let file = crate::lock(&self.file);
        let see = || -> Result<(), ImageError> {
            let metadata = file.metadata().map_err(|error| ImageError::Unreadable(self.kind, error))?;
            if Seen::of(&metadata) == self.seen { Ok(()) } else { Err(ImageError::Changed(self.kind)) }
        };
        see()?;
        let done = read(&file)?;
        see()?;
        Ok(done)
    }

    fn whole(&self) -> Result<Vec<u8>, ImageError> {
        self.with(|mut file| {
            let mut bytes = Vec::new();
            let read = file.rewind().and_then(|()| io::Read::read_to_end(&mut file, &mut bytes));
            read.map(|_| bytes).map_err(|error| ImageError::Unreadable(self.kind, error))
        })
    }
}

#[cfg(test)]
mod tests;
