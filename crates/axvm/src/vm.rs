//! A VM and its life: created from its plan, running, stopped, disposed of.

mod life;
mod line;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use axvm_addr::{Gpa, Hpa, Iova, Irq, Span, VcpuId, VmId};
use spin::Mutex;

use crate::hal::{AxVMHal, DmaMap};
use crate::ownership::{AssignError, DeviceOps, RegistryKeeper, Stuck};
use crate::report::{DeviceExitReport, DeviceReport, IrqchipReport, RefusedReport, VmReport};
use crate::space::{AddrSpace, SpaceError};
use crate::stats::{Counter, ExitCounters, ExitCounts};
use axvm_plan::config::{AxVMConfig, MappingFlags};
use axvm_plan::{DevicePlan, LineRoute, RamPiece, VmPlan, reset_name};

use life::Life;
pub use life::{Departure, NotOff, Power, Start, State, StopReason, Turn, WrongState};

#[cfg(test)]
mod tests;

/// Why a VM wasn't created. Everything that was done for it has been undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError<E> {
    /// No address space, no RAM, no registers: what it was for, and the host's reason.
    #[error("{what}: {error}")]
    Host {
        /// What it was for.
        what: String,
        /// The host's reason.
        error: E,
    },
    /// A mapping was refused.
    #[error(transparent)]
    Space(#[from] SpaceError<E>),
    /// A device wasn't given.
    #[error(transparent)]
    Device(#[from] AssignError),
}

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

/// A piece of RAM, with what backs it.
struct Ram<B> {
    gpa: Span<Gpa>,
    backing: B,
}

/// What was done for a VM, so that it can be undone in the opposite order.
struct Holdings<H: AxVMHal> {
    space: AddrSpace<H::Backing>,
    stage2: H::Space,
    dma: H::Dma,
    ram: Vec<Ram<H::Backing>>,
    windows: Vec<Span<Iova>>,
    routes: Vec<LineRoute>,
}

/// A VM.
pub struct AxVM<H: AxVMHal> {
    plan: Arc<VmPlan>,
    hal: Arc<H>,
    holdings: Mutex<Holdings<H>>,
    life: Life,
    exits: Box<[ExitCounters]>,
    devices: Box<[DeviceCounters]>,
    /// Accesses that were refused.
    pub refusals: Refusals,
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

type HostError<H> = <H as DeviceOps>::Error;

impl<H: AxVMHal> AxVM<H> {
    /// Gives a VM all that its plan says: RAM, registers, DMA map, devices, lines. All or nothing. The registry is lent while the
    /// devices change hands, and not while RAM is zeroed.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; nothing is left of the attempt.
    pub fn new(
        plan: impl Into<Arc<VmPlan>>,
        hal: Arc<H>,
        registry: &impl RegistryKeeper,
    ) -> Result<Self, CreateError<HostError<H>>> {
        let plan = plan.into();
        let failed = |what: &str| {
            let what = what.into();
            move |error| CreateError::Host { what, error }
        };
        let (stage2, dma) = hal.create(&plan).map_err(failed("its address space"))?;
        let mut holdings = Holdings {
            space: AddrSpace::new(plan.address_bits),
            stage2,
            dma,
            ram: Vec::new(),
            windows: Vec::new(),
            routes: Vec::new(),
        };
        let filled = fill(&mut holdings, &plan, &*hal, registry);
        if let Err(error) = filled {
            undo(holdings, plan.id, &*hal, registry);
            return Err(error);
        }
        Ok(Self {
            exits: plan.cpus.iter().map(|_| ExitCounters::default()).collect(),
            devices: plan.devices.iter().map(|_| DeviceCounters::default()).collect(),
            refusals: Refusals::default(),
            holdings: Mutex::new(holdings),
            life: Life::new(plan.cpus.len()),
            plan,
            hal,
        })
    }

    /// Its id.
    pub fn id(&self) -> VmId {
        self.plan.id
    }

    /// Its plan.
    pub fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Its configuration, in the vocabulary of the AxVM family.
    pub fn config(&self) -> AxVMConfig {
        self.plan.config()
    }

    /// Its host.
    pub fn hal(&self) -> &Arc<H> {
        &self.hal
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.life.state()
    }

    /// It may run: its first vCPU starts at the kernel's entry with the device tree's address, the others are off.
    ///
    /// # Errors
    ///
    /// [`WrongState`] unless it was just built.
    pub fn start(&self) -> Result<(), WrongState> {
        let load = &self.plan.load;
        self.life.start(Start { entry: load.entry.0, argument: load.device_tree.start().0 })
    }

    /// It must not run any more: its second stage is revoked, and every vCPU is brought out of its guest and finds the VM stopping. The
    /// first reason stays. Returns whether this was it.
    ///
    /// It has stopped when every vCPU's CPU has said [`AxVM::vcpu_gone`].
    pub fn stop(&self, reason: StopReason) -> bool {
        if !self.life.stop(reason, self.hal.now_ns()) {
            return false;
        }
        // Whatever keeps a call out (a guest that takes interrupts itself has ways, a debugger that masks them another): without its
        // memory the guest faults at its next instruction.
        self.with_maps(|space, _| self.hal.revoke(self.plan.id, space));
        for vcpu in (0..).map(VcpuId).take(self.plan.cpus.len()) {
            self.hal.kick(self.plan.id, vcpu);
        }
        true
    }

    /// Whether vCPUs may enter the guest.
    pub fn is_running(&self) -> bool {
        self.state() == State::Running
    }

    /// Whether it must not run any more. For who asks at every exit: it takes no lock.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.life.is_stopping()
    }

    /// How far its CPUs are with leaving it, if they have so many nanoseconds to do so.
    pub fn departure(&self, within_ns: u64) -> Departure {
        self.life.departure(self.hal.now_ns(), within_ns)
    }

    /// What a vCPU is now; one that there isn't is off.
    pub fn power(&self, vcpu: VcpuId) -> Power {
        self.life.power(vcpu)
    }

    /// Has a vCPU start.
    ///
    /// # Errors
    ///
    /// [`NotOff`]; then it is as it was.
    pub fn start_vcpu(&self, vcpu: VcpuId, start: Start) -> Result<(), NotOff> {
        self.life.start_vcpu(vcpu, start)?;
        self.hal.kick(self.plan.id, vcpu);
        Ok(())
    }

    /// By a vCPU's own CPU: has it run from where it begins until it is off, if it is to start now. `run` does that, and when it comes back
    /// the CPU has nothing of the vCPU any more. A VM all of whose vCPUs are off stops, as nothing can ever start one.
    ///
    /// # Errors
    ///
    /// What kept `run` from running it. Whoever started the vCPU was told that it is on, and may wait for it for ever: the VM stops.
    pub fn run_vcpu<E>(&self, vcpu: VcpuId, run: impl FnOnce(Start) -> Result<(), E>) -> Result<Turn, E> {
        let Some(start) = self.life.take_start(vcpu) else { return Ok(Turn::NotStarted) };
        let result = run(start);
        if result.is_err() {
            self.stop(StopReason::HostError);
        }
        if self.life.vcpu_off(vcpu) {
            self.stop(StopReason::CpusOff);
        }
        result.map(|()| Turn::Over)
    }

    /// By a vCPU's own CPU, which has nothing of it any more, when the VM is stopping: it doesn't come back to it. Answers whether it was
    /// the last, so that the VM has stopped.
    pub fn vcpu_gone(&self, vcpu: VcpuId) -> bool {
        self.life.vcpu_gone(vcpu)
    }

    /// Makes an interrupt pending at a vCPU.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn inject(&self, vcpu: VcpuId, irq: Irq) -> Result<(), HostError<H>> {
        self.hal.inject_irq_to_vcpu(self.plan.id, vcpu, irq)
    }

    /// Maps a device's registers while the VM runs: a BAR that its guest has placed. `device` is its position in the plan.
    ///
    /// # Errors
    ///
    /// [`CreateError`]: there is no such device, the host has no such registers, or something is there already.
    pub fn map_registers(
        &self,
        device: u16,
        gpa: Gpa,
        hpa: Hpa,
        length: u64,
        flags: MappingFlags,
    ) -> Result<(), CreateError<HostError<H>>> {
        let Some(device) = self.plan.devices.get(usize::from(device)) else {
            return Err(AssignError::Unknown {
                device: alloc::format!("device {device} of {}", self.plan.name),
            }
            .into());
        };
        let backing = self
            .hal
            .registers(device, hpa, length)
            .map_err(|error| CreateError::Host { what: device.name.clone(), error })?;
        let Holdings { space, stage2, .. } = &mut *self.holdings.lock();
        Ok(space.map_linear(stage2, &device.name, gpa, backing, length, flags)?)
    }

    /// Takes away what is mapped at `span`.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    pub fn unmap_registers(&self, span: Span<Gpa>) -> Result<(), SpaceError<HostError<H>>> {
        let Holdings { space, stage2, .. } = &mut *self.holdings.lock();
        space.unmap(stage2, span)
    }

    /// The position in the plan of the device whose registers are mapped at `gpa`.
    pub fn device_at(&self, gpa: Gpa) -> Option<u16> {
        let holdings = self.holdings.lock();
        // A raw region may be called as RAM is.
        if holdings.ram.iter().any(|piece| piece.gpa.contains(gpa)) {
            return None;
        }
        let name = &holdings.space.find(gpa)?.name;
        let position = self.plan.devices.iter().position(|device| *device.name == **name)?;
        u16::try_from(position).ok()
    }

    /// What is at `gpa`, and with which rights.
    pub fn translate(&self, gpa: Gpa) -> Option<(H::Backing, MappingFlags)> {
        self.holdings.lock().space.translate(gpa)
    }

    /// What backs RAM at `gpa`, and how many bytes follow there in one piece; `None` where RAM isn't. Registers are not RAM.
    pub fn ram_at(&self, gpa: Gpa) -> Option<(H::Backing, u64)> {
        use crate::space::Backing;
        let holdings = self.holdings.lock();
        let piece = holdings.ram.iter().find(|piece| piece.gpa.contains(gpa))?;
        let offset = piece.gpa.offset_of(gpa)?;
        Some((piece.backing.advance(offset)?, piece.gpa.size() - offset))
    }

    /// Looks at the host's second stage and DMA map: what a vCPU loads, what a stream is attached to.
    pub fn with_maps<R>(&self, look: impl FnOnce(&H::Space, &H::Dma) -> R) -> R {
        let holdings = self.holdings.lock();
        look(&holdings.stage2, &holdings.dma)
    }

    /// A vCPU's exit counters.
    pub fn exits(&self, vcpu: VcpuId) -> Option<&ExitCounters> {
        self.exits.get(usize::from(vcpu.0))
    }

    /// A device's counters.
    pub fn device(&self, device: u16) -> Option<&DeviceCounters> {
        self.devices.get(usize::from(device))
    }

    /// What the run report says of it.
    pub fn report(&self) -> VmReport {
        let state = self.state();
        let exits = self.exits.iter().fold(ExitCounts::default(), |sum, vcpu| sum + vcpu.read());
        let injected = self.exits.iter().fold(0u64, |sum, vcpu| sum.saturating_add(vcpu.injected()));
        let devices = self.plan.devices.iter().zip(&self.devices).map(|(plan, counters)| DeviceReport {
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
            name: self.plan.name.clone(),
            state: state.name().into(),
            reason: state.reason().map_or("", StopReason::name).into(),
            interrupts: self.plan.mode.name().into(),
            exits: exits.into(),
            interrupts_injected: injected,
            refused: RefusedReport {
                config: self.refusals.config.read(),
                port: self.refusals.port.read(),
                hypercall: self.refusals.hypercall.read(),
                sysreg: self.refusals.sysreg.read(),
            },
            irqchip: IrqchipReport::default(),
            devices: devices.collect(),
        }
    }

    /// Takes everything back: devices through quarantine, lines, mappings, RAM. Only for a VM that has stopped or never ran. The
    /// registry is lent while the devices change hands; unmapping, and zeroing RAM, which takes as long as there is RAM, come after that.
    ///
    /// # Errors
    ///
    /// The VM itself, if a CPU may be in it still.
    pub fn dispose(self, registry: &impl RegistryKeeper) -> Result<Disposed, Box<Self>> {
        if let State::Running | State::Stopping { .. } = self.state() {
            return Err(Box::new(self));
        }
        let (stuck, ram_withheld) = undo(self.holdings.into_inner(), self.plan.id, &*self.hal, registry);
        Ok(Disposed { plan: self.plan, stuck, ram_withheld })
    }
}

impl<H: AxVMHal> fmt::Debug for AxVM<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AxVM")
            .field("name", &self.plan.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

fn fill<H: AxVMHal>(
    holdings: &mut Holdings<H>,
    plan: &VmPlan,
    hal: &H,
    registry: &impl RegistryKeeper,
) -> Result<(), CreateError<HostError<H>>> {
    let memory = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE | MappingFlags::USER;
    for &RamPiece { gpa, hpa } in &plan.ram {
        let failed = |error| CreateError::Host { what: alloc::format!("RAM at {gpa}"), error };
        let backing = hal.ram(plan.id, hpa, gpa.size()).map_err(failed)?;
        holdings.ram.push(Ram { gpa, backing: backing.clone() });
        holdings.space.map_linear(
            &holdings.stage2,
            "RAM",
            gpa.start(),
            backing.clone(),
            gpa.size(),
            memory,
        )?;
        let iova = Span::new(Iova(gpa.start().0), gpa.size()).unwrap_or_default();
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        holdings.dma.map_dma(iova, &backing, flags).map_err(failed)?;
        holdings.windows.push(iova);
    }
    for doorbell in &plan.doorbells {
        let failed =
            |error| CreateError::Host { what: alloc::format!("the doorbell at {:#x}", doorbell.iova), error };
        let iova = Span::new(doorbell.iova, axvm_addr::PAGE_SIZE).unwrap_or_default();
        if let Some(backing) = hal.doorbell(plan.id, doorbell).map_err(failed)? {
            let flags = MappingFlags::WRITE | MappingFlags::DEVICE;
            holdings.dma.map_dma(iova, &backing, flags).map_err(failed)?;
            holdings.windows.push(iova);
        }
    }
    let devices: Vec<&DevicePlan> = plan.devices.iter().collect();
    registry.lend(|registry| registry.assign(plan.id, &devices, hal))?;
    // Registers last: nobody but the new owner reaches them, and only after the reset.
    for block in plan.registers.iter().filter(|block| block.direct) {
        let Some(device) = plan.devices.get(usize::from(block.device)) else { continue };
        let failed = |error| CreateError::Host { what: device.name.clone(), error };
        let backing = hal.registers(device, block.hpa, block.gpa.size()).map_err(failed)?;
        let (start, size) = (block.gpa.start(), block.gpa.size());
        holdings.space.map_linear(&holdings.stage2, &device.name, start, backing, size, block.flags)?;
    }
    for route in &plan.lines {
        let failed = |error| CreateError::Host { what: alloc::format!("interrupt {}", route.irq), error };
        hal.route_line(plan.id, route).map_err(failed)?;
        holdings.routes.push(*route);
    }
    Ok(())
}

/// Undoes [`fill`], however far it came, in the opposite order. What fails doesn't keep the rest from being undone. Also
/// returns whether the VM's memory had to be withheld.
fn undo<H: AxVMHal>(
    holdings: Holdings<H>,
    vm: VmId,
    hal: &H,
    registry: &impl RegistryKeeper,
) -> (Vec<Stuck>, bool) {
    let Holdings { mut space, stage2, dma, ram, windows, routes } = holdings;
    for route in routes.iter().rev() {
        hal.unroute_line(vm, route);
    }
    let (stuck, mut reachable) = registry.lend(|registry| {
        let stuck = registry.reclaim(vm, hal);
        (stuck, registry.may_reach(vm))
    });
    for window in windows.into_iter().rev() {
        reachable |= dma.unmap_dma(window).is_err();
    }
    let spans: Vec<Span<Gpa>> = space.iter().map(|region| region.gpa).collect();
    for span in spans.into_iter().rev() {
        reachable |= space.unmap(&stage2, span).is_err();
    }
    if reachable {
        hal.withhold(vm, stage2, dma, ram.into_iter().map(|piece| piece.backing).collect());
    } else {
        for piece in ram.into_iter().rev() {
            hal.release_ram(vm, piece.backing, piece.gpa.size());
        }
        hal.destroy(vm, stage2, dma);
    }
    (stuck, reachable)
}
