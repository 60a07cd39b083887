//! A machine for the virtual GIC to run on: guest memory, a physical GIC's SPIs and PPIs, an ITS that records
//! what is mapped, and the guest's side of the list registers.
#![allow(dead_code, reason = "each test uses its part")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axvm_addr::{Gpa, Intid, ItsDeviceId, ItsEventId, VcpuId};
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::LPI_FIRST;
use axvm_vgic::spec::list_register::{HCR_LRENPIE, HCR_NPIE, HCR_TDIR, ListRegister};
use axvm_vgic::{
    Backend, BackendError, Distributor, HardwareLists, Its, ItsConfig, LPI_PIECE, LineConfig, LineDelivery,
    ListRegisters, NotGuestMemory, PhysicalState, Redistributors, SpiSettings, Vgic, VgicConfig, Violation,
};

pub const RAM: u64 = 0x4000_0000;
pub const RAM_BYTES: usize = 0x40_0000;
pub const QUEUE: u64 = RAM;
pub const PROPERTIES: u64 = RAM + 0x10_0000;
pub const TABLES: u64 = RAM + 0x20_0000;
/// The LPI pending table of the first vCPU; the next one's is 64 KiB above.
pub const PENDING_TABLE: u64 = RAM + 0x30_0000;
pub const V0: VcpuId = VcpuId(0);
pub const V1: VcpuId = VcpuId(1);
/// The priority that tests give to everything.
pub const PRIORITY: u8 = 0xa0;

/// The state of an interrupt that waits to be taken: pending, not active.
pub const PENDING: (bool, bool) = (true, false);

/// The interrupt in the list registers of a CPU, with its state, where there is at most one.
pub fn only(bench: &Bench, cpu: usize) -> Option<(u32, (bool, bool))> {
    let listed = bench.listed(cpu);
    assert!(listed.len() <= 1, "{listed:?}");
    listed.first().map(|(intid, pending, active)| (*intid, (*pending, *active)))
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Physical {
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
    pub spis: Mutex<BTreeMap<u32, Physical>>,
    pub ppis: Mutex<BTreeMap<(u16, u32), Physical>>,
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
    fn spi<R>(&self, host: Intid, f: impl FnOnce(&mut Physical) -> R) -> R {
        f(self.spis.lock().unwrap().entry(host.0).or_default())
    }

    fn ppi<R>(&self, vcpu: VcpuId, host: Intid, f: impl FnOnce(&mut Physical) -> R) -> R {
        f(self.ppis.lock().unwrap().entry((vcpu.0, host.0)).or_default())
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

impl Backend for Machine {
    fn kick(&self, vcpu: VcpuId) {
        self.kicked.lock().unwrap().insert(vcpu.0);
    }

    fn configure_spi(&self, host: Intid, settings: &SpiSettings) {
        self.spi(host, |spi| {
            spi.enabled = settings.enabled;
            spi.edge = settings.edge;
            spi.target = settings.target;
        });
    }

    fn set_spi_enabled(&self, host: Intid, enabled: bool) {
        self.spi(host, |spi| spi.enabled = enabled);
    }

    fn set_spi_pending(&self, host: Intid, pending: bool) {
        self.spi(host, |spi| spi.pending = pending);
    }

    fn set_spi_active(&self, host: Intid, active: bool) {
        self.spi(host, |spi| spi.active = active);
    }

    fn configure_private(&self, vcpu: VcpuId, host: Intid, enabled: bool, _priority: u8) {
        self.ppi(vcpu, host, |ppi| ppi.enabled = enabled);
    }

    fn set_private_pending(&self, vcpu: VcpuId, host: Intid, pending: bool) {
        self.ppi(vcpu, host, |ppi| ppi.pending = pending);
    }

    fn set_private_active(&self, vcpu: VcpuId, host: Intid, active: bool) {
        self.ppi(vcpu, host, |ppi| ppi.active = active);
    }

    fn spi_state(&self, host: Intid) -> PhysicalState {
        self.spi(host, |spi| PhysicalState { pending: spi.pending, active: spi.active })
    }

    fn private_state(&self, vcpu: VcpuId, host: Intid) -> PhysicalState {
        self.ppi(vcpu, host, |ppi| PhysicalState { pending: ppi.pending, active: ppi.active })
    }

    fn raise_sgi(&self, vcpu: VcpuId, sgi: Intid) {
        self.ppi(vcpu, sgi, |it| it.pending = true);
    }

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

    fn map_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        lpi: Intid,
        vcpu: VcpuId,
    ) -> Result<(), BackendError> {
        let bits = self.devices.lock().unwrap()[&device.0];
        assert!(event.0 < 1 << bits, "an event beyond its device's table");
        let new = MappedEvent { lpi, vcpu, enabled: false, priority: 0 };
        let old = self.events.lock().unwrap().insert((device.0, event.0), new);
        assert_eq!(old, None, "mapped twice");
        Ok(())
    }

    fn move_event(&self, device: ItsDeviceId, event: ItsEventId, vcpu: VcpuId) -> Result<(), BackendError> {
        self.events.lock().unwrap().get_mut(&(device.0, event.0)).expect("is mapped").vcpu = vcpu;
        Ok(())
    }

    fn discard_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.events.lock().unwrap().remove(&(device.0, event.0)).expect("was mapped");
        Ok(())
    }

    fn clear_event(&self, _: ItsDeviceId, _: ItsEventId) -> Result<(), BackendError> {
        Ok(())
    }

    fn trigger_event(&self, device: ItsDeviceId, event: ItsEventId) -> Result<(), BackendError> {
        self.triggered.lock().unwrap().push((device.0, event.0));
        self.message(device.0, event.0);
        Ok(())
    }

    fn configure_event(
        &self,
        device: ItsDeviceId,
        event: ItsEventId,
        enabled: bool,
        priority: u8,
    ) -> Result<(), BackendError> {
        let mut events = self.events.lock().unwrap();
        let event = events.get_mut(&(device.0, event.0)).expect("is mapped");
        (event.enabled, event.priority) = (enabled, priority);
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

    fn violation(&self, kind: Violation) {
        self.violations.lock().unwrap().push(kind);
    }
}

/// A vCPU: its list registers, and what a guest does with them.
pub struct Cpu {
    pub id: VcpuId,
    pub registers: ListRegisters,
    /// What the hardware has: written only when the virtual GIC says so.
    pub hardware: [u64; 16],
    pub hcr: u64,
    /// What the guest has acknowledged and not ended, the newest last, with its priority.
    pub running: Vec<(Intid, u8)>,
    /// ICC_CTLR_EL1.EOImode: the guest ends interrupts in two steps.
    pub split: bool,
    maintenance: bool,
    /// It has been switched off: it doesn't look when it is kicked.
    off: bool,
}

/// The list registers of a CPU whose guest has just been left.
pub struct Hardware(RefCell<[u64; 16]>);

impl HardwareLists for Hardware {
    fn read(&self, index: usize) -> Option<u64> {
        self.0.borrow().get(index).copied()
    }

    fn write(&self, index: usize, value: u64) {
        self.0.borrow_mut()[index] = value;
    }
}

pub struct Bench {
    /// What software makes pending is listed at once where it can be.
    pub at_once: bool,
    pub machine: Arc<Machine>,
    pub vgic: Arc<Vgic>,
    pub gicd: Distributor,
    pub gicr: Redistributors,
    pub gits: Option<Its>,
    pub cpus: Vec<Cpu>,
}

pub fn line(guest: u32, host: Option<u32>, edge: bool) -> LineConfig {
    LineConfig { guest: Intid(guest), host: host.map(Intid), edge, delivery: LineDelivery::Hardware }
}

pub fn masked_line(guest: u32, host: u32, edge: bool) -> LineConfig {
    LineConfig { delivery: LineDelivery::MaskUntilEnd, ..line(guest, Some(host), edge) }
}

pub fn config(vcpus: u64, lines: Vec<LineConfig>, list_registers: usize) -> VgicConfig {
    VgicConfig {
        vcpus: (0..vcpus).collect(),
        spis: 64,
        lines,
        hardware_ppis: vec![Intid(27)],
        list_registers,
        priority_bits: 5,
        its: Some(ItsConfig {
            devices: vec![ItsDeviceId(0x10), ItsDeviceId(8), ItsDeviceId(0x18)],
            event_bits: 5,
            lpi_id_bits: 14,
            virtual_lpis: false,
            lpis_stay_enabled: false,
        }),
        direct: None,
    }
}

impl Bench {
    pub fn new(config: VgicConfig) -> Self {
        let machine = Arc::new(Machine { ram: Mutex::new(vec![0; RAM_BYTES]), ..Machine::default() });
        for line in &config.lines {
            if let Some(host) = line.host {
                machine.spi(host, |spi| {
                    spi.edge = line.edge;
                    spi.target = Some(V0);
                });
            }
        }
        let vcpus = config.vcpus.len() as u16;
        let vgic = Vgic::new(config, machine.clone()).unwrap();
        let cpus = (0..vcpus)
            .map(|id| Cpu {
                id: VcpuId(id),
                registers: vgic.switch_on(VcpuId(id)).unwrap(),
                hardware: [0; 16],
                hcr: 0,
                running: Vec::new(),
                split: false,
                maintenance: false,
                off: false,
            })
            .collect();
        Self {
            at_once: false,
            machine,
            gicd: Distributor::new(vgic.clone()),
            gicr: Redistributors::new(vgic.clone()),
            gits: Its::new(vgic.clone()),
            vgic,
            cpus,
        }
    }

    /// As Linux sets it up: groups on, every interrupt of group 1 and of one priority, SGIs enabled.
    pub fn started(config: VgicConfig) -> Self {
        let bench = Self::new(config);
        bench.gicd.write(V0, 0, Width::B4, 0x13);
        for word in 8..24 {
            bench.gicd.write(V0, 0x400 + word * 4, Width::B4, 0xa0a0_a0a0);
        }
        for word in 1..3 {
            bench.gicd.write(V0, 0x80 + word * 4, Width::B4, 0xffff_ffff);
        }
        for cpu in 0..bench.cpus.len() as u64 {
            bench.gicr.write(V0, cpu * 0x2_0000 + 0x1_0080, Width::B4, 0xffff_ffff);
            bench.gicr.write(V0, cpu * 0x2_0000 + 0x1_0100, Width::B4, 0xffff);
            for word in 0..8 {
                bench.gicr.write(V0, cpu * 0x2_0000 + 0x1_0400 + word * 4, Width::B4, 0xa0a0_a0a0);
            }
        }
        bench
    }

    pub fn enable(&self, intid: u32) {
        self.gicd.write(V0, 0x100 + u64::from(intid / 32) * 4, Width::B4, 1 << (intid % 32));
    }

    pub fn disable(&self, intid: u32) {
        self.gicd.write(V0, 0x180 + u64::from(intid / 32) * 4, Width::B4, 1 << (intid % 32));
    }

    /// The guest on the first CPU switches an SPI on or off: at once if that can be done. Whether it could; otherwise the CPU has left
    /// the guest for that.
    pub fn switch(&mut self, intid: u32, enable: bool) -> bool {
        let at_once = self.on(0, |vgic, lists, hardware| {
            let local = vgic.local(V0).unwrap();
            vgic.switch_at_once(local, intid / 32, 1 << (intid % 32), enable, lists, hardware)
        });
        if !at_once {
            if enable {
                self.enable(intid);
            } else {
                self.disable(intid);
            }
        }
        for register in [0x100, 0x180] {
            let word = self.gicd.read(V0, register + u64::from(intid / 32) * 4, Width::B4) as u32;
            assert_eq!(self.vgic.switches_at_once(intid / 32), word);
        }
        at_once
    }

    /// The guest on the first CPU makes an SPI pending, as [`Self::switch`].
    pub fn pend(&mut self, intid: u32) -> bool {
        let at_once = self.on(0, |vgic, lists, hardware| {
            vgic.pend_at_once(vgic.local(V0).unwrap(), intid / 32, 1 << (intid % 32), lists, hardware)
        });
        if !at_once {
            self.gicd.write(V0, 0x200 + u64::from(intid / 32) * 4, Width::B4, 1 << (intid % 32));
        }
        at_once
    }

    pub fn clear_pending(&self, intid: u32) {
        self.gicd.write(V0, 0x280 + u64::from(intid / 32) * 4, Width::B4, 1 << (intid % 32));
    }

    pub fn route(&self, intid: u32, vcpu: u64) {
        self.gicd.write(V0, 0x6000 + u64::from(intid) * 8, Width::B8, vcpu);
    }

    pub fn is_pending(&self, intid: u32) -> bool {
        self.gicd.read(V0, 0x200 + u64::from(intid / 32) * 4, Width::B4) >> (intid % 32) & 1 != 0
    }

    pub fn is_active(&self, intid: u32) -> bool {
        self.gicd.read(V0, 0x300 + u64::from(intid / 32) * 4, Width::B4) >> (intid % 32) & 1 != 0
    }

    pub fn enter(&mut self, cpu: usize) {
        let cpu = &mut self.cpus[cpu];
        // A kick from here on counts: it makes the vCPU leave again.
        self.machine.kicked.lock().unwrap().remove(&cpu.id.0);
        self.vgic.flush(cpu.id, &mut cpu.registers);
        let written = cpu.registers.to_write;
        assert!(written <= self.vgic.config().list_registers);
        if written > 0 {
            cpu.hardware[..written].copy_from_slice(&cpu.registers.lr[..written]);
            cpu.hcr = cpu.registers.hcr;
            cpu.registers.to_write = 0;
        }
        cpu.maintenance = false;
    }

    /// The vCPU goes off, and on again; between the two `meanwhile` happens.
    pub fn restart(&mut self, cpu: usize, meanwhile: impl FnOnce(&mut Self)) {
        self.exit(cpu);
        let id = self.cpus[cpu].id;
        // What a vCPU has no list registers for while it is off: those of a virtual GIC of nobody's.
        let nobody = Vgic::new(config(1, vec![], 4), self.machine.clone()).unwrap();
        let none = nobody.switch_on(V0).unwrap();
        let registers = core::mem::replace(&mut self.cpus[cpu].registers, none);
        self.vgic.switch_off(id, registers);
        self.cpus[cpu].hardware = [0; 16];
        self.cpus[cpu].running.clear();
        self.cpus[cpu].maintenance = false;
        self.cpus[cpu].hcr = 0;
        self.cpus[cpu].off = true;
        meanwhile(self);
        self.cpus[cpu].off = false;
        self.cpus[cpu].registers = self.vgic.switch_on(id).unwrap();
        self.enter(cpu);
    }

    pub fn exit(&mut self, cpu: usize) {
        let cpu = &mut self.cpus[cpu];
        let count = cpu.registers.count;
        cpu.registers.lr[..count].copy_from_slice(&cpu.hardware[..count]);
        if cpu.registers.hcr & HCR_LRENPIE != 0 {
            cpu.registers.hcr = cpu.hcr;
        }
        self.vgic.sync(cpu.id, &mut cpu.registers);
    }

    pub fn cycle(&mut self, cpu: usize) {
        if self.cpus[cpu].off {
            return;
        }
        self.exit(cpu);
        self.enter(cpu);
    }

    /// Lets physical interrupts arrive, maintenance interrupts happen and kicked vCPUs look, until all is
    /// quiet.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let arrived = self.machine.arrived();
            for host in &arrived {
                assert!(self.vgic.hardware_spi(*host), "{host} is the VM's");
            }
            let kicked: Vec<_> =
                core::mem::take(&mut *self.machine.kicked.lock().unwrap()).into_iter().collect();
            for cpu in &kicked {
                self.cycle(usize::from(*cpu));
            }
            let mut maintained = false;
            for cpu in 0..self.cpus.len() {
                if self.wants_maintenance(cpu) {
                    maintained = true;
                    self.cycle(cpu);
                    assert!(
                        self.cpus[cpu].hcr & HCR_NPIE == 0 || self.has_listed_pending(cpu),
                        "a maintenance interrupt that stays"
                    );
                }
            }
            if arrived.is_empty() && kicked.is_empty() && !maintained {
                return;
            }
        }
        panic!("an interrupt storm");
    }

    pub fn in_use(&self, cpu: usize) -> usize {
        self.cpus[cpu].hardware.iter().filter(|lr| ListRegister(**lr).in_use()).count()
    }

    fn has_listed_pending(&self, cpu: usize) -> bool {
        let states = self.cpus[cpu].hardware.iter().map(|lr| ListRegister(*lr).state());
        states.into_iter().any(|state| state.pending && !state.active)
    }

    fn wants_maintenance(&self, cpu: usize) -> bool {
        let pending = self.has_listed_pending(cpu);
        let cpu = &self.cpus[cpu];
        cpu.maintenance
            || (cpu.hcr & HCR_NPIE != 0 && !pending)
            || (cpu.hcr & HCR_LRENPIE != 0 && cpu.hcr >> 27 & 0x1f != 0)
    }

    /// What the guest finds in its list registers: (INTID, pending, active).
    pub fn listed(&self, cpu: usize) -> Vec<(u32, bool, bool)> {
        let mut all: Vec<_> = self.cpus[cpu]
            .hardware
            .iter()
            .map(|lr| ListRegister(*lr))
            .filter(|lr| lr.in_use())
            .map(|lr| (lr.intid().0, lr.state().pending, lr.state().active))
            .collect();
        all.sort_unstable();
        all
    }

    /// The guest reads ICC_IAR1_EL1.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u32> {
        let cpu = &mut self.cpus[cpu];
        let running = cpu.running.last().map_or(0x100, |(_, priority)| u16::from(*priority));
        let (position, lr) = cpu
            .hardware
            .iter()
            .enumerate()
            .map(|(position, lr)| (position, ListRegister(*lr)))
            .filter(|(_, lr)| lr.state().pending && !lr.state().active && u16::from(lr.priority()) < running)
            .min_by_key(|(position, lr)| (lr.priority(), *position))?;
        assert!(lr.group1());
        cpu.hardware[position] = lr.0 & !(1 << 62) | 1 << 63;
        cpu.running.push((lr.intid(), lr.priority()));
        Some(lr.intid().0)
    }

    /// The guest writes ICC_EOIR1_EL1 for what it acknowledged last (IHI 0069, 4.8.3 and ICH_HCR_EL2.EOIcount): the priority drops,
    /// and where the end is one step, or the interrupt is an LPI, a list register in which it is active is done with it. The end of
    /// one that is active in none is counted, but not of an LPI.
    pub fn end(&mut self, cpu: usize) -> Option<u32> {
        let (intid, _) = self.cpus[cpu].running.pop()?;
        if intid.0 >= LPI_FIRST || !self.cpus[cpu].split {
            self.end_active(cpu, intid);
        }
        Some(intid.0)
    }

    /// The guest writes ICC_DIR_EL1: nothing where the end is one step, or to an LPI.
    pub fn deactivate(&mut self, cpu: usize, intid: u32) {
        if self.cpus[cpu].hcr & HCR_TDIR != 0 {
            self.exit(cpu);
            if self.cpus[cpu].split {
                self.vgic.deactivate(self.cpus[cpu].id, Intid(intid));
            }
            self.enter(cpu);
        } else if self.cpus[cpu].split && intid < LPI_FIRST {
            self.end_active(cpu, Intid(intid));
        }
    }

    fn end_active(&mut self, cpu: usize, intid: Intid) {
        let machine = self.machine.clone();
        let cpu = &mut self.cpus[cpu];
        let found = cpu
            .hardware
            .iter_mut()
            .find(|lr| ListRegister(**lr).intid() == intid && ListRegister(**lr).state().active);
        match found {
            Some(lr) => {
                let was = ListRegister(*lr);
                assert!(was.host().is_none() || !was.state().pending, "hardware, pending and active");
                if let Some(host) = was.host() {
                    machine.deactivate(cpu.id, host);
                }
                *lr &= !(1 << 63);
                cpu.maintenance |= was.eoi() && !was.state().pending;
            }
            None if intid.0 < LPI_FIRST => cpu.hcr += 1 << 27,
            None => {}
        }
    }

    /// Does something on a CPU whose guest has just been left, with its list registers at hand.
    pub fn on<R>(&mut self, cpu: usize, f: impl FnOnce(&Vgic, &mut ListRegisters, &Hardware) -> R) -> R {
        let (vgic, cpu) = (self.vgic.clone(), &mut self.cpus[cpu]);
        let hardware = Hardware(RefCell::new(cpu.hardware));
        let result = f(&vgic, &mut cpu.registers, &hardware);
        cpu.hardware = hardware.0.into_inner();
        result
    }

    pub fn its_write(&self, offset: u64, value: u64) {
        self.gits.as_ref().unwrap().write(V0, offset, Width::B8, value);
    }

    pub fn its_read(&self, offset: u64) -> u64 {
        self.gits.as_ref().unwrap().read(V0, offset, Width::B8)
    }

    /// Sets the ITS and the LPI tables up as Linux does, but that it says that the pending tables are zero.
    pub fn start_its(&self) {
        for cpu in 0..self.cpus.len() as u64 {
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000 + 0x70, Width::B8, PROPERTIES | 13);
            let pending = 1 << 62 | (PENDING_TABLE + cpu * 0x1_0000);
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000 + 0x78, Width::B8, pending);
            self.gicr.write(VcpuId(cpu as u16), cpu * 0x2_0000, Width::B4, 1);
        }
        self.its_write(0x100, 1 << 63 | TABLES);
        self.its_write(0x108, 1 << 63 | (TABLES + 0x1000));
        self.its_write(0x80, 1 << 63 | QUEUE | 0xf);
        self.its_write(0x88, 0);
        self.gits.as_ref().unwrap().write(V0, 0, Width::B4, 1);
    }

    pub fn set_property(&self, lpi: u32, byte: u8) {
        self.machine.write_guest(Gpa(PROPERTIES + u64::from(lpi - 8192)), &[byte]).unwrap();
    }

    /// Writes a command into the queue, at its end; the end behind it.
    pub fn queue(&self, words: [u64; 4]) -> u64 {
        let at = self.its_read(0x88);
        for (position, word) in words.iter().enumerate() {
            self.machine.write_guest(Gpa(QUEUE + at + position as u64 * 8), &word.to_le_bytes()).unwrap();
        }
        (at + 32) % 0x1_0000
    }

    /// Writes a command into the queue, and has it carried out.
    pub fn command(&self, words: [u64; 4]) {
        let end = self.queue(words);
        self.its_write(0x88, end);
        assert_eq!(self.its_read(0x88), self.its_read(0x90), "the command is done");
    }

    pub fn errors(&self) -> u64 {
        self.vgic.statistics().command_errors
    }
}
