//! What keeps functions from being taken.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::PciAddress;
use axvm_platform::sysfs::{Files, Function, Use};

use crate::uses::can_end;
use crate::{VFIO_PCI, driver_folder};

/// Drivers that leave a group's other members to programs (Linux, Documentation/driver-api/vfio.rst): they do no DMA of their own.
const HARMLESS: &[&str] = &[VFIO_PCI, "pci-stub", "pcieport", "pci-pf-stub"];

/// Whether a driver that has a member of a group leaves the others to programs.
pub fn is_harmless(driver: &str) -> bool {
    HARMLESS.contains(&driver)
}

/// What is done about a function that Linux uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uses {
    /// It isn't taken.
    #[default]
    Keep,
    /// It is taken all the same: the author of the system file says so. What can't be ended without harm keeps it nevertheless.
    End,
}

/// A function that is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its address, as Linux has it.
    pub function: PciAddress,
    /// What of its uses.
    pub uses: Uses,
}

/// Why a function isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such function.
    #[error("{function}: this machine has no such PCI function")]
    Missing {
        /// The function.
        function: PciAddress,
    },
    /// Linux uses it.
    #[error("{function} is in use: {}", list(uses))]
    InUse {
        /// The function.
        function: PciAddress,
        /// What for.
        uses: Vec<Use>,
    },
    /// Linux uses it for something that can't be ended without harm.
    #[error("{function} is in use: {}", list(uses))]
    Stays {
        /// The function.
        function: PciAddress,
        /// What for.
        uses: Vec<Use>,
    },
    /// No IOMMU bounds what it reaches.
    #[error(
        "{function} is in no IOMMU group: Linux has no IOMMU for it; turn it on in the firmware's settings, and on Intel's machines by the kernel's argument intel_iommu=on"
    )]
    NoGroup {
        /// The function.
        function: PciAddress,
    },
    /// Another member of its group isn't taken, and a driver has it.
    #[error(
        "{function} shares its IOMMU group {group} with {member}, which the driver {driver} has{}: give it to the same VM, or free it: echo {member} > /sys/bus/pci/drivers/{driver}/unbind",
        for_what(uses)
    )]
    GroupMember {
        /// The function.
        function: PciAddress,
        /// The group's number.
        group: u32,
        /// The other one.
        member: PciAddress,
        /// Its driver.
        driver: String,
        /// What Linux uses it for.
        uses: Vec<Use>,
    },
    /// vfio-pci isn't there.
    #[error("the kernel has no vfio-pci: load it (modprobe vfio-pci)")]
    NoVfioPci,
}

pub(crate) fn list(uses: &[Use]) -> String {
    uses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn for_what(uses: &[Use]) -> String {
    if uses.is_empty() { String::new() } else { alloc::format!(" ({})", list(uses)) }
}

/// All that keeps these functions from being taken together.
pub fn check(files: &impl Files, functions: &[Function], wanted: &[Wanted]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if !wanted.is_empty() && files.list(&driver_folder(VFIO_PCI)).is_empty() {
        refusals.push(Refusal::NoVfioPci);
    }
    let of = |address: PciAddress| functions.iter().find(|it| it.linux == address);
    for want in wanted {
        let function = want.function;
        let Some(found) = of(function) else {
            refusals.push(Refusal::Missing { function });
            continue;
        };
        let uses: Vec<Use> = found.uses.iter().filter(|it| it.is_in_use()).cloned().collect();
        match want.uses {
            _ if uses.is_empty() => {}
            // What the file could say would be no help then.
            Uses::Keep if uses.iter().any(|it| !can_end(it)) => {
                refusals.push(Refusal::Stays { function, uses })
            }
            Uses::Keep => refusals.push(Refusal::InUse { function, uses }),
            Uses::End => {
                let uses: Vec<Use> = uses.into_iter().filter(|it| !can_end(it)).collect();
                if !uses.is_empty() {
                    refusals.push(Refusal::Stays { function, uses });
                }
            }
        }
        let Some(group) = found.group else {
            refusals.push(Refusal::NoGroup { function });
            continue;
        };
        for member in found.with.iter().filter(|member| !wanted.iter().any(|it| it.function == **member)) {
            let Some(other) = of(*member) else { continue };
            let Some(driver) = other.driver.clone().filter(|it| !is_harmless(it)) else {
                continue;
            };
            let uses = other.uses.clone();
            refusals.push(Refusal::GroupMember { function, group, member: *member, driver, uses });
        }
    }
    refusals
}
