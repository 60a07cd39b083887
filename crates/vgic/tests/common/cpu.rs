//! A vCPU: its list registers, and what the hypervisor and a guest do with them.

use std::cell::RefCell;

use axvm_addr::VcpuId;
use axvm_vgic::Intid;
use axvm_vgic::spec::list_register::{HCR_LRENPIE, HCR_NPIE, HCR_TDIR, ListRegister};
use axvm_vgic::spec::{Group, LPI_FIRST};
use axvm_vgic::{HardwareLists, ListRegisters, Vgic};

use super::{Bench, V0, config};

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

impl Cpu {
    pub(super) fn new(vgic: &Vgic, id: VcpuId) -> Self {
        Self {
            id,
            registers: vgic.switch_on(id).unwrap(),
            hardware: [0; 16],
            hcr: 0,
            running: Vec::new(),
            split: false,
            maintenance: false,
            off: false,
        }
    }
}

/// Entries and exits.
impl Bench {
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

    /// Does something on a CPU whose guest has just been left, with its list registers at hand.
    pub fn on<R>(&mut self, cpu: usize, f: impl FnOnce(&Vgic, &mut ListRegisters, &Hardware) -> R) -> R {
        let (vgic, cpu) = (self.vgic.clone(), &mut self.cpus[cpu]);
        let hardware = Hardware(RefCell::new(cpu.hardware));
        let result = f(&vgic, &mut cpu.registers, &hardware);
        cpu.hardware = hardware.0.into_inner();
        result
    }
}

/// What is in the list registers.
impl Bench {
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
}

/// The guest takes interrupts and ends them.
impl Bench {
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
        assert_eq!(lr.group(), Group::One);
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
}
