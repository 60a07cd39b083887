//! SRAT: which CPUs and which memory are near each other (ACPI 6.5, 5.2.16). What other architectures have there is passed by.

use alloc::vec::Vec;

use axvm_addr::{Hpa, Span};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{Header, Table, Word};

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearCpu {
    /// Its proximity domain.
    pub domain: u32,
    /// Its local APIC's id.
    pub apic: u32,
}

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMemory {
    /// Its proximity domain.
    pub domain: u32,
    /// Where it is. Not all of it need be memory.
    pub span: Span<Hpa>,
}

/// What the SRAT says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Srat {
    /// The CPUs, in the table's order.
    pub cpus: Vec<NearCpu>,
    /// The ranges of memory, in the table's order.
    pub memory: Vec<NearMemory>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    header: Header,
    _reserved: [u8; 12],
}

/// Bit 0 of the flags of each record: it counts.
const ENABLED: u32 = 1;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLocalApic {
    _head: [u8; 2],
    domain_low: u8,
    apic: u8,
    flags: U32,
    _sapic: u8,
    domain_high: [u8; 3],
    _clock: U32,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMemory {
    _head: [u8; 2],
    domain: U32,
    _reserved: Word,
    start: U64,
    size: U64,
    _reserved_too: U32,
    flags: U32,
    _reserved_at_last: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawX2Apic {
    _head: [u8; 2],
    _reserved: Word,
    domain: U32,
    apic: U32,
    flags: U32,
    _clock: U32,
    _reserved_too: U32,
}

impl Srat {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't an SRAT, or one of its records doesn't fit.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (fixed, mut records) = table.fixed::<Fixed>(b"SRAT")?;
        // Tables of revision 1 have the domain's lowest byte only (5.2.16.1).
        let is_wide = fixed.header.revision >= 2;
        let mut srat = Self::default();
        while let Some(record) = records.next_by_second_byte() {
            let record = record?;
            match record.bytes.first() {
                // 5.2.16.1.
                Some(0) => {
                    let (raw, _) = record.fixed::<RawLocalApic>()?;
                    let [b, c, d] = if is_wide { raw.domain_high } else { [0; 3] };
                    let domain = u32::from_le_bytes([raw.domain_low, b, c, d]);
                    srat.add_cpu(domain, raw.apic.into(), raw.flags.get());
                }
                // 5.2.16.2.
                Some(1) => {
                    let (raw, _) = record.fixed::<RawMemory>()?;
                    let domain = if is_wide { raw.domain.get() } else { raw.domain.get() & 0xff };
                    let span = Span::new(Hpa(raw.start.get()), raw.size.get());
                    if let Some(span) = span.ok().filter(|it| !it.is_empty())
                        && raw.flags.get() & ENABLED != 0
                    {
                        srat.memory.push(NearMemory { domain, span });
                    }
                }
                // 5.2.16.3.
                Some(2) => {
                    let (raw, _) = record.fixed::<RawX2Apic>()?;
                    srat.add_cpu(raw.domain.get(), raw.apic.get(), raw.flags.get());
                }
                _ => {}
            }
        }
        Ok(srat)
    }

    fn add_cpu(&mut self, domain: u32, apic: u32, flags: u32) {
        if flags & ENABLED != 0 {
            self.cpus.push(NearCpu { domain, apic });
        }
    }
}
