//! Entries of the interrupt remapping table (9.9), and how an MSI names one (5.1.2.2).

use bitfield_struct::bitfield;

/// Bytes of an entry.
pub const ENTRY_BYTES: u64 = 16;

/// How an interrupt is delivered (DLM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the CPUs that are named.
    Fixed = 0,
    /// To the one of them with the lowest priority.
    LowestPriority = 1,
}

/// The first word of an entry (9.9).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Low {
    /// P: the entry is used. Without it the interrupt is blocked.
    pub present: bool,
    /// FPD: what is blocked isn't recorded.
    pub silent: bool,
    /// DM: the destination is a logical one.
    pub logical: bool,
    /// RH.
    pub redirected: bool,
    /// TM: by level.
    pub level: bool,
    /// DLM.
    #[bits(3)]
    pub kind: u8,
    #[bits(4)]
    __: u8,
    #[bits(3)]
    __: u8,
    /// IM: it is posted.
    pub posted: bool,
    /// V: the vector.
    pub vector: u8,
    __: u8,
    /// DST: the local APIC; in xAPIC mode in bits 15:8.
    pub destination: u32,
}

/// The second word: whose interrupts they may be.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct High {
    /// SID: the requester.
    pub source: u16,
    /// SQ: 0 all of its bits count.
    #[bits(2)]
    pub qualifier: u8,
    /// SVT: 1 the requester is verified.
    #[bits(2)]
    pub verify: u8,
    #[bits(44)]
    __: u64,
}

/// The address of an MSI that names an entry (5.1.2.2). The data is zero: no further number is added.
pub const fn msi_address(index: u16) -> u32 {
    0xfee0_0000 | (index as u32 & 0x7fff) << 5 | 1 << 4 | (index as u32 >> 15) << 2
}

/// The address of MSIs of a device that has several entries in a row, `first` its first one. The data of each is how many come before its
/// own (SHV, 5.1.2.2).
pub const fn msi_address_of_several(first: u16) -> u32 {
    msi_address(first) | 1 << 3
}

/// The lower half of an I/O APIC's entry (5.1.2.1) that names an entry of the table, beside what says how the pin signals. The vector is the
/// one that the interrupt becomes, as an I/O APIC looks for it when a local APIC ends a level.
pub const fn io_apic_low(index: u16, vector: u8) -> u32 {
    (index as u32 >> 15) << 11 | vector as u32
}

/// The upper half: the remappable format, and the rest of the index.
pub const fn io_apic_high(index: u16) -> u32 {
    (index as u32 & 0x7fff) << 17 | 1 << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_in_its_place() {
        let low = Low::new().with_present(true).with_logical(true).with_level(true).with_kind(1);
        assert_eq!(u64::from(low), 0b11_0101, "9.9");
        let low = Low::new().with_vector(0x41).with_destination(0x1234_5678).with_posted(true);
        assert_eq!(u64::from(low), 0x1234_5678_0041_8000);
        assert_eq!(u64::from(Low::new().with_silent(true).with_redirected(true)), 0b1010);
        assert_eq!(u64::from(High::new().with_source(0x1234).with_qualifier(3).with_verify(1)), 0x7_1234);
        assert_eq!(msi_address(0), 0xfee0_0010, "5.1.2.2");
        assert_eq!(msi_address(0x7fff), 0xfeef_fff0);
        assert_eq!(msi_address(0x8001), 0xfee0_0034);
        assert_eq!(msi_address_of_several(0x8001), 0xfee0_003c);
        assert_eq!((io_apic_high(0x8001), io_apic_low(0x8001, 0x41)), (0x0003_0000, 0x841), "5.1.2.1");
        assert_eq!((io_apic_high(0x7fff), io_apic_low(0x7fff, 0x41)), (0xffff_0000, 0x41));
    }
}
