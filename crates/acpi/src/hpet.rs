//! HPET: the event timer (IA-PC HPET Specification 1.0a, 3.2.4).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{GenericAddress, Header, RawGenericAddress, Table};

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hpet {
    /// Its number.
    pub number: u8,
    /// Its registers: 1 KiB.
    pub registers: Option<GenericAddress>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    _id: U32,
    registers: RawGenericAddress,
    number: u8,
}

impl Hpet {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't an HPET table, or too short for one.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (raw, _) = table.fixed::<Fixed>(b"HPET")?;
        Ok(Self { number: raw.number, registers: raw.registers.get() })
    }
}
