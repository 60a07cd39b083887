//! A driver of the GICv3 and its ITS (Arm IHI 0069), as small as a guest for tests can do with: one CPU's interrupts at
//! a time, one device, one event.

use axvm_addr::Address;
use axvm_platform::model::Platform;

use crate::machine::{self, Fault, load32, load64, store32, store64};

const GICD_CTLR: u64 = 0x0000;
const GICD_CTLR_GROUP1: u32 = 1 << 1;
const GICD_CTLR_ARE: u32 = 1 << 4;
const GICD_IROUTER: u64 = 0x6000;

const GICR_CTLR: u64 = 0x00;
const GICR_TYPER: u64 = 0x08;
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: u64 = 0x14;
const GICR_WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const GICR_PROPBASER: u64 = 0x70;
const GICR_PENDBASER: u64 = 0x78;
/// The frame with a CPU's own interrupts, which has the layout of the distributor.
const SGI_FRAME: u64 = 0x1_0000;

const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const IPRIORITYR: u64 = 0x400;

/// In the middle of all priorities.
const PRIORITY: u32 = 0xa0;

const GITS_CTLR: u64 = 0x00;
const GITS_CBASER: u64 = 0x80;
const GITS_CWRITER: u64 = 0x88;
const GITS_CREADR: u64 = 0x90;
const GITS_BASER: u64 = 0x100;
/// In the page above the control frame.
const GITS_TRANSLATER: u64 = 0x1_0040;
const VALID: u64 = 1 << 63;
/// One page of 4 KiB holds 128 commands.
const QUEUE: u64 = 0x1000;
const COMMAND: u64 = 32;
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const MOVI: u64 = 0x01;
const INT: u64 = 0x03;
const SYNC: u64 = 0x05;
const INV: u64 = 0x0c;

/// The first LPI.
pub const LPI: u64 = 8192;

/// Where the guest's GIC is.
#[derive(Clone, Copy, Debug)]
pub struct Gic {
    /// The distributor.
    pub distributor: u64,
    redistributors: u64,
    its: Option<u64>,
}

/// A CPU's redistributor.
#[derive(Clone, Copy, Debug)]
pub struct Redistributor {
    frame: u64,
    /// What an ITS knows it by, where GITS_TYPER.PTA is 0.
    number: u64,
}

impl Gic {
    /// As the device tree says.
    pub fn find(platform: &Platform) -> Option<Self> {
        let gic = platform.gic.as_ref()?;
        Some(Self {
            distributor: gic.distributor.start().get(),
            redistributors: gic.redistributors.first()?.start().get(),
            its: gic.its.first().map(|its| its.registers.start().get()),
        })
    }

    /// Lets interrupts of Group 1 through, routed by affinity.
    pub fn start(&self) -> Result<(), Fault> {
        let control = load32(self.distributor + GICD_CTLR)? | GICD_CTLR_GROUP1 | GICD_CTLR_ARE;
        store32(self.distributor + GICD_CTLR, control)
    }

    /// The redistributor of the CPU with these affinity fields of MPIDR_EL1.
    pub fn redistributor(&self, mpidr: u64) -> Result<Redistributor, Fault> {
        let affinity = mpidr >> 32 & 0xff << 24 | mpidr & 0xff_ffff;
        let mut frame = self.redistributors;
        loop {
            let kind = load64(frame + GICR_TYPER)?;
            if kind >> 32 == affinity {
                return Ok(Redistributor { frame, number: kind >> 8 & 0xffff });
            }
            if kind & GICR_TYPER_LAST != 0 {
                return Err(Fault);
            }
            frame += if kind & GICR_TYPER_VLPIS == 0 { 0x2_0000 } else { 0x4_0000 };
        }
    }

    /// Routes a line to the CPU with these affinity fields of MPIDR_EL1, and enables it.
    pub fn enable_line(&self, intid: u32, mpidr: u64) -> Result<(), Fault> {
        store64(self.distributor + GICD_IROUTER + u64::from(intid) * 8, mpidr & 0xff_00ff_ffff)?;
        enable(self.distributor, intid)
    }

    /// Disables a line.
    pub fn disable_line(&self, intid: u32) -> Result<(), Fault> {
        store32(self.distributor + ICENABLER + u64::from(intid / 32) * 4, 1 << (intid % 32))
    }

    /// Where a device writes for an MSI.
    pub fn doorbell(&self) -> Option<u64> {
        Some(self.its? + GITS_TRANSLATER)
    }

    /// Makes event 0 of a device the first LPI, at the CPU with this redistributor. Takes 1 MiB of memory at a multiple
    /// of 64 KiB.
    pub fn map_msi(&self, device: u64, target: &Redistributor, memory: u64) -> Result<(), Fault> {
        self.map_message(device, target, memory).map(drop)
    }

    /// The same, and what can be done with that event.
    pub fn map_message(&self, device: u64, target: &Redistributor, memory: u64) -> Result<Message, Fault> {
        let its = self.its.ok_or(Fault)?;
        let [queue, itt, properties, pending] =
            [0x8_0000, 0x9_0000, 0xa_0000, 0xb_0000].map(|offset| memory + offset);
        store32(properties, PRIORITY | 1)?;
        target.enable_lpis(properties, pending)?;
        let mut queue = Queue::start(its, queue, memory)?;
        let (device, redistributor) = (device << 32, target.number << 16);
        for command in [
            [MAPC, 0, VALID | redistributor, 0],
            [MAPD | device, 0, VALID | itt, 0],
            [MAPTI | device, LPI << 32, 0, 0],
            [INV | device, 0, 0, 0],
            [SYNC, 0, redistributor, 0],
        ] {
            queue.send(command)?;
        }
        Ok(Message { queue, device, properties, pending: pending + 0x1_0000 })
    }
}

/// A device's event 0, mapped to the first LPI.
pub struct Message {
    queue: Queue,
    /// The device id where commands have it.
    device: u64,
    properties: u64,
    /// Memory for another redistributor's pending table.
    pending: u64,
}

impl Message {
    /// Raises it, as if the device had.
    pub fn raise(&mut self) -> Result<(), Fault> {
        self.queue.send([INT | self.device, 0, 0, 0])
    }

    /// Makes another redistributor ready for it.
    pub fn add_target(&mut self, target: &Redistributor) -> Result<(), Fault> {
        target.enable_lpis(self.properties, self.pending)?;
        self.queue.send([MAPC, 0, VALID | target.number << 16 | 1, 0])
    }

    /// Moves it from one redistributor to another: `number` is 0 for the first one, 1 for that of [`Message::add_target`].
    pub fn move_to(&mut self, number: u64, from: &Redistributor) -> Result<(), Fault> {
        self.queue.send([MOVI | self.device, 0, number, 0])?;
        self.queue.send([SYNC, 0, from.number << 16, 0])
    }
}

impl Redistributor {
    /// With 14 bits of INTID: 8192 LPIs.
    fn enable_lpis(&self, properties: u64, pending: u64) -> Result<(), Fault> {
        store64(self.frame + GICR_PROPBASER, properties | 13)?;
        store64(self.frame + GICR_PENDBASER, pending)?;
        store32(self.frame + GICR_CTLR, 1)
    }

    /// Wakes it, for the CPU itself.
    pub fn start(&self) -> Result<(), Fault> {
        store32(self.frame + GICR_WAKER, load32(self.frame + GICR_WAKER)? & !GICR_WAKER_PROCESSOR_SLEEP)
    }

    /// The frame with the CPU's own interrupts.
    pub fn own_interrupts(&self) -> u64 {
        self.frame + SGI_FRAME
    }

    /// Enables an SGI or a PPI.
    pub fn enable(&self, intid: u32) -> Result<(), Fault> {
        enable(self.frame + SGI_FRAME, intid)
    }
}

/// In a distributor or what has its layout: Group 1, priority, enabled.
fn enable(frame: u64, intid: u32) -> Result<(), Fault> {
    let (word, bit) = (u64::from(intid / 32) * 4, 1u32 << (intid % 32));
    store32(frame + IGROUPR + word, load32(frame + IGROUPR + word)? | bit)?;
    let (place, shift) = (frame + IPRIORITYR + u64::from(intid & !3), intid % 4 * 8);
    store32(place, load32(place)? & !(0xff << shift) | PRIORITY << shift)?;
    store32(frame + ISENABLER + word, bit)
}

/// An ITS's command queue.
struct Queue {
    its: u64,
    memory: u64,
    next: u64,
}

impl Queue {
    fn start(its: u64, memory: u64, tables: u64) -> Result<Self, Fault> {
        store32(its + GITS_CTLR, 0)?;
        for table in 0..8 {
            let baser = load64(its + GITS_BASER + table * 8)?;
            // Type, in bits 58:56, is 0 where there is no table; a 64 KiB page (bits 9:8) is enough for ids below 8192.
            if baser >> 56 & 7 != 0 {
                let keep = baser & (7 << 56 | 0x1f << 48);
                store64(its + GITS_BASER + table * 8, VALID | keep | (tables + table * 0x1_0000) | 2 << 8)?;
            }
        }
        store64(its + GITS_CBASER, VALID | memory)?;
        store64(its + GITS_CWRITER, 0)?;
        store32(its + GITS_CTLR, 1)?;
        Ok(Self { its, memory, next: 0 })
    }

    fn send(&mut self, command: [u64; 4]) -> Result<(), Fault> {
        for (word, value) in (0u64..).zip(command) {
            store64(self.memory + self.next + word * 8, value)?;
        }
        self.next = (self.next + COMMAND) % QUEUE;
        store64(self.its + GITS_CWRITER, self.next)?;
        let start = machine::now();
        while load64(self.its + GITS_CREADR)? & 0xf_ffe0 != self.next {
            if machine::now() - start > machine::frequency() {
                return Err(Fault);
            }
        }
        Ok(())
    }
}
