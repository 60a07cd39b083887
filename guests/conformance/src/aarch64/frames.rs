//! The registers that have a field for each interrupt, of both CPUs and of what they share (Arm IHI 0069, 12.9 and 12.11).

use axvm_addr::Address;
use axvm_guest_runtime::board::Board;
use axvm_guest_runtime::gic::Gic;
use axvm_guest_runtime::machine::{load32, mpidr, store32, store64};
use axvm_platform::model::PlatformDevice;

/// GICD_CTLR.
pub const CTLR: u64 = 0x000;
/// GICD_CTLR.EnableGrp0 and EnableGrp1.
pub const GROUP0: u32 = 1 << 0;
/// See [`GROUP0`].
pub const GROUP1: u32 = 1 << 1;
/// One bit an interrupt.
pub const IGROUPR: u64 = 0x080;
/// One bit an interrupt.
pub const ISENABLER: u64 = 0x100;
/// One bit an interrupt.
pub const ICENABLER: u64 = 0x180;
/// One bit an interrupt.
pub const ISPENDR: u64 = 0x200;
/// One bit an interrupt.
pub const ICPENDR: u64 = 0x280;
/// One bit an interrupt.
pub const ISACTIVER: u64 = 0x300;
/// One bit an interrupt.
pub const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;
const IROUTER: u64 = 0x6000;

/// A PL061 (Arm DDI 0190, 3.3) with a pin that is low: told to interrupt while it is, its line is up.
#[derive(Clone, Copy)]
pub struct Pins {
    registers: u64,
    /// Its line.
    pub intid: u32,
}

const PL061_SENSE: u64 = 0x404;
const PL061_EVENT: u64 = 0x40c;
/// GPIOIE.
const PL061_MASK: u64 = 0x410;

impl Pins {
    /// The register that raises the line (1) and lowers it (0).
    pub fn switch(&self) -> u64 {
        self.registers + PL061_MASK
    }

    /// Raises or lowers its line.
    pub fn set(&self, up: bool) {
        let _ = store32(self.switch(), u32::from(up));
    }
}

/// Where all of it is.
#[derive(Clone, Copy)]
pub struct Frames {
    /// The distributor.
    pub distributor: u64,
    /// The SGI frames of the first CPU and of the other.
    pub private: [u64; 2],
    /// The affinity of both.
    pub mpidrs: [u64; 2],
    /// What raises a level.
    pub pins: Pins,
    /// Lines of the guest's own that stay down: of a PL031, and of the console.
    pub quiet: [u32; 2],
    /// The virtual timer's interrupt.
    pub timer: u32,
}

fn device<'a>(board: &'a Board, compatible: &str) -> Option<&'a PlatformDevice> {
    board.platform.devices.iter().find(|device| device.compatible.iter().any(|it| it == compatible))
}

impl Frames {
    /// What the device tree says; wakes both redistributors, and lets Group 1 through.
    pub fn find(board: &Board) -> Option<Self> {
        /// The virtual timer's place in the device tree's list.
        const VIRTUAL: usize = 2;
        let gic = Gic::find(&board.platform)?;
        let own = mpidr();
        let other = board.platform.cpus.iter().find(|cpu| cpu.hardware_id != own && cpu.usable)?.hardware_id;
        let mut private = [0; 2];
        for (frame, mpidr) in private.iter_mut().zip([own, other]) {
            let redistributor = gic.redistributor(mpidr).ok()?;
            redistributor.start().ok()?;
            *frame = redistributor.own_interrupts();
        }
        gic.start().ok()?;
        let line = |compatible| Some(device(board, compatible)?.interrupts.first()?.irq.0);
        let pins = device(board, "arm,pl061")?;
        let registers = pins.registers.first()?.start().get();
        store32(registers + PL061_MASK, 0).ok()?;
        // Level, low.
        store32(registers + PL061_SENSE, 1).ok()?;
        store32(registers + PL061_EVENT, 0).ok()?;
        let console = board.platform.console.as_deref()?;
        let console = board.platform.devices.iter().find(|device| device.path == console)?;
        Some(Self {
            distributor: gic.distributor,
            private,
            mpidrs: [own, other],
            pins: Pins { registers, intid: pins.interrupts.first()?.irq.0 },
            quiet: [line("arm,pl031")?, console.interrupts.first()?.irq.0],
            timer: board.platform.timer.get(VIRTUAL)?.irq.0,
        })
    }

    /// All SPIs that are the guest's.
    pub fn lines(&self) -> [u32; 3] {
        [self.pins.intid, self.quiet[0], self.quiet[1]]
    }

    fn frame(&self, cpu: usize, intid: u32) -> u64 {
        if intid < 32 { self.private[cpu & 1] } else { self.distributor }
    }

    /// A word of a register with a bit for each interrupt.
    pub fn word(&self, cpu: usize, bank: u64, intid: u32) -> u32 {
        load32(self.frame(cpu, intid) + bank + u64::from(intid / 32) * 4).unwrap_or(0xdead_dead)
    }

    /// An interrupt's bit.
    pub fn get(&self, cpu: usize, bank: u64, intid: u32) -> bool {
        self.word(cpu, bank, intid) >> (intid % 32) & 1 != 0
    }

    /// Writes an interrupt's bit, and no other.
    pub fn set(&self, cpu: usize, bank: u64, intid: u32) {
        let _ = store32(self.frame(cpu, intid) + bank + u64::from(intid / 32) * 4, 1 << (intid % 32));
    }

    /// Puts an interrupt into Group 1 or Group 0.
    pub fn set_group(&self, cpu: usize, intid: u32, group1: bool) {
        let bit = 1 << (intid % 32);
        let word = self.word(cpu, IGROUPR, intid);
        let word = if group1 { word | bit } else { word & !bit };
        let _ = store32(self.frame(cpu, intid) + IGROUPR + u64::from(intid / 32) * 4, word);
    }

    /// Gives an interrupt a priority: a multiple of 16.
    pub fn set_priority(&self, cpu: usize, intid: u32, priority: u32) {
        let (place, shift) = (self.frame(cpu, intid) + IPRIORITYR + u64::from(intid & !3), intid % 4 * 8);
        let _ = load32(place).and_then(|old| store32(place, old & !(0xff << shift) | priority << shift));
    }

    /// Says whether a line is an edge.
    pub fn set_edge(&self, intid: u32, edge: bool) {
        let (place, shift) = (self.distributor + ICFGR + u64::from(intid / 16) * 4, intid % 16 * 2);
        let bits = if edge { 2 } else { 0 };
        let _ = load32(place).and_then(|old| store32(place, old & !(3 << shift) | bits << shift));
    }

    /// Routes a line.
    pub fn route(&self, intid: u32, cpu: usize) {
        let mpidr = self.mpidrs[cpu & 1] & 0xff_00ff_ffff;
        let _ = store64(self.distributor + IROUTER + u64::from(intid) * 8, mpidr);
    }

    /// Switches groups at the distributor.
    pub fn set_groups(&self, groups: u32) {
        let _ = load32(self.distributor + CTLR)
            .and_then(|old| store32(self.distributor + CTLR, old & !(GROUP0 | GROUP1) | groups));
    }

    /// An interrupt in its place: Group 1, this priority, neither pending nor active, enabled.
    pub fn set_up(&self, cpu: usize, intid: u32, priority: u32) {
        for bank in [ICENABLER, ICPENDR, ICACTIVER] {
            self.set(cpu, bank, intid);
        }
        self.set_group(cpu, intid, true);
        self.set_priority(cpu, intid, priority);
        if intid >= 32 {
            self.set_edge(intid, false);
            self.route(intid, cpu);
        }
        self.set(cpu, ISENABLER, intid);
    }
}
