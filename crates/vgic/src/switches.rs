//! The switches of SPIs, GICD_ISENABLER and GICD_ICENABLER, where an access to them needs nothing else (IHI 0069, 12.9.24 and
//! 12.9.5): an operating system masks and unmasks a line by them each time that it hands its service to a thread.
//!
//! What is on is kept a second time, to be read without the lock. A write that changes one switch is carried out at once if that
//! changes nothing else in the virtual GIC: no list, no list register. Otherwise nothing is done, and the caller goes the long way.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use axvm_addr::Intid;

use crate::Vgic;
use crate::at_once::{HardwareLists, Local};
use crate::cpu_interface::ListRegisters;
use crate::interrupts::Interrupts;
use crate::irq::Irq;
use crate::spec::SPI_FIRST;
use crate::spec::list_register::ListRegister;

/// Words of GICD_ISENABLER that have SPIs: from the second on.
const WORDS: usize = 31;

/// What is looked at without the lock, and written with it held.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// Which SPIs are enabled, a bit each.
    enabled: [AtomicU32; WORDS],
    /// With direct delivery: how many lines of emulated devices are high.
    high: AtomicU32,
}

impl Switches {
    fn word(&self, word: u32) -> Option<&AtomicU32> {
        self.enabled.get(word.checked_sub(1)? as usize)
    }

    /// Notes what an SPI's switch is now; of others nothing is kept.
    pub(crate) fn note(&self, intid: Intid, enabled: bool) {
        if let Some(word) = self.word(intid.0 / SPI_FIRST) {
            let others = word.load(Ordering::Relaxed) & !(1 << (intid.0 % SPI_FIRST));
            word.store(others | u32::from(enabled) << (intid.0 % SPI_FIRST), Ordering::Relaxed);
        }
    }

    /// An emulated device's line has gone up or down.
    pub(crate) fn count_level(&self, high: bool) {
        let now = self.high.load(Ordering::Relaxed);
        self.high.store(if high { now.saturating_add(1) } else { now.saturating_sub(1) }, Ordering::Release);
    }

    /// Whether one is high.
    pub(crate) fn any_level_is_high(&self) -> bool {
        self.high.load(Ordering::Acquire) != 0
    }

    /// All off.
    pub(crate) fn clear(&self) {
        self.enabled.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.high.store(0, Ordering::Relaxed);
    }
}

impl Vgic {
    /// What GICD_ISENABLER\<word\> and GICD_ICENABLER\<word\> read as.
    #[inline(always)]
    pub fn switches_at_once(&self, word: u32) -> u32 {
        self.switches.word(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// A write of `value` to GICD_ISENABLER\<word\> (`enable`) or GICD_ICENABLER\<word\>, on the vCPU's own CPU. Whether it was
    /// done; if not, nothing has changed.
    pub fn switch_at_once(
        &self,
        local: Local<'_>,
        word: u32,
        value: u32,
        enable: bool,
        registers: &ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        // What doesn't exist has no switch.
        let Some(switches) = self.switches.word(word) else { return true };
        let on = switches.load(Ordering::Relaxed);
        let changed = value & if enable { !on } else { on };
        if changed == 0 {
            return true;
        }
        if !changed.is_power_of_two() {
            return false;
        }
        let Some(mut state) = self.try_lock() else { return false };
        let quiet = |irq: &Irq| !local.is_pending_here(irq, registers, hardware);
        let intid = Intid(word * SPI_FIRST + changed.trailing_zeros());
        match state.switch_in_place(intid, enable, quiet) {
            Switched::Done => {
                // Others of the word may have been switched since it was read.
                let now = switches.load(Ordering::Relaxed);
                switches.store(if enable { now | changed } else { now & !changed }, Ordering::Relaxed);
                true
            }
            Switched::Absent => true,
            Switched::Not => false,
        }
    }
}

impl Vgic {
    /// A write of `value` to GICD_ISPENDR\<word\>, on the vCPU's own CPU, that makes one SPI pending. Whether it was done; if not,
    /// nothing has changed.
    pub fn pend_at_once(
        &self,
        local: Local<'_>,
        word: u32,
        value: u32,
        registers: &mut ListRegisters,
        hardware: &impl HardwareLists,
    ) -> bool {
        if word == 0 || !value.is_power_of_two() {
            return false;
        }
        let Some(mut state) = self.try_lock() else { return false };
        let Some(handle) = state.find(local.vcpu, Intid(word * SPI_FIRST + value.trailing_zeros())) else {
            return true;
        };
        let Some(irq) = state.irq(handle) else { return true };
        if state.direct.is_none()
            && (irq.by_mask || state.free_slot(local, handle, registers, hardware).is_none())
        {
            return false;
        }
        if irq.host.is_some() {
            if let Some(irq) = state.irq_mut(handle) {
                irq.host_pended = true;
            }
            if state.direct.is_some() {
                state.set_host_pending(handle, true);
                return true;
            }
            state.hold_host(handle);
        }
        state.list_at_once(local, handle, registers, hardware)
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
        if irq.is_pending() || (irq.host.is_some() && !irq.told) || (irq.held.is_some() && !quiet(irq)) {
            return Switched::Not;
        }
        irq.enabled = enabled;
        if let Some(host) = irq.host
            && !irq.masked
        {
            // As `is_enabled` says of a line: what isn't taken at EL2 first must pass the switch of its group too.
            let comes = enabled && irq.target.is_some() && (!direct || group1 && irq.group1);
            self.backend.set_spi_enabled(host, comes);
        }
        Switched::Done
    }
}

/// For [`Vgic`] and [`Interrupts`] together.
pub(crate) fn new() -> Arc<Switches> {
    Arc::new(Switches::default())
}
