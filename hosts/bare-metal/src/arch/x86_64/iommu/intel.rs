//! Intel's (VT-d).

use axvm::iommu::Drained;
use axvm_addr::{DmaSource, Iova, SourceId, Span};
use axvm_iommu::Entries;
use axvm_paging::{IntelIoFeatures, IntelIoFormat};
use axvm_platform::model::Platform;
use axvm_vpci::MsiMessage;
use axvm_vtd::{DeviceId, Options, OwnInterrupt, Unit, msi_address_of_several};

use super::own_interrupt::OwnMessage;
use super::space::Format;
use super::{Domain, Driver, Fault, Interrupt, IommuError, Sender};
use crate::iommu_access::Shared;
use crate::mmio::Mmio;
use crate::pci::Config;

/// log2 of the entries of the interrupt table, 16 bytes each: all that there can be.
const INTERRUPTS_LOG2: u8 = 16;

/// One of them.
pub struct VtD {
    unit: Unit<Mmio, Shared>,
    /// The table is one for all that it serves.
    entries: Entries<Sender>,
}

impl VtD {
    /// Turns it on, closed. One that firmware has left on is closed from one moment to the next.
    pub fn new(registers: Mmio, x2apic: bool) -> Result<Self, axvm_vtd::Error> {
        let unit = Unit::new(registers, Shared, Options { interrupts_log2: INTERRUPTS_LOG2, x2apic })?;
        let entries = if unit.features().interrupts { 1 << INTERRUPTS_LOG2 } else { 0 };
        Ok(Self { unit, entries: Entries::new(entries) })
    }
}

/// What it knows a source by: a requester id.
fn device(source: SourceId) -> DeviceId {
    DeviceId(source.0 as u16)
}

impl Driver for VtD {
    fn attach(&mut self, source: SourceId, domain: &Domain) -> Result<(), IommuError> {
        let Domain { id, root, levels } = *domain;
        Ok(self.unit.attach(device(source), &axvm_vtd::Domain { id, root, levels })?)
    }

    fn block(&mut self, source: SourceId) -> Result<(), IommuError> {
        Ok(self.unit.block(device(source))?)
    }

    fn silence(&mut self, source: SourceId) -> Result<(), IommuError> {
        Ok(self.unit.silence(device(source))?)
    }

    fn attached(&self) -> usize {
        self.unit.attached()
    }

    fn drain(&mut self, limit: usize, each: &mut dyn FnMut(Fault)) -> Drained {
        let drained = self.unit.drain_faults(limit, |fault| {
            let write = fault.interrupt.is_none().then_some(fault.write);
            let address = fault.address.map(|address| address.0);
            each(Fault { source: SourceId(fault.device.0.into()), write, address });
        });
        Drained { more: drained.more, lost: drained.overflowed }
    }

    fn is_enabled(&self) -> bool {
        self.unit.is_enabled()
    }

    fn input_bits(&self) -> u32 {
        let features = self.unit.features();
        features.input_bits.min(if features.four_levels { 48 } else { 39 })
    }

    fn format(&self, address_bits: u32) -> Option<Format> {
        let features = self.unit.features();
        let levels =
            if features.three_levels && (address_bits <= 39 || !features.four_levels) { 3 } else { 4 };
        let io = IntelIoFeatures {
            blocks_2m: features.blocks_2m,
            blocks_1g: features.blocks_1g,
            snoop_control: features.snoop_control,
        };
        let format = IntelIoFormat::new(levels, io)?;
        Some(Format::Intel { format, coherent: features.coherent })
    }

    fn invalidate(&mut self, domain: u16, span: Span<Iova>) -> Result<(), IommuError> {
        Ok(self.unit.invalidate_range(domain, span)?)
    }

    fn remaps(&self) -> bool {
        self.unit.features().interrupts
    }

    fn reserve(&mut self, sender: Sender, count: u32) -> Result<(), IommuError> {
        self.entries.take(sender, count).map(|_| ()).ok_or(IommuError::NoEntries(count))
    }

    fn route(&mut self, sender: Sender, number: u16, interrupt: Option<Interrupt>) -> Result<(), IommuError> {
        use axvm_vtd::{Destination, InterruptKind};
        let entry = match (self.entries.find(&sender, number), interrupt) {
            (Some(entry), _) => entry,
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err(IommuError::NoEntry(number)),
        };
        let to = interrupt.map(|Interrupt { vector, hardware_id, level }| {
            let destination = Destination::Physical(hardware_id);
            let interrupt = axvm_vtd::Interrupt { vector, destination, kind: InterruptKind::Fixed, level };
            (device(sender.source.id), interrupt)
        });
        Ok(self.unit.route(entry, to)?)
    }

    fn release(&mut self, source: DmaSource) {
        self.entries.give_back(|sender| sender.source == source);
    }

    fn message(&self, sender: Sender, number: u16) -> Option<MsiMessage> {
        self.entries.find(&sender, number)?;
        // The address is that of its first entry, so that one with several by MSI counts in the data.
        let address = msi_address_of_several(self.entries.find(&sender, 0)?);
        Some(MsiMessage { address: address.into(), data: number.into() })
    }

    fn pin(&self, sender: Sender, pin: u16, vector: u8) -> Option<(u32, u32)> {
        let entry = self.entries.find(&sender, pin)?;
        Some((axvm_vtd::io_apic_low(entry, vector), axvm_vtd::io_apic_high(entry)))
    }

    fn interrupt_by(&mut self, _: &Platform, _: &Config, message: OwnMessage) -> bool {
        let interrupt =
            message.of(self.unit.features().x2apic).map(|(address, data)| OwnInterrupt { address, data });
        self.unit.interrupt_by(interrupt);
        interrupt.is_some()
    }
}
