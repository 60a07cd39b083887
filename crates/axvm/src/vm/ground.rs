//! What a VM stands on: its plan, its memory, its life, its counters. Its own devices refer to it, and it to none of them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm_addr::{Gpa, Iova, Span, VcpuId, VmId};
use spin::Mutex;

use super::hand_over::HandOver;
use super::life::Life;
use super::whereabouts::{self, Whereabouts};
use super::{
    Departure, DeviceCounters, HostError, NotOff, Power, Refusals, Start, State, StopReason, Suspension,
    WrongState,
};
use crate::events::{Kind, Violation};
use crate::hal::{AxVMHal, DmaMap, Region, Resource};
use crate::msi::{MsiMessage, MsiSink};
use crate::ownership::{AssignError, RegistryKeeper, Stuck};
use crate::space::{AddrSpace, SpaceError};
use crate::stats::ExitCounters;
use alloc::boxed::Box;
use axvm_plan::config::{AxVMConfig, MappingFlags};
use axvm_plan::{DevicePlan, LineRoute, Presence, RamPiece, VcpuPlan, VmPlan};

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
    /// The messages that are routed: device and vector.
    vectors: Vec<(u16, u16)>,
}

/// What a VM stands on.
pub struct Ground<H: AxVMHal> {
    plan: Arc<VmPlan>,
    hal: Arc<H>,
    holdings: Mutex<Holdings<H>>,
    pub(super) life: Life,
    /// When it was begun to be built.
    pub(super) begun_ns: u64,
    whereabouts: whereabouts::All,
    exits: Box<[ExitCounters]>,
    devices: Box<[DeviceCounters]>,
    /// Accesses that were refused.
    pub refusals: Refusals,
}

impl<H: AxVMHal> Ground<H> {
    /// Memory, devices, lines, as the plan says: all or nothing.
    pub(super) fn new(
        plan: Arc<VmPlan>,
        hal: Arc<H>,
        registry: &impl RegistryKeeper,
    ) -> Result<Self, CreateError<HostError<H>>> {
        let failed = |what: &str| {
            let what = what.into();
            move |error| CreateError::Host { what, error }
        };
        let begun_ns = hal.now_ns();
        let (stage2, dma) = hal.create(&plan).map_err(failed("its address space"))?;
        let mut holdings = Holdings {
            space: AddrSpace::new(plan.address_bits),
            stage2,
            dma,
            ram: Vec::new(),
            windows: Vec::new(),
            routes: Vec::new(),
            vectors: Vec::new(),
        };
        let filled = fill(&mut holdings, &plan, &*hal, registry);
        if let Err(error) = filled {
            undo(holdings, &plan, &*hal, registry);
            return Err(error);
        }
        Ok(Self {
            exits: plan.cpus.iter().map(|_| ExitCounters::default()).collect(),
            devices: plan.devices.iter().map(|_| DeviceCounters::default()).collect(),
            refusals: Refusals::default(),
            holdings: Mutex::new(holdings),
            life: Life::new(plan.cpus.len()),
            begun_ns,
            whereabouts: whereabouts::All::new(plan.cpus.len()),
            plan,
            hal,
        })
    }

    /// Takes all of it back, in the opposite order. No vCPU is in the VM, and none of its devices is there any more.
    pub(super) fn give_back(self, registry: &impl RegistryKeeper) -> (Arc<VmPlan>, Vec<Stuck>, bool) {
        let (stuck, withheld) = undo(self.holdings.into_inner(), &self.plan, &*self.hal, registry);
        (self.plan, stuck, withheld)
    }

    /// Its id.
    pub fn id(&self) -> VmId {
        self.plan.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its plan.
    pub fn plan(&self) -> &VmPlan {
        &self.plan
    }

    /// Its configuration, in the vocabulary of the AxVM family.
    pub fn config(&self) -> AxVMConfig {
        self.plan.config()
    }

    /// A vCPU, as the plan has it.
    pub fn vcpu(&self, vcpu: VcpuId) -> Option<&VcpuPlan> {
        self.plan.cpus.get(usize::from(vcpu.0))
    }

    /// Its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = (VcpuId, &VcpuPlan)> {
        (0..).map(VcpuId).zip(&self.plan.cpus)
    }

    /// The vCPU that the guest calls so.
    pub fn vcpu_called(&self, hardware_id: u64) -> Option<VcpuId> {
        self.vcpus().find(|(_, planned)| planned.hardware_id == hardware_id).map(|(vcpu, _)| vcpu)
    }

    /// Its host.
    pub fn hal(&self) -> &Arc<H> {
        &self.hal
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.life.state()
    }

    /// It may run: its first vCPU starts at the kernel's entry with what the plan hands it, the others are off.
    ///
    /// # Errors
    ///
    /// [`WrongState`] unless it was just built.
    pub fn start(&self) -> Result<(), WrongState> {
        let load = &self.plan.load;
        let first = Start { entry: load.entry.0, argument: load.argument.0 };
        self.life.start(first, self.hal.now_ns())
    }

    /// It must not run any more: its second stage is revoked, and every vCPU is brought out of its guest and finds the VM stopping. The
    /// first reason stays. Returns whether this was it.
    ///
    /// It has stopped when every vCPU's CPU has said [`Ground::vcpu_gone`].
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

    /// No vCPU executes any more until [`Ground::resume`]: what vCPUs reach is shut, and each is brought out of its guest. Devices work on,
    /// as bounded as before, and their interrupts wait. The VM is suspended once [`Ground::suspension`] says so, which has to be asked.
    ///
    /// # Errors
    ///
    /// [`WrongState`] unless it runs.
    pub fn suspend(&self) -> Result<(), WrongState> {
        self.with_maps(|space, _| {
            self.life.suspend(self.hal.now_ns())?;
            // A guest that is left for that finds what it was told.
            self.hal.shut(self.plan.id, space);
            Ok(())
        })?;
        for vcpu in (0..).map(VcpuId).take(self.plan.cpus.len()) {
            self.hal.kick(self.plan.id, vcpu);
        }
        Ok(())
    }

    /// How far its vCPUs are with leaving their guest, if they have so many nanoseconds to do so: then it is suspended, or runs on as if
    /// nothing had been.
    pub fn suspension(&self, within_ns: u64) -> Suspension {
        let suspension = self.life.suspension(self.hal.now_ns(), within_ns);
        if let Suspension::Overdue(_) = suspension {
            // Else it has stopped meanwhile.
            let _ = self.go_on();
        }
        suspension
    }

    /// Its vCPUs go on where they were.
    ///
    /// # Errors
    ///
    /// [`WrongState`] unless it is suspended.
    pub fn resume(&self) -> Result<(), WrongState> {
        match self.state() {
            State::Suspended => self.go_on(),
            other => Err(WrongState(other)),
        }
    }

    fn go_on(&self) -> Result<(), WrongState> {
        self.with_maps(|space, _| {
            // What has been revoked stays so. Before a vCPU may go on, so that it finds nothing shut.
            self.hal.open(self.plan.id, space);
            self.life.resume(|vcpu| self.hal.kick(self.plan.id, vcpu))
        })
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

    /// Whether vCPUs must leave their guest: it stops, or is suspended. For who asks at every exit: it takes no lock.
    #[inline(always)]
    pub fn must_leave(&self) -> bool {
        self.life.must_leave()
    }

    /// By a vCPU that has left its guest or its sleep: whether that may come of its being told to leave. Then what it doesn't reach isn't to
    /// be handled, as it was taken away; if the VM goes on it tries again.
    #[inline(always)]
    pub fn is_moot(&self, vcpu: VcpuId) -> bool {
        self.must_leave() && self.life.is_moot(vcpu)
    }

    /// How far its CPUs are with leaving it, if they have so many nanoseconds to do so.
    pub fn departure(&self, within_ns: u64) -> Departure {
        self.life.departure(self.hal.now_ns(), within_ns)
    }

    /// What a vCPU is now; one that there isn't is off.
    pub fn power(&self, vcpu: VcpuId) -> Power {
        self.life.power(vcpu)
    }

    /// Where a vCPU was when the VM was stopped; `None` if it was off.
    pub fn whereabouts(&self, vcpu: VcpuId) -> Option<Whereabouts> {
        self.whereabouts.of(vcpu)
    }

    /// By a vCPU's own CPU, which leaves it because the VM stops.
    pub(super) fn note_whereabouts(&self, vcpu: VcpuId, at: impl FnOnce() -> Whereabouts) {
        if self.is_stopping() {
            self.whereabouts.note(vcpu, at);
        }
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

    /// By a vCPU's own CPU, which has nothing of it any more, when the VM is stopping: it doesn't come back to it. Answers whether it was
    /// the last, so that the VM has stopped.
    pub fn vcpu_gone(&self, vcpu: VcpuId) -> bool {
        self.life.vcpu_gone(vcpu, self.hal.now_ns())
    }

    /// Maps a device's registers while the VM runs: a BAR that its guest has placed, from `offset` in it on. `device` is its position in the plan.
    ///
    /// # Errors
    ///
    /// [`CreateError`]: there is no such device, the host has no such registers, or something is there already.
    pub fn map_registers(
        &self,
        device: u16,
        region: Region,
        offset: u64,
        gpa: Gpa,
        length: u64,
        flags: MappingFlags,
    ) -> Result<(), CreateError<HostError<H>>> {
        let Some(device) = self.has(device) else { return Err(self.no_device(device).into()) };
        let backing = self
            .hal
            .registers(&self.plan, &Resource { device, region, offset, length })
            .map_err(|error| CreateError::Host { what: device.name.clone(), error })?;
        let Holdings { space, stage2, .. } = &mut *self.holdings.lock();
        Ok(space.map_linear(stage2, &device.name, gpa, backing, length, flags)?)
    }

    /// A device that it has.
    fn has(&self, position: u16) -> Option<&DevicePlan> {
        let device = self.plan.devices.get(usize::from(position))?;
        (device.presence == Presence::Here).then_some(device)
    }

    fn no_device(&self, position: u16) -> AssignError {
        AssignError::Unknown { device: alloc::format!("device {position} of {}", self.plan.name) }
    }

    /// Has a vector of a device's send `message`, or none: what the guest has written to what it takes for the device's own table. When the
    /// VM ends all its vectors send none.
    ///
    /// # Errors
    ///
    /// [`CreateError`]: there is no such device, or the host can't route it.
    pub fn route_message(
        &self,
        device: u16,
        vector: u16,
        message: Option<MsiMessage>,
    ) -> Result<(), CreateError<HostError<H>>> {
        let Some(plan) = self.has(device) else { return Err(self.no_device(device).into()) };
        let mut holdings = self.holdings.lock();
        self.hal
            .messages()
            .route(self.plan.id, plan, vector, message)
            .map_err(|error| CreateError::Host { what: alloc::format!("{}: an MSI", plan.name), error })?;
        holdings.vectors.retain(|known| *known != (device, vector));
        if message.is_some() {
            holdings.vectors.push((device, vector));
        }
        Ok(())
    }

    /// Records what was tried beyond the plan: by a device of it, or by a CPU.
    pub fn violated(&self, device: Option<u16>, kind: Kind, address: Option<u64>) {
        self.hal.record(Violation::of(self.plan.id, device, kind, address, self.hal.now_ns()));
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
}

/// What backs the block at this position of a plan's registers.
fn registers<H: AxVMHal>(
    hal: &H,
    plan: &VmPlan,
    position: u16,
) -> Result<H::Backing, CreateError<HostError<H>>> {
    let planned = plan
        .registers
        .get(usize::from(position))
        .and_then(|block| Some((block, plan.devices.get(usize::from(block.device))?)));
    let Some((block, device)) = planned else {
        return Err(
            AssignError::Unknown { device: alloc::format!("block {position} of {}", plan.name) }.into()
        );
    };
    let region = Region::Registers(position);
    let resource = Resource { device, region, offset: 0, length: block.gpa.size() };
    hal.registers(plan, &resource).map_err(|error| CreateError::Host { what: device.name.clone(), error })
}

/// Gives a VM what its plan says, up to where something fails.
fn fill<H: AxVMHal>(
    holdings: &mut Holdings<H>,
    plan: &VmPlan,
    hal: &H,
    registry: &impl RegistryKeeper,
) -> Result<(), CreateError<HostError<H>>> {
    let memory = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE | MappingFlags::USER;
    for &piece in &plan.ram {
        let RamPiece { gpa, .. } = piece;
        let failed = |error| CreateError::Host { what: alloc::format!("RAM at {gpa}"), error };
        let backing = hal.ram(plan.id, &piece).map_err(failed)?;
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
    let devices: Vec<&DevicePlan> = plan.present().map(|(_, device)| device).collect();
    let hand_over = HandOver { hal, dma: &holdings.dma };
    registry.lend(|registry| registry.assign(plan.id, &devices, &hand_over))?;
    // Registers last: nobody but the new owner reaches them, and only after the reset.
    for (position, block) in (0..).zip(&plan.registers).filter(|(_, block)| block.direct) {
        let Some(device) = plan.devices.get(usize::from(block.device)) else { continue };
        let backing = registers(hal, plan, position)?;
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
    plan: &VmPlan,
    hal: &H,
    registry: &impl RegistryKeeper,
) -> (Vec<Stuck>, bool) {
    let vm = plan.id;
    let Holdings { mut space, stage2, dma, ram, windows, routes, vectors } = holdings;
    for (device, vector) in vectors.into_iter().rev() {
        if let Some(function) = plan.devices.get(usize::from(device)) {
            // What the function may send goes nowhere once it is closed, whatever comes of this.
            let _ = hal.messages().route(vm, function, vector, None);
        }
    }
    for route in routes.iter().rev() {
        hal.unroute_line(vm, route);
    }
    let (stuck, mut reachable) = registry.lend(|registry| {
        let stuck = registry.reclaim(vm, &HandOver { hal, dma: &dma });
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
