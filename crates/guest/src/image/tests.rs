extern crate std;
use alloc::string::ToString;

use proptest::prelude::*;

use super::*;

fn linux(text_offset: u64, image_size: u64, flags: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0x55; length];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[24..32].copy_from_slice(&flags.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

/// An ELF64 file with these segments: physical and virtual address, content, size in memory.
fn elf64(machine: u16, entry: u64, segments: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend_from_slice(&2u16.to_le_bytes());
    file.extend_from_slice(&machine.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&entry.to_le_bytes());
    file.extend_from_slice(&64u64.to_le_bytes());
    file.extend_from_slice(&0u64.to_le_bytes());
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for &(physical, virtual_, data, memory) in segments {
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for double in [offset, virtual_, physical, data.len() as u64, memory, 1] {
            file.extend_from_slice(&double.to_le_bytes());
        }
        offset += data.len() as u64;
    }
    for (_, _, data, _) in segments {
        file.extend_from_slice(data);
    }
    file
}

#[test]
fn a_linux_image_is_placed_at_its_text_offset_from_a_2_mib_boundary_and_keeps_its_bss_free() {
    let bytes = linux(0x8_0000, 0x30_0000, 0xa, 0x1000);
    let kernel = Kernel::parse(&bytes, None).unwrap();
    assert_eq!(kernel.info.kind, ImageKind::LinuxImage);
    assert_eq!(kernel.info.memory_size, 0x30_0000);
    assert_eq!(kernel.info.place(Gpa(0x4000_0000)), Some(Gpa(0x4008_0000)));
    assert_eq!(kernel.info.place(Gpa(0x4000_1000)), Some(Gpa(0x4028_0000)));
    let segments: Vec<_> = kernel.segments().collect();
    assert_eq!(segments, [LoadSegment { offset: 0, data: &bytes, zeros: 0x30_0000 - 0x1000 }]);
}

#[test]
fn a_linux_image_longer_than_it_says_takes_what_the_file_has() {
    let info = ImageInfo::parse(&linux(0, 0x100, 0, 0x1000), None).unwrap();
    assert_eq!(info.memory_size, 0x1000);
}

#[test]
fn a_linux_image_that_is_big_endian_or_without_size_is_refused() {
    for bytes in [linux(0, 0x1000, 1, 64), linux(0, 0, 0, 64)] {
        assert!(matches!(ImageInfo::parse(&bytes, None), Err(ImageError::Unsupported(_))));
    }
    assert!(matches!(ImageInfo::parse(&linux(1 << 30, 1, 0, 64), None), Err(ImageError::Broken(_))));
    assert!(matches!(ImageInfo::parse(&linux(0, u64::MAX, 0, 64), None), Err(ImageError::Broken(_))));
}

#[test]
fn an_elf_file_is_loaded_by_its_physical_addresses_and_entered_at_its_physical_entry() {
    let file = elf64(
        183,
        0xffff_0000_0000_1004,
        &[(0x4010_0000, 0xffff_0000_0000_1000, b"textcode", 8), (0x4000_0000, 0, b"data", 0x100)],
    );
    let kernel = Kernel::parse(&file, None).unwrap();
    assert_eq!(kernel.info.load, Some(Gpa(0x4000_0000)));
    assert_eq!(kernel.info.memory_size, 0x10_0008);
    assert_eq!(kernel.info.entry_offset, 0x10_0004);
    let segments: Vec<_> = kernel.segments().collect();
    assert_eq!(segments[0], LoadSegment { offset: 0, data: b"data", zeros: 0xfc });
    assert_eq!(segments[1], LoadSegment { offset: 0x10_0000, data: b"textcode", zeros: 0 });
}

#[test]
fn a_position_independent_elf_file_goes_anywhere() {
    let mut file = elf64(183, 0x1000, &[(0x1000, 0x1000, b"code", 8)]);
    file[16] = 3;
    let info = ImageInfo::parse(&file, None).unwrap();
    assert_eq!((info.load, info.entry_offset), (None, 0));
    assert_eq!(info.place(Gpa(0x4000_0000)), Some(Gpa(0x4000_1000)));
}

#[test]
fn an_elf_file_with_overlapping_segments_or_a_stray_entry_is_refused() {
    let overlap = elf64(183, 0, &[(0, 0, b"text", 4), (2, 2, b"data", 4)]);
    let stray = elf64(183, 0x100, &[(0, 0, b"text", 4)]);
    for file in [overlap, stray] {
        assert!(matches!(ImageInfo::parse(&file, None), Err(ImageError::Broken(_))));
    }
}

#[test]
fn an_elf_file_of_the_other_byte_order_or_word_size_is_named() {
    let with = |at: usize, byte: u8| {
        let mut file = elf64(183, 0, &[(0, 0, b"text", 4)]);
        file[at] = byte;
        ImageInfo::parse(&file, None).unwrap_err()
    };
    assert_eq!(with(5, 2), ImageError::Unsupported("it is big-endian".into()));
    assert_eq!(with(4, 1), ImageError::WrongArchitecture("a 32-bit ELF file".into()));
}

#[test]
fn an_elf_file_whose_headers_are_not_all_there_is_refused() {
    let whole = elf64(183, 0, &[(0, 0, b"text", 4)]);
    for end in 4..64 + 56 {
        let error = ImageInfo::parse(&whole[..end], None).unwrap_err();
        assert!(matches!(error, ImageError::Broken(_)), "{end}: {error}");
    }
    // No table; one past the end; one that wraps; entries of another size; more than there are.
    for (at, value) in [(32, 0), (32, 200), (32, u64::MAX - 55), (54, 55), (56, 3)] {
        let mut file = whole.clone();
        let bytes = if at == 32 { 8 } else { 2 };
        file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        let error = ImageInfo::parse(&file, None).unwrap_err();
        assert!(matches!(error, ImageError::Broken(_)), "{at}: {error}");
    }
}

/// A bzImage with one sector of real-mode code before a kernel of so many bytes, as Linux 6.12's headers are.
fn bzimage(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x90; 0x400 + length];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x1f1, &[1]);
    put(0x1f4, &(length.div_ceil(16) as u32).to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &0x7fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x300_0000u32.to_le_bytes());
    bytes
}

#[test]
fn a_bzimage_is_placed_at_its_preferred_address_and_entered_in_64_bits() {
    let mut bytes = bzimage(0x1000);
    // A signature behind the kernel isn't part of it.
    bytes.extend([0x5a; 0x123]);
    let kernel = Kernel::parse(&bytes, None).unwrap();
    let info = &kernel.info;
    assert_eq!(
        (info.kind, info.place(Gpa(0)), info.entry_offset),
        (ImageKind::BzImage, Some(Gpa(0x100_0000)), 0x200)
    );
    assert_eq!(info.memory_size, 0x300_0000);
    let segments: Vec<_> = kernel.segments().collect();
    assert_eq!(segments, [LoadSegment { offset: 0, data: &bytes[0x400..0x1400], zeros: 0 }]);
    let setup = info.setup.as_ref().unwrap();
    assert_eq!((setup.command_line, setup.initrd_last), (2047, u64::MAX));
    assert_eq!(setup.header, bytes[0x1f1..0x202 + 0x6a]);
    bytes[0x236] = 1;
    let low = ImageInfo::parse(&bytes, None).unwrap().setup.unwrap();
    assert_eq!(low.initrd_last, 0x7fff_ffff, "a kernel that takes nothing above 4 GiB");
}

#[test]
fn a_kernel_that_can_t_be_moved_goes_to_its_address_alone() {
    let at = |relocatable: u8, preferred: u64| {
        let mut bytes = bzimage(0x1000);
        bytes[0x234] = relocatable;
        bytes[0x258..0x260].copy_from_slice(&preferred.to_le_bytes());
        ImageInfo::parse(&bytes, None).map(|info| info.load.unwrap().0)
    };
    assert_eq!(at(1, 0x100_1000), Ok(0x120_0000), "aligned as it wants");
    assert_eq!(at(0, 0x100_1000), Ok(0x100_1000));
    assert!(at(1, 0xf_ffff).is_err() && at(0, 0).is_err() && at(1, u64::MAX).is_err());
}

#[test]
fn a_bzimage_that_is_broken_or_isn_t_supported_says_what_it_is() {
    let with = |at: usize, field: &[u8]| {
        let mut bytes = bzimage(0x1000);
        bytes[at..at + field.len()].copy_from_slice(field);
        ImageInfo::parse(&bytes, None).unwrap_err().to_string()
    };
    for (at, field, expected) in [
        (0x1fe, &[0, 0][..], "boot_flag"),
        (0x206, &[0x0b, 2], "2.11"),
        (0x201, &[0x60], "setup header is shorter"),
        (0x211, &[0], "below 1 MiB"),
        (0x236, &[0, 0], "64-bit entry"),
        (0x1f1, &[9], "setup_sects"),
        (0x1f4, &[1, 1, 0, 0], "syssize"),
        (0x1f4, &[0x20, 0, 0, 0], "syssize"),
        (0x230, &[3, 0, 0, 0], "kernel_alignment"),
        (0x230, &[0, 0, 0, 0], "kernel_alignment"),
        (0x260, &[0, 0, 0, 0], "init_size"),
        (0x238, &[0, 0, 0, 0], "cmdline_size"),
    ] {
        let said = with(at, field);
        assert!(said.contains(expected), "{at:#x}: {said}");
    }
    // With 0 as the number of sectors there are four.
    assert!(with(0x1f1, &[0]).contains("syssize"));
    let whole = bzimage(0x1000);
    // A file may end within its last paragraph.
    for end in 0x206..=whole.len() - 16 {
        assert!(ImageInfo::parse(&whole[..end], None).is_err(), "{end:#x}");
    }
}

/// An ELF file for x86 with a note: its name, type and content.
fn with_note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for field in [name.len() as u32, content.len() as u32, kind] {
        note.extend(field.to_le_bytes());
    }
    note.extend_from_slice(name);
    note.extend_from_slice(content);
    let mut file = elf64(
        62,
        0xffff_ffff_8010_0000,
        &[(0x10_0000, 0xffff_ffff_8010_0000, b"text", 0x1000), (0, 0, &note, note.len() as u64)],
    );
    file[64 + 56..64 + 60].copy_from_slice(&4u32.to_le_bytes());
    file
}

#[test]
fn an_elf_file_for_x86_is_entered_by_its_pvh_note_or_else_in_64_bits() {
    let info = ImageInfo::parse(&elf64(62, 0x10_0003, &[(0x10_0000, 0x10_0000, b"text", 8)]), None).unwrap();
    assert_eq!((info.kind, info.load, info.entry_offset), (ImageKind::ElfX86, Some(Gpa(0x10_0000)), 3));
    for entry in [&0x10_0010u32.to_le_bytes()[..], &0x10_0010u64.to_le_bytes()] {
        let info = ImageInfo::parse(&with_note(b"Xen\0", 18, entry), None).unwrap();
        assert_eq!(
            (info.kind, info.load, info.entry_offset),
            (ImageKind::PvhElf, Some(Gpa(0x10_0000)), 0x10)
        );
        assert_eq!(info.memory_size, 0x1000, "notes aren't loaded");
    }
    for (name, kind) in [(b"Xen\0", 17), (b"GNU\0", 18)] {
        let info = ImageInfo::parse(&with_note(name, kind, &[0; 4]), None).unwrap();
        assert_eq!((info.kind, info.entry_offset), (ImageKind::ElfX86, 0), "another note");
    }
    for content in [&[0; 3][..], &[], &0x20_0000u32.to_le_bytes(), &0x1_0010_0010u64.to_le_bytes()] {
        let error = ImageInfo::parse(&with_note(b"Xen\0", 18, content), None).unwrap_err();
        assert!(error.to_string().contains("PVH"), "{error}");
    }
    let mut file = with_note(b"Xen\0", 18, &[0; 4]);
    file.truncate(file.len() - 1);
    assert!(matches!(ImageInfo::parse(&file, None), Err(ImageError::Broken(_))));
}

#[test]
fn kernels_of_other_machines_and_compressed_ones_are_named() {
    let cases = [
        (elf64(243, 0, &[(0, 0, b"text", 4)]), "RISC-V"),
        (elf64(3, 0, &[(0, 0, b"text", 4)]), "x86"),
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "gzip -dc"),
        (b"\xfd7zXZ\0rest".to_vec(), "xz -dc"),
        (b"hello".to_vec(), "`load` and `entry`"),
        (vec![], "empty"),
    ];
    for (bytes, expected) in cases {
        let message = ImageInfo::parse(&bytes, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_raw_binary_goes_where_the_file_says_and_is_entered_within_itself() {
    let info = ImageInfo::parse(&[0; 16], Some((Gpa(0x1000), Gpa(0x1008)))).unwrap();
    assert_eq!((info.load, info.entry_offset, info.memory_size), (Some(Gpa(0x1000)), 8, 16));
    assert!(ImageInfo::parse(&[0; 16], Some((Gpa(0x1000), Gpa(0x1010)))).is_err());
    assert!(ImageInfo::parse(&[0; 16], Some((Gpa(0x1000), Gpa(0xffc)))).is_err());
    assert!(ImageInfo::parse(&[0; 16], Some((Gpa(u64::MAX - 3), Gpa(u64::MAX - 3)))).is_err());
}

proptest! {
    /// What is copied lies in the image's memory, whatever the file says.
    #[test]
    fn no_file_makes_the_loader_leave_the_images_memory(
        base in prop::sample::select(vec![
            linux(0, 0x2000, 0, 0x100),
            elf64(183, 0x1000, &[(0x1000, 0x1000, b"text", 4), (0x2000, 0x2000, b"data", 0x100)]),
            bzimage(0x300),
            with_note(b"Xen\0", 18, &0x10_0010u32.to_le_bytes()),
        ]),
        changes in prop::collection::vec((0usize..0x280, any::<u8>()), 0..12),
        cut in 0usize..0x200,
    ) {
        let mut bytes = base;
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut / 4));
        if let Ok(kernel) = Kernel::parse(&bytes, None) {
            let info = &kernel.info;
            prop_assert!(info.entry_offset < info.memory_size);
            prop_assert_eq!(kernel.segments().count(), info.segments.len());
            let mut end = 0;
            for segment in &info.segments {
                prop_assert!(segment.offset >= end);
                end = segment.offset + segment.memory_size;
                prop_assert!(end <= info.memory_size);
            }
        }
    }
}
