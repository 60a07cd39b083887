//! How interrupts reach each VM: passthrough where the processors' local APICs can be given away, else emulated.
//!
//! In passthrough mode a guest has its CPUs' local APICs but for what reaches others: it takes its devices' messages, its timer and what its
//! vCPUs send each other without the hypervisor. That needs their registers to be MSRs (x2APIC), as a page of registers can be given as a whole
//! only. Nothing of it is seen by another VM: each CPU is one VM's, and what a device may send is the IOMMU's to say. Lines are taken by the
//! hypervisor's CPU, whatever the mode, so that no end of an interrupt of one VM is another one's.

use alloc::vec::Vec;

use axvm_platform::limits::Serves;
use axvm_platform::model::Platform;
use axvm_system::model::{InterruptChoice, System};

use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::machine::Mode;
use crate::problem::Rule;

/// Why no VM can be in passthrough mode.
const NO_X2APIC: &str = "the processors have no local APIC whose registers are MSRs (x2APIC) and whose timer never stops (ARAT), so that a \
                         guest can't be given its own (QEMU: -cpu max)";

/// Decides for all VMs of the system, and says it.
pub(crate) fn choose(system: &System, platform: &Platform, findings: &mut Findings) -> Vec<Mode> {
    let can_be_given = platform.limits.direct_interrupts == Serves::Yes;
    let mut mode = |(index, choice): (u16, InterruptChoice)| {
        let vm = VmRef::of(system, index);
        match choice {
            InterruptChoice::None => VMInterruptMode::NoIrq,
            InterruptChoice::Emulated => VMInterruptMode::Emulated,
            InterruptChoice::Auto | InterruptChoice::Passthrough if can_be_given => {
                findings.note(format_args!(
                    "{vm}: interrupts are passthrough: its timers and MSIs reach it without the hypervisor; lines are injected, and what its \
                     vCPUs send each other is checked"
                ));
                VMInterruptMode::Passthrough
            }
            InterruptChoice::Auto => {
                findings.note(format_args!("{vm}: interrupts are emulated: {NO_X2APIC}"));
                VMInterruptMode::Emulated
            }
            InterruptChoice::Passthrough => {
                findings.vm(
                    vm,
                    "interrupts",
                    Rule::InterruptMode,
                    format_args!("interrupts = \"passthrough\" isn't possible: {NO_X2APIC}: use \"auto\" or \"emulated\""),
                );
                VMInterruptMode::Emulated
            }
        }
    };
    (0..)
        .zip(system.vms.iter().map(|vm| vm.interrupts))
        .map(&mut mode)
        .map(|mode| Mode { mode, console_line: None, messages_by_hardware: false, lines_exposed: false })
        .collect()
}
