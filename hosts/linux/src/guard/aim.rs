//! To which processors the messages of a function come.
//!
//! A message is an interrupt of this Linux's before it is one of the VM's. Where it comes to a processor that the VM runs on, that processor leaves
//! the guest once and enters it with the interrupt; where it comes to another one, two of them are kept from what they do, and the guest waits for
//! both.

use axvm_addr::PciAddress;
use axvm_rebind::{Sysfs, WriteError};

/// What the interrupt's controller answers where it leads the interrupt to a guest itself: there is nothing to be led any more.
const LED_ALREADY: WriteError = WriteError::Other(libc::EINVAL);

/// Has all messages of a function come to these processors, by their numbers in Linux. Its line, which others may have, too, stays where it is.
///
/// # Errors
///
/// A line that says what can't be had, and why.
pub fn aim(machine: &impl Sysfs, function: PciAddress, processors: &[usize]) -> Result<(), String> {
    let text = list(processors);
    for interrupt in machine.list(&format!("sys/bus/pci/devices/{function}/msi_irqs")) {
        let path = format!("proc/irq/{interrupt}/smp_affinity_list");
        match machine.write(&path, &text) {
            Ok(()) | Err(LED_ALREADY) => {}
            // It is none any more: the guest has changed its mind.
            Err(WriteError::Missing) => {}
            Err(error) => {
                let why = match error {
                    WriteError::ReadOnly => "it is read-only here".to_owned(),
                    error => error.to_string(),
                };
                return Err(format!(
                    "{function}: its interrupts come to whichever processor Linux chooses, and not to its VM's ({text}): /{path} can't be written: {why}"
                ));
            }
        }
    }
    Ok(())
}

/// Processors as Linux reads them.
pub fn list(processors: &[usize]) -> String {
    processors.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The same read.
pub fn parse(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(|number| number.parse().ok()).collect()
}
