//! The APIC Base Address Register, which turns a local APIC on and switches its mode (APM 2, 16.3.1 and 16.10).

use crate::spec::ApicBase;

/// How a local APIC is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It isn't.
    Off,
    /// By its page of registers.
    XApic,
    /// By MSRs.
    X2Apic,
}

/// The register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    value: ApicBase,
    /// Whether there is x2APIC mode.
    has_x2apic: bool,
}

impl Base {
    /// As after reset: xAPIC mode. `first`: of the CPU that boots.
    pub fn new(address: u64, first: bool, has_x2apic: bool) -> Self {
        let value = ApicBase::new().with_first(first).with_enabled(true).with_address(address >> 12);
        Self { value, has_x2apic }
    }

    /// As firmware leaves it that uses x2APIC mode.
    pub fn in_x2apic(address: u64, first: bool) -> Self {
        let Self { value, .. } = Self::new(address, first, true);
        Self { value: value.with_x2apic(true), has_x2apic: true }
    }

    /// What it reads as.
    pub fn read(&self) -> u64 {
        self.value.into()
    }

    /// How the APIC is reached.
    pub fn mode(&self) -> Mode {
        match (self.value.enabled(), self.value.x2apic()) {
            (false, _) => Mode::Off,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }

    /// Writes it. The mode that is left and the one that it is in, if it has changed; `None`: it faults (#GP), and nothing has changed.
    ///
    /// Modes follow each other as the manual has it: off, xAPIC, x2APIC, and off from each. The registers' address stays where it is, as
    /// they are trapped there: a guest that moves them faults.
    pub fn write(&mut self, value: u64) -> Option<(Mode, Mode)> {
        let mut next = Self { value: ApicBase::from(value), ..*self };
        let reserved = value
            & !u64::from(
                ApicBase::new()
                    .with_first(true)
                    .with_enabled(true)
                    .with_x2apic(true)
                    .with_address((1 << 40) - 1),
            );
        let (old, new) = (self.mode(), next.mode());
        let may = match (old, new) {
            (Mode::Off, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => false,
            (_, Mode::X2Apic) => self.has_x2apic,
            // EXTD without AE is no mode.
            (_, Mode::Off) => !next.value.x2apic(),
            _ => true,
        };
        if !may || reserved != 0 || next.value.address() != self.value.address() {
            return None;
        }
        // Read only.
        next.value.set_first(self.value.first());
        *self = next;
        Some((old, new))
    }
}
