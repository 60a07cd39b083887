//! A VM as the hypervisor runs it: what the plan says, brought to life.

mod build;
mod exits;

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevices;
use axvm::report::VmReport;
pub use axvm::vm::StopReason;
use axvm::vm::{AxVM, Departure, Disposed, NotOff, Power, Start, Turn};
use axvm_addr::{CpuId, Gpa, VcpuId, VmId};
use axvm_pl011::Pl011;
use axvm_plan::VmPlan;

use crate::arch::{GuestIrqchip, SpaceRoot};
use crate::cpus;
use crate::hal::Hal;
use crate::host::Host;
use crate::memory::GuestRam;
use crate::ring::Ring;
use crate::vpci_backend::Bridge;

pub use build::VmFiles;

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
    /// What the guest calls it.
    hardware_id: u64,
}

/// A VM.
pub struct Vm {
    core: Arc<AxVM<Hal>>,
    devices: AxVmDevices,
    bridges: Vec<Arc<Bridge>>,
    irqchip: GuestIrqchip,
    console: Option<Arc<Pl011>>,
    output: Arc<Ring>,
    ram: GuestRam,
    vcpus: Vec<Vcpu>,
    /// Its second stage.
    space: SpaceRoot,
}

impl Vm {
    /// Starts it: vCPU 0 at the kernel's entry with the device tree's address, the others wait for PSCI.
    pub fn start(self: &Arc<Self>) {
        if self.core.start().is_err() {
            return;
        }
        // All before the first runs: what it does with the redistributors of the others comes after.
        for vcpu in &self.vcpus {
            self.host().irqchip.prepare_cpu(vcpu.cpu, !self.irqchip.takes_interrupts());
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

    /// Its interrupt controller.
    #[inline(always)]
    pub fn irqchip(&self) -> &GuestIrqchip {
        &self.irqchip
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

    /// By what a CPU finds its second stage.
    pub fn space_root(&self) -> SpaceRoot {
        self.space
    }

    fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(usize::from(id.0))
    }

    /// What the guest calls a vCPU.
    pub fn hardware_id(&self, id: VcpuId) -> u64 {
        self.vcpu(id).map_or(0, |vcpu| vcpu.hardware_id)
    }

    /// The vCPU that the guest calls so.
    pub fn vcpu_by_hardware_id(&self, hardware_id: u64) -> Option<VcpuId> {
        (0..).zip(&self.vcpus).find(|(_, vcpu)| vcpu.hardware_id == hardware_id).map(|(id, _)| VcpuId(id))
    }

    /// What a vCPU is now.
    pub fn power(&self, id: VcpuId) -> Power {
        self.core.power(id)
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

    /// What the report says of it.
    pub fn report(&self) -> VmReport {
        let mut report = self.core.report();
        report.refused.config = self.bridges.iter().map(|bridge| bridge.refused()).sum();
        report.irqchip = self.irqchip.report();
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
        let Self { core, devices, bridges, irqchip, console, .. } = self;
        irqchip.reset();
        // The bridges and the console refer to the core, the devices to the interrupt controller.
        drop((devices, bridges, console));
        irqchip.release()?;
        Arc::into_inner(core)?.dispose(&host.registry).ok()
    }
}
