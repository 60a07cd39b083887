//! The virtual processors of a VM (vPEs, Arm IHI 0069, chapter 6: GICv4.0): MSIs of its devices become virtual LPIs, which the hardware
//! delivers to whichever of them is resident on a CPU, with no code of the hypervisor's.
//!
//! Each vCPU has a CPU of its own, so that its virtual processor has that CPU's number, is mapped there once, and is resident from
//! the vCPU's start to its end. Only while the vCPU is suspended ([`VirtualProcessors::leave`]) it is not: then a doorbell calls the
//! CPU. Configuration and pending tables are the hypervisor's; the guest's own tables are read by it and never by hardware.
//!
//! GICv4.1 lays out tables, registers and commands differently; there MSIs go by list registers.

use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, VcpuId};
use axvm_platform::model::Gic;

use super::gic::{self, GicError, PhysicalGic};
use super::its::{ItsError, PhysicalIts};
use super::lpis::{GUEST_LPI_ID_BITS, Properties};
use super::sysreg::mrs;
use crate::log;
use crate::memory;

/// ICH_VTR_EL2.nV4: the CPU interface takes no virtual LPIs.
const NO_VIRTUAL_LPIS: u64 = 1 << 20;

/// A pending table's alignment.
const PENDING_ALIGN: usize = 0x1_0000;

/// A bit for each INTID, from 0.
const PENDING_BYTES: usize = (1 << GUEST_LPI_ID_BITS) / 8;

/// Whether the GIC delivers virtual LPIs as GICv4.0 does: every ITS, every redistributor, and the CPU interface.
///
/// # Safety
///
/// The GIC's regions must be mapped as the platform describes them; they are only read.
pub unsafe fn offered(described: &Gic) -> bool {
    // SAFETY: by the caller's promise.
    let maps = |its: &axvm_platform::model::Its| unsafe { PhysicalIts::maps_virtual_lpis(its.registers) };
    // SAFETY: the same.
    let delivers = || unsafe { gic::redistributors_deliver_virtual_lpis(described) };
    !described.its.is_empty()
        && described.its.iter().all(maps)
        && delivers()
        && mrs!("ich_vtr_el2") & NO_VIRTUAL_LPIS == 0
}

/// The virtual processors of a VM.
pub struct VirtualProcessors {
    properties: Properties,
    /// By vCPU: its CPU, and its pending table.
    each: Vec<(CpuId, Hpa)>,
}

impl VirtualProcessors {
    /// Maps one for each of `cpus` at an ITS.
    pub fn new(its: &PhysicalIts, cpus: &[CpuId]) -> Result<Self, ItsError> {
        let mut new = Self { properties: Properties::new(GUEST_LPI_ID_BITS)?, each: Vec::new() };
        for &cpu in cpus {
            match new.map(its, cpu) {
                Ok(pending) => new.each.push((cpu, pending)),
                Err(error) => {
                    new.release(its);
                    return Err(error);
                }
            }
        }
        Ok(new)
    }

    fn map(&self, its: &PhysicalIts, cpu: CpuId) -> Result<Hpa, ItsError> {
        let pending = memory::allocate(PENDING_BYTES, PENDING_ALIGN).ok_or(ItsError::NoMemory)?;
        super::clean_to_memory(pending, PENDING_BYTES as u64);
        // What the ITS may hold after an error stays allocated.
        its.map_virtual_processor(cpu, pending, GUEST_LPI_ID_BITS).map(|()| pending)
    }

    /// The configuration of its virtual LPIs.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// On the vCPU's own CPU: virtual LPIs reach it from now on, once it is in the guest.
    pub fn enter(&self, gic: &PhysicalGic, vcpu: VcpuId) -> Result<(), GicError> {
        let &(cpu, pending) = self.each.get(usize::from(vcpu.0)).ok_or(GicError::NoVirtualProcessor)?;
        gic.make_resident(cpu, &self.properties, pending)
    }

    /// On the vCPU's own CPU: virtual LPIs wait from now on, and the first that comes sends the doorbell. Answers whether one waits
    /// already.
    pub fn leave(&self, gic: &PhysicalGic, vcpu: VcpuId) -> Result<bool, GicError> {
        let &(cpu, _) = self.each.get(usize::from(vcpu.0)).ok_or(GicError::NoVirtualProcessor)?;
        gic.make_absent(cpu)
    }

    /// Unmaps all: every vCPU has left, and every device is unmapped. What the ITS doesn't give back stays allocated.
    pub fn release(self, its: &PhysicalIts) {
        let mut read_by_none = true;
        for (cpu, pending) in self.each {
            match its.unmap_virtual_processor(cpu) {
                // SAFETY: allocated so in `map`; no redistributor has it, and the ITS has forgotten it.
                Ok(()) => unsafe { memory::free(pending, PENDING_BYTES, PENDING_ALIGN) },
                Err(error) => {
                    read_by_none = false;
                    log::error!("CPU {cpu}: the tables of its virtual processor stay allocated: {error}");
                }
            }
        }
        if read_by_none {
            // SAFETY: no redistributor has a virtual processor that it belongs to.
            unsafe { self.properties.free() };
        }
    }
}
