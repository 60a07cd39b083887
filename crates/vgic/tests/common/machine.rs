//! The machine below: guest memory, a physical GIC's SPIs and PPIs, and an ITS that records what is mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axvm_addr::{Gpa, VcpuId};
use axvm_vgic::spec::{LPI_FIRST, Trigger};
use axvm_vgic::{
    Backend, BackendError, EventChange, GuestMemory, HardwareInterrupts, HardwareIts, LPI_PIECE,
    NotGuestMemory, Physical, PhysicalState, PrivateSettings, SpiSettings, Violation,
};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};

use super::RAM;

/// The state of a physical interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    pub enabled: bool,
    pub edge: bool,
    pub level: bool,
    pub pending: bool,
    pub active: bool,
    pub target: Option<VcpuId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedEvent {
    pub lpi: Intid,
    pub vcpu: VcpuId,
    pub enabled: bool,
    pub priority: u8,
}

#[derive(Default)]
pub struct Machine {
    pub ram: Mutex<Vec<u8>>,
    pub spis: Mutex<BTreeMap<u32, Line>>,
    pub ppis: Mutex<BTreeMap<(u16, u32), Line>>,
    pub kicked: Mutex<BTreeSet<u16>>,
    pub devices: Mutex<BTreeMap<u32, u32>>,
    pub events: Mutex<BTreeMap<(u32, u32), MappedEvent>>,
    pub triggered: Mutex<Vec<(u32, u32)>>,
    /// The vCPUs that LPIs reach from the hardware, and those LPIs that are pending there.
    pub lpis_reach: Mutex<BTreeSet<u16>>,
    pub lpis_pending: Mutex<BTreeSet<(u16, u32)>>,
    pub violations: Mutex<Vec<Violation>>,
    /// How often the guest's memory has been read.
    pub reads: AtomicU64,
    /// No device can be mapped.
    pub no_lpis: AtomicBool,
}

impl Machine {
    pub(super) fn spi<R>(&self, host: Intid, f: impl FnOnce(&mut Line) -> R) -> R {
        f(self.spis.lock().unwrap().entry(host.0).or_default())
    }

    fn ppi<R>(&self, vcpu: VcpuId, host: Intid, f: impl FnOnce(&mut Line) -> R) -> R {
        f(self.ppis.lock().unwrap().entry((vcpu.0, host.0)).or_default())
    }

    fn interrupt<R>(&self, interrupt: Physical, f: impl FnOnce(&mut Line) -> R) -> R {
        match interrupt {
            Physical::Spi(host) => self.spi(host, f),
            Physical::Private(vcpu, host) => self.ppi(vcpu, host, f),
        }
    }

    /// What a device does with its line.
    pub fn set_line(&self, host: Intid, high: bool) {
        self.spi(host, |spi| {
            spi.pending |= spi.edge && high && !spi.level;
            spi.level = high;
        });
    }

    /// Takes the physical SPIs that arrive, as EL2 does: acknowledged, and left active.
    pub fn arrived(&self) -> Vec<Intid> {
        let mut all = self.spis.lock().unwrap();
        all.iter_mut()
            .filter(|(_, spi)| {
                spi.enabled
                    && spi.target.is_some()
                    && !spi.active
                    && (spi.pending || (!spi.edge && spi.level))
            })
            .map(|(host, spi)| {
                spi.active = true;
                spi.pending = false;
                Intid(*host)
            })
            .collect()
    }

    pub fn deactivate(&self, vcpu: VcpuId, host: Intid) {
        if host.0 < 32 {
            self.ppi(vcpu, host, |p| p.active = false);
        } else {
            self.spi(host, |p| p.active = false);
        }
    }

    /// A message whose LPI the hardware delivers itself.
    pub fn message(&self, device: u32, event: u32) {
        let Some(MappedEvent { lpi, vcpu, .. }) = self.event(device, event) else { return };
        if self.lpis_reach.lock().unwrap().contains(&vcpu.0) {
            self.lpis_pending.lock().unwrap().insert((vcpu.0, lpi.0));
        }
    }

    pub fn event(&self, device: u32, event: u32) -> Option<MappedEvent> {
        self.events.lock().unwrap().get(&(device, event)).copied()
    }
}

impl HardwareInterrupts for Machine {
    fn configure_spi(&self, host: Intid, settings: &SpiSettings) {
        self.spi(host, |spi| {
            spi.enabled = settings.enabled;
            spi.edge = settings.trigger == Trigger::Edge;
            spi.target = settings.target;
        });
    }

    fn configure_private(&self, vcpu: VcpuId, host: Intid, settings: PrivateSettings) {
        self.ppi(vcpu, host, |ppi| ppi.enabled = settings.enabled);
    }

    fn set_spi_enabled(&self, host: Intid, enabled: bool) {
        self.spi(host, |spi| spi.enabled = enabled);
    }

    fn set_pending(&self, interrupt: Physical, pending: bool) {
        self.interrupt(interrupt, |line| line.pending = pending);
    }

    fn set_active(&self, interrupt: Physical, active: bool) {
        self.interrupt(interrupt, |line| line.active = active);
    }

    fn state(&self, interrupt: Physical) -> PhysicalState {
        self.interrupt(interrupt, |line| PhysicalState { pending: line.pending, active: line.active })
    }

    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid) {
        self.ppi(vcpu, sgi, |it| it.pending = true);
    }
}

impl HardwareIts for Machine {
    fn map_device(&self, device: ItsDeviceId, event_bits: u32) -> Result<(), BackendError> {
        if self.no_lpis.load(Ordering::Relaxed) {
            return Err(BackendError::NoLpi);
        }
        assert_eq!(self.devices.lock().unwrap().insert(device.0, event_bits), None, "mapped twice");
        Ok(())
    }

    fn unmap_device(&self, device: ItsDeviceId) -> Result<(), BackendError> {
        self.devices.lock().unwrap().remove(&device.0).expect("was mapped");
        self.events.lock().unwrap().retain(|(d, _), _| *d != device.0);
        Ok(())
    }

    fn change_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        change: EventChange,
    ) -> Result<(), BackendError> {
        let key = (device.0, event.0);
        let mut events = self.events.lock().unwrap();
        match change {
            EventChange::Map { lpi, vcpu } => {
                let bits = self.devices.lock().unwrap()[&device.0];
                assert!(event.0 < 1 << bits, "an event beyond its device's table");
                let new = MappedEvent { lpi, vcpu, enabled: false, priority: 0 };
                assert_eq!(events.insert(key, new), None, "mapped twice");
            }
            EventChange::Move(vcpu) => events.get_mut(&key).expect("is mapped").vcpu = vcpu,
            EventChange::Discard => {
                events.remove(&key).expect("was mapped");
            }
            EventChange::Clear => {}
            EventChange::Configure(property) => {
                let event = events.get_mut(&key).expect("is mapped");
                (event.enabled, event.priority) = (property.enabled, property.priority);
            }
        }
        Ok(())
    }

    fn raise_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.triggered.lock().unwrap().push((device.0, event.0));
        self.message(device.0, event.0);
        Ok(())
    }

    fn start_lpis(&self, vcpu: VcpuId) -> Result<(), BackendError> {
        assert!(self.lpis_reach.lock().unwrap().insert(vcpu.0), "started twice");
        Ok(())
    }

    fn stop_lpis(
        &self,
        vcpu: VcpuId,
        pending: &mut dyn FnMut(Intid, &[u8; LPI_PIECE / 8]),
    ) -> Result<(), BackendError> {
        assert!(self.lpis_reach.lock().unwrap().remove(&vcpu.0), "stopped twice");
        let mut all = self.lpis_pending.lock().unwrap();
        for first in (LPI_FIRST..1 << 14).step_by(LPI_PIECE) {
            let mut bits = [0; LPI_PIECE / 8];
            for lpi in first..first + LPI_PIECE as u32 {
                if all.remove(&(vcpu.0, lpi)) {
                    bits[((lpi - first) / 8) as usize] |= 1 << (lpi % 8);
                }
            }
            pending(Intid(first), &bits);
        }
        Ok(())
    }
}

impl GuestMemory for Machine {
    fn read_guest(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), NotGuestMemory> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let ram = self.ram.lock().unwrap();
        let start = address.0.checked_sub(RAM).ok_or(NotGuestMemory(address))? as usize;
        let end = start.checked_add(bytes.len()).ok_or(NotGuestMemory(address))?;
        bytes.copy_from_slice(ram.get(start..end).ok_or(NotGuestMemory(address))?);
        Ok(())
    }

    fn write_guest(&self, address: Gpa, bytes: &[u8]) -> Result<(), NotGuestMemory> {
        let mut ram = self.ram.lock().unwrap();
        let start = address.0.checked_sub(RAM).ok_or(NotGuestMemory(address))? as usize;
        let end = start.checked_add(bytes.len()).ok_or(NotGuestMemory(address))?;
        ram.get_mut(start..end).ok_or(NotGuestMemory(address))?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Backend for Machine {
    fn kick(&self, vcpu: VcpuId) {
        self.kicked.lock().unwrap().insert(vcpu.0);
    }

    fn violation(&self, kind: Violation) {
        self.violations.lock().unwrap().push(kind);
    }
}
