//! A VM as the hypervisor runs it: what the plan says, brought to life.

mod build;
mod exits;

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevices;
use axvm::report::{IrqchipReport, VmReport};
pub use axvm::vm::StopReason;
use axvm::vm::{AxVM, Departure, Disposed, NotOff, Power, Start, Turn};
use axvm_addr::{CpuId, Gpa, VcpuId, VmId};
use axvm_pl011::Pl011;
use axvm_plan::VmPlan;
use axvm_vgic::Vgic;

use crate::arch::direct::Direct;
use crate::arch::gic::GicError;
use crate::cpus;
use crate::hal::Hal;
use crate::host::Host;
use crate::memory::GuestRam;
use crate::ring::Ring;
use crate::vgic_backend::GicBackend;
use crate::vpci_backend::Bridge;

pub use build::VmFiles;
pub use exits::Delivered;

/// A CPU that hasn't left a VM for so long after it was told to is lost. What it may be at is short: the longest wait on hardware
/// for a guest is a reset, 1.3 s. Of those that vCPUs queue for at one function only the one that is under way is waited for
/// (`axvm_vpci::Backend::is_stopping`).
pub const LEAVE_WITHIN_S: u64 = 3;

/// No device answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDevice;

/// A vCPU, as others see it.
struct Vcpu {
    /// Its CPU.
    cpu: CpuId,
    /// Its affinity, for the guest.
    mpidr: u64,
}

/// A VM.
pub struct Vm {
    core: Arc<AxVM<Hal>>,
    devices: AxVmDevices,
    bridges: Vec<Arc<Bridge>>,
    vgic: Arc<Vgic>,
    backend: Arc<GicBackend>,
    console: Option<Arc<Pl011>>,
    output: Arc<Ring>,
    ram: GuestRam,
    vcpus: Vec<Vcpu>,
    vttbr: u64,
    vtcr: u64,
    /// Its CPUs take physical interrupts themselves.
    direct: bool,
}

impl Vm {
    /// Starts it: vCPU 0 at the kernel's entry with the device tree's address, the others wait for PSCI.
    pub fn start(self: &Arc<Self>) {
        if self.core.start().is_err() {
            return;
        }
        // All before the first runs: what it does with the redistributors of the others comes after.
        for vcpu in &self.vcpus {
            self.host().prepare_cpu(vcpu.cpu, !self.direct);
        }
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if let Some(cpu) = cpus::get(vcpu.cpu) {
                cpu.give(self.clone(), VcpuId(id));
            }
        }
    }

    /// The machine.
    pub fn host(&self) -> &'static Host {
        self.core.hal().host()
    }

    /// Its id.
    pub fn id(&self) -> VmId {
        self.core.id()
    }

    /// Its plan.
    pub fn plan(&self) -> &VmPlan {
        self.core.plan()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.plan().name
    }

    /// Its virtual GIC.
    pub fn vgic(&self) -> &Vgic {
        &self.vgic
    }

    /// Its emulated console.
    pub fn console(&self) -> Option<&Pl011> {
        self.console.as_deref()
    }

    /// Its console's output.
    pub fn output(&self) -> &Ring {
        &self.output
    }

    /// Its virtual PCI bridges.
    pub fn bridges(&self) -> &[Arc<Bridge>] {
        &self.bridges
    }

    /// Its RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// VTTBR_EL2.
    pub fn vttbr(&self) -> u64 {
        self.vttbr
    }

    /// VTCR_EL2.
    pub fn vtcr(&self) -> u64 {
        self.vtcr
    }

    fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(usize::from(id.0))
    }

    /// The affinity that a vCPU sees.
    pub fn mpidr(&self, id: VcpuId) -> u64 {
        self.vcpu(id).map_or(0, |vcpu| vcpu.mpidr)
    }

    /// The vCPU with this affinity.
    pub fn vcpu_by_mpidr(&self, mpidr: u64) -> Option<VcpuId> {
        (0..).zip(&self.vcpus).find(|(_, vcpu)| vcpu.mpidr == mpidr).map(|(id, _)| VcpuId(id))
    }

    /// What a vCPU is now.
    pub fn power(&self, id: VcpuId) -> Power {
        self.core.power(id)
    }

    /// Whether it takes its CPUs' interrupts itself.
    pub fn takes_interrupts(&self) -> bool {
        self.direct
    }

    /// Whether a vCPU could execute there.
    pub fn is_ram(&self, address: u64) -> bool {
        self.core.plan().ram.iter().any(|piece| piece.gpa.contains(Gpa(address)))
    }

    /// Has a vCPU start on its CPU.
    pub fn start_vcpu(&self, id: VcpuId, start: Start) -> Result<(), NotOff> {
        self.core.start_vcpu(id, start)
    }

    /// On the vCPU's own CPU: has it run until it is off, if it is to start now.
    pub fn run_vcpu<E>(&self, id: VcpuId, run: impl FnOnce(Start) -> Result<(), E>) -> Result<Turn, E> {
        self.core.run_vcpu(id, run)
    }

    /// On the vCPU's own CPU, before it starts: gives it the CPU's interrupts, where it takes them itself.
    pub fn give_interrupts(&self, id: VcpuId) -> Result<Option<Direct>, GicError> {
        match self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu)) {
            Some(cpu) if self.direct => {
                let direct = cpu.give_interrupts(&self.host().gic)?;
                self.vgic.restore_private(id);
                Ok(Some(direct))
            }
            _ => Ok(None),
        }
    }

    /// On the vCPU's own CPU, when it has left the guest for good: the other way round.
    pub fn take_interrupts_back(&self, id: VcpuId) {
        if let Some(cpu) = self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu))
            && self.direct
        {
            cpu.take_interrupts_back(&self.host().gic);
        }
    }

    /// Stops it: every CPU leaves it soon. The first reason counts.
    pub fn stop(&self, reason: StopReason) {
        self.core.stop(reason);
    }

    /// How far its CPUs are with leaving it.
    pub fn departure(&self) -> Departure {
        self.core.departure(LEAVE_WITHIN_S * 1_000_000_000)
    }

    /// The CPU of a vCPU.
    pub fn cpu_of(&self, id: VcpuId) -> Option<CpuId> {
        self.vcpu(id).map(|vcpu| vcpu.cpu)
    }

    /// Whether it is stopping or has stopped.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.core.is_stopping()
    }

    /// The CPU of a vCPU has left it for good.
    pub fn parked(&self, id: VcpuId) {
        self.core.vcpu_gone(id);
        self.host().call_hypervisor_cpu();
    }

    /// On the vCPU's own CPU, before it enters the guest: MSIs that the hardware delivers reach it from now on.
    pub fn enter_messages(&self, id: VcpuId) {
        self.backend.enter_messages(id);
    }

    /// On the vCPU's own CPU, which has left the guest: such MSIs wait from now on, and call the CPU. Answers whether one waits.
    pub fn leave_messages(&self, id: VcpuId) -> bool {
        self.backend.leave_messages(id)
    }

    /// What the report says of it.
    pub fn report(&self) -> VmReport {
        let mut report = self.core.report();
        report.refused.config = self.bridges.iter().map(|bridge| bridge.refused()).sum();
        let gic = self.vgic.statistics();
        report.irqchip = IrqchipReport {
            refused: gic.command_errors,
            failed: gic.failed_commands,
            messages: gic.translater_writes,
        };
        for (device, plan) in report.devices.iter_mut().zip(&self.core.plan().devices) {
            if let Some(function) = plan.pci {
                device.exits.config =
                    self.bridges.iter().filter_map(|bridge| bridge.accesses(function)).sum();
            }
        }
        report
    }

    /// Takes everything back: only for a VM that every CPU has left. `None`: something still refers to it.
    pub fn dispose(self) -> Option<Disposed> {
        let host = self.host();
        let Self { core, devices, bridges, vgic, backend, console, .. } = self;
        // What the guest has enabled in hardware: lines that stand for no device, LPIs.
        vgic.reset();
        // The bridges and the console refer to the core, the virtual GIC to the backend.
        drop((devices, bridges, console, vgic));
        Arc::into_inner(backend)?.release();
        Arc::into_inner(core)?.dispose(&host.registry).ok()
    }
}
