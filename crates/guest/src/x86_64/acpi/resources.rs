//! Resources of devices, as their `_CRS` says them.

use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{AddressSpace, AddressSpaceCacheable, IO, Interrupt, Memory32Fixed, ResourceTemplate};
use axvm_addr::{Address, Gpa, PciBuses, Ports, Span, Trigger};

use super::{AcpiWriteError, aml};

/// Bytes that are AML already.
pub(super) struct Done(pub(super) Vec<u8>);

impl Aml for Done {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The resources of a device, put together one after the other.
#[derive(Default)]
pub(super) struct Resources(Vec<Done>);

impl Resources {
    fn push(&mut self, resource: &dyn Aml) {
        self.0.push(Done(aml(resource)));
    }

    /// What `_CRS` is.
    pub(super) fn template(&self) -> Done {
        Done(aml(&ResourceTemplate::new(self.0.iter().map(|it| it as &dyn Aml).collect())))
    }

    /// Ports that it uses.
    pub(super) fn ports(&mut self, ports: Ports) {
        match u8::try_from(ports.count()) {
            Ok(count) => self.push(&IO::new(ports.first(), ports.first(), 1, count)),
            Err(_) => self.port_window(ports),
        }
    }

    /// Ports that are a bus's. In 32 bits, of which it has enough to count all that there are.
    pub(super) fn port_window(&mut self, ports: Ports) {
        self.push(&AddressSpace::<u32>::new_io(ports.first().into(), ports.last().into(), None));
    }

    /// Registers that it uses.
    pub(super) fn registers(&mut self, span: Span<Gpa>) -> Result<(), AcpiWriteError> {
        match (u32::try_from(span.start().0), u32::try_from(span.size())) {
            (Ok(start), Ok(size)) => self.push(&Memory32Fixed::new(true, start, size)),
            _ => self.memory_window(span, span.start().0, false)?,
        }
        Ok(())
    }

    /// Memory that is a bus's, on which it begins at `bus`.
    pub(super) fn memory_window(
        &mut self,
        cpu: Span<Gpa>,
        bus: u64,
        prefetchable: bool,
    ) -> Result<(), AcpiWriteError> {
        let last = cpu.size().checked_sub(1).and_then(|more| bus.checked_add(more));
        let last =
            last.ok_or(AcpiWriteError::TooMuch("a PCI window is empty, or passes the end of its bus"))?;
        let kind = if prefetchable {
            AddressSpaceCacheable::PreFetchable
        } else {
            AddressSpaceCacheable::NotCacheable
        };
        let translation = cpu.start().get().wrapping_sub(bus);
        match (u32::try_from(bus), u32::try_from(last), translation) {
            (Ok(bus), Ok(last), 0) => self.push(&AddressSpace::new_memory(kind, true, bus, last, None)),
            _ => self.push(&AddressSpace::new_memory(kind, true, bus, last, Some(translation))),
        }
        Ok(())
    }

    /// Bus numbers.
    pub(super) fn buses(&mut self, buses: PciBuses) {
        self.push(&AddressSpace::<u16>::new_bus_number(buses.first.into(), buses.last.into()));
    }

    /// A line: those that signal by their level do so when it is low, as PCI's, and others when it rises, as ISA's.
    pub(super) fn line(&mut self, line: axvm_addr::Interrupt) {
        let level = line.trigger == Trigger::Level;
        self.push(&Interrupt::new(true, !level, level, level, line.irq.0));
    }
}
