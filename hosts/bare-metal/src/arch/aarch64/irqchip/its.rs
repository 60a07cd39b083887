//! The physical ITS (Arm IHI 0069, chapter 5): the hypervisor alone writes its command queue and owns its tables.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{CpuId, Hpa, Span};
use axvm_gicv3::{Contents, Field, Probed, Quirks, Table, install, quirks};
use axvm_platform::limits::MsiLimits;
use axvm_platform::model::Its;
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};

use super::error::{FRAME, ItsError, MOST_US};
use super::gic::PhysicalGic;
use super::groups::PRIORITY;
use super::its_command::{self as command, Command};
use super::lpis::{self, Lpis, Properties};
use crate::arch::aarch64::cpu;
use crate::arch::aarch64::sysreg::dsb;
use crate::lock::Held;
use crate::memory;
use crate::mmio::Mmio;

/// Control frame registers (IHI 0069, 12.19).
mod gits {
    pub const CTLR: u64 = 0x0000;
    pub const IIDR: u64 = 0x0004;
    pub const TYPER: u64 = 0x0008;
    pub const CBASER: u64 = 0x0080;
    pub const CWRITER: u64 = 0x0088;
    pub const CREADR: u64 = 0x0090;
    pub const BASER: u64 = 0x0100;
    /// The queue has stopped at a command (CREADR).
    pub const STALLED: u64 = 1;
    /// Valid (CBASER).
    pub const VALID: u64 = 1 << 63;
    /// Bits 51:12 of the queue's address, in place (CBASER).
    pub const QUEUE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Pages of 4 KiB, less one (CBASER).
    pub const QUEUE_SIZE: u64 = 0xff;
}

/// Bytes in the command queue: one 64 KiB page, 2048 commands.
const QUEUE_BYTES: u64 = 0x1_0000;

/// Bits of the device ids that are served at most: tables for more would take too much memory.
const MOST_DEVICE_BITS: u32 = 22;

/// GITS_TYPER.Virtual.
const TYPER_VIRTUAL: u64 = 1 << 1;

/// What the LPIs of a device's events are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Physical ones of the hypervisor's choice, from the first on.
    Own(Intid),
    /// Physical ones, each of the guest's choice.
    Guest,
    /// Virtual ones, each of the guest's choice.
    Virtual,
}

/// What an event is mapped to. Only as long as it is mapped is the number its own: of numbers that a guest chooses, the next event
/// that has it may be another device's.
#[derive(Clone, Copy)]
struct Mapped {
    lpi: Intid,
    cpu: CpuId,
}

struct Device {
    id: ItsDeviceId,
    events: Vec<Option<Mapped>>,
    numbers: Numbers,
    table: Hpa,
    table_bytes: usize,
}

struct State {
    registers: Mmio,
    queue: Hpa,
    write: u64,
    devices: Vec<Device>,
    /// The table of devices, whose second level is made as devices are mapped.
    device_table: Option<Table>,
    /// By CPU: what names its redistributor in a command, once it is mapped.
    targets: Vec<Option<u64>>,
    /// It has stopped reading commands: it gets no more, so that nobody waits for it again.
    dead: bool,
}

/// An ITS.
pub struct PhysicalIts {
    state: Held<State>,
    entry_bytes: usize,
    quirks: Quirks,
    physical_targets: bool,
    has_virtual_lpis: bool,
}

impl PhysicalIts {
    /// Takes over an ITS: its tables and its queue are fresh, nothing is mapped.
    ///
    /// # Safety
    ///
    /// The registers must be mapped as the platform describes them, and driven by nobody else.
    pub unsafe fn new(described: &Its, board: &[String], cpus: usize) -> Result<Self, ItsError> {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(described.registers) };
        turn_off(&registers)?;
        let typer = registers.read64(gits::TYPER);
        let entry_bytes = (typer >> 4 & 0xf) as usize + 1;
        let quirks = quirks(registers.read32(gits::IIDR), board);
        let access = quirks.access(described.not_coherent);
        let mut device_table = None;
        for offset in (gits::BASER..).step_by(8).take(8) {
            let Some(probed) = Probed::read(&registers, offset) else { continue };
            let shape = match probed.contents {
                Contents::Devices => probed.shape(device_ids(typer)),
                // These are numbered as CPUs are.
                Contents::VirtualProcessors | Contents::Collections => probed.shape(cpus as u64),
            };
            let at = table(&quirks, shape.bytes() as usize, shape.align() as usize)?;
            let table = shape.install(&registers, offset, at, access)?;
            if probed.contents == Contents::Devices {
                device_table = Some(table);
            }
        }
        let queue = table(&quirks, QUEUE_BYTES as usize, 0x1_0000)?;
        let value = gits::VALID | queue.0 | (QUEUE_BYTES / 4096 - 1);
        let must = gits::VALID | gits::QUEUE_ADDRESS | gits::QUEUE_SIZE;
        install(&registers, gits::CBASER, Field::Its, access, value, must)?;
        registers.write64(gits::CWRITER, 0);
        dsb!("sy");
        registers.write32(gits::CTLR, 1);
        Ok(Self {
            state: Held::for_hardware(
                "an ITS",
                State {
                    registers,
                    queue,
                    write: 0,
                    devices: Vec::new(),
                    device_table,
                    targets: alloc::vec![None; cpus],
                    dead: false,
                },
            ),
            entry_bytes,
            quirks,
            // PTA (bit 19): targets are addresses, not numbers.
            physical_targets: typer & 1 << 19 != 0,
            has_virtual_lpis: typer & TYPER_VIRTUAL != 0,
        })
    }

    /// What an ITS can tell apart, with the tables that it gets.
    ///
    /// # Safety
    ///
    /// As for [`PhysicalIts::new`]; it is turned off.
    pub unsafe fn limits_of(span: Span<Hpa>) -> MsiLimits {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(span) };
        let none = MsiLimits { source_bits: 0, message_bits: 0 };
        if turn_off(&registers).is_err() {
            return none;
        }
        let typer = registers.read64(gits::TYPER);
        let tables = (gits::BASER..).step_by(8).take(8).filter_map(|at| Probed::read(&registers, at));
        let devices = tables.filter(|probed| probed.contents == Contents::Devices);
        let ids = devices.map(|probed| probed.shape(device_ids(typer)).ids).max().unwrap_or_default();
        ids.checked_ilog2().map_or(none, |bits| MsiLimits {
            source_bits: bits as u8,
            message_bits: (typer >> 8 & 0x1f) as u8 + 1,
        })
    }

    /// Whether an ITS maps events to virtual LPIs.
    ///
    /// # Safety
    ///
    /// As for [`PhysicalIts::new`]; it is only read.
    pub unsafe fn maps_virtual_lpis(span: Span<Hpa>) -> bool {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(span) };
        registers.size() >= FRAME && registers.read64(gits::TYPER) & TYPER_VIRTUAL != 0
    }

    /// Makes a CPU known. The number of its collection, and of the virtual processor that runs there, is its own.
    pub fn map_collection(&self, gic: &PhysicalGic, cpu: CpuId) -> Result<(), ItsError> {
        let (number, base) = gic.its_target(cpu).map_err(|_| ItsError::NoSuchCpu(cpu))?;
        let target = if self.physical_targets { base.0 & !0xffff } else { u64::from(number) << 16 };
        let mut state = self.state.lock();
        *state.targets.get_mut(usize::from(cpu.0)).ok_or(ItsError::NoSuchCpu(cpu))? = Some(target);
        // INVALL: take the configuration that the table holds now.
        state.issue(&[command::mapc(cpu, target), command::invall(cpu), command::sync(target)])
    }

    /// Makes the virtual processor known that runs on `cpu`, whose LPIs are pending in `pending`.
    pub fn map_virtual_processor(&self, cpu: CpuId, pending: Hpa, id_bits: u32) -> Result<(), ItsError> {
        if !self.has_virtual_lpis {
            return Err(ItsError::NoSuchCpu(cpu));
        }
        let mut state = self.state.lock();
        let target = state.target(cpu)?;
        // VINVALL: nothing is left of what another had that number.
        state.issue(&[
            command::vmapp(cpu, target, Some((pending, id_bits))),
            command::vinvall(cpu),
            command::vsync(cpu),
        ])
    }

    /// The virtual processor that ran on `cpu` is gone. The memory of what was pending is the caller's again.
    pub fn unmap_virtual_processor(&self, cpu: CpuId) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let target = state.target(cpu)?;
        state.issue(&[command::vmapp(cpu, target, None), command::sync(target)])
    }

    /// Maps a device with `1 << event_bits` events; gives the physical LPI of its event 0, the others follow. `block`: those that
    /// the plan keeps for its VM.
    pub fn map_device(
        &self,
        lpis: &Lpis,
        block: Range<u32>,
        id: ItsDeviceId,
        event_bits: u32,
    ) -> Result<Intid, ItsError> {
        let events = 1u32 << event_bits.min(11);
        // What it had may be needed for what it gets.
        self.unmap_device(lpis, id)?;
        let first = lpis.take(block, events as usize)?;
        self.map(lpis, id, events, Numbers::Own(first)).map(|()| first).inspect_err(|error| {
            // A table that the ITS may hold keeps its LPIs.
            if *error != ItsError::Stuck {
                lpis.give_back(first, events as usize);
            }
        })
    }

    /// Maps a device whose LPIs are the guest's own numbers: [`PhysicalIts::map_event`] is told which.
    pub fn map_device_for_guest(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event_bits: u32,
    ) -> Result<(), ItsError> {
        self.map(lpis, id, 1 << event_bits.min(11), Numbers::Guest)
    }

    /// Maps a device whose LPIs are virtual ones.
    pub fn map_device_to_virtual(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event_bits: u32,
    ) -> Result<(), ItsError> {
        if !self.has_virtual_lpis {
            return Err(ItsError::NotMapped(id));
        }
        self.map(lpis, id, 1 << event_bits.min(11), Numbers::Virtual)
    }

    fn map(&self, lpis: &Lpis, id: ItsDeviceId, count: u32, numbers: Numbers) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.unmap_device(lpis, id)?;
        state.make_room(&self.quirks, id)?;
        let table_bytes = (count as usize * self.entry_bytes).next_power_of_two().max(256);
        let table = table(&self.quirks, table_bytes, table_bytes)?;
        state.devices.push(Device {
            id,
            events: alloc::vec![None; count as usize],
            numbers,
            table,
            table_bytes,
        });
        let bits = count.trailing_zeros().max(1);
        state.issue(&[command::mapd(id, bits, table)])
    }

    /// How many devices are mapped, and how many events of theirs.
    pub fn mapped(&self) -> (u32, u32) {
        let state = self.state.lock();
        let events = state.devices.iter().map(|device| device.events.iter().flatten().count());
        (state.devices.len() as u32, events.sum::<usize>() as u32)
    }

    /// Unmaps a device: its MSIs are dropped from then on.
    pub fn unmap_device(&self, lpis: &Lpis, id: ItsDeviceId) -> Result<(), ItsError> {
        self.state.lock().unmap_device(lpis, id)
    }

    /// Maps an event that isn't, to an LPI that starts disabled and goes to a CPU, or to the virtual processor that runs there.
    ///
    /// `asked` is the guest's number for it, which is its LPI where the guest chooses: then the caller sees to it that the guest has
    /// no other event of that number, and, of physical ones, that no other guest has numbers of its own. `properties`: of the kind
    /// that the device has.
    pub fn map_event(
        &self,
        lpis: &Lpis,
        properties: &Properties,
        (id, event): (ItsDeviceId, ItsEventId),
        asked: Intid,
        cpu: CpuId,
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.target(cpu)?;
        let (numbers, slot) = state.event(id, event)?;
        let lpi = match numbers {
            Numbers::Own(first) => Intid(first.0 + event.0),
            Numbers::Guest | Numbers::Virtual if lpis::may_be_guests(asked) => asked,
            Numbers::Guest | Numbers::Virtual => return Err(ItsError::NotForGuests(asked)),
        };
        *slot = Some(Mapped { lpi, cpu });
        properties.configure(lpi, PRIORITY, false);
        let map = match numbers {
            Numbers::Virtual => command::vmapti(id, event, cpu, lpi, lpis.doorbell(cpu)),
            Numbers::Own(_) | Numbers::Guest => command::mapti(id, event, cpu, lpi),
        };
        state.change(id, event, map)
    }

    /// Moves an event to another CPU, or to the virtual processor that runs there.
    pub fn move_event(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event: ItsEventId,
        cpu: CpuId,
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.target(cpu)?;
        let (numbers, slot) = state.event(id, event)?;
        let mapped = slot.as_mut().ok_or(ItsError::NotMapped(id))?;
        let left = core::mem::replace(&mut mapped.cpu, cpu);
        let move_there = match numbers {
            Numbers::Virtual => command::vmovi(id, event, cpu, lpis.doorbell(cpu)),
            Numbers::Own(_) | Numbers::Guest => command::movi(id, event, cpu),
        };
        state.change(id, event, move_there)?;
        // Nothing comes where it went before, either.
        let wait = state.wait_for(numbers, left)?;
        state.issue(&[wait])
    }

    /// Unmaps an event. Its LPI, which is disabled and not pending from then on, is no longer its own.
    pub fn discard_event(
        &self,
        properties: &Properties,
        id: ItsDeviceId,
        event: ItsEventId,
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let mapped = state.event(id, event)?.1.ok_or(ItsError::NotMapped(id))?;
        properties.configure(mapped.lpi, PRIORITY, false);
        // Without an event there is no INV, after which the redistributor holds to that.
        let invalidated = state.change(id, event, command::inv(id, event));
        let discarded = state.change(id, event, command::discard(id, event));
        *state.event(id, event)?.1 = None;
        invalidated.and(discarded)
    }

    /// Clears an event's pending state.
    pub fn clear_event(&self, id: ItsDeviceId, event: ItsEventId) -> Result<(), ItsError> {
        self.state.lock().change(id, event, command::clear(id, event))
    }

    /// Raises an event, as if the device had sent it.
    pub fn trigger_event(&self, id: ItsDeviceId, event: ItsEventId) -> Result<(), ItsError> {
        self.state.lock().change(id, event, command::int(id, event))
    }

    /// Sets an event's LPI's priority, and enables or disables it. `properties`: of the kind that the device has.
    pub fn configure_event(
        &self,
        properties: &Properties,
        id: ItsDeviceId,
        event: ItsEventId,
        (priority, enable): (u8, bool),
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let mapped = state.event(id, event)?.1.ok_or(ItsError::NotMapped(id))?;
        properties.configure(mapped.lpi, priority, enable);
        state.change(id, event, command::inv(id, event))
    }
}

/// A zeroed table that the ITS reaches and sees.
fn table(quirks: &Quirks, bytes: usize, align: usize) -> Result<Hpa, ItsError> {
    let table = memory::allocate(bytes, align).ok_or(ItsError::NoMemory)?;
    if !quirks.reaches(table, bytes as u64) {
        // SAFETY: it was allocated so just now, and nobody has it.
        unsafe { memory::free(table, bytes, align) };
        return Err(ItsError::OutOfReach { table, bits: quirks.address_bits });
    }
    cpu::clean_to_memory(table, bytes as u64);
    Ok(table)
}

impl State {
    /// Sees to it that a device's entry has a place in the table of devices: where that has two levels, the second is made when it
    /// is first needed (IHI 0069, 5.2). It stays.
    fn make_room(&self, quirks: &Quirks, id: ItsDeviceId) -> Result<(), ItsError> {
        let devices = self.device_table.filter(|table| u64::from(id.0) < table.shape.ids);
        let devices = devices.ok_or(ItsError::DeviceId(id))?;
        let Some(entry) = devices.level1_entry(id.0.into()) else { return Ok(()) };
        if !Table::has_level2(memory::read64(entry)) {
            let bytes = devices.level2_bytes() as usize;
            memory::write64(entry, Table::level1_value(table(quirks, bytes, bytes)?));
            cpu::clean_to_memory(entry, 8);
        }
        Ok(())
    }

    fn target(&self, cpu: CpuId) -> Result<u64, ItsError> {
        self.targets.get(usize::from(cpu.0)).copied().flatten().ok_or(ItsError::NoSuchCpu(cpu))
    }

    fn event(
        &mut self,
        id: ItsDeviceId,
        event: ItsEventId,
    ) -> Result<(Numbers, &mut Option<Mapped>), ItsError> {
        let device = self.devices.iter_mut().find(|device| device.id == id).ok_or(ItsError::NotMapped(id))?;
        let numbers = device.numbers;
        let slot = device.events.get_mut(event.0 as usize).ok_or(ItsError::NotMapped(id))?;
        Ok((numbers, slot))
    }

    /// A command about a mapped event, which has taken effect when this returns: of where the event goes, a SYNC or VSYNC waits for
    /// the redistributor.
    fn change(&mut self, id: ItsDeviceId, event: ItsEventId, command: Command) -> Result<(), ItsError> {
        let (numbers, slot) = self.event(id, event)?;
        let cpu = slot.ok_or(ItsError::NotMapped(id))?.cpu;
        let wait = self.wait_for(numbers, cpu)?;
        self.issue(&[command, wait])
    }

    /// The command that waits until a CPU's redistributor, or the virtual processor there, has done what came before.
    fn wait_for(&self, numbers: Numbers, cpu: CpuId) -> Result<Command, ItsError> {
        Ok(match numbers {
            Numbers::Virtual => command::vsync(cpu),
            Numbers::Own(_) | Numbers::Guest => command::sync(self.target(cpu)?),
        })
    }

    fn unmap_device(&mut self, lpis: &Lpis, id: ItsDeviceId) -> Result<(), ItsError> {
        let Some(position) = self.devices.iter().position(|device| device.id == id) else { return Ok(()) };
        // A message that has come and was not taken is nobody's: the next that has its number must not find it pending. And what an
        // event isn't mapped to any more may be another's.
        for event in (0..).map(ItsEventId) {
            let Some(slot) =
                self.devices.get(position).and_then(|device| device.events.get(event.0 as usize))
            else {
                break;
            };
            let Some(mapped) = *slot else { continue };
            if self.devices.get(position).is_some_and(|device| device.numbers != Numbers::Virtual) {
                lpis.properties().configure(mapped.lpi, PRIORITY, false);
                // Without an event there is no INV, after which the redistributor holds to that.
                self.change(id, event, command::inv(id, event))?;
            }
            self.change(id, event, command::discard(id, event))?;
        }
        let device = self.devices.swap_remove(position);
        self.issue(&[command::unmapd(id)])?;
        if let Numbers::Own(first) = device.numbers {
            lpis.give_back(first, device.events.len());
        }
        // SAFETY: the ITS has finished the command that took the table from it.
        unsafe { memory::free(device.table, device.table_bytes, device.table_bytes) };
        Ok(())
    }

    /// Puts commands into the queue and waits, bounded, until the ITS has read them.
    fn issue(&mut self, commands: &[Command]) -> Result<(), ItsError> {
        if self.dead {
            return Err(ItsError::Stuck);
        }
        let start = self.write;
        for command in commands {
            memory::write_entry(Hpa(self.queue.0 + self.write), command);
            self.write = (self.write + 32) % QUEUE_BYTES;
        }
        if start < self.write {
            cpu::clean_to_memory(Hpa(self.queue.0 + start), self.write - start);
        } else {
            // Beyond the queue's end it goes on at its beginning.
            cpu::clean_to_memory(Hpa(self.queue.0 + start), QUEUE_BYTES - start);
            cpu::clean_to_memory(self.queue, self.write);
        }
        dsb!("sy");
        self.registers.write64(gits::CWRITER, self.write);
        // It stops at a command that it doesn't like; commands are checked, so there should be none.
        let mut stalled = false;
        let done = wait(|| {
            let read = self.registers.read64(gits::CREADR);
            stalled = read & gits::STALLED != 0;
            stalled || read == self.write
        });
        let done = if stalled { Err(ItsError::Stuck) } else { done };
        self.dead = done.is_err();
        done
    }
}

/// Turns an ITS off, and waits until it is quiescent (CTLR, bit 31).
fn turn_off(registers: &Mmio) -> Result<(), ItsError> {
    if registers.size() < FRAME {
        return Err(ItsError::TooSmall(registers.size()));
    }
    registers.write32(gits::CTLR, 0);
    wait(|| registers.read32(gits::CTLR) & 1 << 31 != 0)
}

/// How many device ids a table is wanted for: all that the ITS knows (GITS_TYPER.Devbits), within reason.
fn device_ids(typer: u64) -> u64 {
    1 << ((typer >> 13 & 0x1f) as u32 + 1).min(MOST_DEVICE_BITS)
}

fn wait(mut done: impl FnMut() -> bool) -> Result<(), ItsError> {
    if cpu::wait_us(MOST_US, &mut done) { Ok(()) } else { Err(ItsError::Stuck) }
}
