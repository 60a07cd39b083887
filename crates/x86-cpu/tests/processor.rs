//! What a guest would see of a processor: the one that the tests run on.
#![cfg(target_arch = "x86_64")]

use core::arch::x86_64::__cpuid_count;

use axvm_x86_cpu::cpuid::{Asker, Offers, STATES, View, cpuid};
use axvm_x86_cpu::cr::Allowed;
use axvm_x86_cpu::features::{Features, Leaf, Vendor};

fn host(leaf: u32, subleaf: u32) -> Leaf {
    let found = __cpuid_count(leaf, subleaf);
    Leaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

fn view() -> View {
    View { vcpus: 4, physical_bits: 40, xcr0: Features::read(&host).xcr0, offers: Offers::empty() }
}

fn see(leaf: u32, subleaf: u32) -> Leaf {
    let asker = Asker { apic_id: 2, apic_enabled: true, cr4: 1 << 18, xcr0: 1 };
    cpuid(leaf, subleaf, &host, &view(), &asker)
}

/// Features are one bit each in these: none may be shown that the processor hasn't got, beside the hypervisor's, and those of several cores.
#[test]
fn no_feature_is_made_up() {
    let none_more = |leaf: u32, subleaf: u32, seen: Leaf, made: Leaf| {
        let most = host(leaf & 0x8000_0000, 0).eax;
        let here = if leaf <= most { host(leaf, subleaf) } else { Leaf::default() };
        for (seen, here, made) in
            [(seen.ebx, here.ebx, made.ebx), (seen.ecx, here.ecx, made.ecx), (seen.edx, here.edx, made.edx)]
        {
            assert_eq!(seen & !here & !made, 0, "{leaf:#x} {subleaf}");
        }
    };
    let first = Leaf { ebx: u32::MAX, ecx: 1 << 31 | 1 << 27, edx: 1 << 28, ..Leaf::default() };
    none_more(1, 0, see(1, 0), first);
    none_more(7, 0, see(7, 0), Leaf::default());
    none_more(7, 1, see(7, 1), Leaf::default());
    none_more(0x8000_0001, 0, see(0x8000_0001, 0), Leaf { ecx: 1 << 1, ..Leaf::default() });
    none_more(0x8000_0008, 0, see(0x8000_0008, 0), Leaf { ecx: u32::MAX, ..Leaf::default() });
    none_more(0x8000_0021, 0, see(0x8000_0021, 0), Leaf::default());
}

/// What every operating system of 64 bits asks for is left.
#[test]
fn a_machine_is_left() {
    let (first, extended) = (see(1, 0), see(0x8000_0001, 0));
    // FPU, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2.
    let basic = [0, 3, 4, 5, 6, 8, 9, 11, 13, 15, 16, 19, 23, 24, 25, 26];
    assert!(basic.iter().all(|bit| first.edx & 1 << bit != 0));
    // SYSCALL, NX, long mode.
    assert!([11, 20, 29].iter().all(|bit| extended.edx & 1 << bit != 0));
    let allowed = Allowed::by(see);
    assert_eq!(allowed.xcr0, Features::read(&host).xcr0 & STATES);
    assert_eq!(allowed.efer & 0x901, 0x901);
}

/// Sizes of state as the processor computes them itself, for all that it has: where that is no more than guests may have.
#[test]
fn state_takes_what_the_processor_says() {
    let features = Features::read(&host);
    if features.xcr0 == 0 {
        return;
    }
    let (ours, theirs) = (see(0xd, 0).ecx, host(0xd, 0).ecx);
    if features.xcr0 & !STATES == 0 {
        assert_eq!(ours, theirs);
    } else {
        assert!((576..=theirs).contains(&ours));
    }
    // Its caches' levels are told one by one, and end.
    let leaf = if features.vendor == Vendor::Intel { 4 } else { 0x8000_001d };
    assert!((0..16).any(|level| see(leaf, level).eax & 0x1f == 0));
}
