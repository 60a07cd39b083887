//! Boards for tests, of this crate and of those that build on it (feature `fake`), and strategies that make up more (feature
//! `proptest`).

/// The device tree of QEMU's `virt` with an SMMUv3: `-M virt,virtualization=on,gic-version=3,iommu=smmuv3,dumpdtb=...`.
pub const QEMU_VIRT: &[u8] = include_bytes!("../tests/qemu-virt.dtb");

/// A device tree that has in one place what real boards have in many (`tests/made-up.dts`).
pub const MADE_UP: &[u8] = include_bytes!("../tests/made-up.dtb");

mod pc;

pub use pc::{Pc, q35_amd, q35_intel};

#[cfg(feature = "proptest")]
#[allow(missing_docs, reason = "what has none does what its name says")]
#[path = "../tests/tree/any.rs"]
pub mod any;
#[cfg(feature = "proptest")]
#[allow(missing_docs, reason = "what has none does what its name says")]
#[path = "../tests/tree/mod.rs"]
pub mod tree;
