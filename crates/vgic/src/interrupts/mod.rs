//! The state of all interrupts of a VM, and which vCPU has to look at which of them.
//!
//! Each vCPU has a list of interrupts that concern it: those that can be delivered to it and those that are
//! active on it. [`Interrupts::update`] keeps the lists right after any change. An interrupt that is in a
//! list register stays where it is until its vCPU has read that register back; until then the change waits in
//! [`Held`], and the vCPU is told to look.

mod cpu_interface;
mod lpi;
mod physical;
mod registers;
mod reset;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;
use litemap::LiteMap;

use crate::backend::HardwareInterrupts;
use crate::config::{Direct, LineConfig, VgicConfig};
use crate::id::Intid;
use crate::irq::{Delivery, Irq, Kind, Raised};
use crate::signal::Signal;
use crate::spec::list_register::LIST_REGISTERS_MAX;
use crate::spec::{AFFINITY_MASK, Group, SPI_FIRST, Trigger};
use crate::switches::Switches;
use crate::vcpu_set::VcpuSet;

#[cfg(doc)]
use crate::irq::Held;

/// An interrupt's position in [`Interrupts::irqs`]: the private ones of each vCPU, then SPIs, then mapped
/// LPIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Handle(u32);

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
    priority_mask: u8,
    spis: u32,
    /// Physical SPIs, sorted.
    hosts: Vec<(Intid, Handle)>,
    hardware_ppis: Vec<Intid>,
    lines: Vec<LineConfig>,
    lpis: LiteMap<u32, Handle>,
    free_lpis: Vec<Handle>,
    /// How many LPIs are pending that no event is mapped to.
    strays: usize,
    pub(crate) direct: Option<Direct>,
    hardware_lpis: bool,
    pub(crate) backend: Arc<dyn HardwareInterrupts>,
}

impl Interrupts {
    pub(crate) fn new(
        config: &VgicConfig,
        signals: Arc<[Signal]>,
        switches: Arc<Switches>,
        backend: Arc<dyn HardwareInterrupts>,
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
        self.irq(handle).filter(|irq| !matches!(irq.kind, Kind::Absent)).map(|_| handle)
    }

    /// The SPI of this number, if it exists.
    #[inline(always)]
    pub(crate) fn spi_mut(&mut self, intid: Intid) -> Option<&mut Irq> {
        let first = self.cpus.len() as u32 * SPI_FIRST;
        let spi = intid.0.checked_sub(SPI_FIRST).filter(|spi| *spi < self.spis)?;
        self.irqs.get_mut((first + spi) as usize).filter(|irq| matches!(irq.kind, Kind::Spi { .. }))
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
        let by_hardware = self.direct.is_some() || (self.hardware_lpis && irq.is_lpi());
        irq.enabled && (!by_hardware || (irq.group == Group::One && self.is_forwarded(irq)))
    }

    /// Whether it is pending and nothing but the CPU interface stands between it and its vCPU.
    pub(crate) fn is_deliverable(&self, irq: &Irq) -> bool {
        irq.is_pending() && self.is_forwarded(irq)
    }

    /// Whether it would be forwarded to its vCPU if it were pending.
    pub(crate) fn is_forwarded(&self, irq: &Irq) -> bool {
        let [group0, group1] = self.groups;
        irq.enabled
            && match irq.group {
                Group::Zero => group0,
                Group::One => group1,
            }
            && (!irq.is_lpi() || irq.target.and_then(|v| self.cpu(v)).is_some_and(|cpu| cpu.lpis_enabled))
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
        let home = irq.active.or_else(|| irq.target.filter(|_| self.is_deliverable(irq)));
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
        match &mut irq.delivery {
            Delivery::Emulated { high: level } if *level != high => {
                *level = high;
                if irq.trigger == Trigger::Edge && high {
                    irq.latch = true;
                }
                self.update(handle);
            }
            Delivery::Direct { raised: Raised::BySoftware { high: level }, .. } if *level != high => {
                *level = high;
                self.switches.count_level(high);
                self.set_host_pending(handle, high);
            }
            _ => {}
        }
    }

    /// With direct delivery: makes the lines of emulated devices that are high pending again. A physical edge
    /// stands for a level here, which the guest's end of interrupt doesn't show to anyone.
    pub(crate) fn repeat_levels(&mut self) {
        for handle in self.lines.iter().filter_map(|line| self.find(VcpuId(0), line.guest)) {
            if self.irq(handle).is_some_and(Irq::is_high) {
                self.set_host_pending(handle, true);
            }
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
