//! The entry by PVH's boot protocol (xen, docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h): a start info says where memory,
//! the bundle and ACPI's tables are, and these say the rest.

use axvm_addr::{Hpa, Span};
use axvm_platform::acpi::outline::Outline;
use axvm_platform::acpi::{self, AcpiError, Memory};
use axvm_platform::model::Platform;

use crate::arch::Rights;
use crate::boot;
use crate::boot_info::BootInfo;

/// What describes the machine.
pub struct PlatformSource<'a> {
    /// The tables, as far as they can be read without allocating.
    outline: Outline<'a, Early>,
    rsdp: Hpa,
    map: acpi::MemoryMap<'a>,
}

/// Bytes of heap for what AMD's and Intel's IOMMUs have in memory whatever is assigned: a device table of 2 MiB, in one piece, and rings;
/// and for interrupt tables, of which a device takes 32 KiB.
const HEAP_FOR_IOMMUS: u64 = 6 << 20;

/// Tables that other CPUs, in a mode of 32 bits, begin with lie below this.
const LIMIT: Hpa = Hpa(1 << 32);

impl PlatformSource<'_> {
    /// What it is called in messages.
    pub const NAME: &'static str = "ACPI";
    /// Who has the memory that it is in.
    pub const OWNER: &'static str = "the board's ACPI tables";

    /// How many CPUs there are, at most.
    pub fn cpus(&self) -> usize {
        self.outline.cpus
    }

    /// Bytes of heap that reading it takes, at most, and what the machine's controllers take.
    pub fn heap(&self) -> u64 {
        self.outline.heap() + HEAP_FOR_IOMMUS
    }

    /// Where it is: outside of memory that is free.
    pub const fn span(&self) -> Option<Span<Hpa>> {
        None
    }

    /// Below which address memory must lie that the machine's own hardware walks.
    pub const fn memory_limit(&self) -> Option<Hpa> {
        Some(LIMIT)
    }

    /// Reads it. There is a heap.
    ///
    /// # Errors
    ///
    /// What can't be read of it.
    pub fn read(&self) -> Result<Platform, AcpiError> {
        acpi::read(&Early, self.rsdp, &self.map)
    }
}

/// What is known of memory before the platform is read.
pub struct MemoryMap<'a>(Outline<'a, Early>);

impl MemoryMap<'_> {
    /// So many bytes of free memory, aligned, as high as can be, of which `taken` has nothing.
    ///
    /// # Errors
    ///
    /// What can't be read of it.
    pub fn free(&self, size: u64, align: u64, taken: &[Span<Hpa>]) -> Result<Option<Span<Hpa>>, AcpiError> {
        self.0.free(size, align, taken)
    }
}

/// Memory by the first map, to which whatever is read is added: until the hypervisor's own map is in use.
#[derive(Clone, Copy, Debug)]
struct Early;

impl Memory for Early {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let Ok(span) = Span::new(at, into.len() as u64) else { return false };
        if into.is_empty() || span.end().0 > 1 << 48 {
            return into.is_empty();
        }
        // SAFETY: firmware's tables, or what its tables take for such: reading memory or nothing changes nothing.
        unsafe {
            boot::early_map(span, Rights::Data);
            core::ptr::copy_nonoverlapping(at.0 as *const u8, into.as_mut_ptr(), into.len());
        }
        true
    }
}

/// Bytes that the boot loader has left, for good.
///
/// # Safety
///
/// They must be memory that nobody writes.
unsafe fn left(at: u64, bytes: u64) -> Option<&'static [u8]> {
    let span = Span::new(Hpa(at), bytes).ok().filter(|span| at != 0 && !span.is_empty())?;
    // SAFETY: by the caller's promise.
    unsafe {
        boot::early_map(span, Rights::Data);
        Some(core::slice::from_raw_parts(at as *const u8, bytes as usize))
    }
}

/// The start info, of version 1: magic, version, flags, number of modules, and the addresses of the modules, the command line, the RSDP
/// and the memory map, whose number of entries follows.
const START_INFO_BYTES: u64 = 0x38;
const MAGIC: u64 = 0x336e_c578;

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let field = bytes.get(at..at + width).unwrap_or(&[]);
    field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Called by the architecture's first instructions, on the first CPU, with the image mapped: the start info's address, and the clock
/// at the first of them.
pub fn with_start_info(at: Hpa, start: u64) -> ! {
    // SAFETY: the boot protocol: the start info is there, and what it names.
    let info = unsafe { left(at.0, START_INFO_BYTES) }.unwrap_or(&[]);
    if number(info, 0, 4) != MAGIC {
        boot::last_words(&"the boot loader hasn't entered the hypervisor by PVH: it has left no start info")
    }
    let (version, modules) = (number(info, 4, 4), number(info, 0xc, 4));
    if version == 0 {
        boot::last_words(&"the boot loader's start info is of version 0, which has no memory map")
    }
    let (rsdp, entries) = (Hpa(number(info, 0x20, 8)), number(info, 0x30, 4));
    /// An entry of the memory map, and a module: address and size come first in both.
    const ENTRY: u64 = 24;
    const MODULE: u64 = 32;
    // SAFETY: as above.
    let (map, module) = unsafe {
        let map = left(number(info, 0x28, 8), entries * ENTRY).unwrap_or(&[]);
        (map, (modules > 0).then(|| left(number(info, 0x10, 8), MODULE)).flatten())
    };
    let initrd = module.and_then(|module| Span::new(Hpa(number(module, 0, 8)), number(module, 8, 8)).ok());
    let map = || acpi::MemoryMap::E820 { bytes: map, entry: ENTRY as usize };
    let outline = Outline::open(Early, rsdp, map()).unwrap_or_else(|error| boot::last_words(&error));
    boot::main(BootInfo {
        platform: PlatformSource { outline, rsdp, map: map() },
        initrd,
        memory: MemoryMap(outline),
        console: outline.console(),
        start,
    })
}
