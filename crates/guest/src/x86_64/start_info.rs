//! What a PVH entry is handed (Xen, xen/include/public/arch-x86/hvm/start_info.h, version 1).

use alloc::vec::Vec;

use axvm_addr::{Gpa, Span};

use super::e820::Range;

/// "xEn3" with its highest bit set.
const MAGIC: u32 = 0x336e_c578;

/// The version with a memory map.
const VERSION: u32 = 1;

/// Bytes of the start info itself, of a module and of a range of memory.
const INFO: u64 = 56;
const MODULE: u64 = 32;

/// What of a guest the start info says.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Where its command line lies, which ends with a NUL.
    pub command_line: Gpa,
    /// Its initial RAM disk: the first module.
    pub initrd: Option<Span<Gpa>>,
    /// Where ACPI's tables begin.
    pub rsdp: Gpa,
    /// Its memory.
    pub memory: &'a [Range],
}

/// The start info, and behind it what it refers to; it lies at `at`.
pub fn write(boot: &Boot<'_>, at: Gpa) -> Vec<u8> {
    let modules = u64::from(boot.initrd.is_some());
    let (list, map) = (at.0.saturating_add(INFO), at.0.saturating_add(INFO + modules * MODULE));
    let mut bytes = Vec::new();
    let mut words =
        |words: &[u32]| words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    let double = |value: u64| [value as u32, (value >> 32) as u32];
    words(&[MAGIC, VERSION, 0, modules as u32]);
    words(&double(if modules > 0 { list } else { 0 }));
    words(&double(boot.command_line.0));
    words(&double(boot.rsdp.0));
    words(&double(map));
    words(&[boot.memory.len() as u32, 0]);
    if let Some(initrd) = boot.initrd {
        for value in [initrd.start().0, initrd.size(), 0, 0] {
            words(&double(value));
        }
    }
    for range in boot.memory {
        words(&double(range.span.start().0));
        words(&double(range.span.size()));
        words(&[range.kind as u32, 0]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::e820::Kind;
    use super::*;

    #[test]
    fn what_it_refers_to_follows_it() {
        let span = |start, size| Span::new(Gpa(start), size).unwrap();
        let memory = [Range { span: span(0x10_0000, 0x3ff0_0000), kind: Kind::Ram }];
        let boot = Boot {
            command_line: Gpa(0x1_0000),
            initrd: Some(span(0x3000_0000, 0x1234)),
            rsdp: Gpa(0xe_0000),
            memory: &memory,
        };
        let bytes = write(&boot, Gpa(0x8000));
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let double = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(4), word(8), word(12)), (0x336e_c578, 1, 0, 1));
        assert_eq!((double(16), double(24), double(32)), (0x8038, 0x1_0000, 0xe_0000));
        assert_eq!((double(40), word(48), word(52)), (0x8058, 1, 0));
        assert_eq!((double(56), double(64)), (0x3000_0000, 0x1234));
        assert_eq!((double(88), double(96), word(104), word(108)), (0x10_0000, 0x3ff0_0000, 1, 0));
        assert_eq!(bytes.len(), 112);
        let without = write(&Boot { initrd: None, ..boot }, Gpa(0x8000));
        assert_eq!(without[12..24], [0; 12], "no module and no list of them");
        assert_eq!(without[40..48], 0x8038u64.to_le_bytes());
    }
}
