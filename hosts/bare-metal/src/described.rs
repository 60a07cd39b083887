//! How the machine is described to the hypervisor, as its architecture's boot loaders do: each kind has an entry, which fills a
//! [`BootInfo`](crate::boot_info::BootInfo), and reads the description once there is a heap.

mod device_tree;

pub use device_tree::*;
