//! The state in which a vCPU begins.

use crate::vmcb::{Attributes, Save, Segment};

/// EFER.SVME: VMRUN refuses a guest without it. The guest doesn't see it.
pub const EFER_SVME: u64 = 1 << 12;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// PAT after a reset (AMD64 APM 2, 7.8.2).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;

/// Where and how a vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As after a reset: at 0xffff_fff0, in real mode.
    Reset,
    /// By a start-up interrupt, which follows an INIT: in real mode, at the page of this number.
    Sipi {
        /// The page's number.
        vector: u8,
    },
    /// Linux by its 64-bit entry (Documentation/arch/x86/boot.rst, "64-bit boot protocol").
    Linux64 {
        /// The entry: guest-physical, which is linear.
        entry: u64,
        /// `boot_params`, in RSI.
        boot_params: u64,
        /// Page tables that map what they map to itself.
        cr3: u64,
        /// A GDT whose third entry (0x10) is flat code of 64 bits, the fourth (0x18) flat data.
        gdt: Gdt,
    },
    /// A kernel by its PVH entry (Xen's docs/misc/pvh.pandoc): 32 bits, flat, no paging.
    Pvh {
        /// The entry.
        entry: u32,
        /// `hvm_start_info`, in EBX.
        start_info: u32,
    },
    /// A 64-bit image of its own: as [`Start::Linux64`], with the start information in RSI and RDI.
    Flat64 {
        /// The entry.
        entry: u64,
        /// What RSI and RDI hold.
        argument: u64,
        /// Page tables that map what they map to itself.
        cr3: u64,
        /// Its GDT.
        gdt: Gdt,
    },
}

/// A global descriptor table in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gdt {
    /// Its address.
    pub base: u64,
    /// Its size in bytes, less one.
    pub limit: u16,
}

/// All that a vCPU begins with. x87, SSE and XCR0 are as after a reset (FCW 0x37f for what boots without firmware, MXCSR 0x1f80, XCR0 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What the VMCB holds.
    pub save: Save,
    /// General-purpose registers by their numbers, rAX (0) and rSP (4) as in the save area.
    pub registers: [u64; 16],
}

impl Start {
    /// The state. `signature` is EAX of CPUID 1, which EDX holds after a reset or an INIT.
    pub fn state(&self, signature: u32) -> State {
        let mut registers = [0; 16];
        let mut save = reset();
        match *self {
            Self::Reset => registers[2] = u64::from(signature),
            Self::Sipi { vector } => {
                registers[2] = u64::from(signature);
                save.cs.selector = u16::from(vector) << 8;
                save.cs.base = u64::from(vector) << 12;
                save.rip = 0;
            }
            Self::Linux64 { entry, boot_params, cr3, gdt } => {
                long_mode(&mut save, entry, cr3, gdt);
                registers[6] = boot_params;
            }
            Self::Flat64 { entry, argument, cr3, gdt } => {
                long_mode(&mut save, entry, cr3, gdt);
                registers[6] = argument;
                registers[7] = argument;
            }
            Self::Pvh { entry, start_info } => {
                save.cs = flat(0x10, Attributes::CODE32);
                data(&mut save, 0x18);
                save.tr = Segment { selector: 0, attributes: Attributes::TASK_BUSY, limit: 0x67, base: 0 };
                save.cr0 = CR0_PE | CR0_ET;
                save.rip = u64::from(entry);
                registers[3] = u64::from(start_info);
            }
        }
        State { save, registers }
    }
}

/// After a reset, at 0xffff_fff0 (AMD64 APM 2, 14.1.3). CD and NW aren't set: caches are never off (`control`'s selective write of CR0). MCE
/// is: a machine check would shut the CPU down without it (`cr`). The task register has a segment of 32 bits, as Intel's processors begin
/// (SDM 3, table 10-1) and not one of 16 bits as AMD's: there are processors that refuse long mode with the latter (SDM 3, 10.8.5.1),
/// before which hardly any kernel loads another on CPUs that it starts.
fn reset() -> Save {
    let real = |selector, base, attributes| Segment { selector, attributes, limit: 0xffff, base };
    let data = real(0, 0, Attributes::DATA16);
    let mut save = Save::zero();
    (save.es, save.ss, save.ds, save.fs, save.gs) = (data, data, data, data, data);
    save.cs = real(0xf000, 0xffff_0000, Attributes::CODE16);
    save.gdtr = Segment::table(0, 0xffff);
    save.ldtr = real(0, 0, Attributes::LDT);
    save.idtr = Segment::table(0, 0xffff);
    save.tr = real(0, 0, Attributes::TASK_BUSY);
    save.efer = EFER_SVME;
    save.cr4 = CR4_MCE;
    save.cr0 = CR0_ET;
    save.dr7 = 0x400;
    save.dr6 = 0xffff_0ff0;
    save.rflags = 2;
    save.rip = 0xfff0;
    save.g_pat = PAT_RESET;
    save
}

const fn flat(selector: u16, attributes: Attributes) -> Segment {
    Segment { selector, attributes, limit: 0xffff_ffff, base: 0 }
}

fn data(save: &mut Save, selector: u16) {
    let segment = flat(selector, Attributes::DATA32);
    (save.ds, save.es, save.ss) = (segment, segment, segment);
    (save.fs, save.gs) = (segment, segment);
}

fn long_mode(save: &mut Save, entry: u64, cr3: u64, gdt: Gdt) {
    save.cs = flat(0x10, Attributes::CODE64);
    data(save, 0x18);
    save.tr = Segment { selector: 0, attributes: Attributes::TASK_BUSY, limit: 0x67, base: 0 };
    save.gdtr = Segment::table(gdt.base, gdt.limit);
    save.idtr = Segment::table(0, 0);
    save.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    save.cr4 = CR4_MCE | CR4_PAE;
    save.efer = EFER_SVME | EFER_LME | EFER_LMA;
    save.cr3 = cr3;
    save.rip = entry;
}

#[cfg(test)]
mod tests;
