//! Processors, and those that won't do.

extern crate std;

use super::*;

/// QEMU's `max` under TCG, as far as it matters here.
fn qemu(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => Leaf { eax: 0xd, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
        1 => Leaf { eax: 0x0006_0fb1, ecx: 1 << 26, ..Leaf::default() },
        0xd => Leaf { eax: 0x207, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_000a, ..Leaf::default() },
        0x8000_0001 => Leaf { ecx: 1 << 2, ..Leaf::default() },
        0x8000_0008 => Leaf { eax: 0x3028, ..Leaf::default() },
        0x8000_000a => Leaf { eax: 1, ebx: 16, edx: 0x1001_0001, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

#[test]
fn qemu_s_has_nested_paging_and_little_else() {
    let features = Features::read(&qemu);
    assert_eq!(features.vendor, Vendor::Amd);
    assert_eq!(features.svm, Feature::NESTED_PAGING | Feature::VIRTUAL_GIF | Feature::ADDRESS_CHECK);
    assert_eq!((features.asids, features.physical_bits, features.xcr0), (16, 40, 0x207));
    assert_eq!((features.family, features.xsaves), (15, false));
    assert_eq!(features.fit(|| 0), Ok(()));
    assert_eq!(features.fit(|| VM_CR_SVMDIS), Err(Unfit::Disabled));
}

#[test]
fn what_firmware_has_locked_is_told_and_a_lock_alone_is_none() {
    /// SVM_LOCK: this register doesn't change any more (APM 2, 15.30.1).
    const LOCK: u64 = 1 << 3;
    let features = Features::read(&qemu);
    for vm_cr in [VM_CR_SVMDIS, VM_CR_SVMDIS | LOCK, u64::MAX] {
        let unfit = features.fit(|| vm_cr).unwrap_err();
        assert_eq!(unfit, Unfit::Disabled, "{vm_cr:#x}");
        let said = std::format!("{unfit}");
        assert!(said.contains("firmware") && said.contains("VM_CR.SVMDIS") && !said.contains('\n'), "{said}");
    }
    for vm_cr in [LOCK, VM_CR_R_INIT, VM_CR_DIS_A20M, LOCK | VM_CR_R_INIT, !VM_CR_SVMDIS] {
        assert_eq!(features.fit(|| vm_cr), Ok(()), "{vm_cr:#x}");
    }
}

#[test]
fn each_lack_is_named() {
    let without = |leaf: u32, change: fn(&mut Leaf)| {
        Features::read(&move |asked: u32, subleaf: u32| {
            let mut value = qemu(asked, subleaf);
            if asked == leaf {
                change(&mut value);
            }
            value
        })
        .fit(|| 0)
    };
    assert_eq!(without(0x8000_0001, |it| it.ecx = 0), Err(Unfit::NoSvm));
    assert_eq!(without(0x8000_0000, |it| it.eax = 0), Err(Unfit::NoSvm), "there is no such leaf");
    assert_eq!(without(0x8000_000a, |it| it.edx &= !1), Err(Unfit::NoNestedPaging));
    assert_eq!(without(0x8000_000a, |it| it.ebx = 1), Err(Unfit::NoAsids));
    // VM_CR isn't read where there is no SVM: it would fault.
    let none = Features::read(&|_: u32, _: u32| Leaf::default());
    assert_eq!(none.fit(|| panic!("there is no such MSR")), Err(Unfit::NoSvm));
}

#[test]
fn without_xsave_there_is_no_state() {
    let features = Features::read(&|leaf: u32, subleaf: u32| {
        if leaf == 1 { Leaf::default() } else { qemu(leaf, subleaf) }
    });
    assert_eq!(features.xcr0, 0);
}

#[test]
fn families_and_xsaves_are_read_as_the_manual_says() {
    let with = |signature: u32, subleaf_1: u32| {
        Features::read(&move |leaf: u32, subleaf: u32| match (leaf, subleaf) {
            (1, _) => Leaf { eax: signature, ecx: 1 << 26, ..Leaf::default() },
            (0xd, 1) => Leaf { eax: subleaf_1, ..Leaf::default() },
            _ => qemu(leaf, subleaf),
        })
    };
    // Zen 2, Zen 4, a family without an extension.
    for (signature, family) in [(0x0083_0f10, 0x17), (0x00a1_0f11, 0x19), (0x0000_06f0, 6), (0x0ff0_06f0, 6)]
    {
        assert_eq!(with(signature, 0).family, family, "{signature:#x}");
    }
    assert!(with(0, 1 << 3).xsaves && !with(0, 7).xsaves);
}
