//! How the machine is described to the hypervisor, as its architecture's boot loaders do: each kind has an entry, which fills a
//! [`BootInfo`](crate::boot_info::BootInfo), and reads the description once there is a heap.

#[cfg(target_arch = "x86_64")]
mod acpi;
#[cfg(not(target_arch = "x86_64"))]
mod device_tree;

#[cfg(target_arch = "x86_64")]
pub use acpi::*;
#[cfg(not(target_arch = "x86_64"))]
pub use device_tree::*;
