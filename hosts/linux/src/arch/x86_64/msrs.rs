//! Which model-specific registers a guest may name: those of the table of bare metal's guests (`axvm_x86_cpu::msr`), as far as this KVM has them. All
//! others are as on a processor that hasn't got them. What those do that a guest may name is KVM's to say, but for EFER: KVM would let it have what the
//! host's processor has.

use axvm_x86_cpu::msr::{Policy, TABLE};
use axvm_x86_cpu::start::EFER_LMA;
use kvm_bindings::{Msrs, kvm_enable_cap, kvm_msr_entry};
use kvm_ioctls::{
    Cap, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd,
};

use super::cpuid::{self, Offered};
use crate::error::{Error, Kernel};

/// Whose writes KVM leaves to this process.
const EFER: u32 = 0xc000_0080;

/// MSRs that lie no farther apart are in one range, of which KVM takes sixteen.
const APART: u32 = 0x800;
/// The kernel reads bitmaps by such words.
const WORD: usize = 8;

/// MSRs, a bit each.
#[derive(Debug)]
struct Range {
    base: u32,
    count: u32,
    bits: Vec<u8>,
}

impl Range {
    fn allow(&mut self, msr: u32) {
        let at = (msr - self.base) as usize;
        self.count = self.count.max(at as u32 + 1);
        let bytes = (at / 8 + 1).next_multiple_of(WORD);
        if bytes > self.bits.len() {
            self.bits.resize(bytes, 0);
        }
        if let Some(byte) = self.bits.get_mut(at / 8) {
            *byte |= 1 << (at % 8);
        }
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// The MSRs that the table lets be accessed so.
fn ranges(access: Access) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let is_let = |policy| access == Access::Read || !matches!(policy, Policy::Fixed(_) | Policy::Efer);
    for msr in TABLE.iter().filter(|row| is_let(row.policy)).flat_map(|row| row.first..=row.last) {
        match ranges.last_mut() {
            Some(range) if msr >= range.base && msr - range.base < range.count + APART => range.allow(msr),
            _ => {
                let mut range = Range { base: msr, count: 0, bits: Vec::new() };
                range.allow(msr);
                ranges.push(range);
            }
        }
    }
    ranges
}

fn of(ranges: &[Range], flags: MsrFilterRangeFlags) -> Vec<MsrFilterRange<'_>> {
    let mut list = Vec::new();
    for Range { base, count, bits } in ranges {
        list.push(MsrFilterRange { flags, base: *base, msr_count: *count, bitmap: bits });
    }
    list
}

/// Has a VM's vCPUs have no others.
///
/// # Errors
///
/// The kernel's.
pub fn bound(vm: &VmFd) -> Result<(), Error> {
    let (reads, writes) = (ranges(Access::Read), ranges(Access::Write));
    let mut all = of(&reads, MsrFilterRangeFlags::READ);
    all.extend(of(&writes, MsrFilterRangeFlags::WRITE));
    let told = kvm_enable_cap {
        cap: Cap::X86UserSpaceMsr as u32,
        args: [MsrExitReason::Filter.bits().into(), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&told).kernel("KVM_CAP_X86_USER_SPACE_MSR")?;
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &all).kernel("KVM_X86_SET_MSR_FILTER")
}

/// A write that the filter doesn't let pass. Whether it is done all the same.
pub fn write(kvm: &Kvm, fd: &VcpuFd, msr: u32, value: u64) -> bool {
    if msr != EFER {
        return false;
    }
    let Ok(offered) = Offered::by(kvm) else { return false };
    let may = cpuid::allowed(kvm, &offered).efer | EFER_LMA;
    let entry = kvm_msr_entry { index: msr, data: value, ..kvm_msr_entry::default() };
    // KVM keeps LMA, and refuses what can't be changed now.
    value & !may == 0
        && Msrs::from_entries(&[entry]).is_ok_and(|entries| fd.set_msrs(&entries).is_ok_and(|set| set == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets(ranges: &[Range], msr: u32) -> bool {
        ranges.iter().any(|range| {
            msr.checked_sub(range.base)
                .filter(|at| *at < range.count)
                .is_some_and(|at| range.bits[at as usize / 8] >> (at % 8) & 1 != 0)
        })
    }

    #[test]
    fn what_the_table_has_can_be_named_and_nothing_else() {
        let (reads, writes) = (ranges(Access::Read), ranges(Access::Write));
        assert!(reads.len() + writes.len() <= 16);
        for msr in (0..0x3000).chain(0x4b56_4d00..0x4b56_4d20).chain(0xc000_0000..0xc001_3000) {
            let row = TABLE.iter().find(|row| (row.first..=row.last).contains(&msr));
            assert_eq!(lets(&reads, msr), row.is_some(), "{msr:#x}");
            let fixed = row.is_some_and(|row| matches!(row.policy, Policy::Fixed(_) | Policy::Efer));
            assert_eq!(lets(&writes, msr), row.is_some() && !fixed, "{msr:#x}");
        }
        // VM_CR can be read, and VM_HSAVE_PA can't.
        assert!(lets(&reads, 0xc001_0114) && !lets(&writes, 0xc001_0114) && !lets(&reads, 0xc001_0117));
    }

    #[test]
    fn bitmaps_are_whole_words_of_the_kernels() {
        for range in ranges(Access::Read).iter().chain(&ranges(Access::Write)) {
            assert!(range.bits.len().is_multiple_of(WORD) && range.bits.len() * 8 >= range.count as usize);
            // Linux, arch/x86/include/uapi/asm/kvm.h: KVM_MSR_FILTER_MAX_BITMAP_SIZE.
            assert!(range.bits.len() <= 0x600);
        }
    }
}
