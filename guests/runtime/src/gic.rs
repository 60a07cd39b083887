//! A driver of the GICv3 (Arm IHI 0069), as small as a guest for tests can do with: one CPU's interrupts at a time. The ITS has
//! a module of its own.

use axvm_addr::Address;
use axvm_platform::model::Platform;

use crate::machine::{Fault, SURELY_S, load32, load64, store32, store64, within};

const GICD_CTLR: u64 = 0x0000;
const GICD_CTLR_GROUP1: u32 = 1 << 1;
const GICD_CTLR_ARE: u32 = 1 << 4;
const GICD_IROUTER: u64 = 0x6000;

const GICR_CTLR: u64 = 0x00;
/// What was written hasn't taken effect everywhere.
const GICR_CTLR_RWP: u32 = 1 << 3;
const GICR_TYPER: u64 = 0x08;
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER: u64 = 0x14;
const GICR_WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const GICR_PROPBASER: u64 = 0x70;
const GICR_PENDBASER: u64 = 0x78;
/// Of INTIDs, less one: 8192 LPIs.
const ID_BITS: u64 = 13;
/// The frame with a CPU's own interrupts, which has the layout of the distributor.
const SGI_FRAME: u64 = 0x1_0000;

const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const IPRIORITYR: u64 = 0x400;

/// GITS_TRANSLATER, in the page above an ITS's control frame.
const TRANSLATER: u64 = 0x1_0040;

/// In the middle of all priorities.
pub(crate) const PRIORITY: u8 = 0xa0;

/// GICR_PENDBASER.PTZ.
pub const PENDING_IS_ZERO: u64 = 1 << 62;

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
        let gic = platform.gic()?;
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
        Some(self.its? + TRANSLATER)
    }

    /// The ITS's registers.
    pub fn its(&self) -> Option<u64> {
        self.its
    }
}

impl Redistributor {
    /// Wakes it, for the CPU itself.
    pub fn start(&self) -> Result<(), Fault> {
        store32(self.frame + GICR_WAKER, load32(self.frame + GICR_WAKER)? & !GICR_WAKER_PROCESSOR_SLEEP)
    }

    /// The frame with the CPU's own interrupts.
    pub fn own_interrupts(&self) -> u64 {
        self.frame + SGI_FRAME
    }

    /// Lets LPIs through that are configured by the table `properties`, and are pending in `pending`: both of 64 KiB.
    pub(crate) fn enable_lpis(&self, properties: u64, pending: u64) -> Result<(), Fault> {
        store64(self.frame + GICR_PROPBASER, properties | ID_BITS)?;
        self.enable_lpis_again(pending)
    }

    /// The same of LPIs that were let through before. Bit 62 of `pending` ([`PENDING_IS_ZERO`]): nothing is pending.
    pub fn enable_lpis_again(&self, pending: u64) -> Result<(), Fault> {
        store64(self.frame + GICR_PENDBASER, pending)?;
        store32(self.frame + GICR_CTLR, 1)
    }

    /// Lets no LPIs through, any more (GICR_CTLR.CES says whether that can be). Waits, within bounds, until what is pending is in
    /// memory.
    pub fn disable_lpis(&self) -> Result<(), Fault> {
        store32(self.frame + GICR_CTLR, 0)?;
        let is_done = || load32(self.frame + GICR_CTLR).map(|control| control & GICR_CTLR_RWP == 0);
        if within(SURELY_S, || is_done() != Ok(false)) && is_done()? { Ok(()) } else { Err(Fault) }
    }

    /// The control frame.
    pub fn control_frame(&self) -> u64 {
        self.frame
    }

    /// What a command of the ITS has in its place for the target.
    pub(crate) fn target(&self) -> u64 {
        self.number << 16
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
    store32(place, load32(place)? & !(0xff << shift) | u32::from(PRIORITY) << shift)?;
    store32(frame + ISENABLER + word, bit)
}
