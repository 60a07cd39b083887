//! What must be known of ACPI's tables before there is memory to read them into: how many CPUs there are, the console, how much
//! memory reading takes, where memory is free. Nothing is allocated; every question walks again.
//!
//! The full reader ([`super::read`]) is asked for all else. What the two say of memory must agree, and whoever uses both should see to it
//! that it does.

use axvm_acpi::{GenericAddress, Listed, Memory, Space, list, listed, spcr::Spcr};
use axvm_addr::{Address, Hpa, Ports, Span};

use super::memory_map::{LEGACY, MemoryKind, MemoryMap};
use super::{AcpiError, LOWEST, UART_PORTS, com1};
use crate::uart::{EarlyConsole, UartPlace, of_pc};

/// ACPI's tables, walked once.
#[derive(Clone, Copy)]
pub struct Outline<'a, M> {
    memory: M,
    map: MemoryMap<'a>,
    rsdp: Hpa,
    /// How many CPUs there are, at most.
    pub cpus: usize,
    /// How many IOMMUs there are, at most.
    pub iommus: usize,
    /// Bytes of all tables.
    size: u64,
    console: Option<EarlyConsole>,
}

/// Bytes of heap for each byte of tables. The namespace of QEMU's takes 20 of them; one of nothing but empty devices would take 32.
const HEAP_PER_BYTE: u64 = 64;
/// Bytes of heap that a reading takes whatever the tables are: what evaluating a method may take, and the memory map.
const HEAP: u64 = 1 << 20;
/// Where a FADT has the DSDT: in 32 bits, and in 64 (ACPI 6.5, 5.2.9).
const DSDT: u64 = 40;
const WIDE_DSDT: u64 = 140;
/// Where the records of a MADT begin (5.2.12).
const MADT_RECORDS: u64 = 44;
/// More CPUs aren't counted.
const MOST_CPUS: usize = 4096;
/// Where the blocks of an IVRS and of a DMAR begin (AMD 48882, 5.2; Intel VT-d, 8.1).
const IOMMU_BLOCKS: u64 = 48;
/// More of them aren't looked at.
const MOST_IOMMU_BLOCKS: usize = 1024;
/// Bytes of an SPCR that matter (its address, and what it is).
const SPCR_SIZE: usize = 80;

impl<'a, M: Memory> Outline<'a, M> {
    /// Walks the tables that an RSDP leads to.
    ///
    /// # Errors
    ///
    /// [`AcpiError`]: there are no tables, or none that says how many CPUs there are.
    pub fn open(memory: M, rsdp: Hpa, map: MemoryMap<'a>) -> Result<Self, AcpiError> {
        let (mut cpus, mut iommus, mut size, mut uart) = (None, 0, 0u64, Ok(None));
        each(&memory, rsdp, &mut |table| {
            size = size.saturating_add(table.bytes.into());
            match &table.signature.0 {
                b"APIC" => cpus = cpus.or(Some(count_cpus(&memory, &table))),
                b"SPCR" => uart = spcr(&memory, &table),
                b"IVRS" => iommus = iommus.max(count_ivhds(&memory, &table)),
                b"DMAR" => iommus = iommus.max(count_drhds(&memory, &table)),
                _ => {}
            }
        })?;
        let cpus =
            cpus.ok_or(AcpiError::Missing("APIC", "which CPUs and interrupt controllers there are"))?;
        // An SPCR that says nothing usable: there is no console. Without any it is where PCs have it.
        let place = match uart {
            Ok(Some(ports)) => Some(ports),
            Ok(None) => com1(),
            Err(NoConsole) => None,
        };
        let console = place.and_then(at_ports);
        Ok(Self { memory, map, rsdp, cpus, iommus, size, console })
    }

    /// Bytes of heap that [`super::read`] takes, at most.
    pub fn heap(&self) -> u64 {
        self.size.saturating_mul(HEAP_PER_BYTE).saturating_add(HEAP)
    }

    /// The console: the SPCR's, else the first serial port of a PC, whether or not there is one.
    pub fn console(&self) -> Option<EarlyConsole> {
        self.console
    }

    /// Calls `f` with the places of all tables.
    pub fn tables(&self, f: &mut dyn FnMut(Span<Hpa>)) {
        // They were walked before.
        let _ = tables(&self.memory, self.rsdp, f);
    }

    /// Reads them. There is memory now.
    ///
    /// # Errors
    ///
    /// [`AcpiError`] names the table that can't be used.
    pub fn read(&self) -> Result<crate::model::Platform, AcpiError> {
        super::read(&self.memory, self.rsdp, &self.map, &super::no_config)
    }

    /// `size` bytes of memory, aligned to `align`, of which `taken`, the tables and whatever isn't usable memory have nothing: as high as
    /// can be. `None`: there are none.
    ///
    /// # Errors
    ///
    /// None: it is for those who ask one outline or another.
    pub fn free(&self, size: u64, align: u64, taken: &[Span<Hpa>]) -> Result<Option<Span<Hpa>>, AcpiError> {
        let mut best: Option<Span<Hpa>> = None;
        self.map.each(&mut |range| {
            if range.kind != MemoryKind::Usable {
                return;
            }
            let bank = range.span;
            let mut top = bank.end().0;
            // Each turn goes below something that is in the way, so that it ends.
            while let Some(start) = top.checked_sub(size).map(|start| start & !(align.max(1) - 1)) {
                let Ok(span) = Span::new(Hpa(start), size) else { break };
                if !bank.encloses(&span) {
                    break;
                }
                let mut below: Option<u64> = None;
                let mut look = |other: Span<Hpa>| {
                    if other.to_pages().overlaps(&span) {
                        let start = other.start().0;
                        below = Some(below.map_or(start, |lowest| lowest.min(start)));
                    }
                };
                taken.iter().copied().for_each(&mut look);
                self.map.each(&mut |other| {
                    if other.kind != MemoryKind::Usable {
                        look(other.span);
                    }
                });
                self.tables(&mut look);
                for (start, size) in [LEGACY, LOWEST] {
                    Span::new(Hpa(start), size).into_iter().for_each(&mut look);
                }
                match below {
                    Some(lowest) => top = lowest,
                    None => {
                        if best.is_none_or(|best| best.start() < span.start()) {
                            best = Some(span);
                        }
                        break;
                    }
                }
            }
        });
        Ok(best)
    }
}

/// A PC's serial port at these ports.
fn at_ports(ports: Ports) -> Option<EarlyConsole> {
    Some(EarlyConsole { uart: of_pc()?, place: UartPlace::Ports(ports), clock_hz: None })
}

/// The first serial port of a PC, whether or not there is one: for whoever can't ask the tables.
pub fn first_console() -> Option<EarlyConsole> {
    com1().and_then(at_ports)
}

/// There is no console, and that is known.
struct NoConsole;

/// Calls `f` with each table, the DSDT among them.
fn each(memory: &impl Memory, rsdp: Hpa, f: &mut dyn FnMut(Listed)) -> Result<(), AcpiError> {
    let mut fadt = None;
    list(memory, rsdp, &mut |table| {
        if table.signature.0 == *b"FACP" {
            fadt = Some(table);
        }
        f(table);
    })?;
    if let Some(fadt) = fadt {
        let number = |offset: u64, size: usize| {
            let mut bytes = [0; 8];
            let at = fadt.at.checked_add(offset)?;
            let is_there =
                offset + size as u64 <= fadt.bytes.into() && memory.read(at, bytes.get_mut(..size)?);
            Some(u64::from_le_bytes(bytes)).filter(|&at| is_there && at != 0)
        };
        let dsdt = number(WIDE_DSDT, 8).or_else(|| number(DSDT, 4));
        dsdt.and_then(|at| listed(memory, Hpa(at)).ok()).into_iter().for_each(f);
    }
    Ok(())
}

/// Calls `f` with the places of all tables.
pub(super) fn tables(memory: &impl Memory, rsdp: Hpa, f: &mut dyn FnMut(Span<Hpa>)) -> Result<(), AcpiError> {
    each(memory, rsdp, &mut |table| {
        Span::new(table.at, table.bytes.into()).into_iter().for_each(&mut *f);
    })
}

/// The records of a MADT that are CPUs' (5.2.12.2, 5.2.12.12).
fn count_cpus(memory: &impl Memory, madt: &Listed) -> usize {
    let (mut at, mut cpus) = (MADT_RECORDS, 0);
    while at + 2 <= u64::from(madt.bytes) && cpus < MOST_CPUS {
        let mut head = [0; 2];
        let is_read = madt.at.checked_add(at).is_some_and(|place| memory.read(place, &mut head));
        let [kind, length] = head;
        if !is_read || length < 2 {
            break;
        }
        cpus += usize::from(matches!(kind, 0 | 9));
        at += u64::from(length);
    }
    cpus
}

/// The IOMMUs of an IVRS. One that has several blocks, of different types, is one: it has the same id and segment in each (48882, 5.2.2).
fn count_ivhds(memory: &impl Memory, ivrs: &Listed) -> usize {
    /// Bytes of a block of the shortest type.
    const BLOCK: usize = 24;
    let identity = |block: &[u8; BLOCK]| {
        let &[0x10 | 0x11 | 0x40, _, _, _, id, more_id, .., segment, more_segment, _, _, _, _, _, _] = block
        else {
            return None;
        };
        Some([id, more_id, segment, more_segment])
    };
    let length = |block: &[u8; BLOCK]| u16::from_le_bytes([block[2], block[3]]);
    let mut count = 0;
    each_block(memory, ivrs, length, &mut |at, block| {
        let Some(own) = identity(block) else { return };
        let mut is_new = true;
        each_block(memory, ivrs, length, &mut |other, block| {
            is_new &= other >= at || identity(block) != Some(own);
        });
        count += usize::from(is_new);
    });
    count
}

/// The units of a DMAR: its structures of type 0 (VT-d, 8.3).
fn count_drhds(memory: &impl Memory, dmar: &Listed) -> usize {
    let mut count = 0;
    let length = |block: &[u8; 4]| u16::from_le_bytes([block[2], block[3]]);
    each_block(memory, dmar, length, &mut |_, block| count += usize::from(block[..2] == [0, 0]));
    count
}

/// Calls `f` with where each block of a table is, and its first bytes; `length` says by them how long it is.
fn each_block<const N: usize>(
    memory: &impl Memory,
    table: &Listed,
    length: impl Fn(&[u8; N]) -> u16,
    f: &mut dyn FnMut(u64, &[u8; N]),
) {
    let mut at = IOMMU_BLOCKS;
    for _ in 0..MOST_IOMMU_BLOCKS {
        let mut bytes = [0; N];
        let left = u64::from(table.bytes).saturating_sub(at).min(N as u64) as usize;
        let is_read = table
            .at
            .checked_add(at)
            .zip(bytes.get_mut(..left))
            .is_some_and(|(place, into)| into.len() >= 4 && memory.read(place, into));
        let length = u64::from(length(&bytes));
        if !is_read || length < 4 {
            break;
        }
        f(at, &bytes);
        at += length;
    }
}

/// The ports that an SPCR names.
fn spcr(memory: &impl Memory, table: &Listed) -> Result<Option<Ports>, NoConsole> {
    let mut bytes = [0; SPCR_SIZE];
    if u64::from(table.bytes) < SPCR_SIZE as u64 || !memory.read(table.at, &mut bytes) {
        return Ok(None);
    }
    let Some(spcr) = Spcr::of_bytes(&bytes) else { return Ok(None) };
    spcr_ports(&spcr).map(Some).ok_or(NoConsole)
}

/// The ports of the console that an SPCR names, if it is a 16550 at ports.
pub(super) fn spcr_ports(spcr: &Spcr) -> Option<Ports> {
    /// What 16550s are (DBG2, table 3).
    const KINDS: [u8; 3] = [0, 1, 0x12];
    let GenericAddress { space, address, .. } = spcr.registers?;
    let first = u16::try_from(address).ok().filter(|_| space == Space::Port && KINDS.contains(&spcr.kind))?;
    Ports::of(first, UART_PORTS)
}
