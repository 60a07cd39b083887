//! The reset state of a VM's interrupts.

use core::sync::atomic::Ordering;

use axvm_addr::VcpuId;

use super::{Handle, Interrupts};
use crate::config::{Direct, LineConfig, LineDelivery};
use crate::id::Intid;
use crate::irq::{Delivery, Hold, Host, Irq, Kind, Raised};
use crate::signal::ALL_SGIS;
use crate::spec::{PPI_FIRST, SPI_FIRST};
use crate::vcpu_set::VcpuSet;

impl Interrupts {
    /// Puts every private interrupt and SPI in its reset state; there is no LPI.
    pub(super) fn fill(&mut self) {
        self.irqs.clear();
        self.switches.clear();
        self.lpis.clear();
        self.free_lpis.clear();
        self.strays = 0;
        for vcpu in (0..).map(VcpuId).take(self.cpus.len()) {
            for intid in (0..SPI_FIRST).map(Intid) {
                let of_hardware = self.hardware_ppis.contains(&intid);
                self.irqs.push(private(intid, vcpu, of_hardware, self.direct));
            }
        }
        self.hosts.clear();
        let first = self.vcpu_with_affinity(0);
        for intid in (SPI_FIRST..SPI_FIRST + self.spis).map(Intid) {
            let line = self.lines.iter().find(|line| line.guest == intid);
            let irq = match line {
                Some(line) => shared(line, first, self.direct.is_some()),
                None => Irq::new(intid, Kind::Absent, first),
            };
            if let Some(host) = line.and_then(|line| line.host) {
                self.hosts.push((host, Handle(self.irqs.len() as u32)));
            }
            self.irqs.push(irq);
        }
        self.hosts.sort_unstable();
    }

    /// Puts everything in its reset state and gives the physical interrupts back. No vCPU may run.
    pub(crate) fn reset(&mut self) {
        self.for_each(|state, handle| {
            if let Some(irq) = state.irq_mut(handle) {
                irq.note_pended(false);
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
}

/// An SGI or PPI of `vcpu`. `of_hardware`: it is a PPI that stands for the CPU's own.
fn private(intid: Intid, vcpu: VcpuId, of_hardware: bool, direct: Option<Direct>) -> Irq {
    let kind = if intid.0 < PPI_FIRST { Kind::Sgi } else { Kind::Ppi };
    let host = Host::new(intid);
    let Some(direct) = direct else {
        let mut irq = Irq::new(intid, kind, Some(vcpu));
        if of_hardware {
            irq.delivery = Delivery::Injected { host, hold: Hold::Active, pended: false };
        }
        return irq;
    };
    let exists = of_hardware || kind == Kind::Sgi && direct.reserved_sgis >> intid.0 & 1 == 0;
    let mut irq = Irq::new(intid, if exists { kind } else { Kind::Absent }, Some(vcpu));
    if exists {
        irq.delivery = Delivery::Direct { host, raised: Raised::ByHardware };
    }
    irq
}

/// The SPI of a line, routed to `first`.
fn shared(line: &LineConfig, first: Option<VcpuId>, direct: bool) -> Irq {
    let mut irq = Irq::new(line.guest, Kind::Spi { route: 0 }, first);
    irq.trigger = line.trigger;
    irq.delivery = match (line.host.map(Host::new), direct) {
        (Some(host), true) => Delivery::Direct { host, raised: Raised::ByHardware },
        (None, true) => {
            Delivery::Direct { host: Host::new(line.guest), raised: Raised::BySoftware { high: false } }
        }
        (Some(host), false) => Delivery::Injected {
            host,
            hold: match line.delivery {
                LineDelivery::Hardware => Hold::Active,
                LineDelivery::MaskUntilEnd => Hold::Mask { masked: false },
            },
            pended: false,
        },
        (None, false) => Delivery::Emulated { high: false },
    };
    irq
}
