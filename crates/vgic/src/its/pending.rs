//! The guest's LPI pending tables (IHI 0069, 5.1.2): a bit for each LPI of a redistributor, in the guest's memory.
//!
//! While a redistributor has LPIs enabled its table is the hypervisor's: what is pending is taken out of it, and kept where it is
//! delivered from. When GICR_CTLR.EnableLPIs becomes one the table is read, unless the guest has said that it is zero
//! (GICR_PENDBASER.PTZ), and each bit that is taken over is cleared. When it becomes zero, which GICR_CTLR.CES allows, what is
//! pending is put back. So each LPI is pending in one place.
//!
//! An LPI can be pending that no event is mapped to. By list registers it is delivered all the same, as many at once as
//! `STRAYS_MAX` says. If it isn't enabled, or if the guest takes physical LPIs, where only a command about an
//! event makes one pending, its bit stays in the table, and is looked at again when events are mapped.
//!
//! Where the hardware delivers LPIs it alone knows which are pending, until it is stopped ([`stop_lpis`](crate::HardwareIts::stop_lpis)): then it tells.

use axvm_addr::{Gpa, VcpuId};

use super::ItsState;
use super::commands::read_property;
use crate::backend::LPI_PIECE;
use crate::command_error::CommandError;
use crate::id::Intid;
use crate::shared::Shared;
use crate::spec::LPI_FIRST;

/// LPIs of a table that are read, or written, at once.
const CHUNK_LPIS: u32 = LPI_PIECE as u32;

/// Bytes that they have.
const CHUNK: usize = LPI_PIECE / 8;

/// What a bit that is set costs of the work of one exit, in commands: its event is looked for.
const BIT_COST: usize = 16;

/// How far the reading of a vCPU's pending table is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loading {
    /// The LPI to look at next; `None`: it has been read, or needn't be.
    next: Option<u32>,
    /// What couldn't be taken over is left in it.
    left: bool,
}

/// What becomes of a bit that is set.
enum Taken {
    /// The LPI is pending.
    Over,
    /// It stays where it is.
    Left,
    /// There is no room just now.
    NoRoom,
}

impl ItsState {
    /// A redistributor's LPIs have been enabled or disabled.
    pub(crate) fn switch_lpis(&mut self, shared: &Shared, current: VcpuId, vcpu: VcpuId, enable: bool) {
        let read = enable && !shared.lpi_tables.lock().take_zero(vcpu);
        if let Some(loading) = self.loading.get_mut(usize::from(vcpu.0)) {
            *loading = Loading { next: read.then_some(LPI_FIRST), left: false };
        }
        let hardware = shared.config.hardware_lpis();
        if !enable {
            // A walk through the LPIs that there are, and a table of theirs: no slices, as it is soon done.
            let mut from = LPI_FIRST;
            while let Some((first, bits)) =
                shared.with(Some(current), |state| state.take_pending_lpis(current, vcpu, from))
            {
                put_back(shared, vcpu, first, &bits);
                from = first + CHUNK_LPIS;
            }
        }
        if hardware {
            let backend = shared.backend();
            let done = match enable {
                true => backend.start_lpis(vcpu),
                false => backend.stop_lpis(vcpu, &mut |first, bits| put_back(shared, vcpu, first.0, bits)),
            };
            if let Err(error) = done {
                shared.counters.count_command_error(error.into());
            }
            if enable {
                self.retell(shared, Some(current));
            }
        }
        self.process(shared, Some(current));
    }

    /// An event is about to be mapped to an LPI that the hardware will deliver: if it waits in a list register, without an event, it
    /// goes back to where events are looked for.
    pub(super) fn put_stray_back(&mut self, shared: &Shared, current: Option<VcpuId>, lpi: Intid) {
        if let Some(vcpu) = shared.with(current, |state| state.take_stray(lpi)) {
            put_back(shared, vcpu, lpi.0 & !7, &[1 << (lpi.0 % 8)]);
            if let Some(loading) = self.loading.get_mut(usize::from(vcpu.0)) {
                loading.left = true;
            }
        }
    }

    /// Whether a pending table hasn't been read to its end.
    pub(super) fn is_loading(&self) -> bool {
        self.loading.iter().any(|loading| loading.next.is_some())
    }

    /// Has what was left in pending tables looked at again: events have been mapped, or LPIs configured.
    pub(super) fn load_again(&mut self) {
        for loading in self.loading.iter_mut().filter(|loading| loading.left) {
            *loading = Loading { next: Some(LPI_FIRST), left: false };
        }
    }

    /// Reads a piece of a pending table, for as much work as this. Returns how much it was; `None` if there is nothing to read, or
    /// no room for what is read.
    pub(super) fn load(&mut self, shared: &Shared, current: Option<VcpuId>, work: usize) -> Option<usize> {
        (0..self.loading.len() as u16).find_map(|vcpu| self.load_for(shared, current, VcpuId(vcpu), work))
    }

    fn load_for(
        &mut self,
        shared: &Shared,
        current: Option<VcpuId>,
        vcpu: VcpuId,
        work: usize,
    ) -> Option<usize> {
        let Loading { next, mut left } = *self.loading.get(usize::from(vcpu.0))?;
        let start = next?;
        let first = start & !(CHUNK_LPIS - 1);
        let at = table_byte(shared, vcpu, first);
        let mut chunk = [0; CHUNK];
        let mut lpi = start;
        let mut cost = 1;
        let end = u64::from(start) >= self.lpi_end(shared);
        let read = end || shared.backend().read_guest(at, &mut chunk).is_ok();
        if !read {
            shared.counters.count_command_error(CommandError::TableNotMemory(at));
        }
        if end || !read {
            lpi = 0;
        }
        let mut taken = false;
        while lpi != 0 && cost <= work {
            let Some(byte) = chunk.get_mut(((lpi - first) / 8) as usize) else { break };
            let bit = 1 << (lpi % 8);
            if *byte & bit != 0 {
                cost += BIT_COST;
                match self.take_over(shared, current, vcpu, Intid(lpi)) {
                    Taken::Over => {
                        *byte &= !bit;
                        taken = true;
                    }
                    Taken::Left => left = true,
                    Taken::NoRoom => break,
                }
            }
            lpi = if *byte == 0 { (lpi | 7) + 1 } else { lpi + 1 };
        }
        if taken && shared.backend().write_guest(at, &chunk).is_err() {
            shared.counters.count_command_error(CommandError::TableNotMemory(at));
        }
        if let Some(loading) = self.loading.get_mut(usize::from(vcpu.0)) {
            *loading = Loading { next: (lpi != 0).then_some(lpi), left };
        }
        (lpi != start).then_some(cost)
    }

    fn take_over(&mut self, shared: &Shared, current: Option<VcpuId>, vcpu: VcpuId, lpi: Intid) -> Taken {
        let config = &shared.config;
        if config.hardware_lpis() {
            let event = self.tables.events().find(|(_, _, event)| event.lpi == lpi && event.physical);
            if let Some((device, id, _)) = event {
                return match shared.backend().raise_event(device, id) {
                    Ok(()) => Taken::Over,
                    Err(error) => {
                        shared.counters.count_command_error(error.into());
                        Taken::Left
                    }
                };
            }
        }
        let property = read_property(shared, lpi).unwrap_or_default();
        shared.with(current, |state| match state.find_lpi(lpi) {
            Some(handle) if !config.hardware_lpis() => {
                state.latch(handle);
                Taken::Over
            }
            None if property.enabled && config.direct.is_none() => {
                if state.add_stray(lpi, vcpu, property) {
                    Taken::Over
                } else {
                    Taken::NoRoom
                }
            }
            _ => Taken::Left,
        })
    }
}

/// Makes LPIs pending in the guest's table: a bit each, of a whole number of bytes from `first` on.
fn put_back(shared: &Shared, vcpu: VcpuId, first: u32, bits: &[u8]) {
    if bits.iter().all(|bits| *bits == 0) {
        return;
    }
    let at = table_byte(shared, vcpu, first);
    let mut bytes = [0; CHUNK];
    let Some(bytes) = bytes.get_mut(..bits.len()) else { return };
    let read = shared.backend().read_guest(at, bytes);
    bytes.iter_mut().zip(bits).for_each(|(byte, bits)| *byte |= bits);
    if read.and_then(|()| shared.backend().write_guest(at, bytes)).is_err() {
        shared.counters.count_command_error(CommandError::TableNotMemory(at));
    }
}

/// Where in the guest's memory the byte of an LPI is.
fn table_byte(shared: &Shared, vcpu: VcpuId, lpi: u32) -> Gpa {
    let table = shared.lpi_tables.lock().pending(vcpu);
    // The table's address has 52 bits.
    Gpa(table.0 + u64::from(lpi / 8))
}
