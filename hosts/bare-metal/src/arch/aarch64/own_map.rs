//! The hypervisor's own address space: identity, each part with just the rights it needs, nothing both writable and
//! executable, nothing mapped below a stack.

use aarch64_paging::descriptor::El23Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion, PAGE_SIZE};
use alloc::boxed::Box;
use axvm_addr::{Hpa, Span};
use axvm_paging::early::{self, EarlyTables, Kinds, NoTables};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;

use super::descriptor::{EARLY_DEVICE, EARLY_MEMORY};
use super::secondary::SecondaryBoot;
use super::sysreg::{dsb, isb, mrs, msr};
use crate::log;

/// MAIR_EL2: 0 Device-nGnRE, 1 Normal write-back, 2 Normal non-cacheable, 3
/// Device-nGnRnE (Arm ARM, D24.2.109).
const MAIR: u64 = 0x0044_ff04;

const NORMAL: El23Attributes = El23Attributes::ATTRIBUTE_INDEX_1
    .union(El23Attributes::INNER_SHAREABLE)
    .union(El23Attributes::VALID)
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1);
const DEVICE: El23Attributes = El23Attributes::ATTRIBUTE_INDEX_0
    .union(El23Attributes::OUTER_SHAREABLE)
    .union(El23Attributes::VALID)
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1);
const CONFIG: El23Attributes = El23Attributes::ATTRIBUTE_INDEX_3
    .union(El23Attributes::OUTER_SHAREABLE)
    .union(El23Attributes::VALID)
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::USER_RES1);
const _: () = assert!(MAIR >> 24 == 0, "nGnRnE");

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
    /// Config space of PCI: a write is over when the function has it (PCIe 7.2.2: they are non-posted), so no bus on the way
    /// may acknowledge it early.
    Config,
    /// Nothing.
    None,
}

/// The map while it is built.
pub struct Builder {
    map: IdMap<El2>,
}

impl Builder {
    /// An empty map.
    pub fn new() -> Self {
        Self { map: IdMap::new(0, El2) }
    }

    /// Maps whole pages around `start..end`; a later call overrides an earlier one.
    pub fn map(&mut self, start: u64, end: u64, rights: Rights) -> Result<(), aarch64_paging::MapError> {
        let attributes = match rights {
            Rights::Code => NORMAL | El23Attributes::READ_ONLY,
            Rights::Constants => NORMAL | El23Attributes::READ_ONLY | El23Attributes::XN,
            Rights::Data => NORMAL | El23Attributes::XN,
            Rights::Device => DEVICE | El23Attributes::XN,
            Rights::Config => CONFIG | El23Attributes::XN,
            Rights::None => El23Attributes::empty(),
        };
        self.map.map_range(&MemoryRegion::new(start as usize, end as usize), attributes)
    }

    /// Switches this CPU over, with windows for so many CPUs, and gives what the others need for it. The map stays for good.
    ///
    /// # Safety
    ///
    /// The map must hold everything that Rust uses: code, constants, data, the stack, and the devices that are accessed.
    pub unsafe fn activate(self, cpus: usize) -> Option<SecondaryBoot> {
        let map = Box::leak(Box::new(self.map));
        map.mark_active();
        let root = map.root_address().0 as u64;
        // SAFETY: the root is this map's, which nobody walks yet.
        unsafe { crate::window::install(Hpa(root), cpus)? };
        let boot =
            SecondaryBoot { mair: MAIR, tcr: tcr(), ttbr: root, sctlr: sctlr(), stack: 0, argument: 0 };
        dsb!("ish");
        // The early map and this one cut the same addresses into blocks of other sizes. A walk of one must not meet what a TLB
        // has of the other (DDI 0487, D8.16.1: break-before-make is for changes of TTBR too), and a map that code runs by can't
        // be broken, but by turning the MMU off: everything here is where it is, mapped or not, and memory has the code as the
        // caches have it, since nobody has written to it.
        // SAFETY: by the caller's promise about the map, execution goes on as before under it. Between the two writes of
        // SCTLR_EL2 there are only registers.
        unsafe {
            core::arch::asm!(
                "msr sctlr_el2, {off}",
                "isb",
                "msr ttbr0_el2, {root}",
                "isb",
                "tlbi alle2",
                "dsb nsh",
                "isb",
                "msr sctlr_el2, {on}",
                "isb",
                off = in(reg) boot.sctlr & !(SCTLR_M | SCTLR_C),
                on = in(reg) boot.sctlr,
                root = in(reg) boot.ttbr,
                options(nostack),
            );
        }
        *MAP.lock() = Some(map);
        Some(boot)
    }
}

/// The map in use, once it is.
static MAP: Mutex<Option<&'static mut IdMap<El2>>> = Mutex::new(None);

/// Adds registers that the device tree doesn't name, and so boot hasn't mapped, in whole pages. What is mapped already stays
/// as it is.
pub fn add_device(registers: Span<Hpa>) -> Result<(), aarch64_paging::MapError> {
    let mut map = MAP.lock();
    let Some(map) = map.as_mut() else { return Ok(()) };
    let pages = registers.to_pages();
    for start in (pages.start().0 as usize..pages.end().0 as usize).step_by(PAGE_SIZE) {
        let page = MemoryRegion::new(start, start + PAGE_SIZE);
        let mut mapped = false;
        // An error says that nothing is there.
        let _ = map.walk_range(&page, &mut |_, descriptor, _| {
            mapped |= descriptor.is_valid();
            Ok(())
        });
        if !mapped {
            map.map_range(&page, DEVICE | El23Attributes::XN)?;
        }
    }
    // An entry that wasn't valid is in no TLB.
    dsb!("ishst");
    isb!();
    Ok(())
}

/// SCTLR_EL2.M and C: translation, and cacheable data.
const SCTLR_M: u64 = 1;
const SCTLR_C: u64 = 1 << 2;

/// Adds memory, where nothing is mapped yet, in blocks of 2 MiB: only to show that it isn't there otherwise.
pub fn add_memory(memory: Span<Hpa>) {
    let mut map = MAP.lock();
    let Some(map) = map.as_mut() else { return };
    for start in (memory.start().0 as usize..memory.end().0 as usize).step_by(1 << 21) {
        let block = MemoryRegion::new(start, start + (1 << 21));
        let mut mapped = false;
        let _ = map.walk_range(&block, &mut |_, descriptor, _| {
            mapped |= descriptor.is_valid();
            Ok(())
        });
        if !mapped && map.map_range(&block, NORMAL | El23Attributes::XN).is_err() {
            log::error!("memory at {start:#x} can't be mapped");
        }
    }
    dsb!("ishst");
    isb!();
}

/// TCR_EL2 with HCR_EL2.E2H=0 (Arm ARM, D24.2.184): 48-bit addresses, 4 KiB granule, write-back inner shareable walks, physical size
/// as the CPU has it.
fn tcr() -> u64 {
    let physical = (mrs!("id_aa64mmfr0_el1") & 0xf).min(5);
    (1 << 31) | (1 << 23) | physical << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 16
}

/// SCTLR_EL2 with HCR_EL2.E2H=0 (Arm ARM, D24.2.156): RES1 bits, MMU and caches on, SP alignment checked, what is writable
/// never executable.
fn sctlr() -> u64 {
    const RES1: u64 = 0x30c5_0830;
    const SA: u64 = 1 << 3;
    const I: u64 = 1 << 12;
    const WXN: u64 = 1 << 19;
    RES1 | SCTLR_M | SCTLR_C | SA | I | WXN
}

/// A table of the time between the first instruction and the first look at the device tree.
#[repr(C, align(4096))]
struct EarlyTable([u64; 512]);

/// One level 0 table, and of the levels below three for the image, five for the device tree, three for the console, six for the
/// pool: each across one boundary at the most.
const EARLY_TABLES: usize = 20;

// Not in `.bss`: each is cleared when it is first used.
#[unsafe(link_section = ".uninit")]
static mut EARLY: MaybeUninit<[EarlyTable; EARLY_TABLES]> = MaybeUninit::uninit();

/// How many of them are in use.
static EARLY_USED: AtomicUsize = AtomicUsize::new(0);

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
        early_table()
    }
}

fn early_table() -> Option<Hpa> {
    // Not one atomic step: the MMU may be off, and no other CPU runs.
    let next = EARLY_USED.load(Ordering::Relaxed);
    EARLY_USED.store(next + 1, Ordering::Relaxed);
    if next >= EARLY_TABLES {
        return None;
    }
    let table = (&raw mut EARLY).cast::<EarlyTable>().wrapping_add(next);
    let table = table.cast::<u64>();
    for entry in 0..512 {
        // SAFETY: inside the array, and nobody else's. One by one: the MMU may be off, where blocks can't be zeroed.
        unsafe { table.add(entry).write_volatile(0) };
    }
    Some(Hpa(table as u64))
}

/// Adds pages to the early map ([`early::map`]).
///
/// # Safety
///
/// For the first CPU alone, before [`Builder::activate`]; `rights` (`Device`, or anything for memory) must be right for what is
/// there.
pub unsafe fn early_map(start: u64, end: u64, rights: Rights) -> Result<(), NoTables> {
    let attributes = if rights == Rights::Device { EARLY_DEVICE } else { EARLY_MEMORY };
    if EARLY_USED.load(Ordering::Relaxed) == 0 {
        early_table().ok_or(NoTables)?;
    }
    let mapped = early::map(&mut Early, Kinds::ARM, Hpa(&raw const EARLY as u64), start, end, attributes);
    dsb!("sy");
    isb!();
    mapped
}

/// Turns on the MMU with the image as normal memory, writable and executable: its parts can't be told apart yet
/// (WXN stays off until [`Builder::activate`]).
///
/// # Safety
///
/// For the first CPU alone, before anything else; `start..end` must hold the image with its stack.
pub unsafe fn early_enable(start: u64, end: u64) -> Result<(), NoTables> {
    // SAFETY: by the caller's promise.
    unsafe { early_map(start, end, Rights::Code)? };
    let root = &raw const EARLY as u64;
    // SAFETY: the tables map the image with its stack one to one, so that the next instruction is where it was.
    unsafe {
        msr!("mair_el2", MAIR);
        msr!("tcr_el2", tcr());
        msr!("ttbr0_el2", root);
        isb!();
        core::arch::asm!("tlbi alle2", "dsb sy", "isb", options(nostack));
        msr!("sctlr_el2", sctlr() & !(1 << 19));
    }
    isb!();
    Ok(())
}
