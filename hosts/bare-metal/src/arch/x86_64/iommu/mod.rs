//! The IOMMUs: closed first, then opened device by device for what the plan says, and asked for what they blocked.
//!
//! An IOMMU that is off lets everything pass, and has no state in which it is off and closed. So before it is turned on, with tables
//! in which nothing is open, no PCI function masters the bus ([`close`]). `amd` and `intel` have what each maker's is driven by; all others
//! see a [`Driver`].

mod amd;
mod intel;
mod own_interrupt;
mod silence;
mod space;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use axvm::iommu::{Abilities, DmaFault, Drained};
use axvm_addr::{DmaSource, Hpa, IommuId, Iova, PciAddress, SourceId, Span};
use axvm_platform::model::{IommuKind, Platform};
use axvm_vpci::MsiMessage;
use spin::Once;

use super::local_apic::LocalApic;
use crate::hal::HalError;
use crate::lock::Held;
use crate::log;
use crate::mmio::Mmio;
use crate::pci::Config;
use crate::protection::{self, Protection};

use own_interrupt::OwnMessage;
pub use own_interrupt::listen;
pub use space::DmaSpace;
use space::Format;

/// What an IOMMU couldn't do.
#[derive(Debug, thiserror::Error)]
pub enum IommuError {
    /// The driver's reason, of AMD's.
    #[error(transparent)]
    AmdVi(#[from] axvm_amdvi::Error),
    /// The driver's reason, of Intel's.
    #[error(transparent)]
    VtD(#[from] axvm_vtd::Error),
    /// It is of a kind that this host drives not.
    #[error("{0}: this kind of IOMMU isn't served: AMD's and Intel's are")]
    Kind(String),
    /// There is none of this number.
    #[error("there is no such IOMMU")]
    None,
    /// An interrupt of a sender that has no entry for it.
    #[error("the IOMMU's interrupt table has no entry for number {0} of this sender's")]
    NoEntry(u16),
    /// All entries are others'.
    #[error("the IOMMU's interrupt table has no {0} entries in a row left")]
    NoEntries(u32),
}

/// What devices of one VM reach through an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The tag of its translations.
    id: u16,
    /// The root table.
    root: Hpa,
    /// How many levels the tables have.
    levels: u8,
}

/// What an interrupt of a device becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The vector.
    pub vector: u8,
    /// The CPU, by its local APIC's id.
    pub hardware_id: u32,
    /// It counts by its level: an I/O APIC's.
    pub level: bool,
}

/// Who sends interrupts: a requester, and of functions that have one in common, which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sender {
    /// Where its interrupts arrive, and by what the IOMMU knows it.
    pub source: DmaSource,
    /// The function. An I/O APIC is none.
    pub function: Option<PciAddress>,
}

/// What an IOMMU has blocked.
struct Fault {
    source: SourceId,
    write: Option<bool>,
    address: Option<u64>,
}

/// An IOMMU, whoever has made it. Everything is closed in it but what is opened here.
trait Driver: Send {
    /// Lets a source reach what a domain's tables map.
    fn attach(&mut self, source: SourceId, domain: &Domain) -> Result<(), IommuError>;

    /// Closes it; when this returns, nothing of it is under way.
    fn block(&mut self, source: SourceId) -> Result<(), IommuError>;

    /// Has one that is closed leave no more records.
    fn silence(&mut self, source: SourceId) -> Result<(), IommuError>;

    /// How many sources are open.
    fn attached(&self) -> usize;

    /// Hands over records.
    fn drain(&mut self, limit: usize, each: &mut dyn FnMut(Fault)) -> Drained;

    /// Whether it does what it was turned on for.
    fn is_enabled(&self) -> bool;

    /// The bits of the addresses that sources can have translated.
    fn input_bits(&self) -> u32;

    /// The tables that it walks, for addresses of so many bits.
    fn format(&self, address_bits: u32) -> Option<Format>;

    /// Has it forget what it holds of a domain.
    fn invalidate(&mut self, domain: u16, span: Span<Iova>) -> Result<(), IommuError>;

    /// Whether interrupts are looked up in its tables at all.
    fn remaps(&self) -> bool;

    /// Gives a sender entries for this many interrupts, if it has none.
    fn reserve(&mut self, sender: Sender, count: u32) -> Result<(), IommuError>;

    /// Has an interrupt of a sender become another one, or be blocked.
    fn route(&mut self, sender: Sender, number: u16, interrupt: Option<Interrupt>) -> Result<(), IommuError>;

    /// A source's senders have no entries any more. Nothing is routed by them.
    fn release(&mut self, source: DmaSource);

    /// What a function is to send for an interrupt that it has an entry for.
    fn message(&self, sender: Sender, number: u16) -> Option<MsiMessage>;

    /// What names the entry of a pin in an I/O APIC's own, lower and upper half: it becomes this vector.
    fn pin(&self, sender: Sender, pin: u16, vector: u8) -> Option<(u32, u32)>;

    /// Has it send this when it has recorded something. Whether it will.
    fn interrupt_by(&mut self, platform: &Platform, config: &Config, message: OwnMessage) -> bool;
}

/// All IOMMUs of the platform, by position, once [`close`] has turned them on.
static UNITS: Once<Vec<Held<Box<dyn Driver>>>> = Once::new();

/// The IOMMUs: whoever routes an interrupt has to do with them too.
#[derive(Clone, Copy)]
pub struct Iommus {
    units: &'static [Held<Box<dyn Driver>>],
}

/// The registers that the hypervisor drives.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    platform.iommus.iter().map(|iommu| iommu.registers).collect()
}

/// What an IOMMU says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// It had more faults to tell than room for them.
    pub lost_faults: bool,
    /// It has failed, and aborts everything until the machine is reset.
    pub failed: bool,
}

/// Keeps every PCI function off the bus, and turns the IOMMUs on with tables that block everything.
///
/// # Safety
///
/// IOMMUs and config spaces must be mapped as the platform describes them, and driven by nobody else.
pub unsafe fn close(platform: &Platform) -> Result<(), IommuError> {
    // SAFETY: by the caller's promise.
    let config = unsafe { Config::new(platform) };
    silence::all_functions(platform, &config);
    let x2apic = LocalApic::own().is_x2apic();
    let mut units = Vec::new();
    for described in &platform.iommus {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(described.registers) };
        let unit: Box<dyn Driver> = match described.kind {
            IommuKind::AmdVi { function, control, .. } => {
                Box::new(amd::AmdVi::new(registers, function, control, x2apic)?)
            }
            IommuKind::VtD { .. } => Box::new(intel::VtD::new(registers, x2apic)?),
            IommuKind::SmmuV3 { .. } => return Err(IommuError::Kind(described.path.clone())),
        };
        units.push(Held::for_hardware("an IOMMU", unit));
    }
    UNITS.call_once(|| units);
    Ok(())
}

/// Has the platform say what the IOMMUs themselves do: firmware can promise that one remaps interrupts which can't.
pub fn correct(platform: &mut Platform) {
    for (described, unit) in platform.iommus.iter_mut().zip(Iommus::closed().units) {
        if let IommuKind::VtD { remaps_interrupts, .. } = &mut described.kind
            && *remaps_interrupts
            && !unit.lock().remaps()
        {
            log::warn!("{}: it doesn't remap interrupts, though the DMAR says so", described.path);
            *remaps_interrupts = false;
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

    /// Address bits that every IOMMU translates, and puts out: an entry of the tables holds as much as the CPUs have.
    pub fn output_bits(&self) -> u32 {
        let translated = self.units.iter().map(|unit| unit.lock().input_bits());
        translated.fold(u32::from(super::cpu::physical_address_bits()), u32::min)
    }

    fn get(&self, id: IommuId) -> Result<&Held<Box<dyn Driver>>, IommuError> {
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

    /// Whether a source's interrupts are looked up in tables.
    pub fn remaps(&self, source: DmaSource) -> bool {
        self.get(source.iommu).is_ok_and(|unit| unit.lock().remaps())
    }

    /// Has interrupt `number` of a sender, which has `count`, become another one, or be blocked.
    pub fn route(
        &self,
        sender: Sender,
        count: u32,
        number: u16,
        interrupt: Option<Interrupt>,
    ) -> Result<(), IommuError> {
        let mut unit = self.get(sender.source.iommu)?.lock();
        if interrupt.is_some() {
            unit.reserve(sender, count)?;
        }
        unit.route(sender, number, interrupt)
    }

    /// A source's senders are gone, and nothing of theirs is routed.
    pub fn release(&self, source: DmaSource) {
        if let Ok(unit) = self.get(source.iommu) {
            unit.lock().release(source);
        }
    }

    /// What a function is to send for an interrupt that is routed.
    pub fn message(&self, sender: Sender, number: u16) -> Option<MsiMessage> {
        self.get(sender.source.iommu).ok()?.lock().message(sender, number)
    }

    /// What names the entry of a pin that is routed, in the I/O APIC's own: lower and upper half.
    pub fn pin(&self, sender: Sender, pin: u16, vector: u8) -> Option<(u32, u32)> {
        self.get(sender.source.iommu).ok()?.lock().pin(sender, pin, vector)
    }
}

impl axvm::iommu::Iommu for Iommus {
    type Domain = Domain;
    type Error = HalError;

    fn attach(&self, source: DmaSource, domain: &Domain) -> Result<(), HalError> {
        Ok(self.get(source.iommu)?.lock().attach(source.id, domain)?)
    }

    fn block(&self, source: DmaSource) -> Result<(), HalError> {
        let unit = self.get(source.iommu)?;
        if protection::is_off(Protection::LeakSource) {
            return Ok(());
        }
        Ok(unit.lock().block(source.id)?)
    }

    fn silence(&self, source: DmaSource) -> Result<(), HalError> {
        Ok(self.get(source.iommu)?.lock().silence(source.id)?)
    }

    fn drain(&self, iommu: IommuId, limit: usize, mut each: impl FnMut(DmaFault)) -> Drained {
        let Ok(unit) = self.get(iommu) else { return Drained::default() };
        unit.lock().drain(limit, &mut |Fault { source, write, address }| {
            each(DmaFault { source: DmaSource { iommu, id: source }, write, address });
        })
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: true, cuts_mappings: true }
    }
}

/// An interrupt message, to nobody in particular (Intel SDM 3, 11.11.1).
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

/// By what an IOMMU hears that there is something to do: the tail of AMD's command buffer (48882, 3.4.14), of Intel's invalidation queue
/// (11.4.9.2). Neither has another register at the other's place that is written.
pub const IOMMU_TAILS: [usize; 2] = [0x2008, 0x88];
