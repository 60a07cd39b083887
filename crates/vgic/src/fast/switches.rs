//! The switches of SPIs, GICD_ISENABLER and GICD_ICENABLER, where an access to them needs nothing else: an operating system masks
//! and unmasks a line by them each time that it hands its service to a thread.
//!
//! A write that changes one switch is carried out if that changes nothing else in the virtual GIC: no list, no list register.

use core::sync::atomic::Ordering;

use super::Local;
use crate::Vgic;
use crate::id::Intid;
use crate::interrupts::Interrupts;
use crate::irq::{Delivery, Hold, Irq, Raised};
use crate::lists::{HardwareLists, ListRegisters};
use crate::spec::list_register::ListRegister;
use crate::spec::{Group, SPI_FIRST};

impl Vgic {
    /// What GICD_ISENABLER\<word\> and GICD_ICENABLER\<word\> read as.
    #[inline(always)]
    pub fn fast_switches(&self, word: u32) -> u32 {
        self.shared.switches.word(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Which switches a write of `value` to GICD_ISENABLER\<word\> (`enable`) or GICD_ICENABLER\<word\> turns. If none, the write is
    /// done.
    #[inline(always)]
    pub fn fast_turned(&self, word: u32, value: u32, enable: bool) -> u32 {
        let on = self.fast_switches(word);
        value & if enable { !on } else { on }
    }

    /// Turns a switch of GICD_ISENABLER\<word\>, on (`enable`) or off, on the vCPU's own CPU: the one that a write turns, if it is
    /// one ([`Self::fast_turned`]). Whether it was done; if not, nothing has changed.
    #[inline(always)]
    pub fn fast_switch(
        &self,
        local: Local<'_>,
        word: u32,
        turned: u32,
        enable: bool,
        registers: &ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        // What doesn't exist has no switch.
        let Some(switches) = self.shared.switches.word(word) else { return true };
        if !turned.is_power_of_two() {
            return false;
        }
        let Some(mut state) = self.shared.try_lock() else { return false };
        let quiet = |irq: &Irq| !local.is_pending_here(irq, registers, hardware);
        let intid = Intid(word * SPI_FIRST + turned.trailing_zeros());
        match state.switch_in_place(intid, enable, quiet) {
            Switched::Done => {
                // Others of the word may have been switched since it was read.
                let now = switches.load(Ordering::Relaxed);
                switches.store(if enable { now | turned } else { now & !turned }, Ordering::Relaxed);
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
