//! What each architecture gives. Nothing outside `arch/` names a register, an interrupt number range or a controller.
//!
//! | what | what it is |
//! |---|---|
//! | `IrqchipParts` | the interrupt controller beside what KVM knows of it: sets lines, hears of ends; `switches`: who switches vCPUs on and off |
//! | `Cpu` | a vCPU of KVM's: [`crate::vcpu`] runs it |
//! | `create_vm` | a VM of KVM's with so many address bits |
//! | `make` | the vCPUs and the interrupt controller, in the order that KVM wants |
//! | `pin` | how a line is called in the table of what events raise |
//! | `begin` | sets a vCPU to where it begins |
//! | `system_event` | what a guest asked for by an exit of the kernel's |
//! | `call` | what it asks of its firmware by a call that the kernel doesn't answer; `complete_power`: tells it what came of that |
//! | `rests` | whether a vCPU executes nothing more unless another one of its VM has it go on |
//! | `write_msr` | writes a model-specific register that the kernel leaves to this process |
//! | `complete_nobody` | has a guest meet what its architecture says of an access that nobody answers |
//! | `add_own` | adds the emulated devices that all VMs of the architecture have |
//! | `add_config_ports` | adds the way to config space by ports, where there are such |
//! | `NEEDED`, `has_irqchip` | what the kernel's KVM has to have |
//! | `WITHOUT_KVM`, `WITHOUT_IRQCHIP` | what it means where it hasn't |

use axvm::vcpu::PowerRequest;

/// What an access to a port comes to that the architecture's own registers answer.
#[cfg_attr(target_arch = "aarch64", expect(dead_code, reason = "there are no ports"))]
pub enum Access {
    /// A value was read, or a write was taken.
    Value(u32),
    /// It asks for this.
    Asks(PowerRequest),
}

/// Who switches a VM's vCPUs on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switches {
    /// The kernel: each vCPU has its thread in the kernel from the VM's start on, and is asked whether it rests (`crate::rest`).
    Kernel,
    /// The core.
    Core,
}

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
