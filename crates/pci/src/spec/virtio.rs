//! Virtio over PCI: what tells whether a device's DMA passes the IOMMU. Offsets in capabilities are from their
//! start.

/// The vendor id of virtio devices (Virtio 1.2, 4.1.2).
pub const VENDOR: u16 = 0x1af4;
/// The device ids of transitional devices, which have the legacy interface too (Virtio 1.2, 4.1.2.1).
pub const TRANSITIONAL: core::ops::RangeInclusive<u16> = 0x1000..=0x103f;
/// The device ids of the others: 0x1040 and the device type (Virtio 1.2, 4.1.2.1).
pub const MODERN: core::ops::RangeInclusive<u16> = 0x1040..=0x107f;

/// In a vendor-specific capability: which structure it is of, 8 bits (Virtio 1.2, 4.1.4).
pub const TYPE: u16 = 3;
/// The BAR of the structure, 8 bits.
pub const BAR: u16 = 4;
/// Where in the BAR the structure is, 32 bits.
pub const OFFSET: u16 = 8;
/// Its length, 32 bits.
pub const LENGTH: u16 = 12;
/// In a capability of type [`ACCESS`]: the bytes at the place that the capability names, 32 bits.
pub const DATA: u16 = 16;

/// [`TYPE`] of the common configuration.
pub const COMMON: u8 = 1;
/// [`TYPE`] of the access to BARs by config space (Virtio 1.2, 4.1.4.9).
pub const ACCESS: u8 = 5;
/// The size of a capability.
pub const SIZE: u16 = 16;
/// The size of one of type [`ACCESS`].
pub const ACCESS_SIZE: u16 = 20;

/// In the common configuration: which 32 feature bits are shown, 32 bits (Virtio 1.2, 4.1.4.3).
pub const FEATURE_SELECT: u32 = 0x00;
/// The feature bits shown, 32 bits.
pub const FEATURES: u32 = 0x04;
/// The device's status, 8 bits. Writing zero resets it.
pub const STATUS: u32 = 0x14;
/// The common configuration has at least so many bytes.
pub const COMMON_SIZE: u32 = 0x38;

/// VIRTIO_F_VERSION_1 (Virtio 1.2, 6).
pub const VERSION_1: u32 = 32;
/// VIRTIO_F_ACCESS_PLATFORM: memory is accessed as the platform says, by way of the IOMMU (Virtio 1.2, 6).
pub const ACCESS_PLATFORM: u32 = 33;

const _: () = assert!(DATA + 4 == ACCESS_SIZE && LENGTH + 4 == SIZE);
