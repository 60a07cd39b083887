//! The physical LPIs of a CPU (Arm IHI 0069, 5.1): enabled when the CPU comes up, and as its guest has it where that takes physical
//! LPIs itself. Then no other LPI goes to the CPU.

use core::sync::atomic::Ordering;

use axvm_addr::{CpuId, Hpa};
use axvm_vgic::Intid;
use axvm_vgic::LPI_PIECE;

use super::error::GicError;
use super::gic::{PhysicalGic, gicr, wait};
use super::lpis::{self, Properties};
use crate::arch::aarch64::cpu::clean_to_memory;
use crate::arch::aarch64::sysreg::dsb;
use crate::mmio::Mmio;

impl PhysicalGic {
    /// Gives a CPU's redistributor its tables, and enables LPIs.
    pub(super) fn enable_lpis(
        &self,
        cpu: CpuId,
        frame: &Mmio,
        properties: &Properties,
    ) -> Result<(), GicError> {
        if !disable(frame)? {
            return Err(GicError::LpisLeftOn(cpu));
        }
        // One bit for each INTID, from 0; zeroed (PTZ, bit 62).
        let bytes = (1usize << properties.id_bits()) / 8;
        let bytes = bytes.max(0x1_0000);
        let pending = crate::memory::allocate(bytes, 0x1_0000).ok_or(GicError::NoMemory)?;
        clean_to_memory(pending, bytes as u64);
        for (table, bytes) in [(pending, bytes), (properties.at(), properties.bytes())] {
            self.reaches(table, bytes)?;
        }
        let (at, bits) = (properties.at().0, u64::from(properties.id_bits() - 1));
        // What it can't do with the one it shan't with the other.
        let access = self.install(frame, gicr::PROPBASER, at | bits, gicr::PROPERTIES)?;
        if self.install(frame, gicr::PENDBASER, pending.0 | gicr::PTZ, gicr::PENDING)? != access {
            self.install(frame, gicr::PROPBASER, at | bits, gicr::PROPERTIES)?;
        }
        dsb!("sy");
        frame.write32(gicr::CTLR, gicr::ENABLE_LPIS);
        // A GIC need not say that LPIs can be disabled again: then it is tried, while nothing is pending yet.
        if frame.read32(gicr::CTLR) & gicr::CES == 0 {
            if disable(frame)? {
                frame.write32(gicr::CTLR, gicr::ENABLE_LPIS);
            } else {
                self.lpis_stay_enabled.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether LPIs reach CPUs for good, once they do.
    pub fn lpis_stay_enabled(&self) -> bool {
        self.lpis_stay_enabled.load(Ordering::Relaxed)
    }

    /// Has LPIs reach a CPU again.
    pub fn start_lpis(&self, cpu: CpuId) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        if frame.read32(gicr::CTLR) & gicr::ENABLE_LPIS == 0 {
            // Without PTZ: the table is read.
            frame.write64(gicr::PENDBASER, frame.read64(gicr::PENDBASER));
            dsb!("sy");
            frame.write32(gicr::CTLR, gicr::ENABLE_LPIS);
        }
        Ok(())
    }

    /// Has no LPIs reach a CPU, where that can be had, and takes what is pending there of those that are a guest's: `taken` is told of
    /// one piece after another.
    pub fn stop_lpis(
        &self,
        cpu: CpuId,
        taken: impl FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        if disable(frame)? {
            // SAFETY: the table is the hypervisor's (`enable_lpis`), for INTIDs of more bits than a guest's, and the redistributor has
            // no part in it while LPIs are disabled (IHI 0069, 5.1.2).
            unsafe { lpis::take_pending(Hpa(frame.read64(gicr::PENDBASER) & gicr::PENDING), taken) };
        }
        Ok(())
    }
}

/// Disables LPIs, and waits until what is pending is in their table. Whether they are disabled.
fn disable(frame: &Mmio) -> Result<bool, GicError> {
    let enabled = || frame.read32(gicr::CTLR) & gicr::ENABLE_LPIS != 0;
    if enabled() {
        frame.write32(gicr::CTLR, 0);
        wait(|| frame.read32(gicr::CTLR) & gicr::RWP == 0)?;
    }
    Ok(!enabled())
}
