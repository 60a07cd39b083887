use alloc::vec;

use axvm_addr::CpuId;
use proptest::prelude::*;

use super::*;
use crate::model::{Arch, Board, Hypervisor, Vm};

fn vm(name: &str) -> Vm {
    Vm {
        name: name.into(),
        cpus: vec![CpuId(1)],
        memory: 64 << 20,
        memory_base: None,
        kernel: "Image".into(),
        initrd: None,
        dtb: None,
        cmdline: String::new(),
        load: None,
        entry: None,
        device_tree: None,
        interrupts: Default::default(),
        trusted: false,
        on_violation: Default::default(),
        on_reset: Default::default(),
        on_crash: Default::default(),
        watchdog: None,
        autostart: true,
        devices: vec![],
    }
}

fn system(vms: &[&str]) -> System {
    System {
        board: Board { arch: Arch::Aarch64, ..Board::default() },
        hypervisor: Hypervisor::default(),
        vms: vms.iter().map(|name| vm(name)).collect(),
    }
}

fn bundle() -> Vec<u8> {
    let contents: [Content<'_>; 2] =
        [(VmId(0), ImageKind::Kernel, b"kernel one"), (VmId(1), ImageKind::Kernel, b"kernel two")];
    write(&system(&["a", "b"]), &RunOptions::default(), "# text", &contents).unwrap()
}

#[test]
fn what_was_written_is_read_even_with_bytes_after_it() {
    let mut bytes = bundle();
    bytes.extend_from_slice(&[0xaa; 5000]);
    let read = Bundle::parse(&bytes).unwrap();
    assert_eq!(read.system(), &system(&["a", "b"]));
    assert_eq!(read.toml(), "# text");
    assert_eq!(read.image(VmId(1), ImageKind::Kernel), Some(&b"kernel two"[..]));
    assert_eq!(read.image(VmId(1), ImageKind::Initrd), None);
    assert_eq!(read.verify(), Ok(()));
}

#[test]
fn equal_images_are_stored_once() {
    let same = vec![7u8; 100_000];
    let contents: [Content<'_>; 2] =
        [(VmId(0), ImageKind::Kernel, &same), (VmId(1), ImageKind::Kernel, &same)];
    let bytes = write(&system(&["a", "b"]), &RunOptions::default(), "", &contents).unwrap();
    assert!(bytes.len() < 150_000);
    let read = Bundle::parse(&bytes).unwrap();
    assert_eq!(read.image(VmId(1), ImageKind::Kernel), Some(&same[..]));
}

#[test]
fn a_bundle_loaded_in_part_is_refused_wherever_it_was_cut() {
    let bytes = bundle();
    for end in (0..bytes.len()).step_by(61) {
        assert!(Bundle::parse(&bytes[..end]).is_err(), "{end}");
        let mut zeroed = bytes.clone();
        zeroed[end..].fill(0);
        assert!(Bundle::parse(&zeroed).is_err(), "zeros from {end}");
    }
}

#[test]
fn a_damaged_image_is_found_when_it_is_asked_for() {
    let mut bytes = bundle();
    let offset = Bundle::parse(&bytes).unwrap().images()[1].offset as usize;
    bytes[offset] ^= 1;
    let read = Bundle::parse(&bytes).unwrap();
    assert_eq!(read.verify(), Err(BundleError::Damaged { vm: 1, kind: ImageKind::Kernel }));
}

#[test]
fn an_image_that_the_system_asks_for_may_be_missing_only_from_a_plan() {
    let run = RunOptions { plan_only: true, ..RunOptions::default() };
    assert!(Bundle::parse(&write(&system(&["a"]), &run, "", &[]).unwrap()).is_ok());
    let run = RunOptions::default();
    let missing = BundleError::Missing { vm: 0, kind: ImageKind::Kernel };
    assert_eq!(Bundle::parse(&write(&system(&["a"]), &run, "", &[]).unwrap()).unwrap_err(), missing);
}

#[test]
fn images_of_no_vm_and_images_given_twice_are_refused() {
    let kernel: Content<'_> = (VmId(0), ImageKind::Kernel, b"k");
    let stray: Content<'_> = (VmId(3), ImageKind::Initrd, b"i");
    let refused = |contents: &[Content<'_>]| {
        Bundle::parse(&write(&system(&["a"]), &RunOptions::default(), "", contents).unwrap()).unwrap_err()
    };
    assert_eq!(refused(&[kernel, stray]), BundleError::NoSuchVm { vm: 3, kind: ImageKind::Initrd, vms: 1 });
    assert_eq!(refused(&[kernel, kernel]), BundleError::Twice { vm: 0, kind: ImageKind::Kernel });
}

/// A bundle whose header is what the test says and whose checksums are right.
fn forge(header: &Header, total: usize) -> Vec<u8> {
    let mut bytes = vec![0; total];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&(total as u64).to_le_bytes());
    let packed = pack_header(header).unwrap();
    bytes[PREFIX..PREFIX + packed.len()].copy_from_slice(&packed);
    bytes[total - 8..].copy_from_slice(&END_MAGIC);
    bytes
}

#[test]
fn another_version_is_named() {
    let header = Header {
        version: "0.0.0-other".into(),
        system: system(&[]),
        run: RunOptions::default(),
        images: vec![],
        toml: (0, 0),
    };
    assert_eq!(
        Bundle::parse(&forge(&header, 8192)).unwrap_err(),
        BundleError::Version { found: "0.0.0-other".into() }
    );
}

proptest! {
    #[test]
    fn no_offset_or_length_reaches_outside(offset in any::<u64>(), length in any::<u64>(), aligned in any::<bool>()) {
        let offset = if aligned { offset & !(ALIGNMENT - 1) } else { offset };
        let image = Image { vm: 0, kind: ImageKind::Kernel, offset, length, checksum: 0 };
        let header = Header {
            version: VERSION.into(),
            system: system(&["a"]),
            run: RunOptions::default(),
            images: vec![image],
            toml: (offset, length),
        };
        if let Ok(read) = Bundle::parse(&forge(&header, 16384)) {
            prop_assert!(offset + length <= 16384);
            let _ = read.verify();
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), prefix in 0usize..40) {
        let mut start = bundle();
        start.truncate(prefix.min(16));
        start.extend_from_slice(&bytes);
        let _ = Bundle::parse(&start);
        let _ = Bundle::parse(&bytes);
    }

    #[test]
    fn a_bundle_with_random_damage_never_panics(damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..20)) {
        let mut bytes = bundle();
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(read) = Bundle::parse(&bytes) {
            let _ = read.verify();
        }
    }
}

#[test]
fn a_system_that_no_header_holds_is_too_large_when_checked_and_when_written() {
    let mut system = system(&["one"]);
    assert_eq!(check(&system), Ok(()));
    system.vms[0].cmdline = "x".repeat(3 << 20);
    assert!(matches!(check(&system), Err(BundleError::TooLarge { .. })));
    assert!(matches!(write(&system, &RunOptions::default(), "", &[]), Err(BundleError::TooLarge { .. })));
}
