//! The two capability lists (PCI 6.7; PCIe 7.6.3) and the ids in them (PCI Code and ID Assignment
//! Specification).

/// Power management.
pub const POWER: u8 = 0x01;
/// Vital product data.
pub const VPD: u8 = 0x03;
/// MSI.
pub const MSI: u8 = 0x05;
/// Vendor specific: its third byte is its length.
pub const VENDOR: u8 = 0x09;
/// Subsystem ids of a bridge.
pub const SUBSYSTEM: u8 = 0x0d;
/// PCI Express.
pub const EXPRESS: u8 = 0x10;
/// MSI-X.
pub const MSIX: u8 = 0x11;
/// Advanced features: FLR of conventional functions.
pub const ADVANCED: u8 = 0x13;

/// The lowest offset of a capability: below is the header.
pub const FIRST: u16 = 0x40;
/// Where the extended list starts.
pub const EXTENDED_FIRST: u16 = 0x100;

/// Advanced features capabilities, 8 bits (PCI ECN "Advanced Capabilities for Conventional PCI").
pub const AF_CAPABILITIES: u16 = 3;
/// In [`AF_CAPABILITIES`]: transactions pending is there.
pub const AF_PENDING: u8 = 1 << 0;
/// In [`AF_CAPABILITIES`]: function-level reset is there.
pub const AF_FLR: u8 = 1 << 1;
/// Advanced features control, 8 bits; bit 0 initiates the reset.
pub const AF_CONTROL: u16 = 4;
/// Advanced features status, 8 bits; bit 0: transactions pending.
pub const AF_STATUS: u16 = 5;
/// The size of the advanced features capability.
pub const AF_SIZE: u16 = 6;

/// An extended capability's header (PCIe 7.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedHeader {
    /// What it is; see [`super::extended`].
    pub id: u16,
    /// The offset of the next one, or 0.
    pub next: u16,
}

impl ExtendedHeader {
    /// Reads the header's 32 bits: id in 15:0, version in 19:16, next in 31:20. `None`: the list ends here.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits == 0 || bits == u32::MAX {
            return None;
        }
        Some(Self { id: bits as u16, next: (bits >> 20) as u16 & 0xffc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_header_has_its_fields_where_the_manual_says() {
        assert_eq!(ExtendedHeader::from_bits(0x1501_0010), Some(ExtendedHeader { id: 0x10, next: 0x150 }));
        assert_eq!(ExtendedHeader::from_bits(0), None);
        assert_eq!(ExtendedHeader::from_bits(u32::MAX), None);
    }
}
