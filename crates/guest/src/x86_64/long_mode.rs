//! The GDT and the page tables with which 64-bit code begins: flat segments, and memory where it is.

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{Gpa, PAGE_SIZE};

/// The selectors of Linux's boot protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL": `__BOOT_CS`, `__BOOT_DS`), and that of a
/// TSS, without which no processor runs a guest.
pub const CODE: u16 = 0x10;
/// Data and stack.
pub const DATA: u16 = 0x18;
/// The TSS.
pub const TASK: u16 = 0x20;

/// Descriptors (AMD64 Architecture Programmer's Manual, volume 2, 4.7 and 4.8): 64-bit code, that is executed and read; data that is read and
/// written; both flat, present, for the most privileged, accessed already. The TSS, busy, has two slots and the least limit that one may have.
const DESCRIPTORS: [u64; 6] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0];

/// Bytes that the GDT takes.
pub const GDT_BYTES: u64 = 8 * DESCRIPTORS.len() as u64;

/// The GDT.
pub fn gdt() -> Vec<u8> {
    DESCRIPTORS.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect()
}

/// How much is mapped, from 0 on: all that 32 bits address, where all that a kernel is handed lies.
pub const MAPPED: u64 = 1 << 32;

/// What a table spans by one entry: of page directories, by large pages (volume 2, 5.3).
const LARGE: u64 = 2 << 20;
const DIRECTORY: u64 = 1 << 30;

/// Entries: present and written, and in directories large.
const TABLE: u64 = 0b11;
const PAGE: u64 = 1 << 7 | 0b11;

/// Bytes that the page tables take: two above the directories, of which there is one for each GiB.
pub const TABLES_BYTES: u64 = (2 + MAPPED / DIRECTORY) * PAGE_SIZE;

/// The page tables, which lie at `at` and begin with the root.
pub fn page_tables(at: Gpa) -> Vec<u8> {
    let table = |number: u64| at.0 + number * PAGE_SIZE;
    let mut bytes = vec![0; TABLES_BYTES as usize];
    let mut set = |table: u64, entry: u64, value: u64| {
        let start = (table * PAGE_SIZE + entry * 8) as usize;
        if let Some(slot) = bytes.get_mut(start..start + 8) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    };
    set(0, 0, table(1) | TABLE);
    for directory in 0..MAPPED / DIRECTORY {
        set(1, directory, table(2 + directory) | TABLE);
        for page in 0..DIRECTORY / LARGE {
            set(2 + directory, page, (directory * DIRECTORY + page * LARGE) | PAGE);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an address becomes, as a processor walks the tables (volume 2, 5.3.3).
    fn walk(bytes: &[u8], root: u64, address: u64) -> Option<u64> {
        let mut table = root;
        for level in (0..4u32).rev() {
            let shift = 12 + 9 * level;
            let at = (table - root + (address >> shift & 511) * 8) as usize;
            let entry = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
            if entry & 1 == 0 {
                return None;
            }
            if entry & 1 << 7 != 0 {
                let mask = (1 << shift) - 1;
                return (level == 1 && entry & 2 != 0).then_some((entry & !mask & !0xfff) | (address & mask));
            }
            table = entry & !0xfff;
        }
        None
    }

    #[test]
    fn all_of_32_bits_is_where_it_is_and_nothing_else_is_mapped() {
        let bytes = page_tables(Gpa(0x2000));
        assert_eq!(bytes.len() as u64, TABLES_BYTES);
        for address in [0, 0x10_0200, 0x3fff_ffff, 0x4000_0000, 0xfee0_0020, 0xffff_ffff] {
            assert_eq!(walk(&bytes, 0x2000, address), Some(address), "{address:#x}");
        }
        for address in [1 << 32, 1 << 39, 0x7fff_ffff_f000] {
            assert_eq!(walk(&bytes, 0x2000, address), None, "{address:#x}");
        }
    }

    #[test]
    fn selectors_lead_to_flat_segments() {
        let gdt = gdt();
        assert_eq!(gdt.len() as u64, GDT_BYTES);
        let descriptor = |selector: u16| {
            let at = usize::from(selector);
            u64::from_le_bytes(gdt[at..at + 8].try_into().unwrap())
        };
        let (code, data, task) = (descriptor(CODE), descriptor(DATA), descriptor(TASK));
        // Present, of a segment, executable; 64 bits, so not 32.
        assert_eq!((code >> 44 & 0xf, code >> 43 & 1, code >> 53 & 1, code >> 54 & 1), (0b1001, 1, 1, 0));
        assert_eq!((data >> 44 & 0xf, data >> 43 & 1, data >> 41 & 1), (0b1001, 0, 1));
        assert_eq!((task >> 40 & 0xff, task & 0xffff), (0x8b, 0x67));
    }
}
