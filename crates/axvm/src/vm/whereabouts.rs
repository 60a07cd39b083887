//! Where vCPUs were when their VM was stopped, for who asks why it made no progress.

use alloc::boxed::Box;

use axvm_addr::VcpuId;
use spin::Mutex;

/// Where a vCPU was, and what it was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It executed.
    Executing {
        /// Its next instruction.
        pc: u64,
    },
    /// It waited for an interrupt.
    Waiting {
        /// Its next instruction.
        pc: u64,
        /// It would have gone on at this tick of its clock in any case.
        deadline: Option<u64>,
    },
}

/// Those of all vCPUs of a VM.
pub(super) struct All(Box<[Mutex<Option<Whereabouts>>]>);

impl All {
    /// Of none anything is known.
    pub fn new(vcpus: usize) -> Self {
        Self(core::iter::repeat_with(Mutex::default).take(vcpus).collect())
    }

    /// What was noted first of a vCPU.
    pub fn of(&self, vcpu: VcpuId) -> Option<Whereabouts> {
        *self.0.get(usize::from(vcpu.0))?.lock()
    }

    /// Notes where a vCPU is, unless that was noted.
    pub fn note(&self, vcpu: VcpuId, whereabouts: impl FnOnce() -> Whereabouts) {
        if let Some(slot) = self.0.get(usize::from(vcpu.0)) {
            slot.lock().get_or_insert_with(whereabouts);
        }
    }
}
