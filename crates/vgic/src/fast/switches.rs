//! The switches of SPIs, GICD_ISENABLER and GICD_ICENABLER, where an access to them needs nothing else: an operating system masks
//! and unmasks a line by them each time that it hands its service to a thread.
//!
//! A write that changes one switch is carried out if that changes nothing else in the virtual GIC: no list, no list register.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Local;
use crate::Vgic;
use crate::id::Intid;
use crate::interrupts::Interrupts;
use crate::irq::{Delivery, Hold, Irq, Raised};
use crate::lists::{HardwareLists, ListRegisters};
use crate::spec::list_register::ListRegister;
use crate::spec::{Group, SPI_FIRST};

/// A word of switches: what a register of GICD_ISENABLER and the one of GICD_ICENABLER show.
#[derive(Clone, Copy)]
pub struct Switches<'a> {
    /// The first interrupt of the word.
    first: Intid,
    /// A bit for each that is on.
    on: &'a AtomicU32,
}

impl Switches<'_> {
    /// What both registers read as.
    #[inline(always)]
    pub fn read(self) -> u32 {
        self.on.load(Ordering::Relaxed)
    }

    /// Which switches a write of `value` to GICD_ISENABLER (`enable`) or GICD_ICENABLER turns. If none, the write is done.
    #[inline(always)]
    pub fn turned(self, value: u32, enable: bool) -> u32 {
        let on = self.read();
        value & if enable { !on } else { on }
    }
}

impl Vgic {
    /// The switches of GICD_ISENABLER\<word\> and GICD_ICENABLER\<word\>; none if there are no such interrupts: these registers
    /// read as zero and ignore what is written.
    #[inline(always)]
    pub fn fast_switches(&self, word: u32) -> Option<Switches<'_>> {
        let on = self.shared.switches.word(word)?;
        Some(Switches { first: Intid(word * SPI_FIRST), on })
    }

    /// Turns a switch, on (`enable`) or off, on the vCPU's own CPU: the one that a write turns, if it is one
    /// ([`Switches::turned`]). Whether it was done; if not, nothing has changed.
    #[inline(always)]
    pub fn fast_switch(
        &self,
        local: Local<'_>,
        switches: Switches<'_>,
        turned: u32,
        enable: bool,
        registers: &ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        if !turned.is_power_of_two() {
            return false;
        }
        let Some(mut state) = self.shared.try_lock() else { return false };
        let quiet = |irq: &Irq| !local.is_pending_here(irq, registers, hardware);
        let intid = Intid(switches.first.0 + turned.trailing_zeros());
        match state.switch_in_place(intid, enable, quiet) {
            Switched::Done => {
                // Others of the word may have been switched since it was read.
                let now = switches.read();
                switches.on.store(if enable { now | turned } else { now & !turned }, Ordering::Relaxed);
                true
            }
            Switched::Absent => true,
            Switched::Not => false,
        }
    }
}

/// What became of a switch.
enum Switched {
    /// It was turned.
    Done,
    /// There is no such interrupt.
    Absent,
    /// More would follow from it: nothing was done.
    Not,
}

impl Local<'_> {
    /// Whether an interrupt that a list register holds, or held until the guest ended it, may still be taken from there: it can't be
    /// only if that is this vCPU's, and it says so.
    fn is_pending_here(&self, irq: &Irq, registers: &ListRegisters, hardware: &impl HardwareLists) -> bool {
        let own =
            irq.held.is_some_and(|held| held.vcpu == self.vcpu) && !self.signal.stale.load(Ordering::Acquire);
        let slot = registers.slot_of(irq.intid).filter(|_| own);
        slot.and_then(|slot| hardware.read(slot)).is_none_or(|now| ListRegister(now).state().pending)
    }
}

impl Interrupts {
    /// Enables or disables an SPI if nothing else follows from that: it isn't pending, the hardware has been told of the rest of its
    /// set-up, and no list register has anything of it to give back (which `quiet` says).
    #[inline(always)]
    fn switch_in_place(&mut self, intid: Intid, enabled: bool, quiet: impl FnOnce(&Irq) -> bool) -> Switched {
        let (direct, [_, group1]) = (self.direct.is_some(), self.groups);
        let Some(irq) = self.spi_mut(intid) else { return Switched::Absent };
        // What is turned in hardware, if anything is.
        let line = match irq.delivery {
            Delivery::Emulated { high: true } => return Switched::Not,
            Delivery::Direct { raised: Raised::BySoftware { high: true }, .. } => return Switched::Not,
            Delivery::Injected { host, .. } | Delivery::Direct { host, .. } if !host.told => {
                return Switched::Not;
            }
            Delivery::Emulated { .. } | Delivery::Injected { hold: Hold::Mask { masked: true }, .. } => None,
            Delivery::Injected { host, .. } | Delivery::Direct { host, .. } => Some(host.intid),
        };
        if irq.latch || (irq.held.is_some() && !quiet(irq)) {
            return Switched::Not;
        }
        irq.enabled = enabled;
        if let Some(line) = line {
            // As `is_enabled` says of a line: what isn't taken at EL2 first must pass the switch of its group too.
            let comes = enabled && irq.target.is_some() && (!direct || group1 && irq.group == Group::One);
            self.backend.set_spi_enabled(line, comes);
        }
        Switched::Done
    }
}
