//! The SMMUs: closed first, then opened stream by stream for what the plan says, and asked for what they blocked.

use alloc::vec::Vec;

use axvm::iommu::{Abilities, DmaFault, Drained};
use axvm_addr::{DmaSource, Gpa, Hpa, IommuId, Iova, Span};
use axvm_paging::{Invalidate, MapError, Mapper, NotInvalidated, Stage2Format, UnmapError};
use axvm_plan::config::MappingFlags;
use axvm_platform::model::{Interrupt, Iommu as Described, IommuKind, Platform};
pub use axvm_smmuv3::{Domain, Error as IommuError};
use axvm_smmuv3::{Error, Features, GlobalErrors, Options, Smmu, StreamId};

use super::stage2::{SpaceError, Tables};
use crate::hal::HalError;
use crate::iommu_access::Shared;
use crate::lock::Held;
use crate::memory::attributes;
use crate::mmio::Mmio;
use crate::protection::{self, Protection};

/// SMMU_CMDQ_PROD (Arm IHI 0070, 6.3.28): by it an SMMU hears that there is something to do.
pub const IOMMU_TAILS: [usize; 1] = [0x98];

/// All SMMUs of the platform, by position.
pub struct Iommus {
    smmus: Vec<Held<Smmu<Mmio, Shared>>>,
    stream_bits: Vec<u8>,
}

/// Bits of the streams that an SMMU's table gets entries for. With two levels the first one is cheap, so that streams have room that
/// only the system file names; what the platform names counts as far as the memory for it stays small. Streams above can't be given
/// to a VM, and abort.
fn stream_table_bits(features: &Features, platform: &Platform, smmu: IommuId) -> u32 {
    /// A first level of 2 KiB, and of 128 KiB.
    const TWO_LEVELS: (u32, u32) = (16, 22);
    /// Entries of 64 bytes: 16 KiB, and 256 KiB.
    const ONE_LEVEL: (u32, u32) = (8, 12);
    let functions = platform.functions.iter().flatten().flat_map(|it| &it.sources);
    let devices = platform.devices.iter().flat_map(|it| &it.sources);
    let (least, most) = if features.two_level { TWO_LEVELS } else { ONE_LEVEL };
    let bits_of =
        |source: &DmaSource| (source.iommu == smmu).then(|| u32::BITS - source.id.0.leading_zeros());
    let named = functions.chain(devices).filter_map(bits_of).filter(|&bits| bits <= most).max().unwrap_or(0);
    named.max(least).min(features.stream_bits).max(1)
}

/// The registers that the hypervisor drives.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    platform.iommus.iter().map(|smmu| smmu.registers).collect()
}

/// Has the lines of all of them heard, by `hear`, which says whether it could. The names of those that can't call.
pub fn listen(platform: &Platform, hear: impl Fn(Interrupt) -> bool) -> Vec<&str> {
    let heard = |line: Option<Interrupt>| line.is_some_and(&hear);
    // Both lines, also if the first one isn't heard.
    let calls = |smmu: &&Described| match smmu.kind {
        IommuKind::SmmuV3 { event_queue, global_error } => heard(event_queue) & heard(global_error),
        IommuKind::AmdVi { .. } | IommuKind::VtD { .. } => false,
    };
    platform.iommus.iter().filter(|smmu| !calls(smmu)).map(|smmu| smmu.path.as_str()).collect()
}

/// What an IOMMU says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// It had more faults to tell than room for them.
    pub lost_faults: bool,
    /// It has failed, and aborts everything until the machine is reset.
    pub failed: bool,
}

/// The registers of each SMMU.
///
/// # Safety
///
/// They must be mapped as the platform describes them, and driven by nobody else.
unsafe fn blocks(platform: &Platform) -> impl Iterator<Item = Mmio> {
    // SAFETY: by the caller's promise.
    platform.iommus.iter().map(|smmu| unsafe { Mmio::new(smmu.registers) })
}

/// Makes every SMMU abort whatever comes, before anything else is done.
///
/// # Safety
///
/// The SMMUs must be mapped as the platform describes them, and driven by nobody else.
pub unsafe fn close(platform: &Platform) -> Result<(), Error> {
    // SAFETY: by the caller's promise.
    for smmu in unsafe { blocks(platform) } {
        axvm_smmuv3::close(&smmu)?;
    }
    Ok(())
}

impl Iommus {
    /// Starts the SMMUs with tables in which every stream aborts.
    ///
    /// # Safety
    ///
    /// As [`close`].
    pub unsafe fn new(platform: &Platform) -> Result<Self, Error> {
        let (mut smmus, mut stream_bits) = (Vec::new(), Vec::new());
        // SAFETY: by the caller's promise.
        let found = unsafe { blocks(platform) };
        for (position, (registers, described)) in (0..).zip(found.zip(&platform.iommus)) {
            let bits = stream_table_bits(&Features::read(&registers), platform, IommuId(position));
            let highest = StreamId(u32::MAX >> (u32::BITS - bits));
            let options = Options { coherent: described.coherent, ..Options::new(highest) };
            smmus.push(Held::for_hardware("an SMMU", Smmu::new(registers, Shared, options)?));
            stream_bits.push(bits as u8);
        }
        Ok(Self { smmus, stream_bits })
    }

    /// Bits of the streams that each SMMU's table has entries for.
    pub fn stream_bits(&self) -> &[u8] {
        &self.stream_bits
    }

    /// How many sources reach a VM's memory.
    pub fn attached(&self) -> u32 {
        self.smmus.iter().map(|smmu| smmu.lock().attached() as u32).sum()
    }

    /// Address bits that every SMMU puts out.
    pub fn output_bits(&self) -> u32 {
        self.smmus.iter().map(|smmu| smmu.lock().features().output_bits).min().unwrap_or(48)
    }

    fn get(&self, id: IommuId) -> Option<&Held<Smmu<Mmio, Shared>>> {
        self.smmus.get(usize::from(id.0))
    }

    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = IommuId> {
        (0..).map(IommuId).take(self.smmus.len())
    }

    /// What went wrong with an SMMU since this was asked last.
    pub fn take_health(&self, smmu: IommuId) -> Health {
        let smmu = self.get(smmu);
        let errors = smmu.map_or_else(GlobalErrors::empty, |smmu| smmu.lock().take_gerror());
        Health {
            lost_faults: errors.contains(GlobalErrors::EVENTS_LOST),
            failed: errors.contains(GlobalErrors::SERVICE_FAILURE),
        }
    }
}

impl axvm::iommu::Iommu for Iommus {
    type Domain = Domain;
    type Error = HalError;

    fn attach(&self, source: DmaSource, domain: &Domain) -> Result<(), HalError> {
        let stream = source.id.into();
        let smmu = self.get(source.iommu).ok_or(Error::StreamOutOfRange { stream, bits: 0 })?;
        Ok(smmu.lock().attach(stream, domain)?)
    }

    fn block(&self, source: DmaSource) -> Result<(), HalError> {
        let stream = source.id.into();
        let smmu = self.get(source.iommu).ok_or(Error::StreamOutOfRange { stream, bits: 0 })?;
        if protection::is_off(Protection::LeakSource) {
            return Ok(());
        }
        Ok(smmu.lock().block(stream)?)
    }

    fn silence(&self, source: DmaSource) -> Result<(), HalError> {
        let Some(smmu) = self.get(source.iommu) else { return Ok(()) };
        match smmu.lock().silence(source.id.into()) {
            // One that is out of the table's range leaves none.
            Err(Error::StreamOutOfRange { .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    fn drain(&self, smmu: IommuId, limit: usize, mut each: impl FnMut(DmaFault)) -> Drained {
        let Some(it) = self.get(smmu) else { return Drained::default() };
        let drained = it.lock().drain_events(limit, |event| {
            let address = event.iova.map(|iova| iova.0);
            let source = DmaSource { iommu: smmu, id: event.stream.into() };
            each(DmaFault { source, write: event.write, address });
        });
        Drained { more: drained.more, lost: drained.overflowed }
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: true, cuts_mappings: true }
    }
}

/// What a VM's devices reach through one SMMU.
pub struct DmaSpace {
    smmu: IommuId,
    mapper: Mapper<Tables>,
    domain: Domain,
}

/// Forgets translations of one VMID at one SMMU.
struct SmmuTlb<'a>(&'a Iommus, IommuId, u16);

impl Invalidate for SmmuTlb<'_> {
    fn invalidate(&self, span: Span<Gpa>) -> Result<(), NotInvalidated> {
        let Some(smmu) = self.0.get(self.1) else { return Ok(()) };
        smmu.lock().invalidate_range(self.2, span).map_err(|_| NotInvalidated)
    }
}

impl DmaSpace {
    /// An empty map.
    pub fn new(smmu: IommuId, address_bits: u8, output_bits: u32, vmid: u16) -> Result<Self, SpaceError> {
        let bits = u32::from(address_bits).min(output_bits).clamp(32, 48);
        let mapper = Mapper::new(Tables, Stage2Format::new(bits)?)?;
        let domain = Domain { vmid, root: mapper.root(), ipa_bits: bits, output_bits: output_bits.min(48) };
        Ok(Self { smmu, mapper, domain })
    }

    /// The SMMU.
    pub fn iommu(&self) -> IommuId {
        self.smmu
    }

    /// What a stream is attached to.
    pub fn domain(&self) -> Domain {
        self.domain
    }

    /// Lets devices reach a span.
    pub fn map(&mut self, span: Span<Iova>, start: Hpa, flags: MappingFlags) -> Result<(), MapError> {
        self.mapper.map(input(span), start, attributes(flags))
    }

    /// Lets them reach it no more; when this returns, none does.
    pub fn unmap(&mut self, span: Span<Iova>, iommus: &Iommus) -> Result<(), UnmapError> {
        let invalidate = SmmuTlb(iommus, self.smmu, self.domain.vmid);
        self.mapper.unmap(input(span), &invalidate).map(|_| ())
    }

    /// Frees the tables. No stream is attached any more.
    pub fn destroy(self, iommus: &Iommus) -> Result<(), NotInvalidated> {
        let invalidate = SmmuTlb(iommus, self.smmu, self.domain.vmid);
        self.mapper.destroy(&invalidate).map_err(|(_, error)| error)
    }
}

/// The tables translate what a device puts out, which here takes the place of a guest-physical address.
fn input(span: Span<Iova>) -> Span<Gpa> {
    Span::new(Gpa(span.start().0), span.size()).unwrap_or_default()
}
