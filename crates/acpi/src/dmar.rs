//! DMAR: Intel's IOMMUs (VT-d 4.1, 8): which devices each serves, and what memory firmware needs its devices to reach.

use alloc::vec::Vec;

use axvm_addr::Hpa;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{Header, Records, Table, Word};

/// What a scope names (8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// A PCI function.
    Function,
    /// A PCI bridge, with all that is behind it.
    Bridge,
    /// An I/O APIC, by the id that the MADT gives it.
    IoApic(u8),
    /// An HPET, by its number.
    Hpet(u8),
    /// A device that ACPI names, by the number of its name in this table.
    Named(u8),
    /// Something that isn't known.
    Other(u8),
}

/// A step of a path through bridges: a device and function on the bus that the path has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The device.
    pub device: u8,
    /// The function.
    pub function: u8,
}

/// What an IOMMU serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it is.
    pub kind: ScopeKind,
    /// The bus where its path begins.
    pub bus: u8,
    /// The way from there: all but the last step are bridges.
    pub path: Vec<Step>,
}

/// An IOMMU (DRHD).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// The segment of PCI that it serves.
    pub segment: u16,
    /// Its registers.
    pub registers: Hpa,
    /// It serves all of the segment that no other names (INCLUDE_PCI_ALL).
    pub includes_all: bool,
    /// What it serves.
    pub scopes: Vec<Scope>,
}

/// Memory that firmware has devices reach (RMRR).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The segment.
    pub segment: u16,
    /// Where it begins.
    pub start: Hpa,
    /// Its last byte.
    pub last: Hpa,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// What the DMAR says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// Bits of the addresses that DMA can have.
    pub address_bits: u8,
    /// Interrupts are remapped (INTR_REMAP).
    pub remaps_interrupts: bool,
    /// Firmware asks that local APICs aren't switched to x2APIC mode (X2APIC_OPT_OUT).
    pub no_x2apic: bool,
    /// The IOMMUs, in the table's order.
    pub iommus: Vec<Iommu>,
    /// Memory that firmware's devices need.
    pub reserved: Vec<Reserved>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    width: u8,
    flags: u8,
    _reserved: [u8; 10],
}

const INTR_REMAP: u8 = 1;
const X2APIC_OPT_OUT: u8 = 1 << 1;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIommu {
    _kind: Word,
    _length: Word,
    flags: u8,
    _size: u8,
    segment: Word,
    registers: U64,
}

const INCLUDE_PCI_ALL: u8 = 1;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawReserved {
    _kind: Word,
    _length: Word,
    _reserved: Word,
    segment: Word,
    start: U64,
    last: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawScope {
    kind: u8,
    _length: u8,
    _flags: u8,
    _reserved: u8,
    id: u8,
    bus: u8,
}

impl Dmar {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't a DMAR, or a structure or a scope doesn't fit.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (fixed, mut records) = table.fixed::<Fixed>(b"DMAR")?;
        let mut dmar = Self {
            // 63 stands for 64 (8.1).
            address_bits: fixed.width.saturating_add(1),
            remaps_interrupts: fixed.flags & INTR_REMAP != 0,
            no_x2apic: fixed.flags & X2APIC_OPT_OUT != 0,
            ..Self::default()
        };
        while let Some(record) = records.next_by_second_word() {
            let record = record?;
            match record.bytes {
                [0, 0, ..] => {
                    let (raw, scopes) = record.fixed::<RawIommu>()?;
                    dmar.iommus.push(Iommu {
                        segment: raw.segment.get(),
                        registers: Hpa(raw.registers.get()),
                        includes_all: raw.flags & INCLUDE_PCI_ALL != 0,
                        scopes: read_scopes(scopes)?,
                    });
                }
                [1, 0, ..] => {
                    let (raw, scopes) = record.fixed::<RawReserved>()?;
                    dmar.reserved.push(Reserved {
                        segment: raw.segment.get(),
                        start: Hpa(raw.start.get()),
                        last: Hpa(raw.last.get()),
                        scopes: read_scopes(scopes)?,
                    });
                }
                _ => {}
            }
        }
        Ok(dmar)
    }
}

fn read_scopes(mut records: Records<'_>) -> Result<Vec<Scope>, Error> {
    let mut scopes = Vec::new();
    while let Some(record) = records.next_by_second_byte() {
        let record = record?;
        let (raw, mut steps) = record.fixed::<RawScope>()?;
        let kind = match raw.kind {
            1 => ScopeKind::Function,
            2 => ScopeKind::Bridge,
            3 => ScopeKind::IoApic(raw.id),
            4 => ScopeKind::Hpet(raw.id),
            5 => ScopeKind::Named(raw.id),
            other => ScopeKind::Other(other),
        };
        let mut path = Vec::new();
        while let Some(step) = steps.next(|_| Some(2)) {
            if let &[device, function] = step?.bytes {
                path.push(Step { device, function });
            }
        }
        scopes.push(Scope { kind, bus: raw.bus, path });
    }
    Ok(scopes)
}
