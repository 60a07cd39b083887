//! The IOMMUs: closed first, then opened device by device for what the plan says, and asked for what they blocked.
//!
//! An AMD-Vi IOMMU that is off lets everything pass, and has no state in which it is off and closed. So before it is turned on, with a table
//! in which nothing is open, no PCI function masters the bus ([`close`]).

use alloc::vec::Vec;

use axvm::iommu::{Abilities, DmaFault, Drained};
use axvm_addr::{DmaSource, Gpa, Hpa, IommuId, Iova, SourceId, Span};
use axvm_amdvi::{DeviceId, Error, Hints, Interrupt, Iommu, Memory, Options, Registers};
use axvm_paging::{AmdIoFormat, Invalidate, MapError, Mapper, NotInvalidated, UnmapError};
use axvm_plan::config::MappingFlags;
use axvm_platform::model::{Interrupt as Line, IommuKind, Platform};
use spin::Once;

use super::cpu::{memory_barrier, now_us};
use super::local_apic::LocalApic;
use super::stage2::{SpaceError, Tables, attributes};
use crate::hal::HalError;
use crate::lock::Held;
use crate::memory;
use crate::mmio::Mmio;
use crate::pci::Config;
use crate::protection::{self, Protection};

pub use axvm_amdvi::Domain;

/// What an IOMMU couldn't do.
#[derive(Debug, thiserror::Error)]
pub enum IommuError {
    /// The driver's reason.
    #[error(transparent)]
    AmdVi(#[from] Error),
    /// It is of a kind that this host drives not.
    #[error("{0}: this kind of IOMMU isn't served: AMD's are")]
    Kind(alloc::string::String),
    /// A PCI function goes on mastering the bus while the IOMMU is off.
    #[error(transparent)]
    NotSilent(#[from] axvm_pci::NotSilent),
    /// There is none of this number.
    #[error("there is no such IOMMU")]
    None,
}

impl Registers for Mmio {
    fn size(&self) -> u64 {
        self.size()
    }

    fn now_us(&self) -> u64 {
        now_us()
    }

    fn read64(&self, offset: usize) -> u64 {
        Mmio::read64(self, offset as u64)
    }

    fn write64(&self, offset: usize, value: u64) {
        /// The command buffer's tail (AMD 48882, 3.4.14): by it the IOMMU hears of commands.
        const COMMAND_TAIL: usize = 0x2008;
        if offset == COMMAND_TAIL && protection::fails(Protection::NoCommand) {
            return;
        }
        Mmio::write64(self, offset as u64, value);
    }
}

/// Memory that an IOMMU and the hypervisor share.
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

    fn barrier(&self) {
        memory_barrier();
    }
}

type Unit = Iommu<Mmio, Shared>;

/// All IOMMUs of the platform, by position, once [`close`] has turned them on.
static UNITS: Once<Vec<Held<Unit>>> = Once::new();

/// The IOMMUs: whoever routes an interrupt has to do with them too.
#[derive(Clone, Copy)]
pub struct Iommus {
    units: &'static [Held<Unit>],
}

/// The registers that the hypervisor drives.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    platform.iommus.iter().map(|iommu| iommu.registers).collect()
}

/// Has all of them heard that have a line. The names of those that can't call.
pub fn listen(platform: &Platform, _: impl Fn(Line) -> bool) -> Vec<&str> {
    // Theirs are messages that nobody has given a vector: they are asked by the clock.
    platform.iommus.iter().map(|iommu| iommu.path.as_str()).collect()
}

/// What an IOMMU says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// It had more faults to tell than room for them.
    pub lost_faults: bool,
    /// It has failed, and aborts everything until the machine is reset.
    pub failed: bool,
}

/// The highest device that there can be: all of a segment.
const LAST_DEVICE: DeviceId = DeviceId(0xffff);

/// Keeps every PCI function off the bus, and turns the IOMMUs on with tables that block everything.
///
/// # Safety
///
/// IOMMUs and config spaces must be mapped as the platform describes them, and driven by nobody else.
pub unsafe fn close(platform: &Platform) -> Result<(), IommuError> {
    // SAFETY: by the caller's promise.
    let config = unsafe { Config::new(platform) };
    silence_functions(platform, &config);
    let x2apic = LocalApic::own().is_x2apic();
    let mut units = Vec::new();
    for described in &platform.iommus {
        let IommuKind::AmdVi { control, .. } = described.kind else {
            return Err(IommuError::Kind(described.path.clone()));
        };
        let hints = Hints {
            ht_tunnel: control & 1 != 0,
            pass_posted_writes: control & 2 != 0,
            responses_pass_posted_writes: control & 4 != 0,
            isochronous: control & 8 != 0,
        };
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(described.registers) };
        let options = Options { hints, x2apic, ..Options::new(LAST_DEVICE) };
        units.push(Held::for_hardware("an IOMMU", Iommu::new(registers, Shared, options)?));
    }
    UNITS.call_once(|| units);
    Ok(())
}

/// Turns bus mastering off at every function that there is: what enumeration finds later is the same.
fn silence_functions(platform: &Platform, config: &Config) {
    use axvm_addr::PciAddress;
    use axvm_axdevice::Width;
    use axvm_pci::ConfigSpace;
    /// Command register, and its bit that lets a function, or a bridge for those behind it, master the bus (PCI 3.0, 6.2.2).
    const COMMAND: u16 = 4;
    const BUS_MASTER: u32 = 1 << 2;
    /// Header type, and its bit that says that there are more functions.
    const HEADER_TYPE: u16 = 0xe;
    const MORE: u32 = 0x80;
    for host in &platform.pci_hosts {
        for bus in host.buses.first..=host.buses.last {
            for device in 0..32 {
                for function in 0..8 {
                    let Some(address) = PciAddress::new(host.segment, bus, device, function) else {
                        continue;
                    };
                    if config.read(address, 0, Width::B2) == 0xffff {
                        if function == 0 {
                            break;
                        }
                        continue;
                    }
                    let command = config.read(address, COMMAND, Width::B2);
                    if command & BUS_MASTER != 0 {
                        config.write(address, COMMAND, Width::B2, command & !BUS_MASTER);
                    }
                    if function == 0 && config.read(address, HEADER_TYPE, Width::B1) & MORE == 0 {
                        break;
                    }
                }
            }
        }
    }
}

impl Iommus {
    /// Takes over what [`close`] has turned on.
    ///
    /// # Safety
    ///
    /// As [`close`], which came before.
    pub unsafe fn new(_: &Platform) -> Result<Self, IommuError> {
        Ok(Self::closed())
    }

    /// Those that [`close`] has turned on.
    pub(super) fn closed() -> Self {
        Self { units: UNITS.get().map_or(&[], Vec::as_slice) }
    }

    /// Bits of the ids that each IOMMU's table has entries for: all of a segment's.
    pub fn stream_bits(&self) -> &[u8] {
        const BITS: [u8; 64] = [16; 64];
        BITS.get(..self.units.len()).unwrap_or(&BITS)
    }

    /// How many sources reach a VM's memory.
    pub fn attached(&self) -> u32 {
        self.units.iter().map(|unit| unit.lock().attached() as u32).sum()
    }

    /// Address bits that every IOMMU puts out.
    pub fn output_bits(&self) -> u32 {
        // What a page table entry holds (AMD 48882, 2.2.3): as much as the CPUs have.
        u32::from(super::cpu::physical_address_bits())
    }

    fn get(&self, id: IommuId) -> Result<&Held<Unit>, IommuError> {
        self.units.get(usize::from(id.0)).ok_or(IommuError::None)
    }

    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = IommuId> {
        (0..).map(IommuId).take(self.units.len())
    }

    /// What went wrong with an IOMMU since this was asked last.
    pub fn take_health(&self, iommu: IommuId) -> Health {
        let failed = self.get(iommu).is_ok_and(|unit| !unit.lock().is_enabled());
        Health { lost_faults: false, failed }
    }

    /// Has interrupt `index` of a source become another one, or abort.
    pub fn route(
        &self,
        source: DmaSource,
        index: u16,
        interrupt: Option<Interrupt>,
    ) -> Result<(), IommuError> {
        Ok(self.get(source.iommu)?.lock().route(device(source.id), index, interrupt)?)
    }
}

/// What an IOMMU knows a source by: a requester id.
fn device(source: SourceId) -> DeviceId {
    DeviceId(source.0 as u16)
}

impl axvm::iommu::Iommu for Iommus {
    type Domain = Domain;
    type Error = HalError;

    fn attach(&self, source: DmaSource, domain: &Domain) -> Result<(), HalError> {
        Ok(self.get(source.iommu)?.lock().attach(device(source.id), domain).map_err(IommuError::from)?)
    }

    fn block(&self, source: DmaSource) -> Result<(), HalError> {
        let unit = self.get(source.iommu)?;
        if protection::is_off(Protection::LeakSource) {
            return Ok(());
        }
        Ok(unit.lock().block(device(source.id)).map_err(IommuError::from)?)
    }

    fn silence(&self, source: DmaSource) -> Result<(), HalError> {
        Ok(self.get(source.iommu)?.lock().silence(device(source.id)).map_err(IommuError::from)?)
    }

    fn drain(&self, iommu: IommuId, limit: usize, mut each: impl FnMut(DmaFault)) -> Drained {
        let Ok(unit) = self.get(iommu) else { return Drained::default() };
        let drained = unit.lock().drain_events(limit, |event| {
            let Some(DeviceId(id)) = event.device else { return };
            let source = DmaSource { iommu, id: SourceId(id.into()) };
            let write = (!event.interrupt).then_some(event.write);
            each(DmaFault { source, write, address: Some(event.address.0) });
        });
        Drained { more: drained.more, lost: drained.overflowed }
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: true, cuts_mappings: true }
    }
}

/// What a VM's devices reach through one IOMMU.
pub struct DmaSpace {
    iommu: IommuId,
    mapper: Mapper<Tables, AmdIoFormat>,
    domain: Domain,
}

/// Forgets translations of one domain at one IOMMU.
struct Translations<'a>(&'a Iommus, IommuId, u16);

impl Invalidate for Translations<'_> {
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated> {
        let Ok(unit) = self.0.get(self.1) else { return Ok(()) };
        let span = Span::new(Iova(span.start().0), span.size()).unwrap_or_default();
        unit.lock().invalidate_range(self.2, span).map_err(|_| NotInvalidated)
    }
}

impl DmaSpace {
    /// An empty map, with tables of four levels: a VM's RAM lies anywhere below 2^48.
    pub fn new(iommu: IommuId, _address_bits: u8, _output_bits: u32, tag: u16) -> Result<Self, SpaceError> {
        let format = AmdIoFormat::new(48).ok_or(SpaceError::Size)?;
        let levels = format.levels();
        let mapper = Mapper::new(Tables, format)?;
        let domain = Domain { id: tag, root: mapper.root(), levels };
        Ok(Self { iommu, mapper, domain })
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
        self.mapper.map(input(span), start, attributes(flags))
    }

    /// Lets them reach it no more; when this returns, none does.
    pub fn unmap(&mut self, span: Span<Iova>, iommus: &Iommus) -> Result<(), UnmapError> {
        let invalidate = Translations(iommus, self.iommu, self.domain.id);
        self.mapper.unmap(input(span), &invalidate).map(|_| ())
    }

    /// Frees the tables. No source is attached any more.
    pub fn destroy(self, iommus: &Iommus) -> Result<(), NotInvalidated> {
        let invalidate = Translations(iommus, self.iommu, self.domain.id);
        self.mapper.destroy(&invalidate).map_err(|(_, error)| error)
    }
}

/// The tables translate what a device puts out, which here takes the place of a guest-physical address.
fn input(span: Span<Iova>) -> Span<Gpa> {
    Span::new(Gpa(span.start().0), span.size()).unwrap_or_default()
}
