//! AMD's (AMD-Vi).

use alloc::collections::BTreeMap;

use axvm::iommu::Drained;
use axvm_addr::{DmaSource, Hpa, Iova, PciAddress, SourceId, Span};
use axvm_amdvi::{DeviceId, Hints, Iommu, Options};
use axvm_iommu::{Entries, Memory};
use axvm_paging::AmdIoFormat;
use axvm_platform::model::Platform;
use axvm_vpci::MsiMessage;

use super::own_interrupt::{OwnMessage, send_by_msi};
use super::space::Format;
use super::{Domain, Driver, Fault, Interrupt, IommuError, MESSAGE_ADDRESS, Sender};
use crate::arch::x86_64::protection;
use crate::iommu_access;
use crate::memory;
use crate::mmio::Mmio;
use crate::pci::Config;

/// The highest device that there can be: all of a segment.
const LAST_DEVICE: DeviceId = DeviceId(0xffff);

/// Entries of a requester's table that any hardware has (48882, 2.2.5).
const ENTRIES: u32 = 512;

/// Memory that it and the hypervisor share, which is filled at one go.
#[derive(Clone, Copy, Debug)]
struct Shared;

impl Memory for Shared {
    fn allocate(&self, bytes: usize, align: usize) -> Option<Hpa> {
        iommu_access::Shared.allocate(bytes, align)
    }

    fn allocate_filled(&self, bytes: usize, align: usize, words: &[u64]) -> Option<Hpa> {
        let whole = words.len().checked_mul(8).filter(|whole| *whole != 0 && bytes.is_multiple_of(*whole))?;
        let base = memory::allocate_uncleared(bytes, align)?;
        let places = (base.0..).step_by(8).map(Hpa);
        places.zip(words).for_each(|(at, word)| self.write64(at, *word));
        // SAFETY: nobody else has the memory. What is copied up to the end is what has been copied before, a whole further down.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                inout("rcx") (bytes - whole) / 8 => _,
                inout("rsi") base.0 => _,
                inout("rdi") base.0 + whole as u64 => _,
                options(nostack, preserves_flags)
            );
        }
        Some(base)
    }

    fn read64(&self, address: Hpa) -> u64 {
        iommu_access::Shared.read64(address)
    }

    fn write64(&self, address: Hpa, value: u64) {
        iommu_access::Shared.write64(address, value);
    }

    fn clean(&self, address: Hpa, bytes: u64) {
        iommu_access::Shared.clean(address, bytes);
    }

    fn barrier(&self) {
        iommu_access::Shared.barrier();
    }
}

/// One of them.
pub struct AmdVi {
    iommu: Iommu<Mmio, Shared>,
    /// The PCI function that it is.
    function: PciAddress,
    /// Each requester has a table of its own, which functions with one id in common share.
    entries: BTreeMap<SourceId, Entries<Option<PciAddress>>>,
}

impl AmdVi {
    /// Turns it on, closed. `control`: what firmware wants its control register to have.
    pub fn new(
        registers: Mmio,
        function: PciAddress,
        control: u8,
        x2apic: bool,
    ) -> Result<Self, axvm_amdvi::Error> {
        let hints = Hints {
            ht_tunnel: control & 1 != 0,
            pass_posted_writes: control & 2 != 0,
            responses_pass_posted_writes: control & 4 != 0,
            isochronous: control & 8 != 0,
        };
        // Its MSI goes nowhere as long as the capability is off, which `interrupt_by` turns on.
        let options = Options { hints, x2apic, event_interrupt: true, ..Options::new(LAST_DEVICE) };
        let iommu = Iommu::new(registers, Shared, options)?;
        Ok(Self { iommu, function, entries: BTreeMap::new() })
    }

    fn entry(&self, sender: Sender, number: u16) -> Option<u16> {
        self.entries.get(&sender.source.id)?.find(&sender.function, number)
    }
}

/// What it knows a source by: a requester id.
fn device(source: SourceId) -> DeviceId {
    DeviceId(source.0 as u16)
}

impl Driver for AmdVi {
    fn attach(&mut self, source: SourceId, domain: &Domain) -> Result<(), IommuError> {
        let Domain { id, root, levels } = *domain;
        Ok(self.iommu.attach(device(source), &axvm_amdvi::Domain { id, root, levels })?)
    }

    fn block(&mut self, source: SourceId) -> Result<(), IommuError> {
        Ok(self.iommu.block(device(source))?)
    }

    fn silence(&mut self, source: SourceId) -> Result<(), IommuError> {
        Ok(self.iommu.silence(device(source))?)
    }

    fn attached(&self) -> usize {
        self.iommu.attached()
    }

    fn drain(&mut self, limit: usize, each: &mut dyn FnMut(Fault)) -> Drained {
        let drained = self.iommu.drain_events(limit, |event| {
            let Some(DeviceId(id)) = event.device else { return };
            let write = (!event.interrupt).then_some(event.write);
            each(Fault { source: SourceId(id.into()), write, address: Some(event.address.0) });
        });
        Drained { more: drained.more, lost: drained.overflowed }
    }

    fn is_enabled(&self) -> bool {
        self.iommu.is_enabled()
    }

    fn input_bits(&self) -> u32 {
        48
    }

    fn format(&self, _: u32) -> Option<Format> {
        // Four levels: a VM's RAM lies anywhere below 2^48.
        AmdIoFormat::new(48).map(Format::Amd)
    }

    fn invalidate(&mut self, domain: u16, span: Span<Iova>) -> Result<(), IommuError> {
        Ok(self.iommu.invalidate_range(domain, span)?)
    }

    fn remaps(&self) -> bool {
        true
    }

    fn reserve(&mut self, sender: Sender, count: u32) -> Result<(), IommuError> {
        let entries = self.entries.entry(sender.source.id).or_insert_with(|| Entries::new(ENTRIES));
        let count = protection::entries(count, ENTRIES);
        entries.take(sender.function, count).map(|_| ()).ok_or(IommuError::NoEntries(count))
    }

    fn route(&mut self, sender: Sender, number: u16, interrupt: Option<Interrupt>) -> Result<(), IommuError> {
        use axvm_amdvi::{Destination, InterruptKind};
        let entry = match (self.entry(sender, number), interrupt) {
            (Some(entry), _) => entry,
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err(IommuError::NoEntry(number)),
        };
        let interrupt = interrupt.map(|Interrupt { vector, hardware_id, .. }| axvm_amdvi::Interrupt {
            vector,
            destination: Destination::Physical(hardware_id),
            kind: InterruptKind::Fixed,
        });
        Ok(self.iommu.route(device(sender.source.id), entry, interrupt)?)
    }

    fn release(&mut self, source: DmaSource) {
        self.entries.remove(&source.id);
    }

    fn message(&self, sender: Sender, number: u16) -> Option<MsiMessage> {
        // The entry is looked up by the data, and whose it is by who sends it (48882, 2.2.5.2).
        let data = self.entry(sender, number)?.into();
        Some(MsiMessage { address: MESSAGE_ADDRESS.into(), data })
    }

    fn pin(&self, sender: Sender, pin: u16, _: u8) -> Option<(u32, u32)> {
        // The message has as its data what the entry has as vector and delivery mode: the index (48882, 2.2.5.1).
        Some((self.entry(sender, pin)?.into(), 0))
    }

    fn interrupt_by(&mut self, platform: &Platform, config: &Config, message: OwnMessage) -> bool {
        send_by_msi(platform, config, self.function, message)
    }
}
