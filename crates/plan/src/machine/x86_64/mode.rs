//! How interrupts reach a VM: the hypervisor takes and injects them.

use alloc::vec::Vec;

use axvm_system::model::{InterruptChoice, System};

use crate::config::VMInterruptMode;
use crate::findings::{Findings, VmRef};
use crate::machine::Mode;
use crate::problem::Rule;

/// Decides for all VMs of the system, and says it.
pub(crate) fn choose(system: &System, findings: &mut Findings) -> Vec<Mode> {
    let mode = |(index, choice): (u16, InterruptChoice)| {
        let vm = VmRef::of(system, index);
        match choice {
            InterruptChoice::None => return VMInterruptMode::NoIrq,
            InterruptChoice::Emulated => {}
            InterruptChoice::Auto => findings
                .note(format_args!("{vm}: interrupts are emulated: on x86_64 there is no passthrough yet")),
            InterruptChoice::Passthrough => findings.vm(
                vm,
                "interrupts",
                Rule::InterruptMode,
                "interrupts = \"passthrough\" isn't served on x86_64 yet: use \"auto\" or \"emulated\"",
            ),
        }
        VMInterruptMode::Emulated
    };
    (0..)
        .zip(system.vms.iter().map(|vm| vm.interrupts))
        .map(mode)
        .map(|mode| Mode { mode, console_line: None, messages_by_hardware: false, lines_exposed: false })
        .collect()
}
