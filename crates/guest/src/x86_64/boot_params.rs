//! The boot parameters, called "zero page": what Linux's 64-bit entry is handed (Documentation/arch/x86/zero-page.rst and boot.rst).

use alloc::vec;
use alloc::vec::Vec;

use axvm_addr::{Gpa, PAGE_SIZE, Span};

use super::e820::Range;
use crate::image::Setup;

/// Where fields are in it (arch/x86/include/uapi/asm/bootparam.h). What isn't here stays 0, as the protocol wants it: `screen_info` says so that
/// there is no screen.
const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const EXT_LOADER: usize = 0x226;
const CMD_LINE_PTR: usize = 0x228;
const SETUP_DATA: usize = 0x250;
const E820_TABLE: usize = 0x2d0;

/// Of a header that is longer than the room for it, what fits.
const SETUP_HEADER_END: usize = 0x290;

/// The table's entries, 20 bytes each.
const E820_MOST: usize = 128;
const E820_BYTES: usize = 20;

/// A boot loader without an id of its own.
const UNKNOWN_LOADER: u8 = 0xff;

/// `vid_mode`: as it is.
const VIDEO_NORMAL: u16 = 0xffff;

/// `loadflags`: the kernel is above 1 MiB. That there is a heap for the real-mode part isn't said, as it doesn't run.
const LOADED_HIGH: u8 = 1 << 0;

/// What of a guest the parameters say.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel's setup header.
    pub setup: &'a Setup,
    /// Where the kernel lies.
    pub kernel: Gpa,
    /// Where its command line lies, which ends with a NUL.
    pub command_line: Gpa,
    /// Its initial RAM disk.
    pub initrd: Option<Span<Gpa>>,
    /// Where ACPI's tables begin.
    pub rsdp: Gpa,
    /// Its memory.
    pub memory: &'a [Range],
}

/// The parameters: a page.
pub fn write(boot: &Boot<'_>) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(room) = page.get_mut(at..at.saturating_add(bytes.len())) {
            room.copy_from_slice(bytes);
        }
    };
    let header = &boot.setup.header;
    put(SETUP_HEADER, header.get(..SETUP_HEADER_END - SETUP_HEADER).unwrap_or(header));
    let halves = |value: u64| [(value as u32).to_le_bytes(), ((value >> 32) as u32).to_le_bytes()];
    put(ACPI_RSDP_ADDR, &boot.rsdp.0.to_le_bytes());
    put(VID_MODE, &VIDEO_NORMAL.to_le_bytes());
    put(TYPE_OF_LOADER, &[UNKNOWN_LOADER, LOADED_HIGH]);
    put(CODE32_START, &(boot.kernel.0 as u32).to_le_bytes());
    // What a file may have there is for loaders to say.
    put(HEAP_END_PTR, &[0; EXT_LOADER + 2 - HEAP_END_PTR]);
    put(SETUP_DATA, &[0; 8]);
    let (initrd, size) = boot.initrd.map_or((0, 0), |at| (at.start().0, at.size()));
    let [low, high] = halves(initrd);
    put(RAMDISK_IMAGE, &low);
    put(EXT_RAMDISK_IMAGE, &high);
    let [low, high] = halves(size);
    put(RAMDISK_SIZE, &low);
    put(EXT_RAMDISK_SIZE, &high);
    let [low, high] = halves(boot.command_line.0);
    put(CMD_LINE_PTR, &low);
    put(EXT_CMD_LINE_PTR, &high);
    let memory = boot.memory.get(..E820_MOST).unwrap_or(boot.memory);
    put(E820_ENTRIES, &[memory.len() as u8]);
    for (number, range) in memory.iter().enumerate() {
        let at = E820_TABLE + number * E820_BYTES;
        put(at, &range.span.start().0.to_le_bytes());
        put(at + 8, &range.span.size().to_le_bytes());
        put(at + 16, &(range.kind as u32).to_le_bytes());
    }
    page
}

const _: () = assert!(LOADFLAGS == TYPE_OF_LOADER + 1, "they are written as one");

#[cfg(test)]
mod tests {
    use super::super::e820::Kind;
    use super::*;

    fn field<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
        page[at..at + N].try_into().unwrap()
    }

    #[test]
    fn a_kernel_finds_its_header_its_memory_and_what_it_is_handed() {
        // A header that claims what only a loader may say, and is longer than there is room.
        let mut header = vec![0x5a; 0x100];
        header[0x202 - 0x1f1..][..4].copy_from_slice(b"HdrS");
        let setup = Setup { header, command_line: 2047, initrd_last: u64::MAX };
        let span = |start, size| Span::new(Gpa(start), size).unwrap();
        let memory = [
            Range { span: span(0, 0x9_fc00), kind: Kind::Ram },
            Range { span: span(0x9_fc00, 0x6_0400), kind: Kind::Reserved },
        ];
        let boot = Boot {
            setup: &setup,
            kernel: Gpa(0x100_0000),
            command_line: Gpa(0x1_0000),
            initrd: Some(span(0x1_2345_6000, 0x1_0000_0003)),
            rsdp: Gpa(0xe_0000),
            memory: &memory,
        };
        let page = write(&boot);
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x230], 0x5a, "what the kernel says of itself stays");
        assert_eq!(&page[0x28f..0x291], &[0x5a, 0], "the header ends where the next field begins");
        assert!(page[..0x70].iter().all(|&byte| byte == 0), "no screen");
        assert_eq!(u64::from_le_bytes(field(&page, 0x70)), 0xe_0000);
        assert_eq!((page[0x210], page[0x211]), (0xff, 1));
        assert_eq!(u16::from_le_bytes(field(&page, 0x1fa)), 0xffff);
        assert_eq!(u32::from_le_bytes(field(&page, 0x214)), 0x100_0000);
        assert_eq!(u32::from_le_bytes(field(&page, 0x218)), 0x2345_6000);
        assert_eq!(u32::from_le_bytes(field(&page, 0xc0)), 1);
        assert_eq!((u32::from_le_bytes(field(&page, 0x21c)), u32::from_le_bytes(field(&page, 0xc4))), (3, 1));
        assert_eq!(
            (u32::from_le_bytes(field(&page, 0x228)), u32::from_le_bytes(field(&page, 0xc8))),
            (0x1_0000, 0)
        );
        assert_eq!(u64::from_le_bytes(field(&page, 0x250)), 0, "no setup_data");
        assert_eq!(u32::from_le_bytes(field(&page, 0x224)), 0);
        assert_eq!(page[0x1e8], 2);
        assert_eq!(page[0x1ef], 0, "the sentinel by which Linux knows a loader that cleared the page");
        assert_eq!(u64::from_le_bytes(field(&page, 0x2d0 + 20)), 0x9_fc00);
        assert_eq!(u64::from_le_bytes(field(&page, 0x2d0 + 28)), 0x6_0400);
        assert_eq!(u32::from_le_bytes(field(&page, 0x2d0 + 36)), 2);
    }

    #[test]
    fn without_a_ram_disk_none_is_named_whatever_the_file_has_there() {
        let setup = Setup { header: vec![0xee; 0x77], command_line: 2047, initrd_last: 0 };
        let boot = Boot {
            setup: &setup,
            kernel: Gpa(0),
            command_line: Gpa(0),
            initrd: None,
            rsdp: Gpa(0),
            memory: &[],
        };
        let page = write(&boot);
        assert_eq!((field::<8>(&page, 0x218), field::<8>(&page, 0xc0)), ([0; 8], [0; 8]));
    }
}
