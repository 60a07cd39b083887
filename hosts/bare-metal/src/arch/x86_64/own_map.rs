//! The hypervisor's own address space: identity, each part with just the rights it needs, nothing both writable and
//! executable, nothing mapped below a stack.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};

use alloc::vec::Vec;
use axvm_addr::{Address, Gpa, Hpa, PAGE_SIZE, Span};
use axvm_paging::early::{self, EarlyTables, Kinds, NoTables};
use axvm_paging::{Attributes, HostFormat, MapError, Mapper, MemoryType};
use spin::Mutex;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use super::cpu::{has_huge_blocks, physical_address_bits};
use super::secondary::SecondaryBoot;
use super::stage2::Tables;
use crate::log;

/// What may be done with a part of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Instructions.
    Code,
    /// Constants.
    Constants,
    /// Memory.
    Data,
    /// Registers.
    Device,
    /// Config space of PCI: accesses to uncached memory are over when they are answered.
    Config,
    /// Nothing.
    None,
}

impl Rights {
    fn attributes(self) -> Option<Attributes> {
        let read_only = Attributes { write: false, ..Attributes::DMA };
        match self {
            Self::Code => Some(Attributes { execute: true, ..read_only }),
            Self::Constants => Some(read_only),
            Self::Data => Some(Attributes::DMA),
            Self::Device | Self::Config => Some(Attributes::REGISTERS),
            Self::None => None,
        }
    }
}

/// Whole pages with the same rights.
struct Part {
    start: u64,
    end: u64,
    rights: Rights,
}

/// The map while it is built.
pub struct Builder {
    /// Not overlapping.
    parts: Vec<Part>,
}

impl Builder {
    /// An empty map.
    pub const fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// Maps whole pages around `start..end`; a later call overrides an earlier one.
    pub fn map(&mut self, start: u64, end: u64, rights: Rights) -> Result<(), MapError> {
        let start = start & !(PAGE_SIZE - 1);
        let end = end.next_multiple_of(PAGE_SIZE);
        let before = core::mem::take(&mut self.parts);
        for part in before {
            // What of it is before, and what behind.
            for (from, to) in [(part.start, part.end.min(start)), (part.start.max(end), part.end)] {
                if from < to {
                    self.parts.push(Part { start: from, end: to, rights: part.rights });
                }
            }
        }
        if start < end {
            self.parts.push(Part { start, end, rights });
        }
        Ok(())
    }

    /// Switches this CPU over, with windows for so many CPUs, and gives what the others need for it. The map stays for good.
    ///
    /// # Safety
    ///
    /// The map must hold everything that Rust uses: code, constants, data, the stack, and the devices that are accessed.
    pub unsafe fn activate(self, cpus: usize) -> Option<SecondaryBoot> {
        let format = HostFormat::new(physical_address_bits().into(), has_huge_blocks());
        let mut map = Mapper::new(Tables, format).ok()?;
        for part in self.parts {
            let Some(attributes) = part.rights.attributes() else { continue };
            map.map(Span::new(Gpa(part.start), part.end - part.start).ok()?, Hpa(part.start), attributes)
                .ok()?;
        }
        let root = map.root();
        // SAFETY: the root is this map's, which nobody walks yet.
        unsafe { crate::window::install(root, cpus)? };
        let frame = PhysFrame::from_start_address(PhysAddr::try_new(root.0).ok()?).ok()?;
        // SAFETY: by the caller's promise about the map, execution goes on as before under it. With CR3 go all translations, as none is
        // global.
        unsafe { Cr3::write(frame, Cr3Flags::empty()) };
        *MAP.lock() = Some(map);
        Some(SecondaryBoot { root: root.0, stack: 0, argument: 0 })
    }
}

/// The map in use, once it is.
static MAP: Mutex<Option<Mapper<Tables, HostFormat>>> = Mutex::new(None);

/// Adds what isn't mapped of these pages. An entry that wasn't present is in no TLB.
fn add(span: Span<Hpa>, attributes: Attributes) -> Result<(), MapError> {
    let mut map = MAP.lock();
    let Some(map) = map.as_mut() else { return Ok(()) };
    let pages = span.to_pages();
    let mut at = pages.start().0;
    while at < pages.end().0 {
        let unmapped = |at: &u64| map.query(Gpa(*at)).is_none();
        let run =
            (at..pages.end().0).step_by(PAGE_SIZE as usize).take_while(unmapped).count() as u64 * PAGE_SIZE;
        if run > 0
            && let Ok(span) = Span::new(Gpa(at), run)
        {
            map.map(span, Hpa(at), attributes)?;
        }
        at += run.max(PAGE_SIZE);
    }
    Ok(())
}

/// How an address is mapped.
#[cfg(feature = "protection-off")]
pub fn query(at: Hpa) -> Option<Attributes> {
    MAP.lock().as_ref()?.query(Gpa(at.0)).map(|(_, attributes, _)| attributes)
}

/// Adds registers that the platform doesn't name, and so boot hasn't mapped, in whole pages. What is mapped already stays
/// as it is.
pub fn add_device(registers: Span<Hpa>) -> Result<(), MapError> {
    add(registers, Attributes::REGISTERS)
}

/// Adds memory, for a test image that shows what the map keeps out. What is mapped already stays as it is.
pub fn add_memory(bank: Span<Hpa>) {
    if add(bank, Attributes { memory: MemoryType::Normal, ..Attributes::DMA }).is_err() {
        log::error!("memory at {:#x} can't be mapped", bank.start().get());
    }
}

/// A table of the time between the first instruction and the switch to the real map.
#[repr(C, align(4096))]
struct EarlyTable([u64; 512]);

/// Beside the three that the first instructions make. What is mapped early: the loader's words, tables of ACPI, registers of the
/// console and of whatever ACPI needs, the pool.
const EARLY_TABLES: usize = 32;

// Not in `.bss`: each is cleared when it is first used.
#[unsafe(link_section = ".uninit")]
static mut EARLY: MaybeUninit<[EarlyTable; EARLY_TABLES]> = MaybeUninit::uninit();

/// How many of them are in use.
static EARLY_USED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static early_root: u8;
}

/// The early tables, while one CPU runs.
struct Early;

impl EarlyTables for Early {
    fn read(&self, entry: Hpa) -> u64 {
        // SAFETY: an entry of one of the tables, which are this CPU's alone.
        unsafe { (entry.0 as *const u64).read_volatile() }
    }

    fn write(&mut self, entry: Hpa, value: u64) {
        // SAFETY: as above.
        unsafe { (entry.0 as *mut u64).write_volatile(value) }
    }

    fn table(&mut self) -> Option<Hpa> {
        let next = EARLY_USED.fetch_add(1, Ordering::Relaxed);
        if next >= EARLY_TABLES {
            return None;
        }
        let table = (&raw mut EARLY).cast::<EarlyTable>().wrapping_add(next);
        // SAFETY: inside the array, and nobody else's.
        unsafe { table.write_bytes(0, 1) };
        Some(Hpa(table as u64))
    }
}

/// Adds pages to the early map ([`early::map`]).
///
/// # Safety
///
/// For the first CPU alone, before [`Builder::activate`]; `rights` (`Device`, or anything for memory) must be right for what is
/// there.
pub unsafe fn early_map(start: u64, end: u64, rights: Rights) -> Result<(), NoTables> {
    /// R/W, A, D; PCD and PWT: uncached (AMD APM 2, 5.4.1, 7.8.1).
    const MEMORY: u64 = 1 << 1 | 1 << 5 | 1 << 6;
    const REGISTERS: u64 = MEMORY | 1 << 3 | 1 << 4;
    let attributes = if rights == Rights::Device { REGISTERS } else { MEMORY };
    early::map(&mut Early, Kinds::X86, Hpa(&raw const early_root as u64), start, end, attributes)
}
