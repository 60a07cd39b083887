//! The entry by a boot loader of x86: what it hands over says where memory, the bundle and ACPI's tables are, and these say the rest.

use core::sync::atomic::{AtomicU64, Ordering};

use axvm_addr::{Hpa, PciAddress, Span};
use axvm_axdevice::Width;
use axvm_platform::acpi::handed::{self, Handed, HandedError};
use axvm_platform::acpi::outline::{Outline, first_console};
use axvm_platform::acpi::{self, AcpiError, Chipset, Lead, Memory};
use axvm_platform::model::Platform;

use crate::arch::{self, Rights};
use crate::boot_info::BootInfo;
use crate::{boot, console};

/// What describes the machine.
pub struct PlatformSource<'a> {
    /// The tables, as far as they can be read without allocating.
    outline: Outline<'a, Early>,
    handed: Handed<'a>,
}

/// Bytes of heap for what each IOMMU has in memory whatever is assigned: of AMD's a device table of 2 MiB, in one piece, of Intel's an
/// interrupt table of 1 MiB and tables of devices.
const HEAP_FOR_IOMMU: u64 = 2 << 20;
/// The same for their rings, and for interrupt tables, of which a device takes 32 KiB.
const HEAP_FOR_DEVICES: u64 = 4 << 20;

/// In how many places what it is read from is, at most.
pub const PLACES: usize = handed::PLACES;

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
        self.outline.heap() + HEAP_FOR_IOMMU * self.outline.iommus.max(1) as u64 + HEAP_FOR_DEVICES
    }

    /// Where it is for good: outside of memory that is free.
    pub const fn span(&self) -> Option<Span<Hpa>> {
        None
    }

    /// The memory that it is read from.
    pub const fn places(&self) -> [Span<Hpa>; PLACES] {
        self.handed.places
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
        acpi::read(&Early, self.handed.rsdp, &self.handed.map, &ByPorts)
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

/// The page that was read last, by its last address: it is mapped, as what the first map has it keeps.
static LAST_PAGE: AtomicU64 = AtomicU64::new(0);

impl Memory for Early {
    fn read(&self, at: Hpa, into: &mut [u8]) -> bool {
        let Ok(span) = Span::new(at, into.len() as u64) else { return false };
        if into.is_empty() || span.end().0 > 1 << 48 {
            return into.is_empty();
        }
        // Tables are read byte by byte: most of the time it is the page that was read last.
        let page = at.0 | 0xfff;
        let is_known = LAST_PAGE.load(Ordering::Relaxed) == page && span.end().0 - 1 <= page;
        // SAFETY: firmware's tables, or what its tables take for such: reading memory or nothing changes nothing.
        unsafe {
            if !is_known {
                boot::early_map(span, Rights::Data);
                LAST_PAGE.store(page, Ordering::Relaxed);
            }
            core::ptr::copy_nonoverlapping(at.0 as *const u8, into.as_mut_ptr(), into.len());
        }
        true
    }
}

/// The chipset as AML reaches it: of the first segment the first 256 bytes of each function, by the ports for it (PCI 3.0, 3.2.2.3.2). It is
/// for the time before config space is mapped, when one CPU alone is at work.
struct ByPorts;

impl ByPorts {
    /// Chooses a register. Gives the port in which it is seen.
    fn choose(function: PciAddress, offset: u16) -> Option<u16> {
        const ADDRESS: u16 = 0xcf8;
        const DATA: u16 = 0xcfc;
        if function.segment != 0 || offset > 0xff {
            return None;
        }
        let register = u32::from(function.requester_id()) << 8 | u32::from(offset & 0xfc);
        arch::write_port(ADDRESS, Width::B4, 1 << 31 | register);
        Some(DATA + (offset & 3))
    }
}

impl Chipset for ByPorts {
    fn config(&self, function: PciAddress, offset: u16, bytes: u8) -> Option<u64> {
        let width = Width::from_bytes(bytes.into()).filter(|width| *width != Width::B8)?;
        Some(arch::read_port(Self::choose(function, offset)?, width).into())
    }

    fn lead(&self, lead: Lead) -> bool {
        match lead {
            Lead::Port { port, value } => arch::write_port(port, Width::B1, value.into()),
            Lead::Config { function, offset, value } => match Self::choose(function, offset) {
                Some(port) => arch::write_port(port, Width::B4, value),
                None => return false,
            },
        }
        true
    }
}

/// By which protocol a boot loader has entered the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's direct boot.
    Pvh,
    /// GNU's second one.
    Multiboot2,
}

/// Bytes that the boot loader has left, until memory is given to VMs.
fn left(at: Hpa, bytes: u64) -> Option<&'static [u8]> {
    let span = Span::new(at, bytes).ok().filter(|span| at != Hpa(0) && !span.is_empty())?;
    if span.end().0 > 1 << 48 {
        return None;
    }
    // SAFETY: the boot protocols: what is handed over is there, in memory that nobody writes before it was read. What names another place is
    // the boot loader's fault, and reading memory or nothing changes nothing.
    unsafe {
        boot::early_map(span, Rights::Data);
        Some(core::slice::from_raw_parts(at.0 as *const u8, bytes as usize))
    }
}

/// Called by the architecture's first instructions, on the first CPU, with the image mapped: the address of what the boot loader has
/// handed over, and the clock at the first of them.
pub fn with_handed(protocol: Protocol, at: Hpa, start: u64) -> ! {
    let handed = match protocol {
        Protocol::Pvh => handed::pvh::read(at, &left),
        Protocol::Multiboot2 => handed::multiboot2::read(at, &left),
    };
    let handed = handed.unwrap_or_else(|error| refuse(error));
    let outline =
        Outline::open(Early, handed.rsdp, handed.map).unwrap_or_else(|error| boot::last_words(&error));
    boot::main(BootInfo {
        platform: PlatformSource { outline, handed },
        initrd: handed.bundle,
        memory: MemoryMap(outline),
        console: outline.console(),
        start,
    })
}

/// Says why it can't be booted, where a PC has its first serial port: there is no table that could say another place.
fn refuse(error: HandedError) -> ! {
    if let Some(console) = first_console() {
        // SAFETY: nothing goes on after this that anybody else at these ports could mind.
        unsafe { console::init(console.uart, console.place, console.clock_hz) };
    }
    boot::last_words(&error)
}
