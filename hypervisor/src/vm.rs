//! A VM as the hypervisor runs it: what the plan says, brought to life.

mod build;
mod exits;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axvm::devices::AxVmDevices;
use axvm::plan::VmPlan;
use axvm::report::VmReport;
pub use axvm::vm::StopReason;
use axvm::vm::{AxVM, Disposed};
use axvm_addr::{CpuId, Gpa, VcpuId, VmId};
use axvm_pl011::Pl011;
use axvm_vgic::Vgic;
use spin::Mutex;

use crate::arch::direct::Direct;
use crate::arch::gic::GicError;
use crate::hal::Hal;
use crate::memory::GuestRam;
use crate::protection::{self, Protection};
use crate::ring::Ring;
use crate::vgic_backend::GicBackend;
use crate::vpci_backend::Bridge;
use crate::{arch, cpus, host};

pub use build::VmFiles;

/// Why a vCPU can't be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOff {
    /// It runs.
    On,
    /// It is being started.
    Starting,
}

/// No device answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDevice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Off,
    Starting { entry: u64, argument: u64 },
    On,
}

/// A vCPU, as others see it.
pub struct Vcpu {
    /// Its CPU.
    cpu: CpuId,
    /// Its affinity, for the guest.
    mpidr: u64,
    power: Mutex<Power>,
}

impl Vcpu {
    /// AFFINITY_INFO (DEN 0022, 5.7): 0 on, 1 off, 2 being started.
    pub fn affinity_info(&self) -> i64 {
        match *self.power.lock() {
            Power::On => 0,
            Power::Off => 1,
            Power::Starting { .. } => 2,
        }
    }
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
    stopping: AtomicBool,
    /// CPUs that have still to leave it.
    busy: AtomicUsize,
}

impl Vm {
    /// Starts it: vCPU 0 at the kernel's entry with the device tree's address, the others wait for PSCI.
    pub fn start(self: &Arc<Self>) {
        if self.core.start().is_err() {
            return;
        }
        self.busy.store(self.vcpus.len(), Ordering::Release);
        let load = &self.core.plan().load;
        if let Some(first) = self.vcpus.first() {
            *first.power.lock() =
                Power::Starting { entry: load.entry.0, argument: load.device_tree.start().0 };
        }
        for (id, vcpu) in (0..).zip(&self.vcpus) {
            if let Some(cpu) = cpus::get(vcpu.cpu) {
                cpu.give(self.clone(), VcpuId(id));
            }
        }
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
    pub fn vcpu_by_mpidr(&self, mpidr: u64) -> Option<&Vcpu> {
        self.vcpus.iter().find(|vcpu| vcpu.mpidr == mpidr)
    }

    /// Whether a vCPU could execute there.
    pub fn is_ram(&self, address: u64) -> bool {
        self.core.plan().ram.iter().any(|(span, _)| span.contains(Gpa(address)))
    }

    /// Has a vCPU start on its CPU.
    pub fn start_vcpu(&self, vcpu: &Vcpu, entry: u64, argument: u64) -> Result<(), NotOff> {
        let mut power = vcpu.power.lock();
        match *power {
            Power::On => Err(NotOff::On),
            Power::Starting { .. } => Err(NotOff::Starting),
            Power::Off => {
                *power = Power::Starting { entry, argument };
                drop(power);
                if let Some(cpu) = cpus::get(vcpu.cpu) {
                    cpu.kick();
                }
                Ok(())
            }
        }
    }

    /// On the vCPU's own CPU: entry and argument if it is to start now. From then on it is on.
    pub fn take_start(&self, id: VcpuId) -> Option<(u64, u64)> {
        let vcpu = self.vcpu(id)?;
        let mut power = vcpu.power.lock();
        match *power {
            Power::Starting { entry, argument } if !self.is_stopping() => {
                *power = Power::On;
                Some((entry, argument))
            }
            _ => None,
        }
    }

    /// On the vCPU's own CPU, before it starts: gives it the CPU's interrupts, where it takes them itself.
    pub fn give_interrupts(&self, id: VcpuId) -> Result<Option<Direct>, GicError> {
        match self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu)) {
            Some(cpu) if self.direct => {
                let direct = cpu.give_interrupts()?;
                self.vgic.restore_private(id);
                Ok(Some(direct))
            }
            _ => Ok(None),
        }
    }

    /// On the vCPU's own CPU, when it has left the guest for good: the other way round.
    pub fn take_interrupts_back(&self, id: VcpuId) {
        if let Some(cpu) = self.vcpu(id).and_then(|vcpu| cpus::get(vcpu.cpu)) {
            cpu.take_interrupts_back();
        }
    }

    /// On the vCPU's own CPU: it has left the guest for good.
    pub fn vcpu_off(&self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu(id) {
            *vcpu.power.lock() = Power::Off;
        }
        if self.vcpus.iter().all(|vcpu| *vcpu.power.lock() == Power::Off) {
            self.stop(StopReason::CpusOff);
        }
    }

    /// Stops it: every CPU leaves it soon. The first reason counts.
    pub fn stop(&self, reason: StopReason) {
        // Before the core kicks the CPUs, so that they find it.
        self.stopping.store(true, Ordering::SeqCst);
        if self.direct && !protection::is_off(Protection::Revoke) {
            // A guest that takes interrupts itself can keep any call out: it loses its memory.
            if let Err(error) = self.core.with_maps(|space, _| space.0.revoke()) {
                log::error!("{}: its second stage couldn't be revoked: {error}", self.name());
            }
        }
        self.core.stop(reason);
        if self.direct {
            arch::send_event();
        }
    }

    /// Whether it is stopping or has stopped.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// A CPU has left it for good.
    pub fn parked(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
        host::get().call_hypervisor_cpu();
    }

    /// Whether it has stopped and every CPU has left it.
    pub fn is_stopped(&self) -> bool {
        self.is_stopping() && self.busy.load(Ordering::Acquire) == 0
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
        let Self { core, devices, bridges, vgic, backend, console, .. } = self;
        // What the guest has enabled in hardware: lines that stand for no device, LPIs.
        vgic.reset();
        // The bridges and the console refer to the core, the virtual GIC to the backend.
        drop((devices, bridges, console, vgic));
        Arc::into_inner(backend)?.release();
        Arc::into_inner(core)?.dispose(&mut host::get().registry.lock()).ok()
    }
}
