//! IVRS: AMD's IOMMUs (48882, 5.2): which devices each serves, and what memory firmware needs its devices to reach.

use alloc::vec::Vec;

use axvm_addr::Hpa;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Error;
use crate::table::{Header, Record, Records, Table, Word};

/// Devices by their ids, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// The id that their requests have, where it isn't their own.
    pub alias: Option<u16>,
    /// What firmware wants to pass: INIT, ExtINT, NMI, LINT0, LINT1, and system management (5.2.2.1, data setting).
    pub settings: u8,
}

/// What stands for a device without a place on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// An I/O APIC, by the id that the MADT gives it.
    IoApic(u8),
    /// An HPET, by its number.
    Hpet(u8),
    /// Something that isn't known.
    Other(u8),
}

/// A device without a place on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialDevice {
    /// What it is.
    pub what: Special,
    /// The id that its requests and interrupts have.
    pub id: u16,
    /// As of [`Devices`].
    pub settings: u8,
}

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// Its own id: it is a PCI function.
    pub id: u16,
    /// Where its capability is in that function's config space.
    pub capability: u16,
    /// The segment of PCI that it serves.
    pub segment: u16,
    /// Its registers.
    pub registers: Hpa,
    /// HtTunEn, PassPW, ResPassPW, Isoc, IotlbSup, Coherent, PreFSup, PPRSup, from bit 0 on (5.2.2.1): the first four are for its control
    /// register.
    pub flags: u8,
    /// What the Extended Feature Register says, where the table has that.
    pub features: Option<u64>,
    /// The devices that it serves.
    pub devices: Vec<Devices>,
    /// Those without a place on PCI.
    pub special: Vec<SpecialDevice>,
    /// Devices that ACPI names (entries of kind 0xf0): their ids.
    pub named: Vec<u16>,
    /// Kinds of entries that aren't known: it serves more than is said here.
    pub unclear: Vec<u8>,
}

impl Iommu {
    /// Whether it serves a device, and by which id that comes. The last entry that names it counts.
    pub fn id_of(&self, device: u16) -> Option<u16> {
        let named = self.devices.iter().rev().find(|it| (it.first..=it.last).contains(&device))?;
        Some(named.alias.unwrap_or(device))
    }
}

/// Memory that firmware has its devices reach, or keeps out of translation (IVMD, 5.2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The first device.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// Where.
    pub start: Hpa,
    /// How many bytes.
    pub bytes: u64,
    /// Unity, IR, IW, exclusion range, from bit 0 on.
    pub flags: u8,
}

/// What the IVRS says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ivrs {
    /// The IOMMUs, each once, by the block that says most.
    pub iommus: Vec<Iommu>,
    /// Memory that firmware's devices need.
    pub reserved: Vec<Reserved>,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    _header: Header,
    _info: U32,
    _reserved: U64,
}

/// IVHD of kind 0x10 (5.2.2.1).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawIommu {
    kind: u8,
    flags: u8,
    _length: Word,
    id: Word,
    capability: Word,
    registers: U64,
    segment: Word,
    _info: Word,
    _features: U32,
}

/// What those of kinds 0x11 and 0x40 have besides.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawWide {
    features: U64,
    _features2: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawReserved {
    kind: u8,
    flags: u8,
    _length: Word,
    first: Word,
    last: Word,
    _reserved: U64,
    start: U64,
    bytes: U64,
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    _kind: u8,
    id: Word,
    settings: u8,
}

/// Of an entry of eight bytes: what an alias and a special device have besides.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMore {
    handle: u8,
    id: Word,
    variety: u8,
}

impl Ivrs {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It isn't an IVRS, or a block or an entry doesn't fit.
    pub fn read(table: &Table) -> Result<Self, Error> {
        let (_, mut records) = table.fixed::<Fixed>(b"IVRS")?;
        let mut ivrs = Self::default();
        // The kind of the block that each IOMMU was taken from.
        let mut kinds: Vec<u8> = Vec::new();
        while let Some(record) = records.next_by_second_word() {
            let record = record?;
            match record.bytes.first().copied() {
                Some(kind @ (0x10 | 0x11 | 0x40)) => {
                    let iommu = read_iommu(&record)?;
                    let same = |it: &Iommu| (it.segment, it.id) == (iommu.segment, iommu.id);
                    match ivrs.iommus.iter().position(same) {
                        // The one with the highest number counts (5.2.2).
                        Some(at) => {
                            if let (Some(had), Some(found)) = (kinds.get_mut(at), ivrs.iommus.get_mut(at))
                                && kind > *had
                            {
                                (*had, *found) = (kind, iommu);
                            }
                        }
                        None => {
                            ivrs.iommus.push(iommu);
                            kinds.push(kind);
                        }
                    }
                }
                Some(0x20..=0x22) => ivrs.reserved.push(read_reserved(&record)?),
                _ => {}
            }
        }
        Ok(ivrs)
    }
}

fn read_iommu(record: &Record<'_>) -> Result<Iommu, Error> {
    let (raw, mut rest) = record.fixed::<RawIommu>()?;
    let mut features = None;
    if raw.kind != 0x10 {
        let wide = rest.next(|_| Some(size_of::<RawWide>())).ok_or_else(|| record.error())??;
        features = Some(wide.fixed::<RawWide>()?.0.features.get());
    }
    let mut iommu = Iommu {
        id: raw.id.get(),
        capability: raw.capability.get(),
        segment: raw.segment.get(),
        registers: Hpa(raw.registers.get()),
        flags: raw.flags,
        features,
        devices: Vec::new(),
        special: Vec::new(),
        named: Vec::new(),
        unclear: Vec::new(),
    };
    read_entries(&mut iommu, rest)?;
    Ok(iommu)
}

/// How long an entry is (5.2.2.1): its kind says, and of one that names a device by ACPI's name, its last byte.
fn entry_length(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        0xf0 => Some(22 + usize::from(*bytes.get(21)?)),
        kind => Some(4 << (kind >> 6)),
    }
}

/// Where a range begins that hasn't ended yet.
struct Begun<'a> {
    at: Record<'a>,
    first: u16,
    alias: Option<u16>,
    settings: u8,
}

fn read_entries(iommu: &mut Iommu, mut entries: Records<'_>) -> Result<(), Error> {
    let mut begun: Option<Begun<'_>> = None;
    while let Some(entry) = entries.next(entry_length) {
        let entry = entry?;
        let kind = entry.bytes.first().copied().unwrap_or(0);
        let (raw, mut rest) = entry.fixed::<RawEntry>()?;
        let (id, settings) = (raw.id.get(), raw.settings);
        let mut more = || rest.next(|_| Some(size_of::<RawMore>())).ok_or_else(|| entry.error())?;
        let (first, last, alias) = match kind {
            // Padding.
            0 => continue,
            1 => (0, u16::MAX, None),
            2 | 0x46 => (id, id, None),
            0x42 => (id, id, Some(more()?.fixed::<RawMore>()?.0.id.get())),
            3 | 0x43 | 0x47 => {
                let alias = if kind == 0x43 { Some(more()?.fixed::<RawMore>()?.0.id.get()) } else { None };
                if begun.is_some() {
                    return Err(entry.half_a_range());
                }
                begun = Some(Begun { at: entry, first: id, alias, settings });
                continue;
            }
            4 => match begun.take() {
                Some(begun) if begun.first <= id => {
                    let Begun { first, alias, settings, .. } = begun;
                    iommu.devices.push(Devices { first, last: id, alias, settings });
                    continue;
                }
                _ => return Err(entry.half_a_range()),
            },
            0x48 => {
                let more = more()?.fixed::<RawMore>()?.0;
                let what = match more.variety {
                    1 => Special::IoApic(more.handle),
                    2 => Special::Hpet(more.handle),
                    other => Special::Other(other),
                };
                iommu.special.push(SpecialDevice { what, id: more.id.get(), settings });
                continue;
            }
            0xf0 => {
                iommu.named.push(id);
                continue;
            }
            other => {
                iommu.unclear.push(other);
                continue;
            }
        };
        iommu.devices.push(Devices { first, last, alias, settings });
    }
    match begun {
        Some(begun) => Err(begun.at.half_a_range()),
        None => Ok(()),
    }
}

fn read_reserved(record: &Record<'_>) -> Result<Reserved, Error> {
    let (raw, _) = record.fixed::<RawReserved>()?;
    let (first, last) = match raw.kind {
        0x20 => (0, u16::MAX),
        0x21 => (raw.first.get(), raw.first.get()),
        _ => (raw.first.get(), raw.last.get()),
    };
    Ok(Reserved { first, last, start: Hpa(raw.start.get()), bytes: raw.bytes.get(), flags: raw.flags })
}
