//! The virtual ITS: its registers (IHI 0069, 12.19) and its command queue (5.3).

mod commands;
mod pending;
mod registers;
mod tables;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use axvm_addr::{Gpa, VcpuId};

use crate::command_error::CommandError;
use crate::config::ItsConfig;
use crate::id::{Intid, ItsDeviceId, ItsEventId};
use crate::interrupts::Handle;
use crate::shared::Shared;
use crate::spec::its_command::{COMMAND_BYTES, Command};
use crate::spec::its_registers::{BASER_RESET, VALID, baser_entries, cbaser_address, cbaser_bytes};
use crate::spec::redistributor::propbaser_id_bits;
use commands::Executor;
use pending::Loading;
pub(crate) use tables::{Event, Tables};

/// How much is done at most during one exit: a command counts one, and one more for each 16 events that it
/// has to go through. The rest follows at the guest's next access to the ITS or its next entry.
const WORK_PER_EXIT: usize = 2048;

/// What an event was translated to, as of an ITS command ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) lpi: Intid,
    /// [`Shared::its_generation`] then.
    pub(crate) generation: u32,
}

/// The state of a virtual ITS.
#[derive(Debug)]
pub(crate) struct ItsState {
    pub(crate) config: ItsConfig,
    pub(crate) enabled: bool,
    pub(crate) cbaser: u64,
    pub(crate) cwriter: u64,
    pub(crate) creadr: u64,
    /// GITS_BASER0 and GITS_BASER1, what can be written of them.
    basers: [u64; 2],
    pub(crate) tables: Tables,
    /// By vCPU: how far its pending table has been read.
    loading: Vec<Loading>,
    vcpus: usize,
}

impl ItsState {
    pub(crate) fn new(config: &ItsConfig, vcpus: usize) -> Self {
        Self {
            config: config.clone(),
            enabled: false,
            cbaser: 0,
            cwriter: 0,
            creadr: 0,
            basers: [BASER_RESET; 2],
            tables: Tables::new(config, vcpus),
            loading: alloc::vec![Loading::default(); vcpus],
            vcpus,
        }
    }

    /// What an event stands for. `sender` says which: it is asked with the ITS locked, so that no command comes in between.
    pub(crate) fn translate(
        &self,
        shared: &Shared,
        sender: impl FnOnce() -> Option<(ItsDeviceId, ItsEventId)>,
    ) -> Option<(Handle, Message)> {
        let (device, event) = sender()?;
        let event = self.enabled.then(|| self.tables.translate(device, event))??;
        let generation = shared.its_generation();
        Some((event.handle, Message { lpi: event.lpi, generation }))
    }

    pub(crate) fn device_entries(&self) -> u64 {
        let [devices, _] = self.basers;
        baser_entries(devices)
    }

    pub(crate) fn collection_entries(&self) -> u64 {
        let [_, collections] = self.basers;
        baser_entries(collections)
    }

    /// Tells the hypervisor anew which LPIs are enabled.
    pub(crate) fn retell(&mut self, shared: &Shared, current: Option<VcpuId>) {
        commands::retell(shared, current, &mut self.tables);
    }

    /// Unmaps everything and puts the registers in their reset state.
    pub(crate) fn reset(&mut self, shared: &Shared) {
        self.unmap_all(shared, None);
        *self = Self::new(&self.config.clone(), self.vcpus);
    }

    fn unmap_all(&mut self, shared: &Shared, current: Option<VcpuId>) {
        shared.next_its_generation();
        for position in 0..self.tables.devices.len() {
            let unmapped = Executor { shared, its: self, current }.unmap(position);
            if let Err(error) = unmapped {
                shared.counters.count_command_error(error);
            }
        }
    }

    /// Whether there is a command to carry out. A write pointer outside the queue, which can only come about
    /// if the guest made the queue smaller after it wrote the pointer, is no work.
    fn has_commands(&self) -> bool {
        self.enabled
            && self.cbaser & VALID != 0
            && self.creadr != self.cwriter
            && self.cwriter < cbaser_bytes(self.cbaser)
    }

    /// Carries out commands up to the write pointer, within the bound of one exit. Pending tables come first: commands may be about
    /// what is in them.
    pub(crate) fn process(&mut self, shared: &Shared, current: Option<VcpuId>) {
        let mut work = WORK_PER_EXIT;
        while work > 0 {
            if let Some(cost) = self.load(shared, current, work) {
                work = work.saturating_sub(cost);
                continue;
            }
            if !self.has_commands() {
                break;
            }
            let cost = match self.step(shared, current) {
                Ok(events) => events / 16,
                Err(error) => {
                    shared.counters.count_command_error(error);
                    0
                }
            };
            work = work.saturating_sub(1 + cost);
            self.creadr = (self.creadr + COMMAND_BYTES) % cbaser_bytes(self.cbaser);
        }
        let backlog = self.has_commands() || self.is_loading();
        shared.its_backlog.store(backlog, Ordering::Release);
        // It goes on at the next entry. A guest that only waits for what comes of it has to be left for that.
        if let Some(vcpu) = current.filter(|_| backlog && work == 0) {
            shared.backend().kick(vcpu);
        }
    }

    fn step(&mut self, shared: &Shared, current: Option<VcpuId>) -> Result<usize, CommandError> {
        let address = Gpa(cbaser_address(self.cbaser).wrapping_add(self.creadr));
        let words = command_words(shared, address)?;
        let command = Command::decode(&words).ok_or(CommandError::UnknownCommand(words[0] as u8))?;
        // These leave every event what it stands for.
        if !matches!(command, Command::Int { .. } | Command::Clear { .. } | Command::Sync { .. }) {
            shared.next_its_generation();
        }
        let maps = matches!(
            command,
            Command::Mapti { .. }
                | Command::Mapi { .. }
                | Command::Mapc { .. }
                | Command::Movi { .. }
                | Command::Invall { .. }
        );
        let done = Executor { shared, its: self, current }.execute(command);
        if maps {
            self.load_again();
        }
        done
    }

    /// One past the largest LPI: what the guest's configuration table covers, and what the ITS has.
    pub(crate) fn lpi_end(&self, shared: &Shared) -> u64 {
        let bits = propbaser_id_bits(shared.lpi_tables.lock().propbaser);
        1 << bits.min(self.config.lpi_id_bits)
    }
}

/// Reads a command from the guest's queue.
pub(crate) fn command_words(shared: &Shared, address: Gpa) -> Result<[u64; 4], CommandError> {
    let mut bytes = [0; COMMAND_BYTES as usize];
    shared.backend().read_guest(address, &mut bytes).map_err(|_| CommandError::QueueNotMemory(address))?;
    let [a, b, c, d] = bytes.as_chunks().0 else { return Err(CommandError::QueueNotMemory(address)) };
    Ok([u64::from_le_bytes(*a), u64::from_le_bytes(*b), u64::from_le_bytes(*c), u64::from_le_bytes(*d)])
}
