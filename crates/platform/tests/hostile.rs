//! Nothing that a file holds makes a reader panic, and what is saved is what is loaded.

use axvm_addr::{Hpa, Span};
use axvm_platform::fdt::outline::Outline;
use axvm_platform::fdt::{self, FdtError, blob::BlobError};
use axvm_platform::model::{Platform, Reserved};
use axvm_platform::snapshot::{self, SnapshotError};
use proptest::prelude::*;

use tree::{node, root};

#[path = "tree/any.rs"]
mod any;
mod tree;

const BOARDS: [&[u8]; 2] = [include_bytes!("qemu-virt.dtb"), include_bytes!("made-up.dtb")];

#[test]
fn what_is_no_device_tree_is_refused_by_name() {
    assert_eq!(fdt::read(&[]), Err(FdtError::Blob(BlobError::Magic)));
    assert_eq!(fdt::read(&[0; 64]), Err(FdtError::Blob(BlobError::Magic)));
    let mut newer = BOARDS[0].to_vec();
    // What counts of a newer one is whom it is compatible with, and that is what is said.
    newer[20..28].copy_from_slice(&[0, 0, 0, 19, 0, 0, 0, 18]);
    assert_eq!(fdt::read(&newer), Err(FdtError::Blob(BlobError::TooNew(18))));
    newer[20..28].copy_from_slice(&[0, 0, 0, 19, 0, 0, 0, 17]);
    assert!(fdt::read(&newer).is_ok());
    newer[20..28].copy_from_slice(&[0, 0, 0, 16, 0, 0, 0, 16]);
    assert_eq!(fdt::read(&newer), Err(FdtError::Blob(BlobError::TooOld(16))));
    assert!(matches!(fdt::read(&BOARDS[0][..4000]), Err(FdtError::Blob(BlobError::Truncated(_)))));
}

#[test]
fn a_tree_that_is_no_boards_or_of_another_machine_is_refused_by_name() {
    let mut overlay = root().with(node("fragment@0").with(node("aaoverlayaa"))).blob();
    let at = overlay.windows(11).position(|name| name == b"aaoverlayaa").unwrap();
    overlay[at..at + 11].copy_from_slice(b"__overlay__");
    assert_eq!(fdt::read(&overlay), Err(FdtError::Overlay("/fragment@0/__overlay__".into())));
    let hart = node("cpu@0").text("device_type", "cpu").text("compatible", "riscv").cells("reg", &[0]);
    let cpus = node("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]).with(hart);
    assert_eq!(fdt::read(&root().with(cpus).blob()), Err(FdtError::Architecture("riscv64")));
}

#[test]
fn bytes_after_the_blob_are_ignored() {
    let mut padded = BOARDS[0].to_vec();
    padded.resize(0x4000, 0xaa);
    assert_eq!(fdt::read(&padded), fdt::read(BOARDS[0]));
}

#[test]
fn a_saved_platform_is_loaded_as_it_was() {
    for board in BOARDS {
        let platform = fdt::read(board).unwrap();
        let saved = snapshot::save(&platform).unwrap();
        assert!(snapshot::is_snapshot(&saved));
        assert_eq!(snapshot::load(&saved), Ok(platform));
    }
}

#[test]
fn a_snapshot_that_is_cut_extended_changed_or_of_another_version_is_refused() {
    let saved = snapshot::save(&fdt::read(BOARDS[1]).unwrap()).unwrap();
    assert_eq!(snapshot::load(&saved[..saved.len() - 1]), Err(SnapshotError::Damaged));
    assert_eq!(snapshot::load(&[saved.as_slice(), &[0]].concat()), Err(SnapshotError::Damaged));
    let mut changed = saved.clone();
    changed[100] ^= 1;
    assert_eq!(snapshot::load(&changed), Err(SnapshotError::Damaged));
    let mut newer = saved.clone();
    newer[8] = 99;
    assert_eq!(snapshot::load(&newer), Err(SnapshotError::Version(99)));
    assert_eq!(snapshot::load(b"TOML"), Err(SnapshotError::Magic));
}

fn span() -> impl Strategy<Value = Span<Hpa>> {
    (0u64..0x20_0000, 0u64..0x8000).prop_map(|(start, size)| Span::new(Hpa(start), size).unwrap())
}

/// Bytes at places where the structure is, so that the changes reach what comes after the header's checks.
fn damage() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(0xff), 0u8..10]);
    (prop::sample::select(BOARDS.to_vec()), prop::collection::vec(change, 1..40)).prop_map(
        |(board, changes)| {
            let mut blob = board.to_vec();
            for (at, value) in changes {
                let at = at.index(blob.len() - 40) + 40;
                blob[at] = value;
            }
            blob
        },
    )
}

/// Asks an outline all that there is to ask.
fn outline(blob: &[u8]) {
    if let Ok(outline) = Outline::open(blob) {
        let _ = (outline.console(), outline.cpus, outline.psci, outline.initrd());
        let _ = outline.free(1 << 20, 1 << 20, &[]);
    }
}

proptest! {
    #[test]
    fn no_damaged_blob_makes_the_reader_panic(blob in damage()) {
        if let Ok(mut platform) = fdt::read(&blob) {
            let _ = platform.free_memory();
            platform.add_functions(vec![], &[]);
            let saved = snapshot::save(&platform).unwrap();
            prop_assert_eq!(snapshot::load(&saved), Ok(platform));
        }
        let _ = (fdt::bootargs(&blob), fdt::initrd(&blob));
        outline(&blob);
    }

    #[test]
    fn no_bytes_make_the_readers_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = fdt::read(&bytes);
        let _ = snapshot::load(&bytes);
        for (at, byte) in b"\xd0\x0d\xfe\xed\0\0\x01\0\0\0\0\x38".iter().enumerate() {
            if let Some(place) = bytes.get_mut(at) {
                *place = *byte;
            }
        }
        let _ = fdt::read(&bytes);
        outline(&bytes);
    }

    /// Free memory against a model that looks at each page.
    #[test]
    fn a_page_is_free_if_a_bank_has_all_of_it_and_no_reservation_any_of_it(
        memory in prop::collection::vec(span(), 0..6),
        reserved in prop::collection::vec(span(), 0..6),
    ) {
        let platform = Platform {
            memory: memory.clone(),
            reserved: reserved.iter().map(|&span| Reserved { span, owner: String::new(), no_map: false }).collect(),
            ..Platform::default()
        };
        let free = platform.free_memory();
        for pair in free.windows(2) {
            prop_assert!(pair[0].end() < pair[1].start() || pair[0].end() == pair[1].start());
        }
        for page in (0..0x22_0000u64).step_by(0x1000) {
            let whole = Span::new(Hpa(page), 0x1000).unwrap();
            let covered = (page..page + 0x1000).step_by(0x200).chain([page + 0xfff]).all(|byte| {
                memory.iter().any(|bank| bank.contains(Hpa(byte)))
            });
            let taken = reserved.iter().any(|span| span.overlaps(&whole));
            let is_free = free.iter().any(|span| span.encloses(&whole));
            prop_assert!(!is_free || !taken, "{:#x} is taken", page);
            prop_assert!(!is_free || covered, "{:#x} isn't RAM", page);
            let exactly = memory.iter().any(|bank| bank.encloses(&whole));
            prop_assert!(is_free || taken || !exactly, "{:#x} was lost", page);
        }
    }
}

proptest! {
    // Each tree has few numbers at edges, and the reader is fast.
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Boards whose structure is right, or nearly, and whose numbers are anything.
    #[test]
    fn no_number_in_a_tree_makes_the_reader_panic(blob in any::board()) {
        if let Ok(platform) = fdt::read(&blob) {
            let saved = snapshot::save(&platform).unwrap();
            prop_assert_eq!(snapshot::load(&saved), Ok(platform.clone()));
            let _ = platform.free_memory();
        }
    }
}
