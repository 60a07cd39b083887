//! A VM and its life: created from its plan, running, stopped, disposed of.

mod ground;
mod hand_over;
mod life;
mod run;
mod whereabouts;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use axvm_addr::{Irq, MsiSource, VcpuId};

use crate::devices::AxVmDevices;
use crate::hal::{AxVMHal, Equipment};
use crate::irqchip::Irqchip;
use crate::msi::MsiMessage;
use crate::ownership::{DeviceOps, RegistryKeeper, Stuck};
use crate::report::{DeviceExitReport, DeviceReport, RefusedReport, StartReport, VmReport};
use crate::stats::{Counter, ExitCounts};
use axvm_plan::{DevicePlan, VmPlan, reset_name};

pub use ground::{CreateError, Ground};
pub use hand_over::keep_off_bus;
pub use life::{Departure, NotOff, Power, Start, State, StopReason, Suspension, Turn, WrongState};
pub use whereabouts::Whereabouts;

#[cfg(test)]
mod tests;

/// Counters of one device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Exits for its config space.
    pub config: Counter,
    /// Exits for its registers.
    pub registers: Counter,
    /// Exits for its interrupts.
    pub interrupts: Counter,
}

/// Refused accesses, by kind.
#[derive(Debug, Default)]
pub struct Refusals {
    /// PCI config space.
    pub config: Counter,
    /// Ports.
    pub port: Counter,
    /// Hypercalls and firmware calls.
    pub hypercall: Counter,
    /// System registers.
    pub sysreg: Counter,
}

/// A VM. It has its devices, its vCPUs, and the interrupt controller that its guest sees; what these stand on is its [`Ground`], to which it
/// dereferences.
pub struct AxVM<H: AxVMHal> {
    ground: Arc<Ground<H>>,
    devices: AxVmDevices<H::Backing>,
    irqchip: Arc<H::Irqchip>,
    ends: H::Ends,
}

/// What is left of a VM.
#[derive(Debug)]
pub struct Disposed {
    /// Its plan: a VM can be created from it again.
    pub plan: Arc<VmPlan>,
    /// Devices that couldn't be taken back.
    pub stuck: Vec<Stuck>,
    /// Whether its RAM stays with nobody, because a device may reach it still.
    pub ram_withheld: bool,
}

/// Why a VM isn't disposed of.
pub enum NotDisposed<H: AxVMHal> {
    /// A CPU may be in it still. Here it is.
    Running(Box<AxVM<H>>),
    /// Something refers to its interrupt controller or its memory still: nobody gets any of what it has.
    Referred,
}

type HostError<H> = <H as DeviceOps>::Error;

impl<H: AxVMHal> Deref for AxVM<H> {
    type Target = Ground<H>;

    #[inline(always)]
    fn deref(&self) -> &Ground<H> {
        &self.ground
    }
}

impl<H: AxVMHal> AxVM<H> {
    /// Gives a VM all that its plan says: RAM, registers, DMA map, devices, lines, and what answers its exits. All or nothing. The registry
    /// is lent while the devices change hands, and not while RAM is zeroed.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing is left of the attempt.
    pub fn new(
        plan: impl Into<Arc<VmPlan>>,
        hal: Arc<H>,
        registry: &impl RegistryKeeper,
    ) -> Result<Self, CreateError<HostError<H>>> {
        let ground = Arc::new(Ground::new(plan.into(), hal, registry)?);
        match ground.hal().equip(&ground) {
            Ok(Equipment { irqchip, devices, ends }) => Ok(Self { ground, devices, irqchip, ends }),
            Err(error) => {
                // Nothing else has it: what `equip` had made is gone.
                if let Some(ground) = Arc::into_inner(ground) {
                    ground.give_back(registry);
                }
                Err(CreateError::Host { what: "its own devices".into(), error })
            }
        }
    }

    /// Its devices.
    #[inline(always)]
    pub fn devices(&self) -> &AxVmDevices<H::Backing> {
        &self.devices
    }

    /// The interrupt controller that its guest sees.
    #[inline(always)]
    pub fn irqchip(&self) -> &H::Irqchip {
        &self.irqchip
    }

    /// The host's own ends of its devices.
    #[inline(always)]
    pub fn ends(&self) -> &H::Ends {
        &self.ends
    }

    /// Makes an interrupt pending at a vCPU.
    ///
    /// # Errors
    ///
    /// The interrupt controller's.
    pub fn inject(&self, vcpu: VcpuId, irq: Irq) -> Result<(), HostError<H>> {
        self.irqchip.inject_irq_to_vcpu(vcpu, irq)
    }

    /// Sets the level of an emulated device's line.
    ///
    /// # Errors
    ///
    /// The interrupt controller's.
    pub fn set_irq_level(&self, irq: Irq, high: bool) -> Result<(), HostError<H>> {
        self.irqchip.set_level(irq, high)
    }

    /// Has a message come.
    ///
    /// # Errors
    ///
    /// The interrupt controller's.
    pub fn send_msi(&self, source: Option<MsiSource>, message: MsiMessage) -> Result<(), HostError<H>> {
        self.irqchip.send_msi(source, message)
    }

    /// What the run report says of it.
    pub fn report(&self) -> VmReport {
        let state = self.state();
        let all = || self.vcpus().filter_map(|(vcpu, _)| self.exits(vcpu));
        let exits = all().fold(ExitCounts::default(), |sum, vcpu| sum + vcpu.read());
        let injected = all().fold(0u64, |sum, vcpu| sum.saturating_add(vcpu.injected()));
        let plan = self.plan();
        let with_counters = |(position, plan)| Some((plan, self.device(position)?));
        let devices =
            plan.present().filter_map(with_counters).map(|(plan, counters): (&DevicePlan, _)| DeviceReport {
                device: plan.name.clone(),
                group: plan.group,
                reset: reset_name(plan.reset).into(),
                exits: DeviceExitReport {
                    config: counters.config.read(),
                    registers: counters.registers.read(),
                    interrupts: counters.interrupts.read(),
                },
            });
        VmReport {
            name: plan.name.clone(),
            state: state.name().into(),
            reason: state.reason().map_or("", StopReason::name).into(),
            interrupts: plan.mode.name().into(),
            exits: exits.into(),
            interrupts_injected: injected,
            refused: RefusedReport {
                config: self.refusals.config.read(),
                port: self.refusals.port.read(),
                hypercall: self.refusals.hypercall.read(),
                sysreg: self.refusals.sysreg.read(),
            },
            irqchip: self.irqchip.report(),
            devices: devices.collect(),
            starts: self.start_report().into_iter().collect(),
        }
    }

    /// What the run report says of its start, if it was started.
    fn start_report(&self) -> Option<StartReport> {
        let (state, times) = (self.state(), self.life.times());
        let started_ns = times.started_ns?;
        let has_stopped = matches!(state, State::Stopped { .. });
        let stopped_ns = if has_stopped { times.stopped_ns } else { 0 };
        Some(StartReport {
            started_ns,
            start_took_ns: started_ns.saturating_sub(self.begun_ns),
            reason: state.reason().map_or("", StopReason::name).into(),
            stopped_ns,
            stop_took_ns: stopped_ns.saturating_sub(times.asked_ns),
        })
    }

    /// Takes everything back: what the guest has set up, its own devices, then devices through quarantine, lines, mappings, RAM. Only for
    /// a VM that has stopped or never ran. The registry is lent while the devices change hands; unmapping, and zeroing RAM, which takes as
    /// long as there is RAM, come after that.
    ///
    /// # Errors
    ///
    /// [`NotDisposed`].
    pub fn dispose(self, registry: &impl RegistryKeeper) -> Result<Disposed, NotDisposed<H>> {
        if !matches!(self.state(), State::Built | State::Stopped { .. }) {
            return Err(NotDisposed::Running(Box::new(self)));
        }
        let Self { ground, devices, irqchip, ends } = self;
        irqchip.reset();
        // The devices refer to the interrupt controller and to the ground.
        drop((devices, ends));
        let released = Arc::into_inner(irqchip).is_some_and(Irqchip::release);
        let ground = Arc::into_inner(ground).filter(|_| released).ok_or(NotDisposed::Referred)?;
        let (plan, stuck, ram_withheld) = ground.give_back(registry);
        Ok(Disposed { plan, stuck, ram_withheld })
    }
}

impl<H: AxVMHal> fmt::Debug for AxVM<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AxVM")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl<H: AxVMHal> fmt::Debug for NotDisposed<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(vm) => f.debug_tuple("Running").field(vm).finish(),
            Self::Referred => f.write_str("Referred"),
        }
    }
}
