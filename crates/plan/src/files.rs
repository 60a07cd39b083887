//! What a bundle carries for each VM: what the plan needs to know of it, and the content, put into RAM where the plan says.

use alloc::vec::Vec;

use axvm_addr::{Gpa, VmId};
use axvm_guest::image::{ImageError, Images, Kernel, VmImages};
use axvm_system::bundle::{Bundle, ImageKind};

use crate::VmPlan;

/// The images of a VM.
#[derive(Clone, Debug)]
pub struct VmFiles<'a> {
    /// The kernel.
    pub kernel: Kernel<'a>,
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Its own device tree.
    pub device_tree: Option<&'a [u8]>,
}

/// What a bundle has for its VMs.
#[derive(Clone, Debug, Default)]
pub struct Files<'a> {
    /// What the plan needs to know.
    pub images: Images,
    /// By VM: the content. None where its kernel can't be used, which the plan says.
    pub vms: Vec<Option<VmFiles<'a>>>,
}

impl<'a> Files<'a> {
    /// What that bundle has.
    pub fn of(bundle: &Bundle<'a>) -> Self {
        let mut files = Self::default();
        for (id, vm) in (0..).zip(&bundle.system().vms) {
            let of = |kind| bundle.image(VmId(id), kind);
            let raw = vm.load.zip(vm.entry);
            let kernel = match of(ImageKind::Kernel) {
                Some(bytes) => Kernel::parse(bytes, raw),
                None => Err(ImageError::Unreadable("the bundle hasn't got it".into())),
            };
            let (initrd, device_tree) = (of(ImageKind::Initrd), of(ImageKind::DeviceTree));
            files.images.vms.push(VmImages {
                kernel: kernel.as_ref().map(|kernel| kernel.info.clone()).map_err(Clone::clone),
                initrd_len: initrd.map(|bytes| bytes.len() as u64),
                dtb_len: device_tree.map(|bytes| bytes.len() as u64),
            });
            files.vms.push(kernel.ok().map(|kernel| VmFiles { kernel, initrd, device_tree }));
        }
        files
    }

    /// The device trees that VMs bring themselves, with the VMs' positions.
    pub fn trees(&self) -> Vec<(u16, &'a [u8])> {
        let tree = |(id, files): (u16, &Option<VmFiles<'a>>)| Some((id, files.as_ref()?.device_tree?));
        (0..).zip(&self.vms).filter_map(tree).collect()
    }
}

impl VmFiles<'_> {
    /// Has everything that is in RAM when the guest starts put there, piece by piece: the images, and what the plan has written. RAM is
    /// zero before.
    ///
    /// # Errors
    ///
    /// What `put` gives for the first piece that it can't put there.
    pub fn load<E>(&self, plan: &VmPlan, mut put: impl FnMut(Gpa, &[u8]) -> Result<(), E>) -> Result<(), E> {
        for segment in self.kernel.segments() {
            // Beyond the last address there is no RAM: `put` refuses it.
            put(Gpa(plan.load.kernel.0.saturating_add(segment.offset)), segment.data)?;
        }
        if let (Some(span), Some(bytes)) = (plan.load.initrd, self.initrd) {
            put(span.start(), bytes)?;
        }
        if let Some(bytes) = self.device_tree {
            put(plan.load.description.start(), bytes)?;
        }
        plan.blobs.iter().try_for_each(|blob| put(blob.at, &blob.bytes))
    }
}
