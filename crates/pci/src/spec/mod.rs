//! Register layouts of PCI config space: pure data, each with its section of the PCI Local Bus Specification
//! 3.0 ("PCI"), the PCI Express Base Specification 5.0 ("PCIe"), the PCI Bus Power Management Interface
//! Specification 1.2 ("PM") or the PCI-to-PCI Bridge Architecture Specification 1.2 ("Bridge").

pub mod capability;
pub mod express;
pub mod extended;
pub mod header;
pub mod msi;
pub mod power;
pub mod virtio;

/// The size of a function's config space where its bus has only the conventional part (PCI 6.1).
pub const CONVENTIONAL_SIZE: u16 = 0x100;

/// The size of a function's config space (PCIe 7.2).
pub const EXTENDED_SIZE: u16 = 0x1000;
