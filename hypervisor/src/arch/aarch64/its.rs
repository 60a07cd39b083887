//! The physical ITS (Arm IHI 0069, chapter 5): the hypervisor alone writes its command queue and owns its tables.

use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, Intid, ItsDeviceId, ItsEventId, Span};
use axvm_platform::limits::ItsLimits;
use spin::Mutex;

use super::gic::{PRIORITY, PhysicalGic};
use super::its_command::{self as command, Command};
use super::lpis::{self, Lpis, Properties};
use super::sysreg::dsb;
use crate::memory;
use crate::mmio::Mmio;

/// Control frame registers (IHI 0069, 12.19).
mod gits {
    pub const CTLR: u64 = 0x0000;
    pub const TYPER: u64 = 0x0008;
    pub const CBASER: u64 = 0x0080;
    pub const CWRITER: u64 = 0x0088;
    pub const CREADR: u64 = 0x0090;
    pub const BASER: u64 = 0x0100;
}

/// Bytes in the command queue: one 64 KiB page, 2048 commands.
const QUEUE_BYTES: u64 = 0x1_0000;

/// How often CREADR is read for the queue to drain.
const PATIENCE: usize = 1_000_000;

/// Inner shareable, inner write-back, valid: for CBASER and BASERs.
const ATTRIBUTES: u64 = 1 << 63 | 7 << 59 | 1 << 10;

/// GITS_TYPER.Virtual.
const TYPER_VIRTUAL: u64 = 1 << 1;

/// What went wrong at an ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItsError {
    /// It has stopped reading its commands.
    #[error("the ITS does not finish its commands")]
    Stuck,
    /// No memory for a table.
    #[error("no memory for the ITS's tables")]
    NoMemory,
    /// More devices' events than there are LPIs.
    #[error("no LPIs are left")]
    NoLpis,
    /// Not one of those that a guest may have under its own number.
    #[error("LPI {0} isn't one that a guest may have under its own number")]
    NotForGuests(Intid),
    /// A CPU that hasn't been made known to it.
    #[error("CPU {0} is not mapped at the ITS")]
    NoSuchCpu(CpuId),
    /// A device or event that isn't mapped.
    #[error("device {0} is not mapped at the ITS")]
    NotMapped(ItsDeviceId),
    /// The device id is beyond what the ITS has.
    #[error("device id {0} is beyond what the ITS has")]
    DeviceId(ItsDeviceId),
}

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
    /// By CPU: what names its redistributor in a command, once it is mapped.
    targets: Vec<Option<u64>>,
    /// It has stopped reading commands: it gets no more, so that nobody waits for it again.
    dead: bool,
}

/// An ITS.
pub struct PhysicalIts {
    state: Mutex<State>,
    entry_bytes: usize,
    device_bits: u32,
    physical_targets: bool,
    has_virtual_lpis: bool,
}

impl PhysicalIts {
    /// Takes over an ITS: its tables and its queue are fresh, nothing is mapped.
    ///
    /// # Safety
    ///
    /// The registers must be mapped as the platform describes them, and driven by nobody else.
    pub unsafe fn new(span: Span<Hpa>, cpus: usize) -> Result<Self, ItsError> {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(span) };
        registers.write32(gits::CTLR, 0);
        // Quiescent (bit 31).
        wait(|| registers.read32(gits::CTLR) & 1 << 31 != 0)?;
        let typer = registers.read64(gits::TYPER);
        let entry_bytes = (typer >> 4 & 0xf) as usize + 1;
        let device_bits = device_bits(typer);
        for index in 0..8 {
            let offset = gits::BASER + index * 8;
            let baser = registers.read64(offset);
            // Type (bits 58:56): 1 devices, 2 virtual processors, 4 collections. The latter two are numbered as CPUs are.
            let entry = (baser >> 48 & 0x1f) + 1;
            let wanted = match baser >> 56 & 7 {
                1 => entry << device_bits,
                2 | 4 => entry * cpus as u64,
                _ => continue,
            };
            // Pages of 64 KiB (Page_Size 2), flat.
            let pages = wanted.div_ceil(0x1_0000).clamp(1, 256);
            let bytes = (pages * 0x1_0000) as usize;
            let table = memory::allocate(bytes, 0x1_0000).ok_or(ItsError::NoMemory)?;
            super::clean_to_memory(table, bytes as u64);
            registers.write64(offset, ATTRIBUTES | table.0 | 2 << 8 | (pages - 1));
        }
        let queue = memory::allocate(QUEUE_BYTES as usize, 0x1_0000).ok_or(ItsError::NoMemory)?;
        super::clean_to_memory(queue, QUEUE_BYTES);
        registers.write64(gits::CBASER, ATTRIBUTES | queue.0 | (QUEUE_BYTES / 4096 - 1));
        registers.write64(gits::CWRITER, 0);
        dsb!("sy");
        registers.write32(gits::CTLR, 1);
        Ok(Self {
            state: Mutex::new(State {
                registers,
                queue,
                write: 0,
                devices: Vec::new(),
                targets: alloc::vec![None; cpus],
                dead: false,
            }),
            entry_bytes,
            device_bits,
            // PTA (bit 19): targets are addresses, not numbers.
            physical_targets: typer & 1 << 19 != 0,
            has_virtual_lpis: typer & TYPER_VIRTUAL != 0,
        })
    }

    /// What an ITS can tell apart.
    ///
    /// # Safety
    ///
    /// As for [`PhysicalIts::new`]; it is only read.
    pub unsafe fn limits_of(span: Span<Hpa>) -> ItsLimits {
        // SAFETY: by the caller's promise.
        let typer = unsafe { Mmio::new(span) }.read64(gits::TYPER);
        ItsLimits { device_bits: device_bits(typer) as u8, event_bits: (typer >> 8 & 0x1f) as u8 + 1 }
    }

    /// Whether an ITS maps events to virtual LPIs.
    ///
    /// # Safety
    ///
    /// As for [`PhysicalIts::new`]; it is only read.
    pub unsafe fn maps_virtual_lpis(span: Span<Hpa>) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { Mmio::new(span) }.read64(gits::TYPER) & TYPER_VIRTUAL != 0
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

    /// Maps a device with `1 << event_bits` events; gives the physical LPI of its event 0, the others follow.
    pub fn map_device(&self, lpis: &Lpis, id: ItsDeviceId, event_bits: u32) -> Result<Intid, ItsError> {
        let events = 1u32 << event_bits.min(11);
        let first = lpis.take(events as usize)?;
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
        if id.0 >> self.device_bits != 0 {
            return Err(ItsError::DeviceId(id));
        }
        let mut state = self.state.lock();
        state.unmap_device(lpis, id)?;
        let table_bytes = (count as usize * self.entry_bytes).next_power_of_two().max(256);
        let table = memory::allocate(table_bytes, table_bytes).ok_or(ItsError::NoMemory)?;
        super::clean_to_memory(table, table_bytes as u64);
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

impl State {
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
        for command in commands {
            for (word, &value) in (0u64..).zip(command) {
                memory::write64(Hpa(self.queue.0 + self.write + word * 8), value);
            }
            super::clean_to_memory(Hpa(self.queue.0 + self.write), 32);
            self.write = (self.write + 32) % QUEUE_BYTES;
        }
        dsb!("sy");
        self.registers.write64(gits::CWRITER, self.write);
        // A stall at a command that it doesn't like (bit 0 of CREADR; commands are checked, so there should be none) shows as a
        // timeout.
        let done = wait(|| self.registers.read64(gits::CREADR) == self.write);
        self.dead = done.is_err();
        done
    }
}

/// Bits of the device ids that the device table has entries for: all that the ITS knows (GITS_TYPER.Devbits), but no more than
/// requester ids of one segment have.
fn device_bits(typer: u64) -> u32 {
    ((typer >> 13 & 0x1f) as u32 + 1).min(16)
}

fn wait(done: impl Fn() -> bool) -> Result<(), ItsError> {
    for _ in 0..PATIENCE {
        if done() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(ItsError::Stuck)
}
