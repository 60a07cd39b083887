//! The GICv3 (Arm IHI 0069) with two security states: what the secure world keeps, and what it gives away.

use crate::board::{DISTRIBUTOR, REDISTRIBUTORS, read32, write32};
use crate::cpu::{self, isb, mrs, msr};

mod gicd {
    pub const CTLR: usize = 0x0000;
    pub const TYPER: usize = 0x0004;
    pub const IGROUPR: usize = 0x0080;
    pub const IGRPMODR: usize = 0x0d00;
    /// CTLR, as the secure world sees it: affinity routing in both states, Group 0 on. DS (bit 6) stays 0.
    pub const ON: u32 = 1 << 4 | 1 << 5 | 1;
    pub const RWP: u32 = 1 << 31;
}

mod gicr {
    pub const TYPER: usize = 0x0008;
    pub const WAKER: usize = 0x0014;
    pub const SGI_FRAME: usize = 0x1_0000;
    pub const FRAMES: usize = 0x2_0000;
}

/// What stays Group 0: SGIs 8 to 15, and the secure physical timer (PPI 29), as Trusted Firmware has them.
const SECURE: u32 = 0xff00 | 1 << 29;

/// Gives every SPI to the non-secure world.
pub fn set_up_distributor() {
    write32(DISTRIBUTOR + gicd::CTLR, gicd::ON);
    while read32(DISTRIBUTOR + gicd::CTLR) & gicd::RWP != 0 {}
    for word in 1..=(read32(DISTRIBUTOR + gicd::TYPER) & 0x1f) as usize {
        write32(DISTRIBUTOR + gicd::IGROUPR + word * 4, u32::MAX);
        write32(DISTRIBUTOR + gicd::IGRPMODR + word * 4, 0);
    }
}

/// Wakes the calling CPU's redistributor, gives its interrupts away but for [`SECURE`], and opens the CPU interface.
pub fn set_up_cpu() {
    let Some(frame) = redistributor() else { panic!("CPU {:#x} has no redistributor", cpu::affinity()) };
    // ProcessorSleep (bit 1) off, ChildrenAsleep (bit 2) follows. Only the secure world can.
    write32(frame + gicr::WAKER, read32(frame + gicr::WAKER) & !2);
    while read32(frame + gicr::WAKER) & 4 != 0 {}
    write32(frame + gicr::SGI_FRAME + gicd::IGROUPR, !SECURE);
    write32(frame + gicr::SGI_FRAME + gicd::IGRPMODR, 0);
    // ICC_SRE_EL3: system registers, for EL2 too.
    msr!("s3_6_c12_c12_5", 0xf);
    isb();
    // ICC_PMR_EL1: nothing is masked. Non-secure software can't bring it below 0x80 from here on.
    msr!("icc_pmr_el1", 0xff);
    // ICC_IGRPEN0_EL1.
    msr!("icc_igrpen0_el1", 1);
    isb();
}

fn redistributor() -> Option<usize> {
    let mut frame = REDISTRIBUTORS;
    loop {
        let (low, high) = (read32(frame + gicr::TYPER), read32(frame + gicr::TYPER + 4));
        let affinity = u64::from(high & 0xff_ffff) | u64::from(high >> 24) << 32;
        if affinity == cpu::affinity() {
            return Some(frame);
        }
        // Last (bit 4).
        if low & 1 << 4 != 0 {
            return None;
        }
        frame += gicr::FRAMES;
    }
}

/// Takes a Group 0 interrupt and ends it: the secure world has nothing to do.
pub fn take_group0() {
    let id = mrs!("icc_iar0_el1");
    // Above are the numbers that mean none.
    if id < 1020 {
        msr!("icc_eoir0_el1", id);
        isb();
    }
}
