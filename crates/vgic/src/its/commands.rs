//! What each ITS command does (IHI 0069, 5.3): checked first, then done here, then by the hypervisor in
//! hardware.
//!
//! A command that doesn't pass the checks is ignored and counted, and the next one is taken: of what the
//! architecture allows on a command error (ignore, or stall and set GITS_CREADR.Stalled) that is the choice
//! that leaves the guest its other devices.

use axvm_addr::{Gpa, VcpuId};

use super::ItsState;
use super::tables::Event;
use crate::backend::{EventChange, Violation};
use crate::command_error::CommandError;
use crate::id::{Intid, ItsDeviceId, ItsEventId};
use crate::interrupts::Interrupts;
use crate::shared::Shared;
use crate::spec::LPI_FIRST;
use crate::spec::its_command::Command;
use crate::spec::its_registers::ENTRY_BYTES;
use crate::spec::redistributor::{LpiProperty, propbaser_address};

/// Carries out commands on one ITS.
pub(crate) struct Executor<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) its: &'a mut ItsState,
    /// The vCPU that this happens on.
    pub(crate) current: Option<VcpuId>,
}

impl Executor<'_> {
    /// Carries out a command. Returns how many events it went through, or why it is ignored.
    pub(crate) fn execute(&mut self, command: Command) -> Result<usize, CommandError> {
        match command {
            Command::Mapd { device, bits, table, valid } => self.mapd(device, bits, Gpa(table), valid),
            Command::Mapc { collection, target, valid } => self.mapc(collection, target, valid),
            Command::Mapti { device, event, lpi, collection } => {
                self.mapti(device, event, Intid(lpi), collection)
            }
            Command::Mapi { device, event, collection } => {
                self.mapti(device, event, Intid(event.0), collection)
            }
            Command::Movi { device, event, collection } => self.movi(device, event, collection),
            Command::Movall { from, to } => self.movall(from, to),
            Command::Inv { device, event } => self.inv(device, event),
            Command::Invall { collection } => self.invall(collection),
            Command::Discard { device, event } => self.discard(device, event),
            Command::Clear { device, event } => self.clear(device, event),
            Command::Int { device, event } => self.int(device, event),
            // Every command has taken effect when it is done.
            Command::Sync { target } => self.vcpu(target).map(|_| 0),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Interrupts) -> R) -> R {
        self.shared.with(self.current, f)
    }

    fn device(&self, id: ItsDeviceId) -> Result<usize, CommandError> {
        let Some(position) = self.its.tables.position(id) else {
            self.shared.backend().violation(Violation::ForeignItsDevice(id));
            return Err(CommandError::ForeignDevice(id));
        };
        if u64::from(id.0) >= self.its.device_entries() {
            return Err(CommandError::DeviceOutOfTable(id));
        }
        Ok(position)
    }

    fn vcpu(&self, target: u64) -> Result<VcpuId, CommandError> {
        u16::try_from(target)
            .ok()
            .filter(|number| usize::from(*number) < self.shared.config.vcpus.len())
            .map(VcpuId)
            .ok_or(CommandError::NoSuchRedistributor(target))
    }

    fn collection(&self, collection: u16) -> Result<u16, CommandError> {
        let inside = usize::from(collection) < self.its.tables.collections.len()
            && u64::from(collection) < self.its.collection_entries();
        if inside { Ok(collection) } else { Err(CommandError::CollectionOutOfRange(collection)) }
    }

    fn mapped_collection(&self, collection: u16) -> Result<VcpuId, CommandError> {
        let collection = self.collection(collection)?;
        self.its.tables.target(collection).ok_or(CommandError::CollectionNotMapped(collection))
    }

    fn mapd(&mut self, id: ItsDeviceId, bits: u32, table: Gpa, valid: bool) -> Result<usize, CommandError> {
        let position = self.device(id)?;
        if !valid {
            return self.unmap(position);
        }
        if bits > self.its.config.event_bits {
            return Err(CommandError::TooManyEvents(bits));
        }
        self.check_table(table, ENTRY_BYTES << bits)?;
        let events = self.unmap(position)?;
        self.shared.backend().map_device(id, bits)?;
        if let Some(device) = self.its.tables.devices.get_mut(position) {
            device.mapped = true;
            device.events.resize(1 << bits, None);
        }
        Ok(events)
    }

    /// The interrupt translation table isn't used, but a driver whose table isn't memory has gone astray.
    fn check_table(&self, table: Gpa, bytes: u64) -> Result<(), CommandError> {
        let mut entry = [0; ENTRY_BYTES as usize];
        let last =
            table.0.checked_add(bytes - ENTRY_BYTES).map(Gpa).ok_or(CommandError::TableNotMemory(table))?;
        for address in [table, last] {
            self.shared
                .backend()
                .read_guest(address, &mut entry)
                .map_err(|_| CommandError::TableNotMemory(table))?;
        }
        Ok(())
    }

    /// Unmaps a device and all its events, if it is mapped.
    pub(crate) fn unmap(&mut self, position: usize) -> Result<usize, CommandError> {
        let Some(device) = self.its.tables.devices.get_mut(position).filter(|d| d.mapped) else {
            return Ok(0);
        };
        device.mapped = false;
        let id = device.id;
        let events = core::mem::take(&mut device.events);
        self.with(|state| {
            for event in events.iter().flatten() {
                state.unbind_lpi(event.handle);
            }
        });
        self.shared.backend().unmap_device(id)?;
        Ok(events.len())
    }

    fn mapc(&mut self, collection: u16, target: u64, valid: bool) -> Result<usize, CommandError> {
        let collection = self.collection(collection)?;
        let target = if valid { Some(self.vcpu(target)?) } else { None };
        let Some(slot) = self.its.tables.collections.get_mut(usize::from(collection)) else { return Ok(0) };
        *slot = target;
        let mut visited = 0;
        let mut result = Ok(());
        for (device, id, event) in self.its.tables.events() {
            visited += 1;
            if event.collection == collection {
                result = result.and(place(self.shared, self.current, device, id, event, target));
            }
        }
        result.map(|()| visited)
    }

    fn mapti(
        &mut self,
        device: ItsDeviceId,
        id: ItsEventId,
        lpi: Intid,
        collection: u16,
    ) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        self.its.tables.slot(position, id)?;
        if lpi.0 < LPI_FIRST || u64::from(lpi.0) >= self.its.lpi_end(self.shared) {
            return Err(CommandError::LpiOutOfRange(lpi));
        }
        let collection = self.collection(collection)?;
        if self.its.tables.slot(position, id)?.is_some() {
            self.discard(device, id)?;
        }
        if self.shared.config.hardware_lpis() {
            self.its.put_stray_back(self.shared, self.current, lpi);
            if self.with(|state| state.find_lpi(lpi)).is_some() {
                return Err(CommandError::LpiTwice(lpi));
            }
        }
        let handle = self.with(|state| state.bind_lpi(lpi));
        let mut event = Event { lpi, handle, collection, physical: false, told: None };
        let target = self.its.tables.target(collection);
        if let Err(error) = place(self.shared, self.current, device, id, &mut event, target) {
            self.with(|state| state.unbind_lpi(handle));
            if event.physical
                && let Err(also) = self.shared.backend().change_event(device, id, EventChange::Discard)
            {
                self.shared.counters.count_command_error(also.into());
            }
            return Err(error);
        }
        *self.its.tables.slot(position, id)? = Some(event);
        Ok(0)
    }

    fn movi(&mut self, device: ItsDeviceId, id: ItsEventId, collection: u16) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        let target = self.mapped_collection(collection)?;
        let (shared, current) = (self.shared, self.current);
        let event = self.its.tables.event(position, id)?;
        event.collection = collection;
        place(shared, current, device, id, event, Some(target))?;
        Ok(0)
    }

    fn movall(&mut self, from: u64, to: u64) -> Result<usize, CommandError> {
        let (from, to) = (self.vcpu(from)?, self.vcpu(to)?);
        if self.shared.config.hardware_lpis() {
            return self.move_physical(from, to);
        }
        Ok(self.with(|state| state.move_lpis(from, to)))
    }

    /// MOVALL where LPIs reach the guest from the hardware: moved there, one by one.
    fn move_physical(&mut self, from: VcpuId, to: VcpuId) -> Result<usize, CommandError> {
        let (shared, current) = (self.shared, self.current);
        let mut visited = 0;
        let mut result = Ok(());
        for (device, id, event) in self.its.tables.events() {
            visited += 1;
            let handle = event.handle;
            if event.physical
                && shared.with(current, |state| state.irq(handle).and_then(|irq| irq.target)) == Some(from)
            {
                result = result.and(place(shared, current, device, id, event, Some(to)));
            }
        }
        result.map(|()| visited)
    }

    fn inv(&mut self, device: ItsDeviceId, id: ItsEventId) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        let collection = self.its.tables.event(position, id)?.collection;
        self.mapped_collection(collection)?;
        configure(self.shared, self.current, device, id, self.its.tables.event(position, id)?)?;
        Ok(0)
    }

    fn invall(&mut self, collection: u16) -> Result<usize, CommandError> {
        self.mapped_collection(collection)?;
        let mut visited = 0;
        let mut result = Ok(());
        for (device, id, event) in self.its.tables.events() {
            visited += 1;
            if event.collection == collection {
                result = result.and(configure(self.shared, self.current, device, id, event));
            }
        }
        result.map(|()| visited)
    }

    fn discard(&mut self, device: ItsDeviceId, id: ItsEventId) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        let event = *self.its.tables.event(position, id)?;
        *self.its.tables.slot(position, id)? = None;
        self.with(|state| state.unbind_lpi(event.handle));
        if event.physical {
            self.shared.backend().change_event(device, id, EventChange::Discard)?;
        }
        Ok(0)
    }

    fn clear(&mut self, device: ItsDeviceId, id: ItsEventId) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        let event = *self.its.tables.event(position, id)?;
        if event.physical {
            self.shared.backend().change_event(device, id, EventChange::Clear)?;
        }
        self.with(|state| state.clear_enabled_lpi(event.handle));
        Ok(0)
    }

    fn int(&mut self, device: ItsDeviceId, id: ItsEventId) -> Result<usize, CommandError> {
        let position = self.device(device)?;
        let event = *self.its.tables.event(position, id)?;
        self.mapped_collection(event.collection)?;
        if self.shared.config.hardware_lpis() {
            self.shared.backend().raise_event(device, id)?;
        } else {
            // As if the physical LPI had come, which has nothing to add.
            self.with(|state| state.message(event.handle));
        }
        Ok(0)
    }
}

/// Brings an event to the vCPU of its collection: `None` if the collection isn't mapped.
fn place(
    shared: &Shared,
    current: Option<VcpuId>,
    device: ItsDeviceId,
    id: ItsEventId,
    event: &mut Event,
    target: Option<VcpuId>,
) -> Result<(), CommandError> {
    let was_physical = event.physical;
    let done = match target {
        Some(vcpu) if was_physical => shared.backend().change_event(device, id, EventChange::Move(vcpu)),
        Some(vcpu) => {
            shared.backend().change_event(device, id, EventChange::Map { lpi: event.lpi, vcpu }).map(|()| {
                event.physical = true;
                event.told = None;
            })
        }
        None if was_physical => {
            event.physical = false;
            shared.backend().change_event(device, id, EventChange::Discard)
        }
        None => Ok(()),
    };
    shared.with(current, |state| state.set_lpi_target(event.handle, target));
    done?;
    // Where the hardware delivers it, whether it may depends on the vCPU's redistributor.
    if event.physical && (!was_physical || shared.config.hardware_lpis()) {
        configure(shared, current, device, id, event)?;
    }
    Ok(())
}

/// Where the hardware delivers LPIs: tells the hypervisor anew which are enabled, after a switch that concerns many.
pub(super) fn retell(shared: &Shared, current: Option<VcpuId>, tables: &mut super::Tables) {
    for (device, id, event) in tables.events() {
        if let Err(error) = configure(shared, current, device, id, event) {
            shared.counters.count_command_error(error);
        }
    }
}

/// Reads an LPI's configuration from the guest's table and applies it. What isn't memory disables the LPI.
fn configure(
    shared: &Shared,
    current: Option<VcpuId>,
    device: ItsDeviceId,
    id: ItsEventId,
    event: &mut Event,
) -> Result<(), CommandError> {
    let read = read_property(shared, event.lpi);
    let property = read.unwrap_or_default();
    let enabled = shared.with(current, |state| {
        state.configure_lpi(event.handle, property);
        state.irq(event.handle).is_some_and(|irq| state.is_enabled(irq))
    });
    let property = LpiProperty { enabled: property.enabled && enabled, ..property };
    if event.physical && event.told != Some(property) {
        shared.backend().change_event(device, id, EventChange::Configure(property))?;
        event.told = Some(property);
    }
    read.map(|_| ())
}

/// What the guest's table says of an LPI.
pub(super) fn read_property(shared: &Shared, lpi: Intid) -> Result<LpiProperty, CommandError> {
    let table = Gpa(propbaser_address(shared.lpi_tables.lock().propbaser));
    let mut byte = [0];
    // The table's address has 52 bits.
    let address = Gpa(table.0 + u64::from(lpi.0.saturating_sub(LPI_FIRST)));
    shared.backend().read_guest(address, &mut byte).map_err(|_| CommandError::TableNotMemory(table))?;
    let [byte] = byte;
    Ok(LpiProperty::from_byte(byte))
}
