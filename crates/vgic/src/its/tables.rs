//! Which event of which device is which LPI, and where it goes (IHI 0069, 5.2).
//!
//! The guest gives memory for these tables, and its size bounds what can be mapped. What is mapped is kept in
//! the hypervisor's own memory, bounded by the configuration, so that nothing the guest writes there has an
//! effect.

use alloc::vec::Vec;

use axvm_addr::VcpuId;

use crate::command_error::CommandError;
use crate::config::ItsConfig;
use crate::id::{Intid, ItsDeviceId, ItsEventId};
use crate::interrupts::Handle;
use crate::spec::redistributor::LpiProperty;

/// A mapped event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) lpi: Intid,
    pub(crate) handle: Handle,
    pub(crate) collection: u16,
    /// The hypervisor has mapped the physical event: it does when the collection is mapped.
    pub(crate) physical: bool,
    /// The configuration that the hypervisor was last told; none since the physical event was mapped.
    pub(crate) told: Option<LpiProperty>,
}

/// A device of the VM.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) id: ItsDeviceId,
    pub(crate) mapped: bool,
    /// One for each event id, while it is mapped.
    pub(crate) events: Vec<Option<Event>>,
}

/// The tables of a virtual ITS.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// The VM's devices, sorted by id.
    pub(crate) devices: Vec<Device>,
    pub(crate) collections: Vec<Option<VcpuId>>,
}

impl Tables {
    /// Tables in which nothing is mapped. There is one collection for each vCPU and one more, the least that
    /// the architecture asks for (IHI 0069, GITS_TYPER.HCC).
    pub(crate) fn new(config: &ItsConfig, vcpus: usize) -> Self {
        let mut devices: Vec<_> =
            config.devices.iter().map(|id| Device { id: *id, mapped: false, events: Vec::new() }).collect();
        devices.sort_unstable_by_key(|d| d.id);
        Self { devices, collections: alloc::vec![None; vcpus + 1] }
    }

    /// The position of a device of the VM.
    pub(crate) fn position(&self, id: ItsDeviceId) -> Option<usize> {
        self.devices.binary_search_by_key(&id, |d| d.id).ok()
    }

    /// The event, if it is mapped: the way of an interrupt, with nothing to say why not.
    pub(crate) fn translate(&self, device: ItsDeviceId, event: ItsEventId) -> Option<Event> {
        *self.devices.get(self.position(device)?)?.events.get(event.0 as usize)?
    }

    /// The place of an event of a mapped device, for a command.
    pub(crate) fn slot(
        &mut self,
        device: usize,
        event: ItsEventId,
    ) -> Result<&mut Option<Event>, CommandError> {
        let device =
            self.devices.get_mut(device).filter(|d| d.mapped).ok_or(CommandError::DeviceNotMapped)?;
        device.events.get_mut(event.0 as usize).ok_or(CommandError::EventOutOfRange(event))
    }

    /// A mapped event, for a command.
    pub(crate) fn event(&mut self, device: usize, event: ItsEventId) -> Result<&mut Event, CommandError> {
        self.slot(device, event)?.as_mut().ok_or(CommandError::EventNotMapped(event))
    }

    /// The vCPU of a collection, if it is mapped.
    pub(crate) fn target(&self, collection: u16) -> Option<VcpuId> {
        self.collections.get(usize::from(collection)).copied().flatten()
    }

    /// All mapped events.
    pub(crate) fn events(&mut self) -> impl Iterator<Item = (ItsDeviceId, ItsEventId, &mut Event)> {
        self.devices.iter_mut().flat_map(|device| {
            let id = device.id;
            (0..)
                .map(ItsEventId)
                .zip(&mut device.events)
                .filter_map(move |(event, slot)| slot.as_mut().map(|slot| (id, event, slot)))
        })
    }
}
