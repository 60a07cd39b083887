//! What CPUID shows a guest: by the table of bare metal's guests (`axvm_x86_cpu::cpuid`), of what this KVM has.
//!
//! KVM answers by a list that it is given once a vCPU, and keeps in it what changes while the guest runs: OSXSAVE, the size of the state in use,
//! whether the local APIC is on.

use axvm_x86_cpu::cpuid::{self, Asker, HYPERVISOR, LAST, LAST_EXTENDED, Offers, STATES, View};
use axvm_x86_cpu::cr::Allowed;
use axvm_x86_cpu::features::Leaf;
use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES,
    kvm_cpuid_entry2, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::error::{Error, Kernel};

/// Where XCR0's bits are listed.
const STATE: u32 = 0xd;
/// Leaves that have subleaves, and how many of them there may be.
const SUBLEAVES: [(u32, u32); 5] = [(4, 8), (7, 2), (0xb, 3), (STATE, 63), (0x8000_001d, 8)];
/// Where the width of addresses is.
const SIZES: u32 = 0x8000_0008;
/// So wide are physical addresses where nobody says it.
const LEAST_BITS: u8 = 36;

/// What KVM can show to guests.
pub struct Offered(Vec<kvm_cpuid_entry2>);

impl Offered {
    /// By a KVM.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn by(kvm: &Kvm) -> Result<Self, Error> {
        let list = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).kernel("KVM_GET_SUPPORTED_CPUID")?;
        Ok(Self(list.as_slice().to_vec()))
    }

    fn leaf(&self, leaf: u32, subleaf: u32) -> Leaf {
        let is_it = |entry: &&kvm_cpuid_entry2| {
            let any = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0;
            entry.function == leaf && (any || entry.index == subleaf)
        };
        let found = self.0.iter().find(is_it);
        found.map_or(Leaf::default(), |it| Leaf { eax: it.eax, ebx: it.ebx, ecx: it.ecx, edx: it.edx })
    }

    /// How wide guests' physical addresses may be: as the host's are, at most as nested tables of four levels reach.
    pub fn address_bits(&self) -> u8 {
        match self.leaf(SIZES, 0).eax as u8 {
            0 => LEAST_BITS,
            bits => bits.clamp(32, 48),
        }
    }
}

/// What guests of a KVM are given beside what its processors have.
fn offers(kvm: &Kvm) -> Offers {
    // In the kernel are a local APIC with both of its modes, whose timer never stops, and the clock; what protects from others' speculation it
    // switches by itself, where the processors have it.
    let always = Offers::X2APIC | Offers::STEADY_TIMER | Offers::CLOCK | Offers::INVARIANT_TSC;
    let switched = Offers::BARRIER | Offers::SPEC_CTRL | Offers::LFENCE;
    let deadline =
        if kvm.check_extension(Cap::TscDeadlineTimer) { Offers::TSC_DEADLINE } else { Offers::empty() };
    always | switched | deadline
}

/// What vCPUs see, of which there are so many.
fn view(offered: &Offered, offers: Offers, vcpus: u16) -> View {
    let states = offered.leaf(STATE, 0);
    View {
        vcpus,
        physical_bits: offered.address_bits(),
        xcr0: (u64::from(states.edx) << 32 | u64::from(states.eax)) & STATES,
        offers,
    }
}

/// A vCPU as after reset; the kernel follows what the guest makes of it.
const fn after_reset(apic_id: u32) -> Asker {
    Asker { apic_id, apic_enabled: true, cr4: 0, xcr0: 1 }
}

/// What a guest's control registers may have, by what it sees.
pub fn allowed(kvm: &Kvm, offered: &Offered) -> Allowed {
    let view = view(offered, offers(kvm), 1);
    let source = |leaf, subleaf| offered.leaf(leaf, subleaf);
    Allowed::by(|leaf, subleaf| cpuid::cpuid(leaf, subleaf, &source, &view, &after_reset(0)))
}

/// What a vCPU of so many sees.
fn list(offered: &Offered, offers: Offers, vcpus: u16, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    let (view, asker) = (view(offered, offers, vcpus), after_reset(apic_id));
    let source = |leaf, subleaf| offered.leaf(leaf, subleaf);
    let mut entries = Vec::new();
    for leaf in (0..=LAST).chain(HYPERVISOR..=HYPERVISOR + 1).chain(0x8000_0000..=LAST_EXTENDED) {
        let several = SUBLEAVES.iter().find(|(known, _)| *known == leaf).map(|(_, count)| *count);
        for index in 0..several.unwrap_or(1) {
            let Leaf { eax, ebx, ecx, edx } = cpuid::cpuid(leaf, index, &source, &view, &asker);
            // What isn't listed reads as zeros; the first of a leaf stands for it.
            if index > 0 && [eax, ebx, ecx, edx] == [0; 4] {
                continue;
            }
            let flags = if several.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            entries.push(kvm_cpuid_entry2 {
                function: leaf,
                index,
                flags,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            });
        }
    }
    entries
}

/// Has a vCPU see it, and of KVM's own features none beside those that are shown.
///
/// # Errors
///
/// The kernel's.
pub fn show(kvm: &Kvm, offered: &Offered, fd: &VcpuFd, vcpus: u16, apic_id: u32) -> Result<(), Error> {
    let entries = list(offered, offers(kvm), vcpus, apic_id);
    let list = CpuId::from_entries(&entries).map_err(|_| Error::Unknown)?;
    fd.set_cpuid2(&list).kernel("KVM_SET_CPUID2")?;
    if kvm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) > 0 {
        let enforce = kvm_enable_cap {
            cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
            args: [1, 0, 0, 0],
            ..Default::default()
        };
        fd.enable_cap(&enforce).kernel("KVM_ENABLE_CAP")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        let several = SUBLEAVES.iter().any(|(leaf, _)| *leaf == function);
        let flags = if several { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// All bits of a processor of AMD's, with state beyond SSE's for AVX alone.
    fn all() -> Offered {
        let all = [u32::MAX; 4];
        let mut list = vec![
            entry(0, 0, [0x20, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            entry(0x8000_0000, 0, [0x8000_0028, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            entry(SIZES, 0, [0x3030, u32::MAX, u32::MAX, u32::MAX]),
            entry(STATE, 0, [0b111, 0x340, 0x340, 0]),
            entry(STATE, 1, [0b1111, 0, 0, 0]),
            entry(STATE, 2, [0x100, 0x240, 0, 0]),
        ];
        let listed: Vec<u32> = list.iter().map(|it| it.function).collect();
        for leaf in (1..=0x20).chain(0x8000_0001..=0x8000_0028).filter(|leaf| !listed.contains(leaf)) {
            list.push(entry(leaf, 0, all));
        }
        Offered(list)
    }

    fn seen(list: &[kvm_cpuid_entry2], leaf: u32, index: u32) -> [u32; 4] {
        let found = list.iter().find(|it| (it.function, it.index) == (leaf, index));
        found.map_or([0; 4], |it| [it.eax, it.ebx, it.ecx, it.edx])
    }

    #[test]
    fn a_guest_sees_a_hypervisor_its_clock_and_a_timer_with_deadlines_and_nothing_of_virtualization() {
        let offers = Offers::CLOCK | Offers::TSC_DEADLINE | Offers::X2APIC;
        let list = list(&all(), offers, 2, 1);
        let [_, ebx, ecx, _] = seen(&list, 1, 0);
        let bit = |word: u32, bit: u32| word >> bit & 1;
        // The hypervisor's bit, TSC deadline, x2APIC; neither VMX nor MONITOR.
        assert_eq!([31, 24, 21, 5, 3].map(|it| bit(ecx, it)), [1, 1, 1, 0, 0]);
        assert_eq!(ebx >> 24, 1, "the local APIC's id");
        assert_eq!(bit(seen(&list, 0x8000_0001, 0)[2], 2), 0, "SVM");
        assert_eq!(seen(&list, HYPERVISOR, 0), [HYPERVISOR + 1, 0x4b4d_564b, 0x564b_4d56, 0x4d]);
        // The clock by both of its ways, and that it is stable; no features with calls to the hypervisor.
        assert_eq!(seen(&list, HYPERVISOR + 1, 0)[0], 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24);
        assert_eq!(seen(&list, 0x8000_001e, 0)[0], 1, "AMD's topology");
    }

    #[test]
    fn leaves_with_subleaves_are_told_apart() {
        let list = list(&all(), Offers::empty(), 2, 0);
        let states: Vec<u32> = list.iter().filter(|it| it.function == STATE).map(|it| it.index).collect();
        assert_eq!(states, [0, 1, 2]);
        assert!(
            list.iter()
                .filter(|it| it.function == STATE)
                .all(|it| it.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0)
        );
        assert_eq!(seen(&list, 0xb, 1)[1], 2, "two cores in the package");
        assert!(list.len() <= KVM_MAX_CPUID_ENTRIES);
    }
}
