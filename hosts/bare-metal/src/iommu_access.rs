//! By what the drivers of IOMMUs reach their registers, and memory that an IOMMU and the hypervisor share.

use axvm_addr::Hpa;
use axvm_iommu::{Memory, Registers};

use crate::mmio::Mmio;
use crate::protection::{self, Protection};
use crate::{arch, memory};

/// Memory that an IOMMU and the hypervisor share: what the drivers make of it for an IOMMU that isn't coherent is in `axvm_iommu`, where
/// it is tested.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

impl Memory for Shared {
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa> {
        memory::allocate(bytes, align)
    }

    fn read64(&self, address: Hpa) -> u64 {
        memory::read64(address)
    }

    fn write64(&self, address: Hpa, value: u64) {
        memory::write64(address, value);
    }

    fn clean(&self, address: Hpa, bytes: u64) {
        arch::clean_to_memory(address, bytes);
    }

    fn barrier(&self) {
        arch::memory_barrier();
    }
}

/// Whether a write has an IOMMU hear that there is something to do, and a test has left that out.
fn is_left_out(offset: usize) -> bool {
    arch::IOMMU_TAILS.contains(&offset) && protection::fails(Protection::NoCommand)
}

impl Registers for Mmio {
    fn size(&self) -> u64 {
        self.size()
    }

    fn now_us(&self) -> u64 {
        arch::now_us()
    }

    fn read32(&self, offset: usize) -> u32 {
        Mmio::read32(self, offset as u64)
    }

    fn write32(&self, offset: usize, value: u32) {
        if !is_left_out(offset) {
            Mmio::write32(self, offset as u64, value);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        Mmio::read64(self, offset as u64)
    }

    fn write64(&self, offset: usize, value: u64) {
        if !is_left_out(offset) {
            Mmio::write64(self, offset as u64, value);
        }
    }
}
