//! What the processor offers for guests, by CPUID (AMD64 APM 3, appendix E.4.9: 0x8000_000A).

use crate::speculation::Speculation;

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Whoever can be asked for CPUID: the processor, or what was written down of one.
pub trait Source {
    /// A leaf, with its subleaf.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf;
}

impl<F: Fn(u32, u32) -> Leaf> Source for F {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        self(leaf, subleaf)
    }
}

bitflags::bitflags! {
    /// Features of SVM: EDX of leaf 0x8000_000A.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Feature: u32 {
        /// Nested paging.
        const NESTED_PAGING = 1 << 0;
        /// The guest's last branches are its own.
        const LAST_BRANCH = 1 << 1;
        /// SVM can be locked.
        const LOCK = 1 << 2;
        /// The next instruction's address is saved.
        const NEXT_RIP = 1 << 3;
        /// The guest's time-stamp counter can run at another rate.
        const TSC_RATE = 1 << 4;
        /// Clean bits.
        const CLEAN_BITS = 1 << 5;
        /// The TLB can be flushed of one guest.
        const FLUSH_BY_ASID = 1 << 6;
        /// What an instruction was is said.
        const DECODE_ASSISTS = 1 << 7;
        /// Performance counters are switched.
        const COUNTERS = 1 << 8;
        /// Pauses are counted.
        const PAUSE_FILTER = 1 << 10;
        /// Pauses far apart aren't.
        const PAUSE_THRESHOLD = 1 << 12;
        /// Interrupts are delivered by the processor.
        const AVIC = 1 << 13;
        /// VMLOAD and VMSAVE can be a guest's.
        const VIRTUAL_VMLOAD = 1 << 15;
        /// The global interrupt flag can be virtual.
        const VIRTUAL_GIF = 1 << 16;
        /// Guest mode execute trap.
        const GMET = 1 << 17;
        /// AVIC serves x2APIC.
        const X2AVIC = 1 << 18;
        /// Supervisor shadow stacks are checked in nested tables.
        const SHADOW_STACK_CHECK = 1 << 19;
        /// SPEC_CTRL is switched.
        const SPEC_CTRL = 1 << 20;
        /// Read-only guest page tables.
        const READ_ONLY_TABLES = 1 << 21;
        /// Machine checks of a guest can be the host's, whatever CR4.MCE says.
        const HOST_MCE = 1 << 23;
        /// INVLPGB and TLBSYNC can be a guest's.
        const TLB_BROADCAST = 1 << 24;
        /// Non-maskable interrupts can be virtual.
        const VIRTUAL_NMI = 1 << 25;
        /// Instruction sampling can be virtual.
        const VIRTUAL_SAMPLING = 1 << 26;
        /// The address in rAX of VMRUN, VMLOAD and VMSAVE is checked.
        const ADDRESS_CHECK = 1 << 28;
        /// Bus locks are counted.
        const BUS_LOCK_THRESHOLD = 1 << 29;
        /// HLT exits only if no interrupt is pending.
        const IDLE_HLT = 1 << 30;
    }
}

/// Who made the processor, by leaf 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// AMD or Hygon.
    Amd,
    /// Intel.
    Intel,
    /// Somebody else.
    #[default]
    Other,
}

impl Vendor {
    /// What the processor says.
    pub(crate) fn read(source: &dyn Source) -> Self {
        let first = source.cpuid(0, 0);
        match (first.ebx, first.edx, first.ecx) {
            (0x6874_7541, 0x6974_6e65, 0x444d_4163) | (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Self::Amd,
            (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Self::Intel,
            _ => Self::Other,
        }
    }
}

/// What instructions the processor has that a table asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The vendor.
    pub vendor: Vendor,
    /// The family, the extended one in it.
    pub family: u16,
    /// Of SVM.
    pub svm: Feature,
    /// SVM is there at all (0x8000_0001 ECX bit 2).
    pub has_svm: bool,
    /// How many address spaces the TLB tells apart, the host's among them.
    pub asids: u32,
    /// Bits of a physical address.
    pub physical_bits: u8,
    /// RDPRU.
    pub rdpru: bool,
    /// INVLPGB and TLBSYNC.
    pub invlpgb: bool,
    /// MCOMMIT.
    pub mcommit: bool,
    /// INVPCID.
    pub invpcid: bool,
    /// XSAVES, and with it XSS.
    pub xsaves: bool,
    /// The state components that XCR0 may enable.
    pub xcr0: u64,
    /// What it says of speculation.
    pub speculation: Speculation,
}

/// Why guests can't run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no SVM.
    #[error("the CPU has no SVM (CPUID 0x80000001, ECX bit 2)")]
    NoSvm,
    /// The firmware has switched it off.
    #[error("the firmware has switched SVM off (VM_CR.SVMDIS): switch it on in the firmware's set-up")]
    Disabled,
    /// There is no nested paging.
    #[error("the CPU's SVM has no nested paging (CPUID 0x8000000A, EDX bit 0)")]
    NoNestedPaging,
    /// There is no address space for a guest.
    #[error("the CPU's TLB tells no guests apart (CPUID 0x8000000A, EBX)")]
    NoAsids,
}

/// VM_CR's number.
pub const VM_CR: u32 = 0xc001_0114;
/// VM_CR.SVMDIS: EFER.SVME can't be set.
pub const VM_CR_SVMDIS: u64 = 1 << 4;
/// VM_CR.R_INIT: INIT is an #SX instead.
pub const VM_CR_R_INIT: u64 = 1 << 1;
/// VM_CR.DIS_A20M.
pub const VM_CR_DIS_A20M: u64 = 1 << 2;

impl Features {
    /// What the processor says.
    pub fn read(source: &impl Source) -> Self {
        let leaf = |leaf| {
            let most = source.cpuid(leaf & 0x8000_0000, 0).eax;
            if most & 0x8000_0000 == leaf & 0x8000_0000 && leaf <= most {
                source.cpuid(leaf, 0)
            } else {
                Leaf::default()
            }
        };
        let first = source.cpuid(0, 0);
        let vendor = Vendor::read(source);
        let has_svm = leaf(0x8000_0001).ecx & 1 << 2 != 0;
        let svm = if has_svm { leaf(0x8000_000a) } else { Leaf::default() };
        let sizes = leaf(0x8000_0008);
        let state = leaf(0xd);
        let has_state = first.eax >= 0xd;
        let signature = leaf(1).eax;
        let family = match signature >> 8 & 0xf {
            0xf => 0xf + (signature >> 20 & 0xff) as u16,
            family => family as u16,
        };
        let has_xsave = leaf(1).ecx & 1 << 26 != 0;
        let further = leaf(0x8000_0021);
        Self {
            vendor,
            family,
            svm: Feature::from_bits_truncate(svm.edx),
            has_svm,
            asids: svm.ebx,
            physical_bits: if sizes.eax == 0 { 36 } else { sizes.eax as u8 },
            rdpru: sizes.ebx & 1 << 4 != 0,
            invlpgb: sizes.ebx & 1 << 3 != 0,
            mcommit: sizes.ebx & 1 << 8 != 0,
            invpcid: leaf(7).ebx & 1 << 10 != 0,
            xsaves: has_xsave && has_state && source.cpuid(0xd, 1).eax & 1 << 3 != 0,
            xcr0: if has_xsave { u64::from(state.eax) | u64::from(state.edx) << 32 } else { 0 },
            speculation: Speculation::read(sizes.ebx, further.eax, further.ecx),
        }
    }

    /// Whether guests can run here. `vm_cr` is VM_CR, which is there where SVM is.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn fit(&self, vm_cr: impl FnOnce() -> u64) -> Result<(), Unfit> {
        if !self.has_svm {
            Err(Unfit::NoSvm)
        } else if vm_cr() & VM_CR_SVMDIS != 0 {
            Err(Unfit::Disabled)
        } else if !self.svm.contains(Feature::NESTED_PAGING) {
            Err(Unfit::NoNestedPaging)
        } else if self.asids < 2 {
            Err(Unfit::NoAsids)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
