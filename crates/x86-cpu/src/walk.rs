//! From an instruction's operand to guest-physical memory: segments (AMD64 APM 2, 4.5 to 4.12) and the guest's page tables (5.2 to 5.6).
//!
//! Only read: accessed and dirty bits stay as they are. Tables are the guest's, and may change at any time: whatever is there, a walk reads
//! one entry per level and ends.

use crate::event::{Exception, PageFault};
use crate::start::EFER_LMA;
use crate::vmcb::{Save, Segment};
use axvm_x86_access::{Code, Segment as Name};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads data.
    Read,
    /// It writes data, or reads and writes.
    Write,
    /// It fetches an instruction.
    Fetch,
}

/// There is no memory of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has no memory at {0:#x}")]
pub struct NoMemory(pub u64);

/// The guest's memory, by guest-physical addresses.
pub trait Memory {
    /// Reads bytes that lie in one page.
    ///
    /// # Errors
    ///
    /// There is no memory.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NoMemory>;
}

/// Why an address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest's page tables say so: it takes a #PF.
    Page(PageFault),
    /// A page table, or the instruction, lies where the guest has no memory.
    Memory(NoMemory),
}

impl From<NoMemory> for Fault {
    fn from(error: NoMemory) -> Self {
        Self::Memory(error)
    }
}

const CR0_PE: u64 = 1 << 0;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_VM: u64 = 1 << 17;
const RFLAGS_AC: u64 = 1 << 18;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// How large operands and addresses are at CS:RIP.
pub fn code(save: &Save) -> Code {
    if is_64_bit(save) {
        Code::Bits64
    } else if save.cs.attributes.is_big() {
        Code::Bits32
    } else {
        Code::Bits16
    }
}

fn is_64_bit(save: &Save) -> bool {
    save.efer & EFER_LMA != 0 && save.cs.attributes.is_long()
}

fn segment(save: &Save, name: Name) -> &Segment {
    match name {
        Name::Es => &save.es,
        Name::Cs => &save.cs,
        Name::Ss => &save.ss,
        Name::Ds => &save.ds,
        Name::Fs => &save.fs,
        Name::Gs => &save.gs,
    }
}

/// The same in 64-bit mode, whether it is one that can be had or not.
#[inline(always)]
pub fn linear_in_64_bits(save: &Save, name: Name, offset: u64) -> u64 {
    let base = match name {
        Name::Fs => save.fs.base,
        Name::Gs => save.gs.base,
        Name::Es | Name::Cs | Name::Ss | Name::Ds => 0,
    };
    base.wrapping_add(offset)
}

/// The linear address of an operand of so many bytes.
///
/// # Errors
///
/// What the guest takes: #SS where the segment is SS, else #GP.
pub fn linear(save: &Save, name: Name, offset: u64, bytes: u64, access: Access) -> Result<u64, Exception> {
    let fault = if name == Name::Ss { Exception::Stack(0) } else { Exception::GP };
    let state = segment(save, name);
    let beyond = bytes.saturating_sub(1);
    if is_64_bit(save) {
        let first = linear_in_64_bits(save, name, offset);
        let last = first.checked_add(beyond).ok_or(fault)?;
        let bits = if save.cr4 & CR4_LA57 != 0 { 57 } else { 48 };
        let canonical = |address: u64| {
            let unused = 64 - bits;
            ((address << unused) as i64 >> unused) as u64 == address
        };
        return if canonical(first) && canonical(last) { Ok(first) } else { Err(fault) };
    }
    let offset = offset & 0xffff_ffff;
    let last = offset + beyond;
    let attributes = state.attributes;
    let limit = u64::from(state.limit);
    if save.cr0 & CR0_PE != 0 && save.rflags & RFLAGS_VM == 0 {
        let allowed = match access {
            Access::Read => !attributes.is_code() || attributes.is_readable_or_writable(),
            Access::Write => !attributes.is_code() && attributes.is_readable_or_writable(),
            Access::Fetch => attributes.is_code(),
        };
        if !attributes.is_present() || !attributes.is_code_or_data() || !allowed {
            return Err(fault);
        }
    }
    let within = if attributes.is_expand_down() {
        let top = if attributes.is_big() { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    if within { Ok(state.base.wrapping_add(offset) & 0xffff_ffff) } else { Err(fault) }
}

/// How the guest's page tables are laid out.
#[derive(Clone, Copy)]
struct Layout {
    levels: u32,
    /// Bits of the address that a level takes.
    bits: u32,
    /// Bytes of an entry.
    entry: usize,
}

/// The guest-physical address of a linear one, for an access at the guest's privilege level. `physical_bits` is how wide the guest's physical
/// addresses are.
///
/// # Errors
///
/// What the guest takes, or that its tables lie nowhere.
pub fn translate(
    save: &Save,
    linear: u64,
    access: Access,
    physical_bits: u8,
    memory: &impl Memory,
) -> Result<u64, Fault> {
    translate_by(save, linear, access, physical_bits, memory)
}

/// The same for any memory: compiled once, and as this crate is (for speed), not as its user.
pub(crate) fn translate_by(
    save: &Save,
    linear: u64,
    access: Access,
    physical_bits: u8,
    memory: &dyn Memory,
) -> Result<u64, Fault> {
    if save.cr0 & CR0_PG == 0 {
        return Ok(linear);
    }
    let long = save.efer & EFER_LMA != 0;
    let linear = if long { linear } else { linear & 0xffff_ffff };
    let pae = save.cr4 & CR4_PAE != 0;
    let layout = match (long, pae) {
        (true, _) => Layout { levels: if save.cr4 & CR4_LA57 != 0 { 5 } else { 4 }, bits: 9, entry: 8 },
        (false, true) => Layout { levels: 3, bits: 9, entry: 8 },
        (false, false) => Layout { levels: 2, bits: 10, entry: 4 },
    };
    let is_user = save.cpl == 3;
    let no_execute = save.efer & EFER_NXE != 0 && layout.entry == 8;
    let fault = |present_and_reserved: u32| {
        let mut error = present_and_reserved;
        error |= u32::from(access == Access::Write) << 1;
        error |= u32::from(is_user) << 2;
        let tells_fetch = no_execute || save.cr4 & CR4_SMEP != 0;
        error |= u32::from(access == Access::Fetch && tells_fetch) << 4;
        Fault::Page(PageFault { address: linear, error })
    };
    let physical_mask = (1u64 << physical_bits.clamp(32, 52)) - 1;
    // Rights of all levels together: an entry can take away only.
    let mut rights = WRITABLE | USER;
    let mut forbidden = 0;
    let mut table = match (long, pae) {
        (true, _) => save.cr3 & physical_mask & !0xfff,
        (false, true) => save.cr3 & 0xffff_ffe0,
        (false, false) => save.cr3 & 0xffff_f000,
    };
    for level in (1..=layout.levels).rev() {
        let shift = 12 + layout.bits * (level - 1);
        let index = linear >> shift & ((1 << layout.bits) - 1);
        let mut bytes = [0; 8];
        memory.read(table + index * layout.entry as u64, bytes.get_mut(..layout.entry).unwrap_or(&mut []))?;
        let entry = u64::from_le_bytes(bytes);
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        let is_pdpte = !long && pae && level == 3;
        let large = match (layout.entry, level) {
            (_, 1) => false,
            (4, _) => save.cr4 & CR4_PSE != 0 && entry & LARGE != 0,
            _ => entry & LARGE != 0,
        };
        let is_last = level == 1 || large && level <= if long { 3 } else { 2 };
        if reserved(entry, &layout, level, large, is_last, is_pdpte, no_execute, physical_mask) {
            return Err(fault(1 | 1 << 3));
        }
        if !is_pdpte {
            rights &= entry;
            forbidden |= entry & NO_EXECUTE;
        }
        let frame = if layout.entry == 4 && is_last && level == 2 {
            // PSE-36: bits 20:13 are bits 39:32 (5.2.2).
            entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
        } else {
            entry & physical_mask & !0xfff
        };
        if is_last {
            let page = (1u64 << shift) - 1;
            return if allowed(save, access, is_user, rights, no_execute && forbidden != 0) {
                Ok(frame & !page | linear & page)
            } else {
                Err(fault(1))
            };
        }
        table = frame;
    }
    // Every path through level 1 has returned.
    Err(fault(0))
}

/// Whether an entry has a reserved bit set (5.3 and 5.4).
#[allow(clippy::too_many_arguments)]
fn reserved(
    entry: u64,
    layout: &Layout,
    level: u32,
    large: bool,
    is_last: bool,
    is_pdpte: bool,
    no_execute: bool,
    physical_mask: u64,
) -> bool {
    if layout.entry == 4 {
        // Of a 4 MiB page, bit 21, and what of bits 20:13 is above the physical address.
        let above = (entry >> 13 & 0xff) << 32 & !physical_mask;
        return is_last && level == 2 && (entry & 1 << 21 != 0 || above != 0);
    }
    let above = !physical_mask & 0x000f_ffff_ffff_ffff;
    if is_pdpte {
        // Writable, user, large and no-execute are reserved here, as are bits 8:5.
        return entry & (above | 0x7ff0_0000_0000_0000 | NO_EXECUTE | 0x1e6) != 0;
    }
    let mut mask = above;
    if !no_execute {
        mask |= NO_EXECUTE;
    }
    if layout.levels == 3 {
        mask |= 0x7ff0_0000_0000_0000;
    }
    if is_last && level > 1 {
        // Between the PAT bit and the page's frame.
        mask |= ((1u64 << (12 + 9 * (level - 1))) - 1) & !0x1fff;
    } else if large {
        // A page of 512 GiB or more.
        mask |= LARGE;
    }
    entry & mask != 0
}

/// Whether rights allow an access (5.6).
fn allowed(save: &Save, access: Access, is_user: bool, rights: u64, no_execute: bool) -> bool {
    let user_page = rights & USER != 0;
    let writable = rights & WRITABLE != 0;
    if is_user && !user_page {
        return false;
    }
    if !is_user && user_page {
        let smap = save.cr4 & CR4_SMAP != 0 && save.rflags & RFLAGS_AC == 0;
        let smep = save.cr4 & CR4_SMEP != 0;
        if if access == Access::Fetch { smep } else { smap } {
            return false;
        }
    }
    match access {
        Access::Read => true,
        Access::Write => writable || !is_user && save.cr0 & CR0_WP == 0,
        Access::Fetch => !no_execute,
    }
}

#[cfg(test)]
mod tests;
