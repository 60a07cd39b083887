//! The list registers of a CPU, through which interrupts are injected (IHI 0069, chapter 6), and the rest of its virtual interface.

use axvm_cpu::control::{Interrupts, Register, widest};
use axvm_vgic::ListRegisters;

use crate::arch::aarch64::indexed::by_number;
use crate::arch::aarch64::sysreg::{isb, mrs, msr};

/// ICH_HCR_EL2.EOIcount, which hardware counts up from what is written.
const EOI_COUNT: u64 = 0x1f << 27;

/// ICH_VTR_EL2.TDS: ICH_HCR_EL2.TDIR does something.
const VTR_TDS: u64 = 1 << 19;

/// Whether the guest ends its interrupts in two steps (ICH_VMCR_EL2.VEOIM, the guest's ICC_CTLR_EL1.EOImode).
pub fn ends_in_two_steps() -> bool {
    mrs!("ich_vmcr_el2") & 1 << 9 != 0
}

/// How many list registers this CPU has (ICH_VTR_EL2.ListRegs).
pub fn list_registers() -> usize {
    (mrs!("ich_vtr_el2") as usize & 0x1f) + 1
}

/// How many bits a virtual priority has (ICH_VTR_EL2.PRIbits).
pub fn priority_bits() -> u32 {
    (mrs!("ich_vtr_el2") >> 29) as u32 + 1
}

/// How many bits of preemption there are (ICH_VTR_EL2.PREbits): the physical interface has as many as the virtual one.
pub fn preemption_bits() -> u64 {
    (mrs!("ich_vtr_el2") >> 26 & 7) + 1
}

fn write_lr(index: usize, value: u64) {
    by_number!(index, write_named!("ich_lr", "_el2", value), ())
}

fn read_lr(index: usize) -> u64 {
    by_number!(index, read_named!("ich_lr", "_el2"), 0)
}

/// Loads the list registers, before an entry: those that changed since the last one.
pub fn load(lists: &mut ListRegisters) {
    for (index, &value) in lists.lr.iter().enumerate().take(lists.to_write.min(list_registers())) {
        write_lr(index, value);
    }
    lists.to_write = 0;
    let value = widest(Register::IchHcr, Interrupts::Emulated) | lists.hcr & !EOI_COUNT;
    // SAFETY: the virtual interface is the guest's.
    unsafe { msr!("ich_hcr_el2", value) };
}

/// Reads back those list registers that hold something, after an exit.
pub fn save(lists: &mut ListRegisters) {
    /// LRENPIE: then EOIcount says what the guest ended that was in no list register.
    const LRENPIE: u64 = 1 << 2;
    for (index, slot) in lists.lr.iter_mut().enumerate().take(lists.count.min(list_registers())) {
        *slot = read_lr(index);
    }
    if lists.hcr & LRENPIE != 0 {
        lists.hcr = mrs!("ich_hcr_el2");
        // Where the end is two steps, the second is trapped. The first ends nothing, and doesn't count by the architecture;
        // by QEMU (10.0) it does.
        if ends_in_two_steps() && mrs!("ich_vtr_el2") & VTR_TDS != 0 {
            lists.hcr &= !EOI_COUNT;
        }
    }
    // SAFETY: the virtual interface is the guest's. Off while the hypervisor runs: the maintenance interrupt is a level, and
    // would come again and again until the list registers are filled anew.
    unsafe { msr!("ich_hcr_el2", 0) };
    isb!();
}

/// Brings the guest's interrupt interface to its reset state.
pub fn reset() {
    for index in 0..list_registers() {
        write_lr(index, 0);
    }
    // SAFETY: the guest's virtual interface.
    unsafe {
        msr!("ich_vmcr_el2", 0);
        msr!("ich_ap0r0_el2", 0);
        msr!("ich_ap1r0_el2", 0);
        // More than 5 bits of preemption bring a second register, more than 6 four.
        let preemption = preemption_bits();
        if preemption >= 6 {
            msr!("ich_ap0r1_el2", 0);
            msr!("ich_ap1r1_el2", 0);
        }
        if preemption >= 7 {
            msr!("ich_ap0r2_el2", 0);
            msr!("ich_ap1r2_el2", 0);
            msr!("ich_ap0r3_el2", 0);
            msr!("ich_ap1r3_el2", 0);
        }
    }
}
