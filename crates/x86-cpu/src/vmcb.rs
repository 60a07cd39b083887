//! The virtual machine control block: what VMRUN reads and #VMEXIT writes (AMD64 APM 2, 15.5.1 and appendix B).
//!
//! Fields are plain: whoever runs a guest keeps one such page per vCPU and reads and writes it between two runs. Integers are little
//! endian, as the CPU's are.

mod area;
mod consistency;
mod event;
mod save;

pub use area::{Clean, Control, Intercepts, NESTED_PAGING, TlbControl, VirtualInterrupt};
pub use consistency::Refused;
pub use event::{Event, EventKind};
pub use save::{Attributes, Save, Segment};

/// A VMCB: a page, whose physical address VMRUN takes in rAX.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What the guest may do, and why it has exited.
    pub control: Control,
    /// Its state.
    pub save: Save,
}

const _: () = {
    assert!(core::mem::offset_of!(Vmcb, save) == 0x400);
    assert!(size_of::<Vmcb>() == 0x1000);
};

impl Vmcb {
    /// All zero.
    pub const fn zero() -> Self {
        Self { control: Control::zero(), save: Save::zero() }
    }
}

impl Default for Vmcb {
    fn default() -> Self {
        Self::zero()
    }
}

#[cfg(test)]
mod tests;
