//! What a VM's devices reach through one IOMMU.

use axvm_addr::{Gpa, Hpa, IommuId, Iova, Span};
use axvm_paging::{
    AmdIoFormat, IntelIoFormat, Invalidate, MapError, Mapper, NotInvalidated, TableMemory, UnmapError,
};
use axvm_plan::config::MappingFlags;

use super::{Domain, Iommus};
use crate::arch::x86_64::cpu::clean_to_memory;
use crate::arch::x86_64::stage2::{SpaceError, Tables};
use crate::memory::attributes;

/// How an IOMMU's tables are laid out.
pub enum Format {
    /// AMD's. It looks into the caches.
    Amd(AmdIoFormat),
    /// Intel's.
    Intel {
        /// The tables.
        format: IntelIoFormat,
        /// The unit looks into the caches.
        coherent: bool,
    },
}

/// Tables in the hypervisor's heap, seen also by those who don't look into the caches.
struct IoTables {
    coherent: bool,
}

impl IoTables {
    fn written(&self, start: Hpa, bytes: u64) {
        if !self.coherent {
            clean_to_memory(start, bytes);
        }
    }
}

impl TableMemory for IoTables {
    fn allocate(&self, pages: usize) -> Option<Hpa> {
        let table = Tables.allocate(pages)?;
        self.written(table, pages as u64 * 4096);
        Some(table)
    }

    fn free(&self, table: Hpa, pages: usize) {
        Tables.free(table, pages);
    }

    fn read(&self, entry: Hpa) -> u64 {
        Tables.read(entry)
    }

    fn write(&self, entry: Hpa, value: u64) {
        Tables.write(entry, value);
        self.written(entry, 8);
    }

    fn barrier(&self) {
        Tables.barrier();
    }
}

/// The tables, of either kind.
enum Maps {
    Amd(Mapper<IoTables, AmdIoFormat>),
    Intel(Mapper<IoTables, IntelIoFormat>),
}

/// Does the same with either.
macro_rules! either {
    ($maps:expr, $mapper:ident => $what:expr) => {
        match $maps {
            Maps::Amd($mapper) => $what,
            Maps::Intel($mapper) => $what,
        }
    };
}

/// What a VM's devices reach through one IOMMU.
pub struct DmaSpace {
    iommu: IommuId,
    maps: Maps,
    domain: Domain,
}

/// Forgets translations of one domain at one IOMMU.
struct Translations<'a>(&'a Iommus, IommuId, u16);

impl Invalidate for Translations<'_> {
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated> {
        let Ok(unit) = self.0.get(self.1) else { return Ok(()) };
        let span = Span::new(Iova(span.start().0), span.size()).unwrap_or_default();
        unit.lock().invalidate(self.2, span).map_err(|_| NotInvalidated)
    }
}

impl DmaSpace {
    /// An empty map, for a VM whose addresses have so many bits.
    pub fn new(iommu: IommuId, address_bits: u8, _output_bits: u32, tag: u16) -> Result<Self, SpaceError> {
        let units = Iommus::closed();
        let unit = units.get(iommu).map_err(|_| SpaceError::Size)?;
        let format = unit.lock().format(address_bits.into()).ok_or(SpaceError::Size)?;
        let (maps, levels) = match format {
            Format::Amd(format) => {
                (Maps::Amd(Mapper::new(IoTables { coherent: true }, format)?), format.levels())
            }
            Format::Intel { format, coherent } => {
                (Maps::Intel(Mapper::new(IoTables { coherent }, format)?), format.levels())
            }
        };
        let domain = Domain { id: tag, root: either!(&maps, mapper => mapper.root()), levels };
        Ok(Self { iommu, maps, domain })
    }

    /// The IOMMU.
    pub fn iommu(&self) -> IommuId {
        self.iommu
    }

    /// What a source is attached to.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// Lets devices reach a span.
    pub fn map(&mut self, span: Span<Iova>, start: Hpa, flags: MappingFlags) -> Result<(), MapError> {
        either!(&mut self.maps, mapper => mapper.map(input(span), start, attributes(flags)))
    }

    /// Lets them reach it no more; when this returns, none does.
    pub fn unmap(&mut self, span: Span<Iova>, iommus: &Iommus) -> Result<(), UnmapError> {
        let invalidate = Translations(iommus, self.iommu, self.domain.id);
        either!(&mut self.maps, mapper => mapper.unmap(input(span), &invalidate).map(|_| ()))
    }

    /// Frees the tables. No source is attached any more.
    pub fn destroy(self, iommus: &Iommus) -> Result<(), NotInvalidated> {
        let invalidate = Translations(iommus, self.iommu, self.domain.id);
        either!(self.maps, mapper => mapper.destroy(&invalidate).map_err(|(_, error)| error))
    }
}

/// The tables translate what a device puts out, which here takes the place of a guest-physical address.
fn input(span: Span<Iova>) -> Span<Gpa> {
    Span::new(Gpa(span.start().0), span.size()).unwrap_or_default()
}
