//! By which of its two ways VFIO gives functions away here, and what each way is.
//!
//! By [`Way::Devices`] a function is opened by a node of its own and bound to a file of iommufd's, in which its VM has an address space. By
//! [`Way::Groups`] its IOMMU group is opened, and put into a container that has the tables. The kernel's rules are the same by both: a function is
//! given when nobody else has any of its group, and reaches what is mapped and nothing else.
//!
//! A kernel that has both gives by the first. Which one it is doesn't change while a run goes on, and the plan's notes say it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use axvm_addr::{Iova, PciAddress, Span};
use axvm_platform::sysfs::Files;
use iommufd_ioctls::IommuFd;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioError as Why, VfioIommufd};

use super::windows::{self, Tables};
use super::{Holder, VfioError};
use crate::memory::Place;

/// Where functions' own nodes are, below `/`.
const NODES: &str = "dev/vfio/devices";

/// The way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// By `/dev/vfio/GROUP`, and the container `/dev/vfio/vfio`.
    #[default]
    Groups,
    /// By `/dev/vfio/devices/vfioN`, and `/dev/iommu`.
    Devices,
}

impl Way {
    /// The one that is taken here; `None`: there is neither.
    pub fn of(files: &impl Files) -> Option<Self> {
        let has = |folder: &str, name: &str| files.list(folder).iter().any(|it| it == name);
        if has("dev", "iommu") && gives_nodes(files) {
            Some(Self::Devices)
        } else {
            has("dev/vfio", "vfio").then_some(Self::Groups)
        }
    }

    /// What a plan says of it.
    pub fn note(self) -> &'static str {
        match self {
            Self::Groups => {
                "PCI functions are given by their IOMMU groups (/dev/vfio/GROUP), and VFIO's container has the tables"
            }
            Self::Devices => {
                "PCI functions are given by nodes of their own (/dev/vfio/devices), and iommufd has the tables"
            }
        }
    }
}

/// Whether functions get nodes of their own. Each does when vfio-pci has it, so that there may be none yet; the kernel keeps numbers for them.
fn gives_nodes(files: &impl Files) -> bool {
    let devices = files.text("proc/devices").unwrap_or_default();
    devices.lines().any(|line| line.split_whitespace().nth(1) == Some("vfio-dev"))
}

/// The node by which a function is opened, below `/`. It is there while vfio-pci has the function. Of the files that are asked none has to be opened: a
/// process that is confined may ask.
pub fn node(files: &impl Files, way: Way, function: PciAddress) -> Option<String> {
    match way {
        Way::Groups => {
            let group = files.link_name(&format!("sys/bus/pci/devices/{function}/iommu_group"))?;
            Some(format!("dev/vfio/{}", group.parse::<u32>().ok()?))
        }
        Way::Devices => {
            let function = function.to_string();
            let is_its = |name: &String| {
                files.link_name(&format!("sys/class/vfio-dev/{name}/device")) == Some(function.clone())
            };
            Some(format!("{NODES}/{}", files.list(NODES).into_iter().find(is_its)?))
        }
    }
}

/// Where VMs get their tables from. All of it is opened before anything is given up.
pub enum Source {
    /// From containers, each of which is a file of its own below `/dev/vfio`.
    Groups,
    /// From iommufd, by a file for each VM: what one has made in its file others can't name.
    Devices(Vec<Arc<IommuFd>>),
}

impl Source {
    /// For so many VMs.
    ///
    /// # Errors
    ///
    /// The kernel doesn't let iommufd be opened.
    pub fn open(way: Way, vms: usize) -> io::Result<Self> {
        let open = || {
            let file = File::options().read(true).write(true).open("/dev/iommu")?;
            Ok(Arc::new(IommuFd::new_from_fd(file)))
        };
        match way {
            Way::Groups => Ok(Self::Groups),
            Way::Devices => {
                // A kernel without groups makes it with the first function, which is later than the rest of `/dev` is given up.
                fs::create_dir_all("/dev/vfio")?;
                (0..vms).map(|_| open()).collect::<io::Result<_>>().map(Self::Devices)
            }
        }
    }

    /// The way that this is.
    pub fn way(&self) -> Way {
        match self {
            Self::Groups => Way::Groups,
            Self::Devices(_) => Way::Devices,
        }
    }

    /// Empty tables for the VM of this number. `kvm` tells KVM of the functions that have them.
    ///
    /// # Errors
    ///
    /// The kernel makes none.
    pub fn container(&self, vm: usize, kvm: VfioDeviceFd) -> Result<Container, VfioError> {
        let kvm = Some(Arc::new(kvm));
        match self {
            Self::Groups => {
                let container = VfioContainer::new(kvm).map_err(VfioError::Container)?;
                Ok(Container::Groups(Arc::new(container)))
            }
            Self::Devices(files) => {
                let file = files.get(vm).ok_or(VfioError::TooLarge)?;
                let space = VfioIommufd::new(file.clone(), None, kvm).map_err(VfioError::Container)?;
                Ok(Container::Devices(Arc::new(space)))
            }
        }
    }
}

/// A VM's tables, and the functions that have them.
#[derive(Clone)]
pub enum Container {
    /// A container of groups.
    Groups(Arc<VfioContainer>),
    /// An address space of iommufd's.
    Devices(Arc<VfioIommufd>),
}

impl Container {
    /// Opens a function, as Linux calls it: it reaches what is mapped here, and nothing else.
    ///
    /// # Errors
    ///
    /// VFIO's.
    pub fn open(&self, files: &impl Files, function: PciAddress) -> Result<VfioDevice, Why> {
        match self {
            Self::Groups(container) => {
                let folder = format!("/sys/bus/pci/devices/{function}");
                VfioDevice::new(Path::new(&folder), container.clone(), true)
            }
            Self::Devices(space) => {
                let node = node(files, Way::Devices, function).ok_or(Why::InvalidVfioDev)?;
                let opened = File::options().read(true).write(true).open(Path::new("/").join(node));
                VfioDevice::new_from_fd(opened.map_err(Why::OpenDeviceCdev)?, space.clone(), true)
            }
        }
    }
}

impl Tables for Container {
    fn map(&self, iova: Span<Iova>, place: &Place) -> Result<(), VfioError> {
        let (start, bytes, address) = (iova.start().0, windows::bytes(iova)?, place.address() as *mut u8);
        // SAFETY: the place has as many bytes, as `Windows` has checked, and is kept there until the window is taken away. It is a mapping
        // of a guest's memory, to which there is no Rust reference.
        let mapped = unsafe {
            match self {
                Self::Groups(container) => container.vfio_dma_map(start, bytes, address),
                Self::Devices(space) => space.vfio_dma_map(start, bytes, address),
            }
        };
        mapped.map_err(|error| VfioError::Map { iova, error })
    }

    fn unmap(&self, iova: Span<Iova>) -> Result<(), VfioError> {
        let (start, bytes) = (iova.start().0, windows::bytes(iova)?);
        let unmapped = match self {
            Self::Groups(container) => container.vfio_dma_unmap(start, bytes),
            Self::Devices(space) => space.vfio_dma_unmap(start, bytes),
        };
        unmapped.map_err(|error| VfioError::Map { iova, error })
    }
}

/// Who else is in a function's group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// Nobody.
    #[default]
    Nobody,
    /// Functions that nobody else has.
    Free,
    /// One that a driver has.
    Held(Holder),
}

impl Others {
    /// Those of a function: the first that a driver has which does DMA of its own, if there is one. They are looked up anew, as some may have come since
    /// the machine was read.
    pub fn of(files: &impl Files, function: PciAddress) -> Self {
        let group = |it: PciAddress| files.link_name(&format!("sys/bus/pci/devices/{it}/iommu_group"));
        let Some(own) = group(function) else { return Self::Nobody };
        let all = (0..=u16::MAX).map(|id| PciAddress::from_requester_id(function.segment, id));
        // The group's own folder, which lists them, a confined process may not open.
        let members: Vec<PciAddress> =
            all.filter(|it| *it != function && group(*it).as_ref() == Some(&own)).collect();
        let driver = |member| files.link_name(&format!("sys/bus/pci/devices/{member}/driver"));
        let held = |member: &PciAddress| {
            let driver = driver(*member).filter(|it| !axvm_rebind::is_harmless(it))?;
            Some(Holder { member: *member, driver })
        };
        match members.iter().find_map(held) {
            Some(holder) => Self::Held(holder),
            None if members.is_empty() => Self::Nobody,
            None => Self::Free,
        }
    }
}

/// Why a function, as Linux calls it, can't be opened.
pub fn refusal(function: PciAddress, error: Why, others: Others) -> VfioError {
    match error {
        // Linux, drivers/vfio/vfio_iommu_type1.c: messages aren't isolated, and nobody has said that this is no matter.
        Why::ContainerSetIOMMU(error) if error.errno() == libc::EPERM => VfioError::Unsafe { function },
        Why::GroupViable => VfioError::NotViable { function, others },
        Why::OpenGroup(error, _) if error.raw_os_error() == Some(libc::EBUSY) => VfioError::Busy { function },
        Why::OpenGroup(error, _) => VfioError::Node { function, error },
        // Linux, drivers/iommu/iommufd/device.c: the same of messages; or somebody else has the group's DMA, a driver or another program.
        Why::VfioDeviceBindIommufd(error) if error.errno() == libc::EPERM => match others {
            Others::Nobody => VfioError::Unsafe { function },
            others => VfioError::NotViable { function, others },
        },
        // Linux, drivers/vfio/vfio_main.c, `vfio_df_open`; drivers/vfio/group.c, `vfio_device_block_group`.
        Why::VfioDeviceBindIommufd(error) if [libc::EBUSY, libc::EINVAL].contains(&error.errno()) => {
            VfioError::Busy { function }
        }
        Why::InvalidVfioDev => VfioError::NoNode { function },
        Why::OpenDeviceCdev(error) => VfioError::Node { function, error },
        error => VfioError::Open { function, error },
    }
}

#[cfg(test)]
mod tests;
