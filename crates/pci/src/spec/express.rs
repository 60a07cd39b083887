//! The PCI Express capability (PCIe 7.5.3). Offsets are from its start.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// PCI Express capabilities, 16 bits: version in 3:0, type in 7:4 (PCIe 7.5.3.2).
pub const CAPABILITIES: u16 = 0x02;
/// Device capabilities, 32 bits (PCIe 7.5.3.3).
pub const DEVICE_CAPABILITIES: u16 = 0x04;
/// Device control, 16 bits (PCIe 7.5.3.4).
pub const DEVICE_CONTROL: u16 = 0x08;
/// Device status, 16 bits (PCIe 7.5.3.5).
pub const DEVICE_STATUS: u16 = 0x0a;
/// Link capabilities, 32 bits (PCIe 7.5.3.6).
pub const LINK_CAPABILITIES: u16 = 0x0c;
/// Link control, 16 bits (PCIe 7.5.3.7).
pub const LINK_CONTROL: u16 = 0x10;
/// Link status, 16 bits (PCIe 7.5.3.8).
pub const LINK_STATUS: u16 = 0x12;
/// Slot control, 16 bits, of a port with a slot (PCIe 7.5.3.10).
pub const SLOT_CONTROL: u16 = 0x18;
/// Root control, 16 bits, of root ports and event collectors (PCIe 7.5.3.12).
pub const ROOT_CONTROL: u16 = 0x1c;
/// Root capabilities, 16 bits (PCIe 7.5.3.13).
pub const ROOT_CAPABILITIES: u16 = 0x1e;
/// Device control 2, 16 bits (PCIe 7.5.3.16).
pub const DEVICE_CONTROL_2: u16 = 0x28;
/// Link control 2, 16 bits (PCIe 7.5.3.19).
pub const LINK_CONTROL_2: u16 = 0x30;
/// The size of a version 1 capability of an endpoint: up to and with the link registers.
pub const SIZE_V1: u16 = 0x14;
/// The size of a version 2 capability.
pub const SIZE_V2: u16 = 0x3c;

/// In [`CAPABILITIES`]: the port has a slot.
pub const SLOT: u16 = 1 << 8;
/// In [`SLOT_CONTROL`]: indicators, power, and what isn't an interrupt of the slot's or a command.
pub const SLOT_KEPT: u16 = 0x67c0;
/// In [`ROOT_CONTROL`], and in [`ROOT_CAPABILITIES`] that it is there as bit 0: software sees that a function asks to be
/// tried again.
pub const RETRY_VISIBLE: u16 = 1 << 4;
/// In [`DEVICE_CONTROL_2`]: completion timeouts, ID-based ordering, latency reports, tags of 10 bits, OBFF, prefixes.
pub const CONTROL_2_KEPT: u16 = 0xf71f;
/// In [`DEVICE_CAPABILITIES`]: function-level reset is there.
pub const FLR_CAPABLE: u32 = 1 << 28;
/// In [`DEVICE_STATUS`]: a request of the function has no completion yet.
pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
/// In [`LINK_CAPABILITIES`]: the port says whether its link is up.
pub const LINK_ACTIVE_REPORTED: u32 = 1 << 20;
/// In [`LINK_STATUS`]: the link is up.
pub const LINK_ACTIVE: u16 = 1 << 13;
/// The error bits of [`DEVICE_STATUS`], which a write of one clears.
pub const STATUS_ERRORS: u16 = 0xf;

bitflags! {
    /// Device control.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceControl: u16 {
        /// Reporting of correctable, non-fatal, fatal errors and unsupported requests.
        const ERROR_REPORTING = 0xf;
        /// Relaxed ordering.
        const RELAXED_ORDERING = 1 << 4;
        /// Max_Payload_Size.
        const PAYLOAD = 0b111 << 5;
        /// Extended tags.
        const EXTENDED_TAG = 1 << 8;
        /// Phantom functions: requests with other requester ids.
        const PHANTOM = 1 << 9;
        /// Auxiliary power.
        const AUX_POWER = 1 << 10;
        /// No snoop.
        const NO_SNOOP = 1 << 11;
        /// Max_Read_Request_Size.
        const READ_REQUEST = 0b111 << 12;
        /// Initiate function-level reset; in a bridge to conventional PCI another thing. Reads as zero.
        const INITIATE_FLR = 1 << 15;
    }
}

/// What kind of function it is (PCIe 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortType {
    /// An endpoint, legacy or not.
    Endpoint,
    /// A root port.
    RootPort,
    /// A switch's port towards the root.
    Upstream,
    /// A switch's port away from the root.
    Downstream,
    /// A bridge to conventional PCI.
    ToConventional,
    /// A bridge from conventional PCI.
    FromConventional,
    /// A function inside the root complex.
    RootComplex,
    /// A value that the specification reserves.
    Reserved(u8),
}

impl PortType {
    /// The type in the [`CAPABILITIES`] register.
    pub const fn from_capabilities(bits: u16) -> Self {
        match (bits >> 4) as u8 & 0xf {
            0 | 1 => Self::Endpoint,
            4 => Self::RootPort,
            5 => Self::Upstream,
            6 => Self::Downstream,
            7 => Self::ToConventional,
            8 => Self::FromConventional,
            9 | 10 => Self::RootComplex,
            other => Self::Reserved(other),
        }
    }

    /// Whether a link with at most one device is below it.
    pub const fn has_link_below(self) -> bool {
        matches!(self, Self::RootPort | Self::Downstream)
    }
}
