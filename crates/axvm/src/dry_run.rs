//! A plan carried out on a host that only counts: what `axvm check` does after planning.
//!
//! [`dry_run`] builds every VM by [`AxVM::new`], the code that a real host runs, and takes all apart again. The host has no hardware,
//! but it holds to its [`Limits`] and to the rules of the real ones on its own account: a page is one VM's, a DMA master is one
//! VM's, a line is routed once, what is given is there. So a plan that the planner's rules let pass and that can't be built is found on a
//! desk.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use axvm_addr::{DmaSource, Gpa, Hpa, IommuId, Iova, Irq, MsiSource, Ports, Span, VcpuId, VmId};
use axvm_axdevice::Width;
use axvm_platform::limits::{Claims, Limits};
use axvm_platform::model::Platform;
use spin::Mutex;

use crate::devices::{Aborted, AxVmDevices, Forward, Hint};
use crate::events::Violation;
use crate::hal::{AxVMHal, DmaMap, Equipment, Resided, Resource};
use crate::iommu::{Abilities, DmaFault, Drained, Iommu};
use crate::irqchip::Irqchip;
use crate::msi::{InFunctions, MsiMessage};
use crate::ownership::{DeviceOps, Registry};
use crate::space::Materialise;
use crate::vcpu::{Answer, Exit, IpiRequest, Slept, Vcpu};
use crate::vm::{AxVM, Ground, Start};
use axvm_plan::config::MappingFlags;
use axvm_plan::problem::{Problem, Rule};
use axvm_plan::{Change, DeviceId, DevicePlan, Doorbell, LineRoute, Plan, RamPiece, Running, VmPlan, replan};

#[cfg(test)]
mod ports;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod structured;
#[cfg(test)]
mod tests;

/// Bytes of a translation table.
const TABLE: u64 = 4096;

/// What the host that counts can't do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DryRunError {
    /// More VMs than tags.
    #[error("there are more VMs than tags for their translations: {0}")]
    TooManyVms(u16),
    /// Memory that isn't free RAM.
    #[error("{0} isn't free memory of the board")]
    NotFree(Span<Hpa>),
    /// Memory or registers that another VM has.
    #[error("{0} is VM {1}'s already")]
    Taken(Span<Hpa>, VmId),
    /// Something is mapped there.
    #[error("{0:#x} is mapped already")]
    Mapped(u64),
    /// Nothing is mapped there.
    #[error("{0:#x} isn't mapped")]
    NotMapped(u64),
    /// No memory for tables is left.
    #[error("the tables take more than the {0} bytes that there are for them")]
    NoMemory(u64),
    /// A DMA master that the IOMMU's ids don't reach.
    #[error("id {id:#x} is above those of IOMMU {iommu}", iommu = .0.iommu, id = .0.id.0)]
    SourceOutOfRange(DmaSource),
    /// A DMA master of another VM's.
    #[error("id {id:#x} of IOMMU {iommu} is VM {1}'s already", iommu = .0.iommu, id = .0.id.0)]
    SourceTaken(DmaSource, VmId),
    /// Ports that another VM has.
    #[error("ports {0} are VM {1}'s already")]
    PortsTaken(Ports, VmId),
    /// Not a page that MSIs are sent to.
    #[error("{0:#x} isn't a page to which MSIs are sent")]
    NoDoorbell(Hpa),
    /// Message interrupts that there aren't, or that are kept for another VM.
    #[error("message interrupts {0:?} aren't there, or are kept for another VM")]
    Messages(Range<u32>),
    /// A line that goes to a VM already, or none.
    #[error("interrupt {0} is none that can be routed, or is routed already")]
    Line(Irq),
}

/// A DMA master that reaches a VM's memory.
struct Attached {
    source: DmaSource,
    vm: VmId,
    device: DeviceId,
}

#[derive(Default)]
struct State {
    owned: Vec<(Span<Hpa>, VmId)>,
    attached: Vec<Attached>,
    lines: Vec<(VmId, Irq)>,
    messages: Vec<(Range<u32>, VmId)>,
    ports: Vec<(Ports, VmId)>,
    tables: u64,
}

/// What is held by all VMs.
struct Counts {
    limits: Limits,
    state: Mutex<State>,
}

impl Counts {
    fn take_tables(&self, count: u64) -> Result<(), DryRunError> {
        let mut state = self.state.lock();
        let tables = state.tables.saturating_add(count.saturating_mul(TABLE));
        if tables > self.limits.table_bytes {
            return Err(DryRunError::NoMemory(self.limits.table_bytes));
        }
        state.tables = tables;
        Ok(())
    }

    fn keep_messages(&self, plan: &VmPlan) -> Result<(), DryRunError> {
        let mut state = self.state.lock();
        let messages = plan.messages.clone();
        let meets = |other: &Range<u32>| other.start < messages.end && messages.start < other.end;
        if messages.end > self.limits.messages || state.messages.iter().any(|(other, _)| meets(other)) {
            return Err(DryRunError::Messages(messages));
        }
        state.messages.push((messages, plan.id));
        Ok(())
    }

    fn own_ports(&self, plan: &VmPlan) -> Result<(), DryRunError> {
        let mut state = self.state.lock();
        for ports in plan.ports.iter().map(|block| block.ports) {
            if let Some(&(_, owner)) = state.ports.iter().find(|(theirs, _)| theirs.overlaps(&ports)) {
                return Err(DryRunError::PortsTaken(ports, owner));
            }
            state.ports.push((ports, plan.id));
        }
        Ok(())
    }

    fn own(&self, span: Span<Hpa>, vm: VmId) -> Result<(), DryRunError> {
        let mut state = self.state.lock();
        if let Some((_, other)) = state.owned.iter().find(|(theirs, _)| theirs.overlaps(&span)) {
            return Err(DryRunError::Taken(span, *other));
        }
        state.owned.push((span, vm));
        Ok(())
    }
}

/// The host that counts.
struct Counting {
    counts: Arc<Counts>,
    free: Vec<Span<Hpa>>,
    doorbells: Vec<Hpa>,
}

/// Tables of four levels, of which only the numbers of those that are there are kept.
pub struct Tables {
    counts: Arc<Counts>,
    vm: VmId,
    inner: Mutex<TablesInner>,
}

#[derive(Default)]
struct TablesInner {
    mapped: Vec<(u64, u64)>,
    /// Shift of the table's entries' reach, and which of those.
    tables: BTreeSet<(u32, u64)>,
}

impl Tables {
    fn new(counts: &Arc<Counts>, vm: VmId) -> Result<Self, DryRunError> {
        counts.take_tables(1)?;
        Ok(Self { counts: counts.clone(), vm, inner: Mutex::default() })
    }

    fn map(&self, start: u64, size: u64, hpa: Hpa) -> Result<(), DryRunError> {
        let end = start.saturating_add(size);
        let mut inner = self.inner.lock();
        if let Some(&(at, _)) = inner.mapped.iter().find(|&&(from, to)| start < to && from < end) {
            return Err(DryRunError::Mapped(at));
        }
        let mut new = 0;
        let mut need = |shift: u32, table: u64| new += u64::from(inner.tables.insert((shift, table)));
        for gib in start >> 30..=end.saturating_sub(1) >> 30 {
            need(39, gib >> 9);
            need(30, gib);
        }
        // Blocks of 2 MiB where both sides allow; pages at the edges, or everywhere.
        let by_blocks = (start ^ hpa.0) & ((2 << 20) - 1) == 0;
        let (first, last) = (start >> 21, end.saturating_sub(1) >> 21);
        let ragged = |block: u64| block << 21 < start || end < (block + 1) << 21;
        if by_blocks {
            for block in [first, last].into_iter().filter(|&block| ragged(block)) {
                need(21, block);
            }
        } else {
            (first..=last).for_each(|block| need(21, block));
        }
        inner.mapped.push((start, end));
        drop(inner);
        self.counts.take_tables(new)
    }

    fn unmap(&self, start: u64, size: u64) -> Result<(), DryRunError> {
        let mut inner = self.inner.lock();
        let wanted = (start, start.saturating_add(size));
        let at = inner.mapped.iter().position(|span| *span == wanted).ok_or(DryRunError::NotMapped(start))?;
        inner.mapped.swap_remove(at);
        Ok(())
    }
}

impl Materialise for Tables {
    type Backing = Hpa;
    type Error = DryRunError;

    fn map(&self, gpa: Span<Gpa>, backing: &Hpa, _: MappingFlags) -> Result<(), DryRunError> {
        self.map(gpa.start().0, gpa.size(), *backing)
    }

    fn unmap(&self, gpa: Span<Gpa>) -> Result<(), DryRunError> {
        self.unmap(gpa.start().0, gpa.size())
    }
}

impl DmaMap for Tables {
    type Backing = Hpa;
    type Domain = VmId;
    type Error = DryRunError;

    fn domain(&self, _: IommuId) -> Result<VmId, DryRunError> {
        Ok(self.vm)
    }

    fn map_dma(&self, iova: Span<Iova>, backing: &Hpa, _: MappingFlags) -> Result<(), DryRunError> {
        self.map(iova.start().0, iova.size(), *backing)
    }

    fn unmap_dma(&self, iova: Span<Iova>) -> Result<(), DryRunError> {
        self.unmap(iova.start().0, iova.size())
    }
}

impl DeviceOps for Counting {
    type Error = DryRunError;

    fn unbind(&self, _: &DevicePlan) -> Result<(), DryRunError> {
        Ok(())
    }

    fn close(&self, device: &DevicePlan) -> Result<(), DryRunError> {
        self.counts.state.lock().attached.retain(|attached| attached.device != device.id);
        Ok(())
    }

    fn reset(&self, _: &DevicePlan) -> Result<(), DryRunError> {
        Ok(())
    }

    fn charge(&self, _: VmId, _: &DevicePlan) {}

    fn keep_off_bus(&self, _: VmId, _: &DevicePlan) -> Result<(), DryRunError> {
        Ok(())
    }

    fn attach(&self, vm: VmId, device: &DevicePlan) -> Result<(), DryRunError> {
        let mut state = self.counts.state.lock();
        for &source in &device.sources {
            let theirs = |it: &&Attached| it.source == source && it.vm != vm;
            if let Some(attached) = state.attached.iter().find(theirs) {
                return Err(DryRunError::SourceTaken(source, attached.vm));
            }
            state.attached.push(Attached { source, vm, device: device.id.clone() });
        }
        Ok(())
    }

    fn detach(&self, _: VmId, _: &DevicePlan) -> Result<(), DryRunError> {
        Ok(())
    }
}

impl Iommu for Counting {
    type Domain = VmId;
    type Error = DryRunError;

    fn attach(&self, source: DmaSource, _: &VmId) -> Result<(), DryRunError> {
        let bits = self.counts.limits.source_bits.get(usize::from(source.iommu.0)).copied();
        if u64::from(source.id.0) >> bits.unwrap_or(32) != 0 {
            return Err(DryRunError::SourceOutOfRange(source));
        }
        Ok(())
    }

    fn block(&self, _: DmaSource) -> Result<(), DryRunError> {
        Ok(())
    }

    fn silence(&self, _: DmaSource) -> Result<(), DryRunError> {
        Ok(())
    }

    fn drain(&self, _: IommuId, _: usize, _: impl FnMut(DmaFault)) -> Drained {
        Drained::default()
    }

    fn abilities(&self, _: IommuId) -> Abilities {
        Abilities { reports_faults: false, cuts_mappings: false }
    }
}

impl Forward for Counting {
    type Backing = Hpa;

    fn forward_read(&self, _: &Hpa, _: u64, _: Width) -> Result<u64, Aborted> {
        Err(Aborted)
    }

    fn forward_write(&self, _: &Hpa, _: u64, _: Width, _: u64) -> Result<(), Aborted> {
        Err(Aborted)
    }
}

/// The vCPU of a VM that never runs.
enum Never {}

impl Vcpu for Never {
    fn run(&mut self) -> Exit {
        match *self {}
    }

    fn complete(&mut self, _: Answer) {
        match *self {}
    }

    fn sleep(&mut self, _: Option<u64>) -> Slept {
        match *self {}
    }

    fn hold(&mut self) -> Slept {
        match *self {}
    }

    fn let_go(&mut self) {
        match *self {}
    }

    fn hint(&mut self) -> &mut Hint {
        match *self {}
    }

    fn pc(&self) -> u64 {
        match *self {}
    }
}

/// The interrupt controller of a VM that never runs: without interrupts.
struct Silent;

impl Irqchip for Silent {
    type Error = DryRunError;
    type Seat = ();

    fn enter(&self, _: VcpuId) -> Result<(), DryRunError> {
        Ok(())
    }

    fn leave(&self, _: VcpuId, (): ()) {}

    fn set_level(&self, irq: Irq, _: bool) -> Result<(), DryRunError> {
        Err(DryRunError::Line(irq))
    }

    fn inject_irq_to_vcpu(&self, _: VcpuId, irq: Irq) -> Result<(), DryRunError> {
        Err(DryRunError::Line(irq))
    }

    fn send_msi(&self, _: Option<MsiSource>, message: MsiMessage) -> Result<(), DryRunError> {
        Err(DryRunError::Line(Irq(message.data)))
    }

    fn send_ipi(&self, _: VcpuId, _: IpiRequest) {}

    fn reset(&self) {}

    fn release(self) -> bool {
        true
    }
}

impl AxVMHal for Counting {
    type Space = Tables;
    type Dma = Tables;
    type Iommu = Self;
    type Messages = InFunctions<DryRunError>;
    type Irqchip = Silent;
    type Vcpu<'a> = Never;
    type Ends = ();

    fn create(&self, plan: &VmPlan) -> Result<(Tables, Tables), DryRunError> {
        // One tag is nobody's.
        if plan.id.0 >= self.counts.limits.vms {
            return Err(DryRunError::TooManyVms(self.counts.limits.vms));
        }
        self.counts.keep_messages(plan)?;
        self.counts.own_ports(plan)?;
        Ok((Tables::new(&self.counts, plan.id)?, Tables::new(&self.counts, plan.id)?))
    }

    fn revoke(&self, _: VmId, _: &Tables) {}

    fn shut(&self, _: VmId, _: &Tables) {}

    fn open(&self, _: VmId, _: &Tables) {}

    fn destroy(&self, vm: VmId, space: Tables, dma: Tables) {
        let tables = [space, dma].map(|tables| {
            debug_assert_eq!(tables.vm, vm);
            tables.inner.into_inner().tables.len() as u64 + 1
        });
        let mut state = self.counts.state.lock();
        state.tables = state.tables.saturating_sub(tables.iter().sum::<u64>().saturating_mul(TABLE));
        state.owned.retain(|(_, owner)| *owner != vm);
        state.messages.retain(|(_, owner)| *owner != vm);
        state.ports.retain(|(_, owner)| *owner != vm);
    }

    fn withhold(&self, _: VmId, _: Tables, _: Tables, _: Vec<Hpa>) {}

    fn ram(&self, vm: VmId, piece: &RamPiece) -> Result<Hpa, DryRunError> {
        let span =
            Span::new(piece.hpa, piece.gpa.size()).map_err(|_| DryRunError::NotFree(Span::default()))?;
        if !self.free.iter().any(|free| free.encloses(&span)) {
            return Err(DryRunError::NotFree(span));
        }
        self.counts.own(span, vm).map(|()| piece.hpa)
    }

    fn release_ram(&self, _: VmId, _: Hpa, _: u64) {}

    fn registers(&self, plan: &VmPlan, resource: &Resource<'_>) -> Result<Hpa, DryRunError> {
        let at = resource.planned(plan).ok_or(DryRunError::NotFree(Span::default()))?;
        let span = Span::new(at, resource.length).map_err(|_| DryRunError::NotFree(Span::default()))?;
        let state = self.counts.state.lock();
        match state.owned.iter().find(|(theirs, _)| theirs.overlaps(&span)) {
            Some((_, owner)) => Err(DryRunError::Taken(span, *owner)),
            None => Ok(at),
        }
    }

    fn doorbell(&self, _: VmId, doorbell: &Doorbell) -> Result<Option<Hpa>, DryRunError> {
        if self.doorbells.contains(&doorbell.hpa) {
            Ok(Some(doorbell.hpa))
        } else {
            Err(DryRunError::NoDoorbell(doorbell.hpa))
        }
    }

    fn iommu(&self) -> &Self {
        self
    }

    fn route_line(&self, vm: VmId, route: &LineRoute) -> Result<(), DryRunError> {
        let mut state = self.counts.state.lock();
        let limits = &self.counts.limits;
        // Where a Linux has the board's lines, these are the guest's.
        let has_own = limits.linux().is_some();
        let is_routed = |(of, irq): &(VmId, Irq)| *irq == route.irq && (*of == vm || !has_own);
        if !limits.lines.contains(&route.irq.0) || state.lines.iter().any(is_routed) {
            return Err(DryRunError::Line(route.irq));
        }
        state.lines.push((vm, route.irq));
        Ok(())
    }

    fn unroute_line(&self, vm: VmId, route: &LineRoute) {
        self.counts.state.lock().lines.retain(|line| *line != (vm, route.irq));
    }

    fn messages(&self) -> &InFunctions<DryRunError> {
        &const { InFunctions::new() }
    }

    fn equip(&self, _: &Arc<Ground<Self>>) -> Result<Equipment<Self>, DryRunError> {
        Ok(Equipment { irqchip: Arc::new(Silent), devices: AxVmDevices::default(), ends: () })
    }

    fn reside<'a>(
        &'a self,
        _: &'a AxVM<Self>,
        _: VcpuId,
        _: Start,
        (): (),
        _: impl FnOnce(&mut Self::Vcpu<'a>),
    ) -> Resided<Self> {
        Resided { seat: (), result: Ok(()) }
    }

    fn kick(&self, _: VmId, _: VcpuId) {}

    fn now_ns(&self) -> u64 {
        0
    }

    fn record(&self, _: Violation) {}
}

/// Builds every VM of a plan on a host with this platform's limits, all at a time, and takes them apart again. VMs that can't run
/// together are built in turns, each beside all that it can run with.
///
/// # Errors
///
/// A problem for each VM that can't be built.
pub fn dry_run(plan: &Plan, platform: &Platform) -> Result<(), Vec<Problem>> {
    let counts = Arc::new(Counts { limits: platform.limits.clone(), state: Mutex::default() });
    let hal = Arc::new(Counting {
        counts,
        free: platform.free_memory(),
        doorbells: platform.doorbells().collect(),
    });
    let mut problems: Vec<Problem> = Vec::new();
    for turn in turns(plan, platform) {
        let registry = Mutex::new(Registry::new(turn.iter().flat_map(|vm| &vm.devices)));
        let mut built = Vec::new();
        for vm in turn {
            match AxVM::new(vm.clone(), hal.clone(), &registry) {
                Ok(vm) => built.push(vm),
                Err(error) => {
                    let item = axvm_system::model::Item::Vm(vm.id.0, "".into());
                    let message = alloc::format!("vm \"{}\": it can't be built: {error}", vm.name);
                    problems.push(Problem::new(item, Rule::Limit, message));
                }
            }
        }
        for vm in built {
            // None of them runs.
            let _ = vm.dispose(&registry);
        }
    }
    problems.dedup();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The VMs that are built at one time: all of them, where each has what it names for the whole run.
fn turns<'a>(plan: &'a Plan, platform: &Platform) -> Vec<Vec<&'a VmPlan>> {
    if platform.limits.claims == Claims::Once {
        return alloc::vec![plan.vms.iter().collect()];
    }
    let mut turns: Vec<Vec<&VmPlan>> = Vec::new();
    for first in &plan.vms {
        if turns.iter().flatten().any(|vm| vm.id == first.id) {
            continue;
        }
        let (mut running, mut turn) = (Running::default(), Vec::new());
        for vm in core::iter::once(first).chain(plan.vms.iter().filter(|vm| vm.id != first.id)) {
            if let Ok(replanned) = replan(&plan.vms, &running, &Change::Start(vm.id)) {
                running = replanned.running;
                turn.push(vm);
            }
        }
        turns.push(turn);
    }
    turns
}
