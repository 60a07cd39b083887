//! What a bundle has for its VMs, and where it comes to lie.

use axvm_system::bundle::{self, Bundle, RunOptions};

use super::*;
use crate::files::Files;

type Kind = bundle::ImageKind;

/// Two VMs with binaries as they are, the second one with nothing else.
fn two() -> System {
    let mut one = vm("one", &[1], vec![]);
    (one.load, one.entry) = (Some(Gpa(0x5000_0000)), Some(Gpa(0x5000_0000)));
    let two = Vm { name: "two".into(), cpus: vec![CpuId(2)], initrd: None, ..one.clone() };
    system(vec![one, two])
}

#[test]
fn what_the_bundle_has_is_put_where_the_plan_says_and_nowhere_else() {
    let system = two();
    let contents: [(VmId, Kind, &[u8]); 3] = [
        (VmId(0), Kind::Kernel, b"kern"),
        (VmId(0), Kind::Initrd, b"disk"),
        (VmId(1), Kind::Kernel, b"core"),
    ];
    let bytes = bundle::write(&system, &RunOptions::default(), "", &contents).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let files = Files::of(&bundle);
    assert_eq!(files.images.vms[0].initrd_len, Some(4));
    assert_eq!(files.images.vms[1].initrd_len, None);
    let plan = plan(&system, &board(), &files.images).unwrap();
    let mut put = Vec::new();
    let first = files.vms[0].as_ref().unwrap();
    let loaded = first.load(&plan.vms[0], |at, bytes| {
        put.push((at, bytes.to_vec()));
        Ok::<(), Gpa>(())
    });
    assert_eq!(loaded, Ok(()));
    let initrd = plan.vms[0].load.initrd.unwrap().start();
    assert_eq!(put[..2], [(Gpa(0x5000_0000), b"kern".to_vec()), (initrd, b"disk".to_vec())]);
    let written: Vec<_> = plan.vms[0].blobs.iter().map(|blob| (blob.at, blob.bytes.clone())).collect();
    assert_eq!(put[2..], written[..]);
    assert!(!written.is_empty());
    // What can't be put there ends it, and says why.
    let mut left = 1;
    let stops = first.load(&plan.vms[0], |at, _| {
        left -= 1;
        if left < 0 { Err(at) } else { Ok(()) }
    });
    assert_eq!((stops, left), (Err(initrd), -1));
}

#[test]
fn a_kernel_that_is_none_is_a_problem_and_no_file() {
    let mut system = two();
    (system.vms[1].load, system.vms[1].entry) = (None, None);
    let contents: [(VmId, Kind, &[u8]); 3] = [
        (VmId(0), Kind::Kernel, b"kern"),
        (VmId(0), Kind::Initrd, b"disk"),
        (VmId(1), Kind::Kernel, b"text"),
    ];
    let bytes = bundle::write(&system, &RunOptions::default(), "", &contents).unwrap();
    let files = Files::of(&Bundle::parse(&bytes).unwrap());
    assert!(files.images.vms[1].kernel.is_err());
    assert!(files.vms[0].is_some() && files.vms[1].is_none());
    let problems = plan(&system, &board(), &files.images).unwrap_err();
    assert!(problems.iter().any(|it| it.item == Item::Vm(1, "kernel".into())), "{problems:#?}");
}

#[test]
fn trees_that_vms_bring_come_with_their_positions() {
    let mut system = two();
    system.vms[0].initrd = None;
    system.vms[1].dtb = Some("own.dtb".into());
    let contents: [(VmId, Kind, &[u8]); 3] = [
        (VmId(0), Kind::Kernel, b"kern"),
        (VmId(1), Kind::Kernel, b"core"),
        (VmId(1), Kind::DeviceTree, b"tree"),
    ];
    let bytes = bundle::write(&system, &RunOptions::default(), "", &contents).unwrap();
    let files = Files::of(&Bundle::parse(&bytes).unwrap());
    assert_eq!(files.trees(), [(1, &b"tree"[..])]);
    assert_eq!(files.images.vms[1].dtb_len, Some(4));
}
