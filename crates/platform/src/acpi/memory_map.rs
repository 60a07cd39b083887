//! The memory map, which a boot loader hands over beside ACPI's tables.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use axvm_addr::{Hpa, PAGE_SIZE, Span};

use crate::memory::{merge, without};
use crate::model::{Kept, KeptWhat};

/// What a range of the memory map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// RAM that is free once firmware is done.
    Usable,
    /// RAM with ACPI's tables.
    AcpiTables,
    /// Memory that firmware keeps, whoever runs.
    AcpiNvs,
    /// Something that isn't to be touched.
    Reserved,
    /// RAM that is broken.
    Bad,
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where.
    pub span: Span<Hpa>,
    /// What.
    pub kind: MemoryKind,
}

/// A memory map as a boot loader left it. Nothing is copied: it can be asked before there is memory.
#[derive(Clone, Copy, Debug)]
pub enum MemoryMap<'a> {
    /// As the BIOS call E820 gives it (ACPI 6.5, 15.1), in entries of so many bytes: in multiboot2's tag 6, and with 24 bytes an entry in
    /// the start info of PVH.
    E820 {
        /// The entries.
        bytes: &'a [u8],
        /// How many bytes each has.
        entry: usize,
    },
    /// As UEFI gives it (UEFI 2.10, 7.2.3).
    Efi {
        /// The entries.
        bytes: &'a [u8],
        /// How many bytes each has.
        entry: usize,
    },
    /// Read already.
    Ranges(&'a [MemoryRange]),
}

/// What is behind the first megabyte's hole, of which no map has to say anything: the VGA's memory and firmware's ROMs.
pub(super) const LEGACY: (u64, u64) = (0xa_0000, 0x6_0000);

impl MemoryMap<'_> {
    /// Calls `f` with each range. One that can't be is passed by: what isn't said to be memory isn't taken for any.
    pub fn each(&self, f: &mut dyn FnMut(MemoryRange)) {
        match *self {
            Self::Ranges(ranges) => ranges.iter().copied().for_each(f),
            Self::E820 { bytes, entry } => {
                for entry in bytes.chunks_exact(entry.max(20)) {
                    let number = |at, size| number(entry, at, size);
                    let range = e820(number(0, 8), number(8, 8), number(16, 4));
                    range.into_iter().for_each(&mut *f);
                }
            }
            Self::Efi { bytes, entry } => {
                for entry in bytes.chunks_exact(entry.max(40)) {
                    let number = |at, size| number(entry, at, size);
                    let range = efi(number(0, 4), number(8, 8), number(24, 8), number(32, 8));
                    range.into_iter().for_each(&mut *f);
                }
            }
        }
    }

    /// All of them.
    pub fn ranges(&self) -> Vec<MemoryRange> {
        let mut ranges = Vec::new();
        self.each(&mut |range| ranges.push(range));
        ranges
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let bytes = bytes.get(at..at + size).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A span that ends where the address space does, if it would go further.
fn span(start: u64, size: u64) -> Option<Span<Hpa>> {
    Span::new(Hpa(start), size.min(u64::MAX - start)).ok().filter(|span| !span.is_empty())
}

fn e820(start: u64, size: u64, kind: u64) -> Option<MemoryRange> {
    let kind = match kind {
        1 => MemoryKind::Usable,
        3 => MemoryKind::AcpiTables,
        4 => MemoryKind::AcpiNvs,
        5 => MemoryKind::Bad,
        _ => MemoryKind::Reserved,
    };
    Some(MemoryRange { span: span(start, size)?, kind })
}

fn efi(kind: u64, start: u64, pages: u64, attributes: u64) -> Option<MemoryRange> {
    /// EFI_MEMORY_WB; EFI_MEMORY_SP: memory that is for something special; EFI_MEMORY_RUNTIME: what firmware goes on to use.
    const CACHED: u64 = 1 << 3;
    const SPECIAL: u64 = 1 << 18;
    const RUNTIME: u64 = 1 << 63;
    let is_ram = attributes & (CACHED | SPECIAL | RUNTIME) == CACHED;
    let kind = match kind {
        // The loader's and the boot services' code and data, and what is free.
        1..=4 | 7 if is_ram => MemoryKind::Usable,
        8 => MemoryKind::Bad,
        9 => MemoryKind::AcpiTables,
        10 => MemoryKind::AcpiNvs,
        _ => MemoryKind::Reserved,
    };
    Some(MemoryRange { span: span(start, pages.saturating_mul(PAGE_SIZE))?, kind })
}

/// RAM: what is usable by one entry, and something else by none.
pub(super) fn memory(ranges: &[MemoryRange]) -> Vec<Span<Hpa>> {
    let of = |usable: bool| {
        let of_it = ranges.iter().filter(move |range| (range.kind == MemoryKind::Usable) == usable);
        merge(of_it.map(|range| range.span).collect())
    };
    let mut others = of(false);
    others.extend(Span::new(Hpa(LEGACY.0), LEGACY.1));
    without(of(true), &merge(others))
}

/// The rest.
pub(super) fn kept(ranges: &[MemoryRange]) -> Vec<Kept> {
    let keep = |span, owner: &str| Kept { span, what: KeptWhat::Machine, owner: owner.to_string() };
    let others = ranges.iter().filter(|range| range.kind != MemoryKind::Usable);
    let mut kept: Vec<Kept> = others.map(|range| keep(range.span, &owner(range.kind))).collect();
    kept.extend(Span::new(Hpa(LEGACY.0), LEGACY.1).map(|span| keep(span, "VGA memory and firmware's ROMs")));
    kept
}

fn owner(kind: MemoryKind) -> String {
    let owner = match kind {
        MemoryKind::Usable => "RAM",
        MemoryKind::AcpiTables => "ACPI's tables",
        MemoryKind::AcpiNvs => "memory that firmware keeps",
        MemoryKind::Reserved => "memory or registers that firmware has reserved",
        MemoryKind::Bad => "memory that is broken",
    };
    owner.to_string()
}
