//! A guest's power: ACPI's registers, whose line is the guest's SCI, and what it asks for by them.

use axvm::irqchip::Irqchip as _;
use axvm::vcpu::{PortAccess, PowerRequest};
use axvm_acpipm::{Asked, Places, Power};
use axvm_addr::Irq;
use axvm_plan::PowerPlan;
use spin::Mutex;

use super::irqchip::GuestIrqchip;

/// The registers, and their line.
pub struct GuestPower {
    registers: Mutex<Power>,
    sci: Irq,
    places: Places,
}

/// What an access comes to.
pub enum Accessed {
    /// A value was read, or a write was taken.
    Value(u32),
    /// It asks for this.
    Asks(PowerRequest),
}

impl GuestPower {
    /// As after a reset.
    pub const fn new(plan: &PowerPlan) -> Self {
        let places = Places { event: plan.event, control: plan.control, s5: plan.s5, reset: plan.reset };
        Self { registers: Mutex::new(Power::new(places)), sci: plan.sci, places }
    }

    /// The machine has been reset.
    pub fn reset(&self) {
        self.registers.lock().reset();
    }

    /// Whether a register of its may begin at a port.
    #[inline(always)]
    pub fn may_have(&self, port: u16) -> bool {
        let Places { event, control, reset, .. } = self.places;
        event.contains(port) || control.contains(port) || port == reset
    }

    /// An access to a port. `None`: none of the registers is there.
    pub fn access(&self, irqchip: &GuestIrqchip, access: &PortAccess) -> Option<Accessed> {
        self.with(irqchip, |registers| match access.write {
            None => registers.read(access.port, access.width).map(Accessed::Value),
            Some(value) => registers.write(access.port, access.width, value).map(|asked| match asked {
                Asked::Nothing => Accessed::Value(0),
                Asked::Off => Accessed::Asks(PowerRequest::SystemOff),
                Asked::Reset => Accessed::Asks(PowerRequest::SystemReset),
            }),
        })
    }

    /// Does something with the registers, and brings their line to what follows from it: with their lock held, so that whoever is last has the
    /// last word.
    fn with<R>(&self, irqchip: &GuestIrqchip, change: impl FnOnce(&mut Power) -> R) -> R {
        let mut registers = self.registers.lock();
        let before = registers.line();
        let result = change(&mut registers);
        let after = registers.line();
        if before != after {
            let _ = irqchip.set_level(self.sci, after);
        }
        result
    }
}

/// Presses a guest's power button. Whether it listens to that, as a guest does that has a driver for it.
pub fn press_power_button(irqchip: &GuestIrqchip) -> bool {
    irqchip.power().with(irqchip, |registers| {
        registers.press();
        registers.line()
    })
}
