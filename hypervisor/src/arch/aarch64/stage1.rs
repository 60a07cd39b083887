//! The hypervisor's own address space: identity, each part with just the rights it needs, nothing both writable and
//! executable, nothing mapped below a stack.

use aarch64_paging::descriptor::El23Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion, PAGE_SIZE};
use alloc::boxed::Box;
use axvm_addr::{Hpa, Span};
use spin::Mutex;

use super::boot::SecondaryBoot;
use super::sysreg::{dsb, isb, mrs, msr};

/// MAIR_EL2: 0 Device-nGnRE, 1 Normal write-back, 2 Normal non-cacheable (Arm ARM, D24.2.109).
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
            Rights::None => El23Attributes::empty(),
        };
        self.map.map_range(&MemoryRegion::new(start as usize, end as usize), attributes)
    }

    /// Switches this CPU over, and gives what the others need for it. The map stays for good.
    ///
    /// # Safety
    ///
    /// The map must hold everything that Rust uses: code, constants, data, the stack, and the devices that are accessed.
    pub unsafe fn activate(self) -> SecondaryBoot {
        let map = Box::leak(Box::new(self.map));
        map.mark_active();
        let root = map.root_address().0 as u64;
        let boot =
            SecondaryBoot { mair: MAIR, tcr: tcr(), ttbr: root, sctlr: sctlr(), stack: 0, argument: 0 };
        dsb!("ishst");
        // SAFETY: by the caller's promise about the map, execution goes on as before under it. The early map and this one are
        // both identity, and agree in memory type for what both hold, so no break-before-make is needed.
        unsafe {
            msr!("ttbr0_el2", boot.ttbr);
            isb!();
            core::arch::asm!("tlbi alle2", "dsb nsh", "isb", options(nostack));
            msr!("sctlr_el2", boot.sctlr);
        }
        isb!();
        *MAP.lock() = Some(map);
        boot
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
    const M: u64 = 1;
    const C: u64 = 1 << 2;
    const SA: u64 = 1 << 3;
    const I: u64 = 1 << 12;
    const WXN: u64 = 1 << 19;
    RES1 | M | C | SA | I | WXN
}

/// Tables for the time between the first instruction and the first look at the device tree: 2 MiB blocks of normal memory.
#[repr(C, align(4096))]
struct EarlyTable([u64; 512]);

/// One level 0, two level 1 and four level 2 tables: enough for the image and the device tree wherever they are, each
/// across one boundary.
///
/// All zeros at first, so that they take no room in the image.
struct EarlyTables {
    tables: [EarlyTable; 9],
    /// Tables in use beside the root, which is the first.
    used: usize,
}

static mut EARLY: EarlyTables = EarlyTables { tables: [const { EarlyTable([0; 512]) }; 9], used: 0 };

/// Turns on the MMU with the given spans as normal memory, writable and executable: the image can't be told apart yet
/// (WXN stays off until [`Builder::activate`]).
///
/// # Safety
///
/// For the first CPU alone, before anything else; `spans` must hold the image with its stack.
pub unsafe fn early_enable(spans: &[(u64, u64)]) {
    /// Table or block descriptor, valid (Arm ARM, D8.3).
    const TABLE: u64 = 3;
    /// Block, attribute index 1, inner shareable, accessed.
    const BLOCK: u64 = 1 | 1 << 2 | 3 << 8 | 1 << 10;
    let early = &raw mut EARLY;
    // SAFETY: no other CPU runs, and this function runs once, so nothing else refers to the tables.
    let early = unsafe { &mut *early };
    for &(start, end) in spans {
        let mut block = start & !0x1f_ffff;
        while block < end {
            let mut table = 0;
            for shift in [39, 30] {
                let index = (block >> shift & 511) as usize;
                let entry = early.tables[table].0[index];
                table = if entry == 0 {
                    early.used += 1;
                    let fresh = early.used;
                    early.tables[table].0[index] = &raw const early.tables[fresh] as u64 | TABLE;
                    fresh
                } else {
                    (entry & !0xfff).wrapping_sub(&raw const early.tables[0] as u64) as usize / 4096
                };
            }
            early.tables[table].0[(block >> 21 & 511) as usize] = block | BLOCK;
            block += 0x20_0000;
        }
    }
    let root = &raw const early.tables[0] as u64;
    dsb!("sy");
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
}
