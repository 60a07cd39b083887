//! What GRUB 2.12 hands over on QEMU's q35 with 2 GiB, after SeaBIOS and after OVMF, as it lay in memory; and what no boot loader should.

use std::vec;
use std::vec::Vec;

use axvm_addr::{Hpa, Span};
use proptest::prelude::*;

use super::{Handed, HandedError, multiboot2, pvh};
use crate::acpi::memory_map::memory;
use crate::acpi::{MemoryKind, MemoryMap};

/// Where they lay.
const BIOS: (u64, &[u8]) = (0x75_e000, include_bytes!("../../../tests/handed/grub-bios.bin"));
const UEFI: (u64, &[u8]) = (0x6_e000, include_bytes!("../../../tests/handed/grub-uefi.bin"));

fn span(start: u64, end: u64) -> Span<Hpa> {
    Span::new(Hpa(start), end - start).unwrap()
}

/// Pieces of memory, each at its address.
fn left<'a>(pieces: &'a [(u64, &'a [u8])]) -> impl Fn(Hpa, u64) -> Option<&'a [u8]> {
    |at, bytes| {
        pieces.iter().find_map(|(start, piece)| {
            let from = usize::try_from(at.0.checked_sub(*start)?).ok()?;
            piece.get(from..from.checked_add(usize::try_from(bytes).ok()?)?)
        })
    }
}

fn by_multiboot2(at: u64, bytes: &[u8]) -> Result<Handed<'_>, HandedError> {
    // The pieces live as long as this call, their bytes longer.
    multiboot2::read(Hpa(at), &|place, size| {
        let from = usize::try_from(place.0.checked_sub(at)?).ok()?;
        bytes.get(from..from.checked_add(usize::try_from(size).ok()?)?)
    })
}

/// The tags of a boot information, each with its type.
fn tags(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut tags) = (8, Vec::new());
    while word(at) != 0 {
        let size = word(at + 4) as usize;
        tags.push((word(at), bytes[at + 8..at + size].to_vec()));
        at = (at + size).next_multiple_of(8);
    }
    tags
}

/// A boot information with these tags.
fn info(tags: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    for (kind, content) in tags.iter().chain([&(0, Vec::new())]) {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((content.len() as u32 + 8).to_le_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let size = bytes.len() as u32;
    bytes[..4].copy_from_slice(&size.to_le_bytes());
    bytes
}

fn without(bytes: &[u8], kind: u32) -> Vec<(u32, Vec<u8>)> {
    tags(bytes).into_iter().filter(|(other, _)| *other != kind).collect()
}

#[test]
fn grub_after_a_bios_hands_over_e820s_map_and_the_first_root_of_acpi() {
    let (at, bytes) = BIOS;
    let handed = by_multiboot2(at, bytes).unwrap();
    assert_eq!(handed.bundle, Some(span(0x6d_f000, 0x75_e000)));
    assert_eq!(handed.places[0], span(at, at + bytes.len() as u64));
    let copy = (handed.rsdp.0 - at) as usize;
    assert_eq!((&bytes[copy..copy + 8], bytes[copy + 15]), (&b"RSD PTR "[..], 0));
    assert!(matches!(handed.map, MemoryMap::E820 { entry: 24, .. }));
    let ranges = handed.map.ranges();
    // As QEMU's fw_cfg has it (etc/e820), with what SeaBIOS adds.
    assert_eq!(memory(&ranges), [span(0, 0x9_fc00), span(0x10_0000, 0x7ffd_f000)]);
    assert!(
        ranges.iter().any(|it| it.span == span(0xb000_0000, 0xc000_0000) && it.kind == MemoryKind::Reserved)
    );
}

#[test]
fn after_uefi_its_own_map_counts_which_agrees_with_what_grub_makes_of_it() {
    let (at, bytes) = UEFI;
    let handed = by_multiboot2(at, bytes).unwrap();
    assert_eq!(handed.bundle, Some(span(0x67_6000, 0x6f_5000)));
    let copy = (handed.rsdp.0 - at) as usize;
    assert_eq!((&bytes[copy..copy + 8], bytes[copy + 15]), (&b"RSD PTR "[..], 2), "the one with an XSDT");
    // Descriptors are larger than what the specification lists of them.
    assert!(matches!(handed.map, MemoryMap::Efi { entry: 48, .. }));
    let ranges = handed.map.ranges();
    let made = tags(bytes).into_iter().find(|(kind, _)| *kind == 6).unwrap().1;
    let made = MemoryMap::E820 { bytes: &made[8..], entry: 24 };
    let ram = memory(&ranges);
    assert_eq!(ram, memory(&made.ranges()));
    // EfiRuntimeServicesData and EfiRuntimeServicesCode, EfiACPIMemoryNVS and EfiReservedMemoryType.
    for kept in [0x7ed3_f000, 0x7f8e_d000, 0x7f9e_d000, 0x7fee_4000, 0x7ff6_8000, 0x80_0000, 0x7fae_d000] {
        assert!(!ram.iter().any(|ram| ram.contains(Hpa(kept))), "{kept:#x}");
    }
}

#[test]
fn what_firmware_goes_on_to_use_is_no_memory_whatever_it_is_called() {
    let descriptor = |kind: u32, start: u64, attributes: u64| {
        let mut bytes = Vec::new();
        bytes.extend(u64::from(kind).to_le_bytes());
        for word in [start, 0, 16, attributes] {
            bytes.extend(u64::to_le_bytes(word));
        }
        bytes
    };
    let of = |kind, attributes| {
        let bytes = descriptor(kind, 0x10_0000, attributes);
        memory(&MemoryMap::Efi { bytes: &bytes, entry: 40 }.ranges())
    };
    let all = [span(0x10_0000, 0x11_0000)];
    // Free memory, write-back; of the loader's and the boot services' too, once they are over.
    for kind in [1, 2, 3, 4, 7] {
        assert_eq!(of(kind, 0xf), all, "{kind}");
    }
    // EFI_MEMORY_RUNTIME; EFI_MEMORY_SP; not cached.
    for attributes in [0xf | 1 << 63, 0xf | 1 << 18, 7] {
        assert_eq!(of(7, attributes), [], "{attributes:#x}");
    }
    for kind in [0, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 0x7000_0000, u32::MAX] {
        assert_eq!(of(kind, 0xf), [], "{kind}");
    }
}

#[test]
fn uefi_that_goes_on_is_refused() {
    let mut tags = tags(UEFI.1);
    tags.push((18, Vec::new()));
    assert_eq!(by_multiboot2(UEFI.0, &info(&tags)).unwrap_err(), HandedError::BootServices);
}

#[test]
fn of_several_modules_none_is_taken_for_the_bundle() {
    let module = |start: u32, end: u32| {
        let mut bytes = [start.to_le_bytes(), end.to_le_bytes()].concat();
        bytes.push(0);
        (3, bytes)
    };
    let with = |modules: &[(u32, Vec<u8>)]| {
        let mut tags = without(BIOS.1, 3);
        tags.extend_from_slice(modules);
        info(&tags)
    };
    let handed =
        |modules: &[(u32, Vec<u8>)]| by_multiboot2(BIOS.0, &with(modules)).map(|handed| handed.bundle);
    assert_eq!(handed(&[]), Ok(None));
    assert_eq!(handed(&[module(0x1000, 0x3000)]), Ok(Some(span(0x1000, 0x3000))));
    assert_eq!(handed(&[module(0x1000, 0x1000)]), Ok(None));
    assert_eq!(handed(&[module(0x1000, 0x3000), module(0x4000, 0x5000)]), Err(HandedError::Modules(2)));
    assert!(matches!(handed(&[module(0x3000, 0x1000)]), Err(HandedError::Damaged(_))));
}

#[test]
fn what_is_missing_or_cut_short_is_said() {
    let (at, bytes) = UEFI;
    let none = |kinds: &[u32]| {
        let tags: Vec<_> = tags(bytes).into_iter().filter(|(kind, _)| !kinds.contains(kind)).collect();
        by_multiboot2(at, &info(&tags)).map(|handed| handed.map.ranges().len())
    };
    assert_eq!(none(&[14, 15]), Err(HandedError::NoRsdp));
    assert_eq!(none(&[6, 17]), Err(HandedError::NoMap));
    // GRUB's own, and the older root.
    assert_eq!(none(&[15, 17]), Ok(23));
    for kind in [6, 14, 15, 17] {
        let mut tags = tags(bytes);
        tags.iter_mut().filter(|(other, _)| *other == kind).for_each(|(_, content)| content.truncate(4));
        assert!(matches!(by_multiboot2(at, &info(&tags)), Err(HandedError::Damaged(_))), "{kind}");
    }
    assert!(matches!(by_multiboot2(at, &[]), Err(HandedError::Damaged(_))));
    assert!(matches!(by_multiboot2(at, &[0xff; 64]), Err(HandedError::Damaged(_))));
    assert!(matches!(by_multiboot2(at, &bytes[..bytes.len() - 8]), Err(HandedError::Damaged(_))));
}

/// A start info at 0x1000, of the version, with so many modules and so many entries of a map.
fn start_info(version: u32, modules: u32, rsdp: u64, entries: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [0x336e_c578, version, 0, modules] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for word in [0x2000, 0, rsdp, 0x3000] {
        bytes.extend(u64::to_le_bytes(word));
    }
    bytes.extend(u64::from(entries).to_le_bytes());
    bytes
}

#[test]
fn a_start_info_of_pvh_is_read() {
    let module = [0x40_0000u64, 0x5000, 0, 0].map(u64::to_le_bytes).concat();
    let mut map = [0x10_0000u64, 0x100_0000].map(u64::to_le_bytes).concat();
    map.extend(1u64.to_le_bytes());
    let read = |info: &[u8]| {
        let pieces = [(0x1000, info), (0x2000, &module[..]), (0x3000, &map[..])];
        let handed = pvh::read(Hpa(0x1000), &left(&pieces))?;
        Ok((handed.rsdp, handed.bundle, handed.map.ranges(), handed.places))
    };
    let (rsdp, bundle, ranges, places) = read(&start_info(1, 1, 0xf_5230, 1)).unwrap();
    assert_eq!((rsdp, bundle), (Hpa(0xf_5230), Some(span(0x40_0000, 0x40_5000))));
    assert_eq!(memory(&ranges), [span(0x10_0000, 0x110_0000)]);
    assert_eq!(places, [span(0x1000, 0x1038), span(0x3000, 0x3018), span(0x2000, 0x2020)]);
    assert_eq!(read(&start_info(1, 0, 0xf_5230, 1)).unwrap().1, None);
    assert_eq!(read(&start_info(1, 2, 0xf_5230, 1)), Err(HandedError::Modules(2)));
    assert_eq!(read(&start_info(0, 1, 0xf_5230, 1)), Err(HandedError::OldStartInfo));
    assert_eq!(read(&start_info(1, 1, 0, 1)), Err(HandedError::NoRsdp));
    assert_eq!(read(&start_info(1, 1, 0xf_5230, 0)), Err(HandedError::NoMap));
    assert_eq!(read(&start_info(1, 1, 0xf_5230, 2)), Err(HandedError::NoMap), "it isn't all there");
    assert_eq!(read(&[0; 0x38]), Err(HandedError::NoStartInfo));
    assert_eq!(read(&[]), Err(HandedError::NoStartInfo));
}

/// Whatever is read can be asked for, and what was read of memory is what was there.
fn holds(at: u64, bytes: &[u8]) {
    if let Ok(handed) = by_multiboot2(at, bytes) {
        handed.map.ranges();
        let size = u64::from(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
        assert_eq!((handed.places[0].start(), handed.places[0].size()), (Hpa(at), size));
        assert!(handed.places[0].contains(handed.rsdp) && handed.bundle.is_none_or(|it| !it.is_empty()));
    }
}

proptest! {
    #[test]
    fn damaged_information_is_refused_or_read_within_its_bounds(
        is_uefi: bool,
        changes in prop::collection::vec((0usize..9000, any::<u8>()), 1..20),
        length in 0usize..9000,
    ) {
        let (at, bytes) = if is_uefi { UEFI } else { BIOS };
        let mut bytes = bytes.to_vec();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        holds(at, &bytes);
        bytes.truncate(length);
        holds(at, &bytes);
    }

    #[test]
    fn information_of_any_tags_is_refused_or_read_within_its_bounds(
        tags in prop::collection::vec((0u32..24, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
        at: u64,
    ) {
        holds(at, &info(&tags));
    }

    #[test]
    fn any_start_info_is_refused_or_read(
        bytes in prop::collection::vec(any::<u8>(), 0x30),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let info = [&0x336e_c578u32.to_le_bytes(), &bytes[..], &rest].concat();
        if let Ok(handed) = pvh::read(Hpa(0), &left(&[(0, &info)])) {
            handed.map.ranges();
        }
    }
}
