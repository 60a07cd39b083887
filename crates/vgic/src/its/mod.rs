//! The virtual ITS: its registers (IHI 0069, 12.19) and its command queue (5.3).

mod at_once;
mod commands;
mod pending;
mod tables;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use axvm_addr::{Gpa, Intid, ItsDeviceId, ItsEventId, VcpuId};
use axvm_axdevice::{MmioDevice, Width};

use crate::Vgic;
use crate::access::{Wide, is_word};
use crate::backend::BackendError;
use crate::config::ItsConfig;
use crate::spec::its_command::{COMMAND_BYTES, Command};
use crate::spec::its_registers::{
    BASER_ENTRY_SIZE, BASER_PLACE, BASER_RESET, BASER_TYPE_COLLECTIONS, BASER_TYPE_DEVICES, BASER_WRITABLE,
    BASER0, BASER1, CBASER, CBASER_WRITABLE, CREADR, CTLR, CTLR_ENABLED, CTLR_QUIESCENT, CWRITER, IIDR,
    QUEUE_OFFSET, TRANSLATER, TYPER, VALID, baser_entries, cbaser_address, cbaser_bytes, typer,
};
use crate::spec::redistributor::propbaser_id_bits;
use crate::spec::{self, FRAME, PIDR2, PIDR2_GICV3};
use commands::Executor;
use pending::Loading;
pub(crate) use tables::Tables;

/// How much is done at most during one exit: a command counts one, and one more for each 16 events that it
/// has to go through. The rest follows at the guest's next access to the ITS or its next entry.
const WORK_PER_EXIT: usize = 2048;

/// Why an ITS command was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The queue isn't in the guest's memory.
    #[error("the command at {0} is not in the guest's memory")]
    QueueNotMemory(Gpa),
    /// A table isn't in the guest's memory.
    #[error("the table at {0} is not in the guest's memory")]
    TableNotMemory(Gpa),
    /// No command of GICv3.
    #[error("no command has the opcode {0:#x}")]
    UnknownCommand(u8),
    /// The device isn't the VM's.
    #[error("ITS device {0} is not this VM's")]
    ForeignDevice(ItsDeviceId),
    /// The device table that the guest gave is too small.
    #[error("ITS device {0} is outside the guest's device table")]
    DeviceOutOfTable(ItsDeviceId),
    /// The device isn't mapped.
    #[error("the device is not mapped")]
    DeviceNotMapped,
    /// More event id bits than GITS_TYPER says.
    #[error("{0} event id bits are more than the ITS has")]
    TooManyEvents(u32),
    /// The event id is larger than MAPD said.
    #[error("event {0} is outside its device's table")]
    EventOutOfRange(ItsEventId),
    /// The event isn't mapped.
    #[error("event {0} is not mapped")]
    EventNotMapped(ItsEventId),
    /// Not an LPI, or larger than the configuration table covers.
    #[error("INTID {0} is not an LPI of this ITS")]
    LpiOutOfRange(Intid),
    /// Two events of one LPI, where the hardware would have to deliver both under that number: what the
    /// architecture calls unpredictable.
    #[error("INTID {0} is another event's already")]
    LpiTwice(Intid),
    /// The collection is larger than the ITS or the guest's table has.
    #[error("collection {0} is out of range")]
    CollectionOutOfRange(u16),
    /// The collection isn't mapped.
    #[error("collection {0} is not mapped")]
    CollectionNotMapped(u16),
    /// No vCPU has this number.
    #[error("no redistributor has the number {0}")]
    NoSuchRedistributor(u64),
    /// The hypervisor couldn't do it in hardware.
    #[error("the hypervisor could not carry it out: {0}")]
    Backend(#[from] BackendError),
}

/// The state of a virtual ITS.
#[derive(Debug)]
pub(crate) struct ItsState {
    pub(crate) config: ItsConfig,
    enabled: bool,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
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

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
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
    pub(crate) fn retell(&mut self, vgic: &Vgic, current: Option<VcpuId>) {
        commands::retell(vgic, current, &mut self.tables);
    }

    /// Unmaps everything and puts the registers in their reset state.
    pub(crate) fn reset(&mut self, vgic: &Vgic) {
        self.unmap_all(vgic, None);
        *self = Self::new(&self.config.clone(), self.vcpus);
    }

    fn unmap_all(&mut self, vgic: &Vgic, current: Option<VcpuId>) {
        vgic.its_generation.fetch_add(1, Ordering::AcqRel);
        for position in 0..self.tables.devices.len() {
            let unmapped = Executor { vgic, its: self, current }.unmap(position);
            if let Err(error) = unmapped {
                vgic.count_command_error(error);
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
    pub(crate) fn process(&mut self, vgic: &Vgic, current: Option<VcpuId>) {
        let mut work = WORK_PER_EXIT;
        while work > 0 {
            if let Some(cost) = self.load(vgic, current, work) {
                work = work.saturating_sub(cost);
                continue;
            }
            if !self.has_commands() {
                break;
            }
            let cost = match self.step(vgic, current) {
                Ok(events) => events / 16,
                Err(error) => {
                    vgic.count_command_error(error);
                    0
                }
            };
            work = work.saturating_sub(1 + cost);
            self.creadr = (self.creadr + COMMAND_BYTES) % cbaser_bytes(self.cbaser);
        }
        let backlog = self.has_commands() || self.is_loading();
        vgic.its_backlog.store(backlog, Ordering::Release);
        // It goes on at the next entry. A guest that only waits for what comes of it has to be left for that.
        if let Some(vcpu) = current.filter(|_| backlog && work == 0) {
            vgic.backend().kick(vcpu);
        }
    }

    fn step(&mut self, vgic: &Vgic, current: Option<VcpuId>) -> Result<usize, CommandError> {
        let address = Gpa(cbaser_address(self.cbaser).wrapping_add(self.creadr));
        let words = command_words(vgic, address)?;
        let command = Command::decode(&words).ok_or(CommandError::UnknownCommand(words[0] as u8))?;
        // These leave every event what it stands for.
        if !matches!(command, Command::Int { .. } | Command::Clear { .. } | Command::Sync { .. }) {
            vgic.its_generation.fetch_add(1, Ordering::AcqRel);
        }
        let maps = matches!(
            command,
            Command::Mapti { .. }
                | Command::Mapi { .. }
                | Command::Mapc { .. }
                | Command::Movi { .. }
                | Command::Invall { .. }
        );
        let done = Executor { vgic, its: self, current }.execute(command);
        if maps {
            self.load_again();
        }
        done
    }

    /// One past the largest LPI: what the guest's configuration table covers, and what the ITS has.
    pub(crate) fn lpi_end(&self, vgic: &Vgic) -> u64 {
        let bits = propbaser_id_bits(vgic.lpi_tables.lock().propbaser);
        1 << bits.min(self.config.lpi_id_bits)
    }

    fn write_baser(&mut self, vgic: &Vgic, current: VcpuId, access: Wide, value: u64) {
        let position = usize::from(access.register == BASER1);
        let Some(baser) = self.basers.get_mut(position) else { return };
        let old = *baser;
        // The address has nothing above bit 47, and a page size that doesn't exist is the largest.
        *baser = access.merge(*baser, value) & BASER_WRITABLE;
        if *baser >> 8 & 3 == 3 {
            *baser &= !(1 << 8);
        }
        // The table is gone, or another one, and with it what was in it.
        if (old ^ *baser) & BASER_PLACE != 0 {
            if position == 0 {
                self.unmap_all(vgic, Some(current));
            } else if self.tables.collections.iter().any(Option::is_some) {
                self.unmap_all(vgic, Some(current));
                self.tables.collections.fill(None);
            }
        }
    }
}

/// Reads a command from the guest's queue.
fn command_words(vgic: &Vgic, address: Gpa) -> Result<[u64; 4], CommandError> {
    let mut bytes = [0; COMMAND_BYTES as usize];
    vgic.backend().read_guest(address, &mut bytes).map_err(|_| CommandError::QueueNotMemory(address))?;
    let [a, b, c, d] = bytes.as_chunks().0 else { return Err(CommandError::QueueNotMemory(address)) };
    Ok([u64::from_le_bytes(*a), u64::from_le_bytes(*b), u64::from_le_bytes(*c), u64::from_le_bytes(*d)])
}

/// The virtual ITS of a VM: the control frame and the translation frame, 64 KiB each.
///
/// Devices reach the physical translation frame, by way of their DMA map; a write by the guest's processor to
/// this one is ignored and counted.
pub struct Its(Arc<Vgic>);

impl Its {
    /// The size of the region in bytes.
    pub const SIZE: u64 = 2 * FRAME;

    /// The ITS of this GIC, if it has one.
    pub fn new(vgic: Arc<Vgic>) -> Option<Self> {
        vgic.its.is_some().then_some(Self(vgic))
    }

    fn read_register(&self, vcpu: VcpuId, offset: u64, width: Width) -> Option<u64> {
        let mut its = self.0.its.as_ref()?.lock();
        if let Some(access) = Wide::new(offset, width) {
            let [devices, collections] = its.basers;
            let value = match access.register {
                TYPER => {
                    let collections = its.tables.collections.len() as u32;
                    let collection_bits = u32::BITS - collections.saturating_sub(1).leading_zeros();
                    Some(typer(its.config.event_bits, its.config.device_bits(), collection_bits))
                }
                CBASER => Some(its.cbaser),
                CWRITER => Some(its.cwriter),
                CREADR => {
                    // A guest that waits for its commands drives them on.
                    if its.has_commands() || its.is_loading() {
                        its.process(&self.0, Some(vcpu));
                    }
                    Some(its.creadr)
                }
                BASER0 => Some(devices | BASER_TYPE_DEVICES | BASER_ENTRY_SIZE),
                BASER1 => Some(collections | BASER_TYPE_COLLECTIONS | BASER_ENTRY_SIZE),
                _ => None,
            };
            if let Some(value) = value {
                return Some(access.read(value));
            }
        }
        if !is_word(offset, width) {
            return None;
        }
        let value = match offset {
            CTLR if its.enabled => CTLR_ENABLED,
            CTLR => CTLR_QUIESCENT,
            IIDR => spec::IIDR,
            PIDR2 => PIDR2_GICV3,
            _ => return None,
        };
        Some(value.into())
    }

    fn write_register(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) -> Option<()> {
        let mut its = self.0.its.as_ref()?.lock();
        if offset == CTLR && is_word(offset, width) {
            its.enabled = value as u32 & CTLR_ENABLED != 0;
            self.0.its_generation.fetch_add(1, Ordering::AcqRel);
            its.process(&self.0, Some(vcpu));
            return Some(());
        }
        let access = Wide::new(offset, width)?;
        match access.register {
            CWRITER => {
                let offset = access.merge(its.cwriter, value) & QUEUE_OFFSET;
                if offset < cbaser_bytes(its.cbaser) {
                    its.cwriter = offset;
                    its.process(&self.0, Some(vcpu));
                }
            }
            // While the ITS is enabled, a change of these is unpredictable: here it is none.
            _ if its.enabled => {}
            CBASER => {
                its.cbaser = access.merge(its.cbaser, value) & CBASER_WRITABLE;
                its.creadr = 0;
            }
            BASER0 | BASER1 => its.write_baser(&self.0, vcpu, access, value),
            _ => {}
        }
        Some(())
    }
}

impl MmioDevice for Its {
    fn name(&self) -> &str {
        "gits"
    }

    fn read(&self, vcpu: VcpuId, offset: u64, width: Width) -> u64 {
        self.read_register(vcpu, offset, width).unwrap_or(0)
    }

    fn write(&self, vcpu: VcpuId, offset: u64, width: Width, value: u64) {
        if offset == TRANSLATER {
            self.0.count_translater_write();
        } else {
            // What isn't a register is ignored.
            let _ = self.write_register(vcpu, offset, width, value & width.mask());
        }
    }
}
