//! Where the guest has the tables of its LPIs (IHI 0069, 5.1), and what else the redistributors keep beside the interrupts' state.

use alloc::vec::Vec;

use axvm_addr::{Gpa, VcpuId};

use crate::spec::redistributor::pendbaser_address;

/// What the redistributors keep beside the state of interrupts.
#[derive(Debug)]
pub(crate) struct LpiTables {
    /// GICR_PROPBASER, one for all redistributors: GICR_TYPER.CommonLPIAff is 0.
    pub(crate) propbaser: u64,
    pub(crate) cpus: Vec<CpuTables>,
}

#[derive(Debug, Clone)]
pub(crate) struct CpuTables {
    pub(crate) pendbaser: u64,
    /// The guest has said that its pending table is zero (GICR_PENDBASER.PTZ).
    pub(crate) zero: bool,
    /// GICR_WAKER.ProcessorSleep.
    pub(crate) asleep: bool,
}

impl LpiTables {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self { propbaser: 0, cpus: alloc::vec![CpuTables::RESET; vcpus] }
    }

    pub(crate) fn reset(&mut self) {
        self.propbaser = 0;
        self.cpus.fill(CpuTables::RESET);
    }

    /// Where a vCPU's LPI pending table is.
    pub(crate) fn pending(&self, vcpu: VcpuId) -> Gpa {
        self.cpus.get(usize::from(vcpu.0)).map_or(Gpa(0), |own| Gpa(pendbaser_address(own.pendbaser)))
    }

    /// LPIs are enabled: whether the guest has said that the table is zero, which holds for this once.
    pub(crate) fn take_zero(&mut self, vcpu: VcpuId) -> bool {
        self.cpus.get_mut(usize::from(vcpu.0)).is_none_or(|own| core::mem::take(&mut own.zero))
    }
}

impl CpuTables {
    const RESET: Self = Self { pendbaser: 0, zero: false, asleep: true };
}
