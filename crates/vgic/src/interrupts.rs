//! The state of all interrupts of a VM, and which vCPU has to look at which of them.
//!
//! Each vCPU has a list of interrupts that concern it: those that can be delivered to it and those that are
//! active on it. [`Interrupts::update`] keeps the lists right after any change. An interrupt that is in a
//! list register stays where it is until its vCPU has read that register back; until then the change waits in
//! [`Held`], and the vCPU is told to look.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axvm_addr::{Intid, VcpuId};
use litemap::LiteMap;

use crate::backend::{Backend, PhysicalState, SpiSettings};
use crate::config::{Direct, LineDelivery, VCPUS_MAX, VgicConfig};
use crate::irq::{Irq, Kind};
use crate::spec::list_register::LIST_REGISTERS_MAX;
use crate::spec::{AFFINITY_MASK, SPI_FIRST};
use crate::switches::Switches;

#[cfg(doc)]
use crate::irq::Held;

/// An interrupt's position in [`Interrupts::irqs`]: the private ones of each vCPU, then SPIs, then mapped
/// LPIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Handle(u32);

/// A set of vCPUs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VcpuSet {
    words: [u64; VCPUS_MAX / 64],
    /// There are some.
    any: bool,
}

impl VcpuSet {
    pub(crate) fn insert(&mut self, vcpu: VcpuId) {
        if let Some(word) = self.words.get_mut(usize::from(vcpu.0) / 64) {
            *word |= 1 << (vcpu.0 % 64);
            self.any = true;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = VcpuId> + '_ {
        (0u16..).zip(&self.words).flat_map(|(number, word)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(VcpuId(number * 64 + bit as u16))
            })
        })
    }
}

/// The SGIs, a bit each.
const ALL_SGIS: u32 = 0xffff;

/// What a vCPU looks at without taking the lock.
#[derive(Debug)]
pub(crate) struct Signal {
    /// Its list registers may not be what they should be. Set and cleared with the lock held.
    pub(crate) stale: AtomicBool,
    /// Its mailbox: software interrupts of group 1 that others sent and that it hasn't looked at, by INTID.
    pub(crate) sgis: AtomicU32,
    /// Its SGIs that are of group 0, by INTID. Written with the lock held.
    pub(crate) group0_sgis: AtomicU32,
}

impl Default for Signal {
    fn default() -> Self {
        Self { stale: AtomicBool::new(true), sgis: AtomicU32::new(0), group0_sgis: AtomicU32::new(ALL_SGIS) }
    }
}

/// A vCPU's part.
#[derive(Debug)]
pub(crate) struct Cpu {
    pub(crate) affinity: u64,
    /// The interrupts that can be delivered here or are active here, in no order.
    pub(crate) list: Vec<Handle>,
    /// It has list registers.
    pub(crate) on: bool,
    /// What is in its list registers.
    pub(crate) held: [Handle; LIST_REGISTERS_MAX],
    pub(crate) held_count: usize,
    /// The next change is worth a kick: since the last one it has looked at its state.
    pub(crate) wants_kick: bool,
    /// GICR_CTLR.EnableLPIs.
    pub(crate) lpis_enabled: bool,
    /// How many interrupts the guest has taken.
    pub(crate) taken: u64,
}

/// All interrupts of a VM.
pub(crate) struct Interrupts {
    irqs: Vec<Irq>,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) signals: Arc<[Signal]>,
    pub(crate) switches: Arc<Switches>,
    /// The vCPU on whose CPU the lock is held: it is out of the guest and needs no kick.
    pub(crate) current: Option<VcpuId>,
    /// The vCPUs to kick once the lock is dropped.
    pub(crate) kicks: VcpuSet,
    /// GICD_CTLR.EnableGrp0 and EnableGrp1.
    pub(crate) groups: [bool; 2],
    pub(crate) list_registers: usize,
    pub(crate) priority_mask: u8,
    spis: u32,
    /// Physical SPIs, sorted.
    hosts: Vec<(Intid, Handle)>,
    pub(crate) hardware_ppis: Vec<Intid>,
    lines: Vec<crate::config::LineConfig>,
    pub(crate) lpis: LiteMap<u32, Handle>,
    pub(crate) free_lpis: Vec<Handle>,
    /// How many LPIs are pending that no event is mapped to.
    pub(crate) strays: usize,
    pub(crate) direct: Option<Direct>,
    hardware_lpis: bool,
    pub(crate) backend: Arc<dyn Backend>,
}

impl Interrupts {
    pub(crate) fn new(
        config: &VgicConfig,
        signals: Arc<[Signal]>,
        switches: Arc<Switches>,
        backend: Arc<dyn Backend>,
    ) -> Self {
        let cpus = config
            .vcpus
            .iter()
            .map(|affinity| Cpu {
                affinity: *affinity,
                list: Vec::with_capacity(32 + config.lines.len()),
                on: false,
                held: [Handle::default(); LIST_REGISTERS_MAX],
                held_count: 0,
                wants_kick: true,
                lpis_enabled: false,
                taken: 0,
            })
            .collect();
        let mut new = Self {
            irqs: Vec::new(),
            cpus,
            signals,
            switches,
            current: None,
            kicks: VcpuSet::default(),
            groups: [false; 2],
            list_registers: config.list_registers,
            priority_mask: !(0xff_u32 >> config.priority_bits) as u8,
            spis: config.spis,
            hosts: Vec::new(),
            hardware_ppis: config.hardware_ppis.clone(),
            lines: config.lines.clone(),
            lpis: LiteMap::new(),
            free_lpis: Vec::new(),
            strays: 0,
            direct: config.direct,
            hardware_lpis: config.hardware_lpis(),
            backend,
        };
        new.fill();
        new
    }

    /// Puts every private interrupt and SPI in its reset state; there is no LPI.
    fn fill(&mut self) {
        self.irqs.clear();
        self.switches.clear();
        self.lpis.clear();
        self.free_lpis.clear();
        self.strays = 0;
        for vcpu in (0..).map(VcpuId).take(self.cpus.len()) {
            for intid in (0..SPI_FIRST).map(Intid) {
                let kind = if intid.0 < 16 { Kind::Sgi } else { Kind::Ppi };
                let mut irq = Irq::new(intid, kind, Some(vcpu));
                if self.hardware_ppis.contains(&intid) {
                    irq.host = Some(intid);
                }
                if let Some(direct) = self.direct {
                    match kind {
                        Kind::Sgi if direct.reserved_sgis >> intid.0 & 1 == 0 => irq.host = Some(intid),
                        Kind::Ppi if irq.host.is_some() => {}
                        _ => irq.kind = Kind::Absent,
                    }
                }
                self.irqs.push(irq);
            }
        }
        self.hosts.clear();
        let first = self.vcpu_with_affinity(0);
        for intid in (SPI_FIRST..SPI_FIRST + self.spis).map(Intid) {
            let line = self.lines.iter().find(|l| l.guest == intid).copied();
            let mut irq = Irq::new(intid, if line.is_some() { Kind::Spi } else { Kind::Absent }, first);
            if let Some(line) = line {
                irq.edge = line.edge;
                irq.host = line.host;
                irq.by_mask = line.host.is_some() && line.delivery == LineDelivery::MaskUntilEnd;
                if self.direct.is_some() && line.host.is_none() {
                    (irq.host, irq.by_software) = (Some(intid), true);
                }
                if let Some(host) = line.host {
                    self.hosts.push((host, Handle(self.irqs.len() as u32)));
                }
            }
            self.irqs.push(irq);
        }
        self.hosts.sort_unstable();
    }

    /// Puts everything in its reset state and gives the physical interrupts back. No vCPU may run.
    pub(crate) fn reset(&mut self) {
        self.for_each(|state, handle| {
            if let Some(irq) = state.irq_mut(handle) {
                irq.host_pended = false;
            }
            state.give_back_now(handle);
        });
        self.groups = [false; 2];
        self.kicks = VcpuSet::default();
        for cpu in &mut self.cpus {
            cpu.list.clear();
            cpu.on = false;
            cpu.held_count = 0;
            cpu.wants_kick = true;
            cpu.lpis_enabled = false;
        }
        self.fill();
        self.for_each(|state, handle| state.mirror(handle));
        for signal in self.signals.iter() {
            // What the list registers held is void: they are to be written again.
            signal.stale.store(true, Ordering::Release);
            signal.sgis.store(0, Ordering::Release);
            signal.group0_sgis.store(ALL_SGIS, Ordering::Release);
        }
    }

    pub(crate) fn irq(&self, handle: Handle) -> Option<&Irq> {
        self.irqs.get(handle.0 as usize)
    }

    pub(crate) fn irq_mut(&mut self, handle: Handle) -> Option<&mut Irq> {
        self.irqs.get_mut(handle.0 as usize)
    }

    pub(crate) fn cpu(&self, vcpu: VcpuId) -> Option<&Cpu> {
        self.cpus.get(usize::from(vcpu.0))
    }

    pub(crate) fn cpu_mut(&mut self, vcpu: VcpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(usize::from(vcpu.0))
    }

    /// Both at once: a vCPU, to order its list by the interrupts' state.
    pub(crate) fn cpu_and_irqs(&mut self, vcpu: VcpuId) -> Option<(&mut Cpu, IrqTable<'_>)> {
        Some((self.cpus.get_mut(usize::from(vcpu.0))?, IrqTable::new(&mut self.irqs)))
    }

    /// The private interrupt or SPI of this number, as `vcpu` sees it. None for an SPI that doesn't exist.
    pub(crate) fn find(&self, vcpu: VcpuId, intid: Intid) -> Option<Handle> {
        let private = self.cpus.len() as u32 * SPI_FIRST;
        let position = if intid.0 < SPI_FIRST {
            if usize::from(vcpu.0) >= self.cpus.len() {
                return None;
            }
            u32::from(vcpu.0) * SPI_FIRST + intid.0
        } else if intid.0 < SPI_FIRST + self.spis {
            private + (intid.0 - SPI_FIRST)
        } else {
            return None;
        };
        let handle = Handle(position);
        self.irq(handle).filter(|irq| irq.kind != Kind::Absent).map(|_| handle)
    }

    /// The SPI of this number, if it exists.
    #[inline(always)]
    pub(crate) fn spi_mut(&mut self, intid: Intid) -> Option<&mut Irq> {
        let first = self.cpus.len() as u32 * SPI_FIRST;
        let spi = intid.0.checked_sub(SPI_FIRST).filter(|spi| *spi < self.spis)?;
        self.irqs.get_mut((first + spi) as usize).filter(|irq| irq.kind == Kind::Spi)
    }

    /// The interrupt that stands for the physical SPI `host`.
    pub(crate) fn find_host(&self, host: Intid) -> Option<Handle> {
        let position = self.hosts.binary_search_by_key(&host, |(host, _)| *host).ok()?;
        self.hosts.get(position).map(|(_, handle)| *handle)
    }

    /// The LPI of this number, if an event is mapped to it.
    pub(crate) fn find_lpi(&self, lpi: Intid) -> Option<Handle> {
        self.lpis.get(&lpi.0).copied()
    }

    pub(crate) fn vcpu_with_affinity(&self, affinity: u64) -> Option<VcpuId> {
        let position = self.cpus.iter().position(|c| c.affinity == affinity & AFFINITY_MASK)?;
        u16::try_from(position).ok().map(VcpuId)
    }

    /// Whether the guest gets it, for the hardware that delivers it. What is taken at EL2 first is enabled as
    /// the guest enabled it, and waits in its list; what isn't must pass the other switches as well. Physical
    /// interrupts and virtual LPIs are of group 1, so that those of the guest's group 0 can't be had.
    pub(crate) fn is_enabled(&self, irq: &Irq) -> bool {
        let at_once = self.direct.is_some() || (self.hardware_lpis && irq.kind == Kind::Lpi);
        irq.enabled && (!at_once || (irq.group1 && self.is_forwarded(irq)))
    }

    /// Whether it is pending and nothing but the CPU interface stands between it and its vCPU.
    pub(crate) fn is_deliverable(&self, irq: &Irq) -> bool {
        irq.is_pending() && self.is_forwarded(irq)
    }

    /// Whether it would be forwarded to its vCPU if it were pending.
    pub(crate) fn is_forwarded(&self, irq: &Irq) -> bool {
        let [group0, group1] = self.groups;
        irq.enabled
            && if irq.group1 { group1 } else { group0 }
            && (irq.kind != Kind::Lpi
                || irq.target.and_then(|v| self.cpu(v)).is_some_and(|cpu| cpu.lpis_enabled))
    }

    /// Tells `vcpu` that its list registers may not be what they should be.
    pub(crate) fn make_stale(&mut self, vcpu: VcpuId) {
        if let Some(signal) = self.signals.get(usize::from(vcpu.0)) {
            signal.stale.store(true, Ordering::Release);
        }
        if self.current == Some(vcpu) {
            return;
        }
        let Some(cpu) = self.cpu_mut(vcpu) else { return };
        if core::mem::take(&mut cpu.wants_kick) {
            self.kicks.insert(vcpu);
        }
    }

    /// Brings the lists in line with an interrupt that has changed, and tells the vCPUs concerned.
    pub(crate) fn update(&mut self, handle: Handle) {
        if self.direct.is_some() {
            return;
        }
        self.give_back(handle);
        let Some(irq) = self.irq(handle) else { return };
        if let Some(held) = irq.held {
            return self.make_stale(held.vcpu);
        }
        let home = if irq.active {
            Some(irq.active_on)
        } else if self.is_deliverable(irq) {
            irq.target
        } else {
            None
        };
        let queued = irq.queued;
        if queued != home {
            if let Some(cpu) = queued.and_then(|v| self.cpu_mut(v))
                && let Some(position) = cpu.list.iter().position(|h| *h == handle)
            {
                cpu.list.swap_remove(position);
            }
            if let Some(cpu) = home.and_then(|v| self.cpu_mut(v)) {
                cpu.list.push(handle);
            }
            if let Some(irq) = self.irq_mut(handle) {
                irq.queued = home;
            }
        }
        if let Some(vcpu) = home {
            self.make_stale(vcpu);
        }
    }

    /// Does something with every interrupt, and returns how many there are.
    pub(crate) fn for_each(&mut self, mut f: impl FnMut(&mut Self, Handle)) -> usize {
        let count = self.irqs.len();
        for position in 0..count as u32 {
            f(self, Handle(position));
        }
        count
    }

    /// Updates all interrupts that `which` selects: after a change that concerns many.
    pub(crate) fn update_all(&mut self, which: impl Fn(&Irq) -> bool) {
        self.for_each(|state, handle| {
            if state.irq(handle).is_some_and(&which) {
                state.update(handle);
            }
        });
    }

    /// A physical interrupt that was taken at EL2 but that the guest has since disabled goes back to the
    /// physical GIC: deactivated there, a level line is sampled anew, and an edge is made pending again.
    fn give_back(&mut self, handle: Handle) {
        if self.irq(handle).is_some_and(|irq| !irq.enabled && irq.held.is_none() && !irq.active) {
            self.give_back_now(handle);
        }
    }

    pub(crate) fn give_back_now(&mut self, handle: Handle) {
        if self.direct.is_some() {
            self.set_host_pending(handle, false);
            self.set_host_active(handle, false);
            return;
        }
        let Some(irq) = self.irq_mut(handle) else { return };
        if irq.host.is_none() {
            return;
        }
        let (latch, edge) = (core::mem::take(&mut irq.latch), irq.edge || irq.host_pended);
        let busy = irq.active || irq.held.is_some();
        if latch || busy {
            if latch && edge {
                self.set_host_pending(handle, true);
            }
            self.release_host(handle);
        }
    }

    /// A physical SPI has arrived: it becomes pending for the guest.
    pub(crate) fn arrive(&mut self, handle: Handle) {
        let Some(irq) = self.irq(handle) else { return };
        if irq.by_mask {
            // It was acknowledged before it was masked, and something has ended it since: the level is
            // looked at again anyhow, once it is unmasked.
            let again = irq.masked && !irq.edge;
            self.hold_host(handle);
            if again {
                return;
            }
        }
        self.latch(handle);
    }

    /// Keeps the physical interrupt from coming again until [`Self::release_host`].
    pub(crate) fn hold_host(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let Some(host) = irq.host else { return };
        if !irq.by_mask {
            return self.set_host_active(handle, true);
        }
        // In this order: a level that is still high must not come again in between.
        if !core::mem::replace(&mut irq.masked, true) {
            self.backend.set_spi_enabled(host, false);
        }
        self.backend.set_spi_active(host, false);
    }

    /// The guest is done with what it was given of the physical interrupt: the next may come.
    pub(crate) fn release_host(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let Some(host) = irq.host else { return };
        if !irq.by_mask {
            return self.set_host_active(handle, false);
        }
        // One that goes nowhere stays off, as [`Self::mirror`] left it.
        if core::mem::take(&mut irq.masked) && irq.enabled && irq.target.is_some() {
            self.backend.set_spi_enabled(host, true);
        }
    }

    /// Makes an interrupt pending: an edge, a message, or a physical interrupt that was taken.
    pub(crate) fn latch(&mut self, handle: Handle) {
        if self.direct.is_some() {
            return self.set_host_pending(handle, true);
        }
        if let Some(irq) = self.irq_mut(handle) {
            irq.latch = true;
            self.update(handle);
        }
    }

    /// Sets the level of an emulated line.
    pub(crate) fn set_level(&mut self, handle: Handle, high: bool) {
        let Some(irq) = self.irq_mut(handle) else { return };
        if irq.by_software {
            if core::mem::replace(&mut irq.level, high) != high {
                self.switches.count_level(high);
                self.set_host_pending(handle, high);
            }
            return;
        }
        if irq.host.is_some() || irq.level == high {
            return;
        }
        irq.level = high;
        if irq.edge && high {
            irq.latch = true;
        }
        self.update(handle);
    }

    /// With direct delivery: makes the lines of emulated devices that are high pending again. A physical edge
    /// stands for a level here, which the guest's end of interrupt doesn't show to anyone.
    pub(crate) fn repeat_levels(&mut self) {
        for handle in self.lines.iter().filter_map(|line| self.find(VcpuId(0), line.guest)) {
            if self.irq(handle).is_some_and(|irq| irq.by_software && irq.level) {
                self.set_host_pending(handle, true);
            }
        }
    }

    /// Tells the hypervisor what the guest has set up for an interrupt that stands for a physical one.
    pub(crate) fn mirror(&mut self, handle: Handle) {
        if let Some(irq) = self.irq_mut(handle) {
            irq.told = true;
        }
        let Some(irq) = self.irq(handle) else { return };
        match (irq.host, irq.kind, irq.target) {
            (Some(host), Kind::Spi, target) => self.backend.configure_spi(
                host,
                &SpiSettings {
                    enabled: self.is_enabled(irq) && !irq.masked,
                    priority: irq.priority,
                    // Made pending by software: level or edge is for the guest's eyes.
                    edge: irq.edge || irq.by_software,
                    target,
                },
            ),
            (Some(host), Kind::Ppi | Kind::Sgi, Some(vcpu)) => {
                self.backend.configure_private(vcpu, host, self.is_enabled(irq), irq.priority);
            }
            _ => {}
        }
    }

    pub(crate) fn set_host_active(&self, handle: Handle, active: bool) {
        let Some(irq) = self.irq(handle) else { return };
        match (irq.host, irq.kind, irq.target) {
            (Some(host), Kind::Spi, _) => self.backend.set_spi_active(host, active),
            (Some(host), Kind::Ppi | Kind::Sgi, Some(vcpu)) => {
                self.backend.set_private_active(vcpu, host, active)
            }
            _ => {}
        }
    }

    /// What the hardware says of an interrupt that stands for a physical one.
    pub(crate) fn host_state(&self, irq: &Irq) -> PhysicalState {
        match (irq.host, irq.kind, irq.target) {
            (Some(host), Kind::Spi, _) => self.backend.spi_state(host),
            (Some(host), Kind::Ppi | Kind::Sgi, Some(vcpu)) => self.backend.private_state(vcpu, host),
            _ => PhysicalState::default(),
        }
    }

    pub(crate) fn set_host_pending(&self, handle: Handle, pending: bool) {
        let Some(irq) = self.irq(handle) else { return };
        match (irq.host, irq.kind, irq.target) {
            (Some(host), Kind::Spi, _) => self.backend.set_spi_pending(host, pending),
            (Some(host), Kind::Ppi | Kind::Sgi, Some(vcpu)) => {
                self.backend.set_private_pending(vcpu, host, pending)
            }
            _ => {}
        }
    }

    /// Counts one more event that is mapped to `lpi`, which comes into being with the first.
    pub(crate) fn bind_lpi(&mut self, lpi: Intid) -> Handle {
        let handle = match self.find_lpi(lpi) {
            Some(handle) => handle,
            None => {
                let new = Irq::new(lpi, Kind::Lpi, None);
                let handle = match self.free_lpis.pop() {
                    Some(free) => {
                        if let Some(irq) = self.irq_mut(free) {
                            *irq = new;
                        }
                        free
                    }
                    None => {
                        self.irqs.push(new);
                        Handle((self.irqs.len() - 1) as u32)
                    }
                };
                self.lpis.insert(lpi.0, handle);
                handle
            }
        };
        let mut was_stray = false;
        if let Some(irq) = self.irq_mut(handle) {
            was_stray = core::mem::take(&mut irq.stray);
            irq.mappings = irq.mappings.saturating_add(u32::from(!was_stray));
        }
        self.strays = self.strays.saturating_sub(usize::from(was_stray));
        handle
    }

    /// Counts one event less. The LPI of the last one is gone, its pending state with it.
    pub(crate) fn unbind_lpi(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        if irq.kind != Kind::Lpi || irq.mappings == 0 {
            return;
        }
        irq.mappings -= 1;
        if irq.mappings > 0 {
            return;
        }
        let (lpi, held) = (irq.intid, irq.held.is_some());
        irq.latch = false;
        irq.enabled = false;
        if let Some(held) = &mut irq.held {
            held.cancel = true;
        }
        self.lpis.remove(&lpi.0);
        self.update(handle);
        if !held {
            self.free_lpis.push(handle);
        }
    }
}

/// The interrupts by handle.
pub(crate) struct IrqTable<'a>(&'a mut [Irq]);

impl<'a> IrqTable<'a> {
    fn new(irqs: &'a mut [Irq]) -> Self {
        Self(irqs)
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&Irq> {
        self.0.get(handle.0 as usize)
    }
}
