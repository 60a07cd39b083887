//! Entries of a device's interrupt table (2.2.5): what an interrupt of a device becomes.

use bitfield_struct::bitfield;

/// log2 of the entries that a table is said to have. Hardware without a longer mode has 512 at the most.
pub const LOG2_ENTRIES: u8 = 9;
/// Entries that a table is said to have.
pub const ENTRIES: u16 = 1 << LOG2_ENTRIES;

/// Entries that there is zeroed memory for: as many as the index in an MSI's data can name (bits 10:0), so that an IOMMU which
/// doesn't check the length reads nothing else.
pub const ENTRIES_IN_MEMORY: u64 = 2048;

/// What a table must be aligned to.
pub const ALIGNMENT: u64 = 128;

/// What of an MSI's data names the entry (2.2.5.1).
pub const INDEX_MASK: u32 = 0x7ff;

/// IntType of an interrupt that is delivered as the entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the CPUs that are named.
    Fixed = 0,
    /// To the one of them with the lowest priority.
    LowestPriority = 1,
}

/// An entry of 32 bits (2.2.5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Narrow {
    /// RemapEn: the entry is used. Without it the interrupt is aborted.
    pub enabled: bool,
    /// SupIOPF: an abort isn't recorded.
    pub silent: bool,
    /// IntType.
    #[bits(3)]
    pub kind: u8,
    /// RqEoi.
    pub request_end: bool,
    /// DM: the destination is a logical one.
    pub logical: bool,
    __: bool,
    /// The local APIC.
    pub destination: u8,
    /// The vector.
    pub vector: u8,
    __: u8,
}

/// The first word of an entry of 128 bits (2.2.5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct WideLow {
    /// RemapEn: the entry is used. Without it the interrupt is aborted.
    pub enabled: bool,
    /// SupIOPF: an abort isn't recorded.
    pub silent: bool,
    /// IntType.
    #[bits(3)]
    pub kind: u8,
    /// RqEoi.
    pub request_end: bool,
    /// DM: the destination is a logical one.
    pub logical: bool,
    /// GuestMode: it goes to a virtual APIC.
    pub guest: bool,
    /// Bits 23:0 of the local APIC's id.
    #[bits(24)]
    pub destination: u32,
    #[bits(32)]
    __: u32,
}

/// The second word of an entry of 128 bits.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct WideHigh {
    /// The vector.
    pub vector: u8,
    #[bits(48)]
    __: u64,
    /// Bits 31:24 of the local APIC's id.
    pub destination: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        let narrow = Narrow::new().with_enabled(true).with_destination(0x12).with_vector(0x34);
        assert_eq!(u32::from(narrow), 0x0034_1201, "2.2.5.1");
        assert_eq!(u32::from(Narrow::new().with_kind(7).with_logical(true)), 0b101_1100);
        let low = WideLow::new().with_enabled(true).with_logical(true).with_destination(0x34_5678);
        assert_eq!(u64::from(low), 0x3456_7841, "2.2.5.2");
        assert_eq!(u64::from(WideLow::new().with_guest(true)), 1 << 7);
        assert_eq!(
            u64::from(WideHigh::new().with_vector(0x56).with_destination(0x12)),
            0x1200_0000_0000_0056
        );
    }
}
