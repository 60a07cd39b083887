//! The virtual processors of a VM (vPEs, Arm IHI 0069, chapter 6: GICv4.0): MSIs of its devices become virtual LPIs, which the hardware
//! delivers to whichever of them is resident on a CPU, with no code of the hypervisor's.
//!
//! Each vCPU has a CPU of its own, so that its virtual processor has that CPU's number, is mapped there, and is resident from the
//! vCPU's start to its end. Only while the vCPU is suspended ([`VirtualProcessors::leave`]) it is not: then a doorbell calls the CPU;
//! and while its guest has LPIs disabled. Configuration and pending tables are the hypervisor's; the guest's own tables are read by it and never by hardware.
//!
//! GICv4.1 lays out tables, registers and commands differently; there MSIs go by list registers.

use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, VcpuId};
use axvm_platform::model::Gic;
use axvm_vgic::Intid;
use axvm_vgic::LPI_PIECE;
use spin::Mutex;

use super::error::{GicError, ItsError};
use super::gic::{self, PhysicalGic};
use super::its::PhysicalIts;
use super::lpis::{self, GUEST_LPI_ID_BITS, Properties};
use crate::arch::aarch64::cpu::clean_to_memory;
use crate::arch::aarch64::sysreg::mrs;
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

/// A virtual processor could not be started or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// At its redistributor.
    #[error(transparent)]
    Gic(#[from] GicError),
    /// At the ITS.
    #[error(transparent)]
    Its(#[from] ItsError),
}

/// The virtual processors of a VM.
pub struct VirtualProcessors {
    properties: Properties,
    /// By vCPU.
    each: Vec<Processor>,
}

struct Processor {
    /// The vCPU's CPU.
    cpu: CpuId,
    /// The pending table.
    pending: Hpa,
    wish: Mutex<Wish>,
}

/// It is resident while both are so.
#[derive(Default)]
struct Wish {
    /// The vCPU is on its CPU, and not suspended.
    entered: bool,
    /// Its guest has LPIs enabled.
    enabled: bool,
}

impl VirtualProcessors {
    /// Maps one for each of `cpus` at an ITS.
    pub fn new(its: &PhysicalIts, cpus: &[CpuId]) -> Result<Self, ItsError> {
        let mut new = Self { properties: Properties::new(GUEST_LPI_ID_BITS)?, each: Vec::new() };
        for &cpu in cpus {
            match new.map(its, cpu) {
                Ok(pending) => new.each.push(Processor { cpu, pending, wish: Mutex::default() }),
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
        clean_to_memory(pending, PENDING_BYTES as u64);
        // What the ITS may hold after an error stays allocated.
        its.map_virtual_processor(cpu, pending, GUEST_LPI_ID_BITS).map(|()| pending)
    }

    fn processor(&self, vcpu: VcpuId) -> Result<&Processor, GicError> {
        self.each.get(usize::from(vcpu.0)).ok_or(GicError::NoVirtualProcessor)
    }

    /// The configuration of its virtual LPIs.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// On the vCPU's own CPU: virtual LPIs, if its guest has them enabled, reach it from now on, once it is in the guest.
    pub fn enter(&self, gic: &PhysicalGic, vcpu: VcpuId) -> Result<(), GicError> {
        let processor = self.processor(vcpu)?;
        let mut wish = processor.wish.lock();
        wish.entered = true;
        processor.settle(gic, &wish, &self.properties)
    }

    /// On the vCPU's own CPU: virtual LPIs wait from now on, and the first that comes sends the doorbell. Answers whether one waits
    /// already.
    pub fn leave(&self, gic: &PhysicalGic, vcpu: VcpuId) -> Result<bool, GicError> {
        let processor = self.processor(vcpu)?;
        let mut wish = processor.wish.lock();
        wish.entered = false;
        if wish.enabled { gic.make_absent(processor.cpu) } else { Ok(false) }
    }

    /// A guest has enabled a vCPU's LPIs: what has come before is forgotten.
    pub fn start(&self, its: &PhysicalIts, gic: &PhysicalGic, vcpu: VcpuId) -> Result<(), Failed> {
        let processor = self.processor(vcpu)?;
        let mut wish = processor.wish.lock();
        processor.empty(its, |_, _| {})?;
        wish.enabled = true;
        Ok(processor.settle(gic, &wish, &self.properties)?)
    }

    /// A guest has disabled a vCPU's LPIs: takes what is pending.
    pub fn stop(
        &self,
        its: &PhysicalIts,
        gic: &PhysicalGic,
        vcpu: VcpuId,
        taken: impl FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), Failed> {
        let processor = self.processor(vcpu)?;
        let mut wish = processor.wish.lock();
        wish.enabled = false;
        gic.make_absent(processor.cpu)?;
        Ok(processor.empty(its, taken)?)
    }

    /// Unmaps all: every vCPU has left, and every device is unmapped. What the ITS doesn't give back stays allocated.
    pub fn release(self, its: &PhysicalIts) {
        let mut read_by_none = true;
        for Processor { cpu, pending, .. } in self.each {
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

impl Processor {
    /// Makes it resident, if it is to be.
    fn settle(&self, gic: &PhysicalGic, wish: &Wish, properties: &Properties) -> Result<(), GicError> {
        match wish.entered && wish.enabled {
            true => gic.make_resident(self.cpu, properties, self.pending),
            false => Ok(()),
        }
    }

    /// Takes all that is pending while it is absent: the ITS doesn't know it meanwhile, so that nothing writes its table.
    fn empty(
        &self,
        its: &PhysicalIts,
        taken: impl FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), ItsError> {
        its.unmap_virtual_processor(self.cpu)?;
        // SAFETY: the table was allocated in `map`, for INTIDs of so many bits; neither ITS nor redistributor has it.
        unsafe { lpis::take_pending(self.pending, taken) };
        its.map_virtual_processor(self.cpu, self.pending, GUEST_LPI_ID_BITS)
    }
}
