//! MCFG: where PCI's config space is (PCI Firmware Specification 3.3, 4.1.2).

use alloc::vec::Vec;

use axvm_addr::{Hpa, PciBuses};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{Header, Table, Word};

/// The config space of some buses of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Where that of bus 0 begins, or would.
    pub base: Hpa,
    /// The segment.
    pub segment: u16,
    /// The buses.
    pub buses: PciBuses,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    _reserved: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    base: U64,
    segment: Word,
    first: u8,
    last: u8,
    _reserved: [u8; 4],
}

/// All of them.
///
/// # Errors
///
/// It isn't an MCFG, or one of its entries isn't whole.
pub fn read(table: &Table) -> Result<Vec<Allocation>, Error> {
    let (_, mut records) = table.fixed::<Fixed>(b"MCFG")?;
    let mut found = Vec::new();
    while let Some(record) = records.next(|_| Some(size_of::<Entry>())) {
        let (entry, _) = record?.fixed::<Entry>()?;
        let buses = PciBuses { first: entry.first, last: entry.last };
        found.push(Allocation { base: Hpa(entry.base.get()), segment: entry.segment.get(), buses });
    }
    Ok(found)
}
