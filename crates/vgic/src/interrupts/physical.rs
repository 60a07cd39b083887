//! The physical interrupts that some of a VM's stand for: how they arrive, how they are kept from coming again while the guest
//! serves them, and what the hypervisor is told of the guest's set-up.

use super::{Handle, Interrupts};
use crate::backend::{Physical, PhysicalState, PrivateSettings, SpiSettings};
use crate::irq::{Delivery, Hold, Irq, Raised};
use crate::spec::Trigger;

impl Interrupts {
    /// A physical SPI has arrived: it becomes pending for the guest.
    pub(crate) fn arrive(&mut self, handle: Handle) {
        let Some(irq) = self.irq(handle) else { return };
        if irq.is_held_by_mask() {
            // It was acknowledged before it was masked, and something has ended it since: the level is
            // looked at again anyhow, once it is unmasked.
            let again = irq.is_masked() && irq.trigger == Trigger::Level;
            self.hold_host(handle);
            if again {
                return;
            }
        }
        self.latch(handle);
    }

    /// Keeps the physical interrupt from coming again until [`Self::release_host`].
    pub(crate) fn hold_host(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let Delivery::Injected { host, hold, .. } = &mut irq.delivery else { return };
        let host = host.intid;
        match hold {
            Hold::Active => self.set_host_active(handle, true),
            Hold::Mask { masked } => {
                // In this order: a level that is still high must not come again in between.
                if !core::mem::replace(masked, true) {
                    self.backend.set_spi_enabled(host, false);
                }
                self.backend.set_active(Physical::Spi(host), false);
            }
        }
    }

    /// The guest is done with what it was given of the physical interrupt: the next may come.
    pub(crate) fn release_host(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        let Delivery::Injected { host, hold, .. } = &mut irq.delivery else { return };
        let host = host.intid;
        match hold {
            Hold::Active => self.set_host_active(handle, false),
            // One that goes nowhere stays off, as [`Self::mirror`] left it.
            Hold::Mask { masked } => {
                if core::mem::take(masked) && irq.enabled && irq.target.is_some() {
                    self.backend.set_spi_enabled(host, true);
                }
            }
        }
    }

    /// A physical interrupt that was taken at EL2 but that the guest has since disabled goes back to the
    /// physical GIC: deactivated there, a level line is sampled anew, and an edge is made pending again.
    pub(super) fn give_back(&mut self, handle: Handle) {
        if self.irq(handle).is_some_and(|irq| !irq.enabled && irq.held.is_none() && irq.active.is_none()) {
            self.give_back_now(handle);
        }
    }

    /// The same whether it is disabled or not.
    pub(super) fn give_back_now(&mut self, handle: Handle) {
        let Some(irq) = self.irq_mut(handle) else { return };
        match irq.delivery {
            Delivery::Emulated { .. } => {}
            Delivery::Injected { pended, .. } => {
                let latch = core::mem::take(&mut irq.latch);
                let busy = irq.active.is_some() || irq.held.is_some();
                let has_no_level = irq.trigger == Trigger::Edge || pended;
                if latch && has_no_level {
                    self.set_host_pending(handle, true);
                }
                if latch || busy {
                    self.release_host(handle);
                }
            }
            Delivery::Direct { .. } => {
                self.set_host_pending(handle, false);
                self.set_host_active(handle, false);
            }
        }
    }

    /// Tells the hypervisor what the guest has set up for an interrupt that stands for a physical one.
    pub(crate) fn mirror(&mut self, handle: Handle) {
        if let Some(irq) = self.irq_mut(handle) {
            irq.note_told();
        }
        let Some(irq) = self.irq(handle) else { return };
        let enabled = self.is_enabled(irq);
        match irq.physical() {
            Some(Physical::Spi(host)) => self.backend.configure_spi(
                host,
                &SpiSettings {
                    enabled: enabled && !irq.is_masked(),
                    priority: irq.priority,
                    trigger: match irq.delivery {
                        // Made pending by software: level or edge is for the guest's eyes.
                        Delivery::Direct { raised: Raised::BySoftware { .. }, .. } => Trigger::Edge,
                        _ => irq.trigger,
                    },
                    target: irq.target,
                },
            ),
            Some(Physical::Private(vcpu, host)) => {
                let settings = PrivateSettings { enabled, priority: irq.priority };
                self.backend.configure_private(vcpu, host, settings);
            }
            None => {}
        }
    }

    pub(crate) fn set_host_active(&self, handle: Handle, active: bool) {
        if let Some(physical) = self.irq(handle).and_then(Irq::physical) {
            self.backend.set_active(physical, active);
        }
    }

    pub(crate) fn set_host_pending(&self, handle: Handle, pending: bool) {
        if let Some(physical) = self.irq(handle).and_then(Irq::physical) {
            self.backend.set_pending(physical, pending);
        }
    }

    /// What the hardware says of an interrupt that stands for a physical one; of others, that they are neither pending nor active.
    pub(crate) fn host_state(&self, irq: &Irq) -> PhysicalState {
        irq.physical().map(|physical| self.backend.state(physical)).unwrap_or_default()
    }
}
