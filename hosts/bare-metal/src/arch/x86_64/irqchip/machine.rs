//! The machine's interrupt controller, as the rest of the hypervisor knows it.

use alloc::vec::Vec;

use axvm::taken::Taken;
use axvm_addr::{CpuId, Hpa, Irq, Span, Trigger, VmId};
use axvm_plan::{LineRoute, MsiPlan};
use axvm_platform::limits::Limits;
use axvm_platform::model::{Apic, Interrupt, Platform};

use super::io_apic::{IoApic, Way};
use super::messages;
use super::vectors::{self, Target};
use crate::arch::x86_64::iommu::{self, IommuError, Iommus};
use crate::arch::x86_64::local_apic::{self, LocalApic};
use crate::cpus;
use crate::log;

/// What can be wrong with the machine's interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum IrqchipError {
    /// There is none.
    #[error("the platform has no APICs")]
    None,
    /// The IOMMU doesn't take a route.
    #[error("an interrupt can't be remapped: {0}")]
    Remap(#[from] IommuError),
    /// An I/O APIC without remapping names no such CPU.
    #[error("a CPU with a local APIC above 0xfe gets lines by an IOMMU only")]
    Unreachable,
    /// All vectors of a CPU are taken.
    #[error("CPU {0} has no vector left")]
    NoVector(CpuId),
    /// A line that no I/O APIC has.
    #[error("no I/O APIC has line {0}")]
    NoLine(Irq),
}

/// The machine's interrupt controller.
pub struct Irqchip {
    apic: Apic,
    io_apics: Vec<IoApic>,
    iommus: Iommus,
}

/// The registers that the hypervisor drives.
pub fn registers(platform: &Platform) -> Vec<Span<Hpa>> {
    let io_apics = platform.apic().into_iter().flat_map(|apic| &apic.io_apics).map(|it| it.registers);
    local_apic::registers().into_iter().chain(io_apics).collect()
}

impl Irqchip {
    /// Looks at what boot has found, before anything is planned.
    ///
    /// # Safety
    ///
    /// The registers must be mapped as the platform describes them, and driven by nobody else.
    pub unsafe fn probe(platform: &mut Platform) {
        iommu::correct(platform);
        // Ids from 255 on can be called in x2APIC mode only, in which firmware leaves machines that have them.
        let x2apic = LocalApic::own().is_x2apic();
        for cpu in platform.cpus.iter_mut().filter(|cpu| !x2apic && cpu.hardware_id > 0xfe) {
            log::warn!(
                "{}: its local APIC isn't reached by this mode of theirs, and it can't be used",
                cpu.path
            );
            cpu.usable = false;
        }
    }

    /// Fills in what it can't go beyond, and says how many bytes it takes of the hypervisor's memory when it is taken over.
    ///
    /// # Safety
    ///
    /// As for [`Irqchip::probe`].
    pub unsafe fn limits(platform: &Platform, limits: &mut Limits) -> u64 {
        super::super::limits::fill(platform, limits)
    }

    /// Takes it over: everything is off, and nothing is mapped.
    ///
    /// # Safety
    ///
    /// As for [`Irqchip::probe`].
    pub unsafe fn take_over(platform: &Platform) -> Result<Self, IrqchipError> {
        let apic = platform.apic().ok_or(IrqchipError::None)?.clone();
        vectors::init(platform.cpus.len());
        if apic.legacy_8259 {
            super::super::pic::mask_all();
        }
        let iommus = Iommus::closed();
        // SAFETY: by the caller's promise.
        let io_apics = apic.io_apics.iter().map(|io_apic| unsafe { IoApic::new(io_apic, &iommus) }).collect();
        Ok(Self { apic, io_apics, iommus })
    }

    /// Brings up the calling CPU's part of it.
    pub fn init_cpu(&self, _: CpuId) -> Result<(), IrqchipError> {
        LocalApic::own().set_up();
        Ok(())
    }

    /// A CPU that VMs will have.
    pub fn add_guest_cpu(&self, _: CpuId) -> Result<(), IrqchipError> {
        Ok(())
    }

    /// A CPU's own interrupts are the hypervisor's, whatever VM it runs.
    pub fn prepare_cpu(&self, _: CpuId, _injected: bool) {}

    /// On a CPU that a VM has had: its timer is off. What came for the VM is no one's.
    pub fn leave_cpu(&self, _: CpuId) -> Result<(), IrqchipError> {
        LocalApic::own().stop_timer();
        Ok(())
    }

    fn io_apic(&self, irq: Irq) -> Option<(&IoApic, u32)> {
        self.io_apics.iter().find_map(|io_apic| Some((io_apic, io_apic.pin(irq)?)))
    }

    /// Leads a line to a CPU, masked as yet.
    fn lead(&self, irq: Irq, trigger: Trigger, cpu: CpuId, target: Target) -> Result<(), IrqchipError> {
        let (io_apic, pin) = self.io_apic(irq).ok_or(IrqchipError::NoLine(irq))?;
        let hardware_id = cpus::get(cpu).map(|cpu| cpu.hardware_id).ok_or(IrqchipError::NoVector(cpu))?;
        let vector = vectors::take(cpu, target).ok_or(IrqchipError::NoVector(cpu))?;
        let line = self.apic.line(irq, trigger);
        let routed = io_apic.route(&self.iommus, pin, line, Way { hardware_id, vector });
        if routed.is_err() {
            vectors::give_back(cpu, vector);
        }
        routed
    }

    /// Has a line interrupt a CPU, by what the board calls that (`hardware_id`). Whether it can.
    pub fn listen(&self, line: Interrupt, hardware_id: u64) -> bool {
        let Some(cpu) = cpus::of(hardware_id) else { return false };
        let is_led = self.lead(line.irq, line.trigger, cpu.id, Target::Own);
        match (is_led, self.io_apic(line.irq)) {
            (Ok(()), Some((io_apic, pin))) => {
                io_apic.mask(pin, false);
                true
            }
            (Err(error), _) => {
                log::warn!("line {}: {error}", line.irq);
                false
            }
            _ => false,
        }
    }

    /// Has a line interrupt nobody any more.
    pub fn ignore(&self, line: Interrupt) {
        self.drop_line(line.irq, |target| target == Target::Own);
    }

    /// The hypervisor's timer is the local APIC's, which is there always.
    pub fn listen_to_timer(&self, _: CpuId) -> bool {
        true
    }

    /// A line of a VM's goes to nobody until the VM's own controller has it (`give_line`).
    pub fn route_line(&self, route: &LineRoute) {
        if let Some((io_apic, pin)) = self.io_apic(route.irq) {
            io_apic.mask(pin, true);
        }
    }

    /// Leads a line to a VM's CPU, masked until the guest opens it.
    pub(super) fn give_line(&self, vm: VmId, cpu: CpuId, route: &LineRoute) -> Result<(), IrqchipError> {
        self.lead(route.irq, route.trigger, cpu, Target::Line { vm, irq: route.irq })
    }

    /// A line that a VM had: to nobody any more, and nothing of it is left.
    pub fn unroute_line(&self, route: &LineRoute) {
        self.drop_line(route.irq, |target| matches!(target, Target::Line { irq, .. } if irq == route.irq));
    }

    fn drop_line(&self, irq: Irq, whose: impl Fn(Target) -> bool) {
        let Some((io_apic, pin)) = self.io_apic(irq) else { return };
        if let Err(error) = io_apic.unroute(&self.iommus, pin) {
            log::error!("line {irq}: {error}");
        }
        vectors::give_back_all(whose);
    }

    /// Masks a line of a VM's, or opens it.
    pub(super) fn mask_line(&self, irq: Irq, masked: bool) {
        if let Some((io_apic, pin)) = self.io_apic(irq) {
            io_apic.mask(pin, masked);
        }
    }

    /// A level that came is taken: it comes again if the line is open and still active.
    pub(super) fn end_line(&self, irq: Irq) {
        if let Some((io_apic, pin)) = self.io_apic(irq) {
            io_apic.end(pin);
        }
    }

    /// How a line signals that the hypervisor listens to.
    pub(super) fn end_own_lines(&self) {
        for (io_apic, pin) in
            self.io_apics.iter().flat_map(|it| it.lines().map(move |irq| (it, irq - it.lines().start)))
        {
            if io_apic.is_open(pin) {
                io_apic.end(pin);
            }
        }
    }

    /// Fills in what is taken of it.
    pub fn count(&self, taken: &mut Taken) {
        taken.lines = self.io_apics.iter().map(IoApic::open_pins).sum();
        taken.message_numbers = vectors::taken();
        (taken.message_sources, taken.messages) = messages::routed();
    }

    /// For a test image: a vector that no VM has is taken, and stays so.
    #[cfg(feature = "protection-off")]
    pub fn leak_vector(&self) {
        let message = axvm::msi::MsiMessage { address: 0, data: 0 };
        let _ = vectors::take(CpuId(0), Target::Message { vm: VmId(0), device: 0, message, alone: None });
    }

    /// For a test image: a message is routed of a device that no VM has, and stays so.
    #[cfg(feature = "protection-off")]
    pub fn leak_message(&self, source: axvm_addr::MsiSource) {
        messages::leak(source);
    }

    /// The messages of a device that a VM had: they are dropped from now on.
    pub fn forget_messages(&self, msi: &MsiPlan) -> Result<(), IrqchipError> {
        messages::forget(&self.iommus, msi.source)
    }
}

/// How a CPU is called.
pub struct Caller {
    hardware_id: u64,
}

impl Caller {
    /// Of the CPU that the board calls so.
    pub const fn new(hardware_id: u64) -> Self {
        Self { hardware_id }
    }

    /// Makes it leave its guest or its sleep, and look around.
    pub fn call(&self, _: &Irqchip, _: CpuId) {
        // An NMI: nothing that a guest does to its interrupts keeps it back.
        LocalApic::own().send_nmi(self.hardware_id);
    }
}
