//! Aborts from a lower level.

use crate::{bit, bits};

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address is too large.
    AddressSize,
    /// No entry of a table translates it.
    Translation,
    /// An entry's access flag is off.
    AccessFlag,
    /// An entry doesn't allow it.
    Permission,
    /// The bus aborted it.
    External,
    /// The bus aborted the walk of a table.
    ExternalInWalk,
    /// Memory is damaged.
    Parity,
    /// A table is damaged.
    ParityInWalk,
    /// It isn't aligned.
    Alignment,
    /// Whatever else: of an extension that no guest has, or new.
    Other,
}

/// IFSC or DFSC, which have one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// What it says, the level of a table apart.
    pub const fn kind(self) -> Kind {
        match self.0 & 0x3f {
            0b00_0000..=0b00_0011 | 0b10_1001 => Kind::AddressSize,
            0b00_0100..=0b00_0111 | 0b10_1011 => Kind::Translation,
            0b00_1000..=0b00_1011 => Kind::AccessFlag,
            0b00_1100..=0b00_1111 => Kind::Permission,
            0b01_0000 => Kind::External,
            0b01_0011..=0b01_0111 => Kind::ExternalInWalk,
            0b01_1000 => Kind::Parity,
            0b01_1011..=0b01_1111 => Kind::ParityInWalk,
            0b10_0001 => Kind::Alignment,
            _ => Kind::Other,
        }
    }

    /// The level of the table that it is about, where there is one: -1 to 3.
    pub const fn level(self) -> Option<i8> {
        match (self.kind(), self.0 & 0x3f) {
            (Kind::AddressSize | Kind::Translation, 0b10_1001 | 0b10_1011)
            | (Kind::ExternalInWalk, 0b01_0011)
            | (Kind::ParityInWalk, 0b01_1011) => Some(-1),
            (
                Kind::AddressSize
                | Kind::Translation
                | Kind::AccessFlag
                | Kind::Permission
                | Kind::ExternalInWalk
                | Kind::ParityInWalk,
                status,
            ) => Some((status & 3) as i8),
            _ => None,
        }
    }
}

/// What HPFAR_EL2 (FIPA, 47:4, bits 55:12 of the address) and FAR_EL2 say of where a fault of the second stage was. FIPA holds for
/// faults of translation, access flag and address size, and for those of permission in a walk of the first stage.
#[inline(always)]
pub const fn fault_address(hpfar: u64, far: u64) -> u64 {
    bits(hpfar, 47, 4) << 12 | far & 0xfff
}

/// An instruction abort (ISS of EC 0x20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionAbort(pub u64);

impl InstructionAbort {
    /// IFSC (5:0).
    pub const fn status(self) -> Status {
        Status(bits(self.0, 5, 0) as u8)
    }

    /// S1PTW (7): in a walk of the first stage.
    pub const fn in_walk(self) -> bool {
        bit(self.0, 7)
    }

    /// EA (9): how an external abort is told from another, as the implementation defines.
    pub const fn external_type(self) -> bool {
        bit(self.0, 9)
    }

    /// FnV (10): FAR_EL2 doesn't hold.
    pub const fn without_address(self) -> bool {
        bit(self.0, 10)
    }

    /// SET (12:11), of an external abort.
    pub const fn severity(self) -> u8 {
        bits(self.0, 12, 11) as u8
    }
}

/// A data abort (ISS of EC 0x24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataAbort(pub u64);

impl DataAbort {
    /// DFSC (5:0).
    #[inline(always)]
    pub const fn status(self) -> Status {
        Status(bits(self.0, 5, 0) as u8)
    }

    /// WnR (6): it is a write.
    #[inline(always)]
    pub const fn is_write(self) -> bool {
        bit(self.0, 6)
    }

    /// S1PTW (7): in a walk of the first stage.
    #[inline(always)]
    pub const fn in_walk(self) -> bool {
        bit(self.0, 7)
    }

    /// CM (8): cache maintenance.
    #[inline(always)]
    pub const fn is_maintenance(self) -> bool {
        bit(self.0, 8)
    }

    /// EA (9): how an external abort is told from another, as the implementation defines.
    pub const fn external_type(self) -> bool {
        bit(self.0, 9)
    }

    /// FnV (10): FAR_EL2 doesn't hold.
    pub const fn without_address(self) -> bool {
        bit(self.0, 10)
    }

    /// SET (12:11), of an external abort.
    pub const fn severity(self) -> u8 {
        bits(self.0, 12, 11) as u8
    }

    /// VNCR (13): an access that nested virtualization makes of a register's.
    pub const fn is_nested(self) -> bool {
        bit(self.0, 13)
    }

    /// AR (14): acquire or release.
    pub const fn is_ordered(self) -> bool {
        bit(self.0, 14)
    }

    /// SF (15): the register is one of 64 bits.
    #[inline(always)]
    pub const fn is_wide(self) -> bool {
        bit(self.0, 15)
    }

    /// SRT (20:16): the register that is loaded or stored.
    #[inline(always)]
    pub const fn register(self) -> u64 {
        bits(self.0, 20, 16)
    }

    /// SSE (21): what is loaded is sign-extended.
    #[inline(always)]
    pub const fn is_signed(self) -> bool {
        bit(self.0, 21)
    }

    /// SAS (23:22): how many bytes, as a power of two.
    #[inline(always)]
    pub const fn size(self) -> u64 {
        bits(self.0, 23, 22)
    }

    /// How many bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        1 << self.size()
    }

    /// ISV (24): register, width and extension hold.
    #[inline(always)]
    pub const fn is_described(self) -> bool {
        bit(self.0, 24)
    }

    /// What a load leaves in its register, of the `bytes()` that were read: sign-extended if it asks so, to 32 or 64 bits (ESR_EL2,
    /// SSE and SF).
    #[must_use]
    pub const fn loaded(self, value: u64) -> u64 {
        let unused = 64 - 8 * self.bytes() as u32;
        let value = value << unused;
        let value =
            if self.is_signed() { (value.cast_signed() >> unused).cast_unsigned() } else { value >> unused };
        if self.is_wide() { value } else { value & u32::MAX as u64 }
    }

    /// Whether it is a load or store that the syndrome describes and that nothing translates: not signed, no walk, no maintenance.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        // ISV, SSE, CM, S1PTW, and DFSC without the level.
        const LOOKED_AT: u64 = 1 << 24 | 1 << 21 | 1 << 8 | 1 << 7 | 0x3c;
        const PLAIN: u64 = 1 << 24 | 0x04;
        self.0 & LOOKED_AT == PLAIN
    }
}
