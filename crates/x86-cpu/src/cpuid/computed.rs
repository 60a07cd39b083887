//! What depends on the guest rather than on the processor.

use super::{Asker, HYPERVISOR, LAST, LAST_EXTENDED, Offers, View, vendor};
use crate::features::{Leaf, Source, Vendor};

const APIC: u32 = 1 << 9;
const OSXSAVE: u32 = 1 << 27;
const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
const CR4_OSXSAVE: u64 = 1 << 18;

/// "KVMKVMKVM\0\0\0", in EBX, ECX, EDX.
const SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];
/// KVM_FEATURE_NOP_IO_DELAY: no writes to port 0x80.
const NO_DELAY: u32 = 1 << 1;
/// KVM_FEATURE_CLOCKSOURCE, KVM_FEATURE_CLOCKSOURCE2 and KVM_FEATURE_CLOCKSOURCE_STABLE_BIT.
const CLOCK: u32 = 1 << 0 | 1 << 3 | 1 << 24;
/// KVM_HINTS_REALTIME: vCPUs are never without a CPU for long.
const ALWAYS_RUNS: u32 = 1 << 0;

/// Bits that an APIC id takes.
fn id_bits(view: &View) -> u32 {
    u32::from(view.vcpus.max(1)).next_power_of_two().trailing_zeros()
}

/// Adds to what the table shows of a leaf.
pub(super) fn add(
    leaf: u32,
    subleaf: u32,
    here: &Leaf,
    seen: &mut Leaf,
    host: &dyn Source,
    view: &View,
    asker: &Asker,
) {
    let vcpus = u32::from(view.vcpus.max(1));
    let several = vcpus > 1;
    match leaf {
        0 => seen.eax = here.eax.min(LAST),
        1 => {
            seen.ebx |= (vcpus.min(255)) << 16 | asker.apic_id << 24;
            seen.edx |= if several { HTT } else { 0 } | if asker.apic_enabled { APIC } else { 0 };
            if view.xcr0 != 0 && asker.cr4 & CR4_OSXSAVE != 0 {
                seen.ecx |= OSXSAVE;
            }
        }
        // Caches, Intel's way: the first two levels are a core's, the third the package's.
        4 if seen.eax & 0x1f != 0 => {
            let sharing = if seen.eax >> 5 & 7 >= 3 { (1 << id_bits(view)) - 1 } else { 0u32 };
            let cores = ((1u32 << id_bits(view)) - 1).min(63);
            seen.eax |= sharing.min(0xfff) << 14 | cores << 26;
        }
        7 if subleaf == 0 => seen.eax = here.eax.min(1),
        0xb if host.cpuid(0, 0).eax >= 0xb => topology(subleaf, vcpus, view, asker, seen),
        0xd => states(subleaf, host, view, asker, seen),
        HYPERVISOR => {
            let [ebx, ecx, edx] = SIGNATURE;
            *seen = Leaf { eax: HYPERVISOR + 1, ebx, ecx, edx };
        }
        0x4000_0001 => {
            let clock = if view.offers.contains(Offers::CLOCK) { CLOCK } else { 0 };
            *seen = Leaf { eax: NO_DELAY | clock, edx: ALWAYS_RUNS, ..Leaf::default() };
        }
        0x8000_0000 => {
            seen.eax = here.eax.min(LAST_EXTENDED);
        }
        0x8000_0001 => {
            if several && vendor(host) == Vendor::Amd {
                seen.ecx |= CMP_LEGACY;
            }
            if vendor(host) == Vendor::Amd && asker.apic_enabled {
                seen.edx |= APIC;
            }
        }
        0x8000_0008 => {
            let linear = if here.eax == 0 { 0 } else { 48 << 8 | u32::from(view.physical_bits) };
            seen.eax = linear;
            if vendor(host) == Vendor::Amd {
                seen.ecx = (vcpus - 1).min(255) | id_bits(view) << 12;
            }
        }
        0x8000_001d if seen.eax & 0x1f != 0 => {
            let sharing = if seen.eax >> 5 & 7 >= 3 { vcpus - 1 } else { 0 };
            seen.eax |= sharing.min(0xfff) << 14;
        }
        0x8000_001e if has_topology(host) => {
            // One thread per core, one node.
            *seen = Leaf { eax: asker.apic_id, ebx: asker.apic_id & 0xff, ecx: 0, edx: 0 };
        }
        _ => {}
    }
}

/// TOPOEXT.
fn has_topology(host: &dyn Source) -> bool {
    host.cpuid(0x8000_0000, 0).eax >= 0x8000_001e && host.cpuid(0x8000_0001, 0).ecx & 1 << 22 != 0
}

/// Leaf 0xb: one thread per core, all cores in one package.
fn topology(subleaf: u32, vcpus: u32, view: &View, asker: &Asker, seen: &mut Leaf) {
    let level = |shift, count, kind: u32| Leaf {
        eax: shift,
        ebx: count,
        ecx: kind << 8 | subleaf & 0xff,
        edx: asker.apic_id,
    };
    *seen = match subleaf {
        0 => level(0, 1, 1),
        1 => level(id_bits(view), vcpus, 2),
        _ => level(0, 0, 0),
    };
}

/// Legacy state and header of an XSAVE area.
const XSAVE_HEADER_END: u32 = 576;

/// Leaf 0xd: what XCR0 may be, and what it takes.
fn states(subleaf: u32, host: &dyn Source, view: &View, asker: &Asker, seen: &mut Leaf) {
    if view.xcr0 == 0 {
        *seen = Leaf::default();
        return;
    }
    let component = |number: u32| host.cpuid(0xd, number);
    let in_use = |xcr0: u64| (2..63).filter(move |number| xcr0 & view.xcr0 & 1 << number != 0);
    match subleaf {
        0 => {
            let size = |xcr0| {
                in_use(xcr0)
                    .map(component)
                    .fold(XSAVE_HEADER_END, |size, it| size.max(it.ebx.saturating_add(it.eax)))
            };
            *seen = Leaf {
                eax: view.xcr0 as u32,
                ebx: size(asker.xcr0),
                ecx: size(view.xcr0),
                edx: (view.xcr0 >> 32) as u32,
            };
        }
        1 => {
            // XSAVEC's size, where it is offered.
            if seen.eax & 1 << 1 != 0 {
                seen.ebx = in_use(asker.xcr0).map(component).fold(XSAVE_HEADER_END, |size, it| {
                    let from = if it.ecx & 1 << 1 != 0 { size.next_multiple_of(64) } else { size };
                    from.saturating_add(it.eax)
                });
            }
        }
        2..63 if view.xcr0 & 1 << subleaf != 0 => {
            let it = component(subleaf);
            // Aligned (bit 1); user state, never a supervisor's (bit 0).
            *seen = Leaf { ecx: it.ecx & 1 << 1, edx: 0, ..it };
        }
        _ => *seen = Leaf::default(),
    }
}
