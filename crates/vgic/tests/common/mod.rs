//! A machine for the virtual GIC to run on: what is below it ([`Machine`]), the guest's side of the list registers ([`Cpu`]), and
//! the guest's accesses to the register frames ([`Bench`]).
#![allow(dead_code, unused_imports, reason = "each test uses its part")]

pub mod commands;
mod cpu;
mod its;
mod machine;

use std::sync::{Arc, Mutex};

use axvm_addr::VcpuId;
use axvm_axdevice::{MmioDevice, Width};
use axvm_vgic::spec::Trigger;
use axvm_vgic::{Distributor, Its, ItsConfig, LineConfig, LineDelivery, Redistributors, Vgic, VgicConfig};
use axvm_vgic::{Intid, ItsDeviceId, Switches};

pub use cpu::{Cpu, Hardware};
pub use machine::{Line, Machine, MappedEvent};

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

/// A VM's virtual GIC, its machine and its guest.
pub struct Bench {
    /// What software makes pending is listed by the fast path where it can be.
    pub fast: bool,
    pub machine: Arc<Machine>,
    pub vgic: Arc<Vgic>,
    pub gicd: Distributor,
    pub gicr: Redistributors,
    pub gits: Option<Its>,
    pub cpus: Vec<Cpu>,
}

pub fn line(guest: u32, host: Option<u32>, trigger: Trigger) -> LineConfig {
    LineConfig { guest: Intid(guest), host: host.map(Intid), trigger, delivery: LineDelivery::Hardware }
}

pub fn masked_line(guest: u32, host: u32, trigger: Trigger) -> LineConfig {
    LineConfig { delivery: LineDelivery::MaskUntilEnd, ..line(guest, Some(host), trigger) }
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
                    spi.edge = line.trigger == Trigger::Edge;
                    spi.target = Some(V0);
                });
            }
        }
        let vcpus = config.vcpus.len() as u16;
        let vgic = Vgic::new(config, machine.clone()).unwrap();
        let cpus = (0..vcpus).map(|id| Cpu::new(&vgic, VcpuId(id))).collect();
        Self {
            fast: false,
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

    /// The guest on the first CPU switches an SPI on or off: by the fast path if that can be done. Whether it could; otherwise the CPU has left
    /// the guest for that.
    pub fn switch(&mut self, intid: u32, enable: bool) -> bool {
        let fast = self.write_switches(intid / 32, 1 << (intid % 32), enable);
        if !fast {
            if enable {
                self.enable(intid);
            } else {
                self.disable(intid);
            }
        }
        for register in [0x100, 0x180] {
            let word = self.gicd.read(V0, register + u64::from(intid / 32) * 4, Width::B4) as u32;
            assert_eq!(self.vgic.fast_switches(intid / 32).map_or(0, Switches::read), word);
        }
        fast
    }

    /// The guest on the first CPU writes to GICD_ISENABLER or GICD_ICENABLER, by the fast path. Whether that could be done.
    pub fn write_switches(&mut self, word: u32, value: u32, enable: bool) -> bool {
        self.on(0, |vgic, lists, hardware| {
            let Some(switches) = vgic.fast_switches(word) else { return true };
            let turned = switches.turned(value, enable);
            turned == 0
                || vgic.fast_switch(vgic.local(V0).unwrap(), switches, turned, enable, lists, hardware)
        })
    }

    /// The guest on the first CPU makes an SPI pending, as [`Self::switch`].
    pub fn pend(&mut self, intid: u32) -> bool {
        let fast = self.on(0, |vgic, lists, hardware| {
            vgic.fast_pend(vgic.local(V0).unwrap(), intid / 32, 1 << (intid % 32), lists, hardware)
        });
        if !fast {
            self.gicd.write(V0, 0x200 + u64::from(intid / 32) * 4, Width::B4, 1 << (intid % 32));
        }
        fast
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

    pub fn errors(&self) -> u64 {
        self.vgic.statistics().command_errors
    }
}
