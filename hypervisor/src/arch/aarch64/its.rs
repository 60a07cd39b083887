//! The physical ITS (Arm IHI 0069, chapter 5): the hypervisor alone writes its command queue and owns its tables.

use alloc::vec::Vec;

use axvm_addr::{CpuId, Hpa, Intid, ItsDeviceId, ItsEventId, Span};
use spin::Mutex;

use super::gic::{LpiTables, PRIORITY, PhysicalGic};
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

/// INTID bits of all LPIs, where the hardware has as many: 24,576 of them.
const LPI_ID_BITS: u32 = 15;

/// INTID bits of the LPIs that a guest has under its own numbers: the first 8192. The hypervisor's own choice begins above.
pub const GUEST_LPI_ID_BITS: u32 = 14;

/// The first LPI.
const FIRST_LPI: u32 = 8192;

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
    /// A device or event that isn't mapped.
    #[error("device {0} is not mapped at the ITS")]
    NotMapped(ItsDeviceId),
    /// The device id is beyond what the ITS has.
    #[error("device id {0} is beyond what the ITS has")]
    DeviceId(ItsDeviceId),
}

/// Configuration of all LPIs, shared by all CPUs and ITSs.
pub struct Lpis {
    tables: LpiTables,
    /// Of those above the guest's: whether somebody has it.
    used: Mutex<Vec<bool>>,
}

/// The first LPI of the hypervisor's own choice.
const FIRST_OWN: u32 = 1 << GUEST_LPI_ID_BITS;

impl Lpis {
    /// Allocates the tables. `most_bits`: of an INTID, in this GIC.
    pub fn new(most_bits: u32) -> Result<Self, ItsError> {
        let id_bits = LPI_ID_BITS.min(most_bits).max(GUEST_LPI_ID_BITS);
        let count = (1usize << id_bits) - FIRST_LPI as usize;
        let properties = memory::allocate(count, 0x1000).ok_or(ItsError::NoMemory)?;
        super::clean_to_memory(properties, count as u64);
        let mut used = Vec::new();
        used.resize((1usize << id_bits) - FIRST_OWN as usize, false);
        Ok(Self { tables: LpiTables { properties, id_bits }, used: Mutex::new(used) })
    }

    /// For [`PhysicalGic::init_cpu`].
    pub fn tables(&self) -> LpiTables {
        self.tables
    }

    /// Takes `count` neighbouring LPIs that nobody has.
    fn take(&self, count: usize) -> Result<Intid, ItsError> {
        let mut used = self.used.lock();
        let first =
            used.windows(count.max(1)).position(|run| run.iter().all(|it| !it)).ok_or(ItsError::NoLpis)?;
        for slot in used.iter_mut().skip(first).take(count) {
            *slot = true;
        }
        Ok(Intid(FIRST_OWN + first as u32))
    }

    fn give_back(&self, first: Intid, count: usize) {
        for slot in self.used.lock().iter_mut().skip((first.0 - FIRST_OWN) as usize).take(count) {
            *slot = false;
        }
    }

    /// Writes an LPI's configuration byte (IHI 0069, 5.1.1): priority in bits 7:2, enable in bit 0. It holds after an INV command.
    fn configure(&self, lpi: Intid, priority: u8, enable: bool) {
        let Some(index) =
            lpi.0.checked_sub(FIRST_LPI).filter(|&i| i < (1 << self.tables.id_bits) - FIRST_LPI)
        else {
            return;
        };
        let at = Hpa(self.tables.properties.0 + u64::from(index));
        // SAFETY: inside the table, which is the hypervisor's; only the GIC reads it besides.
        unsafe { (at.0 as *mut u8).write_volatile(priority & !3 | u8::from(enable)) };
        super::clean_to_memory(at, 1);
    }
}

struct Device {
    id: ItsDeviceId,
    /// By event: its LPI. One of the hypervisor's choice has one from the start, that of a guest is chosen by the guest.
    lpis: Vec<Option<Intid>>,
    /// The first of those that the hypervisor chose.
    taken: Option<Intid>,
    table: Hpa,
    table_bytes: usize,
}

struct State {
    registers: Mmio,
    queue: Hpa,
    write: u64,
    devices: Vec<Device>,
    /// It has stopped reading commands: it gets no more, so that nobody waits for it again.
    dead: bool,
}

/// An ITS.
pub struct PhysicalIts {
    state: Mutex<State>,
    entry_bytes: usize,
    device_bits: u32,
    physical_targets: bool,
}

/// A command: four doublewords (IHI 0069, 5.3).
type Command = [u64; 4];

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
        let device_bits = (typer >> 13 & 0x1f) as u32 + 1;
        for index in 0..8 {
            let offset = gits::BASER + index * 8;
            let baser = registers.read64(offset);
            // Type (bits 58:56): 1 devices, 4 collections. Others (vPEs) stay unused.
            let entry = (baser >> 48 & 0x1f) + 1;
            let wanted = match baser >> 56 & 7 {
                1 => entry << device_bits.min(16),
                4 => entry * cpus as u64,
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
            state: Mutex::new(State { registers, queue, write: 0, devices: Vec::new(), dead: false }),
            entry_bytes,
            device_bits: device_bits.min(16),
            // PTA (bit 19): targets are addresses, not numbers.
            physical_targets: typer & 1 << 19 != 0,
        })
    }

    /// The collection of a CPU is its number; this maps it.
    pub fn map_collection(&self, gic: &PhysicalGic, cpu: CpuId) -> Result<(), ItsError> {
        let (number, base) = gic.its_target(cpu).map_err(|_| ItsError::Stuck)?;
        let target = if self.physical_targets { base.0 & !0xffff } else { u64::from(number) << 16 };
        let collection = u64::from(cpu.0);
        let mut state = self.state.lock();
        // MAPC, then INVALL: take the configuration that the table holds now.
        state.issue(&[[0x09, 0, 1 << 63 | target | collection, 0], [0x0d, 0, collection, 0], sync(target)])
    }

    fn target(&self, gic: &PhysicalGic, cpu: CpuId) -> Result<u64, ItsError> {
        let (number, base) = gic.its_target(cpu).map_err(|_| ItsError::Stuck)?;
        Ok(if self.physical_targets { base.0 & !0xffff } else { u64::from(number) << 16 })
    }

    /// Maps a device with `1 << event_bits` events; gives the physical LPI of its event 0, the others follow.
    pub fn map_device(&self, lpis: &Lpis, id: ItsDeviceId, event_bits: u32) -> Result<Intid, ItsError> {
        let events = 1u32 << event_bits.min(11);
        let first = lpis.take(events as usize)?;
        let chosen = (0..events).map(|event| Some(Intid(first.0 + event))).collect();
        self.map(lpis, id, chosen, Some(first)).map(|()| first).inspect_err(|error| {
            // A table that the ITS may hold keeps its LPIs.
            if *error != ItsError::Stuck {
                lpis.give_back(first, events as usize);
            }
        })
    }

    /// Maps a device whose LPIs are the guest's own numbers: [`PhysicalIts::choose_lpi`] says which.
    pub fn map_device_for_guest(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event_bits: u32,
    ) -> Result<(), ItsError> {
        self.map(lpis, id, alloc::vec![None; 1 << event_bits.min(11)], None)
    }

    fn map(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        chosen: Vec<Option<Intid>>,
        taken: Option<Intid>,
    ) -> Result<(), ItsError> {
        if id.0 >> self.device_bits != 0 {
            return Err(ItsError::DeviceId(id));
        }
        let mut state = self.state.lock();
        state.unmap_device(lpis, id)?;
        let events = chosen.len();
        let table_bytes = (events * self.entry_bytes).next_power_of_two().max(256);
        let table = memory::allocate(table_bytes, table_bytes).ok_or(ItsError::NoMemory)?;
        super::clean_to_memory(table, table_bytes as u64);
        for &lpi in chosen.iter().flatten() {
            lpis.configure(lpi, PRIORITY, false);
        }
        state.devices.push(Device { id, lpis: chosen, taken, table, table_bytes });
        // MAPD: size is bits - 1, at least 1 bit.
        let size = u64::from(events.trailing_zeros().max(1) - 1);
        state.issue(&[[0x08 | u64::from(id.0) << 32, size, 1 << 63 | table.0, 0]])
    }

    /// Gives an event that isn't mapped the guest's own number for it. The caller sees to it that the guest has no other event of
    /// that number, and that no other guest has numbers of its own.
    pub fn choose_lpi(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event: ItsEventId,
        lpi: Intid,
    ) -> Result<(), ItsError> {
        if !(FIRST_LPI..FIRST_OWN).contains(&lpi.0) {
            return Err(ItsError::NotForGuests(lpi));
        }
        let mut state = self.state.lock();
        let device = state.devices.iter_mut().find(|device| device.id == id && device.taken.is_none());
        let slot = device.and_then(|device| device.lpis.get_mut(event.0 as usize));
        *slot.ok_or(ItsError::NotMapped(id))? = Some(lpi);
        lpis.configure(lpi, PRIORITY, false);
        Ok(())
    }

    /// Unmaps a device: its MSIs are dropped from then on.
    pub fn unmap_device(&self, lpis: &Lpis, id: ItsDeviceId) -> Result<(), ItsError> {
        self.state.lock().unmap_device(lpis, id)
    }

    /// Sends an event's LPI to a CPU.
    pub fn map_event(
        &self,
        gic: &PhysicalGic,
        id: ItsDeviceId,
        event: ItsEventId,
        cpu: CpuId,
    ) -> Result<(), ItsError> {
        let target = self.target(gic, cpu)?;
        let mut state = self.state.lock();
        let lpi = state.lpi(id, event)?;
        // MAPTI.
        state.issue(&[
            [0x0a | u64::from(id.0) << 32, u64::from(event.0) | u64::from(lpi.0) << 32, u64::from(cpu.0), 0],
            sync(target),
        ])
    }

    /// Moves an event to another CPU.
    pub fn move_event(
        &self,
        gic: &PhysicalGic,
        id: ItsDeviceId,
        event: ItsEventId,
        cpu: CpuId,
    ) -> Result<(), ItsError> {
        let target = self.target(gic, cpu)?;
        let mut state = self.state.lock();
        state.lpi(id, event)?;
        // MOVI.
        state.issue(&[[0x01 | u64::from(id.0) << 32, u64::from(event.0), u64::from(cpu.0), 0], sync(target)])
    }

    /// Unmaps an event.
    pub fn discard_event(&self, id: ItsDeviceId, event: ItsEventId) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.lpi(id, event)?;
        // DISCARD.
        state.issue(&[[0x0f | u64::from(id.0) << 32, u64::from(event.0), 0, 0]])
    }

    /// Clears an event's pending state.
    pub fn clear_event(&self, id: ItsDeviceId, event: ItsEventId) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.lpi(id, event)?;
        // CLEAR.
        state.issue(&[[0x04 | u64::from(id.0) << 32, u64::from(event.0), 0, 0]])
    }

    /// Raises an event, as if the device had sent it.
    pub fn trigger_event(&self, id: ItsDeviceId, event: ItsEventId) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        state.lpi(id, event)?;
        // INT.
        state.issue(&[[0x03 | u64::from(id.0) << 32, u64::from(event.0), 0, 0]])
    }

    /// Sets an event's LPI's priority, and enables or disables it.
    pub fn configure_event(
        &self,
        lpis: &Lpis,
        id: ItsDeviceId,
        event: ItsEventId,
        (priority, enable): (u8, bool),
    ) -> Result<(), ItsError> {
        let mut state = self.state.lock();
        let lpi = state.lpi(id, event)?;
        lpis.configure(lpi, priority, enable);
        // INV.
        state.issue(&[[0x0c | u64::from(id.0) << 32, u64::from(event.0), 0, 0]])
    }
}

/// SYNC.
fn sync(target: u64) -> Command {
    [0x05, 0, target, 0]
}

impl State {
    fn lpi(&self, id: ItsDeviceId, event: ItsEventId) -> Result<Intid, ItsError> {
        self.devices
            .iter()
            .find(|device| device.id == id)
            .and_then(|device| *device.lpis.get(event.0 as usize)?)
            .ok_or(ItsError::NotMapped(id))
    }

    fn unmap_device(&mut self, lpis: &Lpis, id: ItsDeviceId) -> Result<(), ItsError> {
        let Some(position) = self.devices.iter().position(|device| device.id == id) else { return Ok(()) };
        let device = self.devices.swap_remove(position);
        // MAPD with V=0.
        self.issue(&[[0x08 | u64::from(id.0) << 32, 0, 0, 0]])?;
        for &lpi in device.lpis.iter().flatten() {
            lpis.configure(lpi, PRIORITY, false);
        }
        if let Some(first) = device.taken {
            lpis.give_back(first, device.lpis.len());
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

fn wait(done: impl Fn() -> bool) -> Result<(), ItsError> {
    for _ in 0..PATIENCE {
        if done() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(ItsError::Stuck)
}
