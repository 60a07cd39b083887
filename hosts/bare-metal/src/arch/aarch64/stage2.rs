//! Second-stage tables: memory for them, and what a VM's CPUs reach by them.

use axvm_addr::{Gpa, Hpa, Span};
use axvm_paging::{
    Invalidate, MapError, Mapper, NotInvalidated, Stage2Format, TableMemory, UnmapError, UnsupportedInputSize,
};
use axvm_plan::config::MappingFlags;
use spin::Mutex;

use super::cpu::{clean_to_memory, memory_barrier};
use super::{physical_address_bits, tlb};
use crate::memory::{self, attributes};

/// Tables in the hypervisor's heap.
#[derive(Clone, Copy, Debug)]
pub struct Tables;

impl TableMemory for Tables {
    fn allocate(&self, pages: usize) -> Option<Hpa> {
        let bytes = pages.checked_mul(4096)?;
        let table = memory::allocate(bytes, bytes)?;
        clean_to_memory(table, bytes as u64);
        Some(table)
    }

    fn free(&self, table: Hpa, pages: usize) {
        // SAFETY: the mapper gives back what it was given, once, when no walker holds it any more.
        unsafe { memory::free(table, pages * 4096, pages * 4096) }
    }

    fn read(&self, entry: Hpa) -> u64 {
        memory::read64(entry)
    }

    fn write(&self, entry: Hpa, value: u64) {
        memory::write64(entry, value);
        // For an SMMU whose walks aren't coherent; a CPU's always are.
        clean_to_memory(entry, 8);
    }

    fn barrier(&self) {
        memory_barrier();
    }
}

/// A space that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The size is none that the format has.
    #[error(transparent)]
    Size(#[from] UnsupportedInputSize),
    /// No memory for tables.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What a VM's CPUs reach.
pub struct GuestSpace {
    mapper: Mutex<Mapper<Tables>>,
    root: SpaceRoot,
}

/// By what a CPU finds a [`GuestSpace`].
#[derive(Clone, Copy, Debug)]
pub struct SpaceRoot {
    /// VTTBR_EL2: the VMID, and the root of the tables.
    pub(super) vttbr: u64,
    /// VTCR_EL2: their shape.
    pub(super) vtcr: u64,
}

/// Forgets translations of one VMID on all CPUs.
struct CpuTlbs(u64);

impl Invalidate for CpuTlbs {
    fn invalidate(&self, _: Span<Gpa>) -> Result<(), NotInvalidated> {
        // The whole VMID: what is unmapped at run time are BARs, which are moved seldom.
        tlb::forget_vm(self.0);
        Ok(())
    }
}

impl GuestSpace {
    /// An empty space of so many address bits. VMID 0 is nobody's.
    pub fn new(address_bits: u8, vmid: u16) -> Result<Self, SpaceError> {
        let bits = u32::from(address_bits).clamp(32, 48);
        let format = Stage2Format::new(bits)?;
        let vtcr = format.vtcr_el2(u32::from(physical_address_bits()), false).unwrap_or_default();
        let mapper = Mapper::new(Tables, format)?;
        let vttbr = u64::from(vmid) << 48 | mapper.root().0;
        let space = Self { mapper: Mutex::new(mapper), root: SpaceRoot { vttbr, vtcr } };
        tlb::forget_vm(vttbr);
        Ok(space)
    }

    /// By what a CPU finds it.
    pub fn root(&self) -> SpaceRoot {
        self.root
    }

    /// Maps a span.
    pub fn map(&self, span: Span<Gpa>, start: Hpa, flags: MappingFlags) -> Result<(), MapError> {
        self.mapper.lock().map(span, start, attributes(flags))
    }

    /// Unmaps a span; when this returns no CPU uses it any more.
    pub fn unmap(&self, span: Span<Gpa>) -> Result<(), UnmapError> {
        match self.mapper.lock().unmap(span, &CpuTlbs(self.root.vttbr)) {
            // Nothing is mapped any more.
            Ok(_) | Err(UnmapError::Revoked) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes everything away at once: a CPU that is in the guest faults at its next instruction. For good.
    pub fn revoke(&self) -> Result<(), NotInvalidated> {
        self.mapper.lock().clear_root(&CpuTlbs(self.root.vttbr))
    }

    /// The same, until [`GuestSpace::open`].
    pub fn shut(&self) -> Result<(), NotInvalidated> {
        self.mapper.lock().shut(&CpuTlbs(self.root.vttbr))
    }

    /// Gives back what [`GuestSpace::shut`] took away.
    pub fn open(&self) {
        self.mapper.lock().open();
    }

    /// Frees the tables. No CPU uses them any more.
    pub fn destroy(self) -> Result<(), NotInvalidated> {
        let invalidate = CpuTlbs(self.root.vttbr);
        self.mapper.into_inner().destroy(&invalidate).map_err(|(_, error)| error)
    }
}
