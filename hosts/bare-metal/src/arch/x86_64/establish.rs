//! A CPU that has just come up is brought into the state that running guests rests on.

use axvm_addr::{CpuId, Hpa};
use axvm_x86_cpu::control;
use axvm_x86_cpu::features::VM_CR;

use super::guarded::{read_msr, write_msr};
use super::{vcpu, vector_state};
use crate::{boot, memory};

/// What a CPU does at each way in from a guest, beside what the code there does for all: nothing that depends on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryWork;

impl EntryWork {
    /// As it is kept beside the CPU.
    pub const fn bits(self) -> u64 {
        0
    }

    /// The other way round.
    pub const fn from_bits(_: u64) -> Self {
        Self
    }
}

/// VM_HSAVE_PA: where VMRUN keeps what of the host's state comes back at the exit (AMD APM 2, 15.30.4).
const HOST_SAVE: u32 = 0xc001_0117;
/// IA32_PAT, and its value after a reset, which the hypervisor's and the nested tables rest on (7.8.2).
const PAT: u32 = 0x277;

/// Brings the calling CPU into it.
pub fn establish(cpu: CpuId) -> EntryWork {
    let features = vcpu::features();
    if let Err(unfit) = features.fit(|| read_msr(VM_CR).unwrap_or(0)) {
        boot::last_words(&format_args!("CPU {cpu}: {unfit}"))
    }
    let Some(save) = memory::allocate(4096, 4096) else {
        boot::last_words(&format_args!(
            "CPU {cpu}: no memory for what it keeps of the hypervisor while it runs a guest"
        ))
    };
    let set = |register, value| {
        // SAFETY: these bound guests; the hypervisor's own memory has the types of the PAT's reset value, which it has been using.
        unsafe { write_msr(register, value) }
    };
    for first in control::first(&features) {
        // What a CPU hasn't got of these is what the list says of one without.
        let before = read_msr(first.msr).unwrap_or(0);
        let _ = set(first.msr, first.value(before));
    }
    let Hpa(save) = save;
    if set(HOST_SAVE, save).is_err() || set(PAT, axvm_x86_cpu::start::PAT_RESET).is_err() {
        boot::last_words(&format_args!("CPU {cpu}: it doesn't take what running guests needs"))
    }
    vector_state::establish();
    EntryWork
}
