//! The fast path: what happens most, done where the guest was left, without the run loop.
//!
//! It takes no lock, or only one that nobody has, and reads no more list registers back than it needs. Where anything is in the
//! way nothing is done, and the caller goes the long way, which is the same in effect.
//!
//! | what | how | where |
//! |---|---|---|
//! | an interrupt that comes again after the guest has ended the last one | without a lock, into the same list register | `again` |
//! | a software interrupt | the same, or a bit in another vCPU's mailbox and a kick | `sgis` |
//! | GICD_ISENABLER and GICD_ICENABLER | with the lock, if nothing else follows from it | `switches` |
//! | GICD_ISPENDR, the ITS's command INT, and a message that isn't known | with the lock, into a free list register | `pend`, `command`, `message` |

mod again;
mod command;
mod message;
mod pend;
mod sgis;
mod switches;

pub use switches::Switches;

use axvm_addr::VcpuId;

use crate::Vgic;
use crate::signal::Signal;

/// What belongs to one vCPU of a VM, looked up once.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    vcpu: VcpuId,
    signal: &'a Signal,
    /// What names it alone in ICC_SGI1R_EL1.
    sgi_target: u64,
}

impl Vgic {
    /// For a vCPU's fast path.
    pub fn local(&self, vcpu: VcpuId) -> Option<Local<'_>> {
        let sgi_target = *self.sgi_targets.get(usize::from(vcpu.0))?;
        Some(Local { vcpu, signal: self.shared.signal(vcpu)?, sgi_target })
    }
}
