//! The interrupt controller of a VM: virtual APICs, and what their pins have done in hardware.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;

use axvm::devices::AxVmDevicesBuilder;
use axvm::msi::MsiMessage;
use axvm::vcpu::IpiRequest;
use axvm_addr::{CpuId, Gpa, Hpa, Irq, MsiSource, Ports, VcpuId};
use axvm_plan::config::VMInterruptMode;
use axvm_plan::{LineRoute, VmPlan};
use axvm_platform::model::Platform;
use axvm_pvclock::{ClockMsrs, PvClock};
use spin::Once;

use axvm_vapic::{ApicMsrs, Apics, ApicsConfig, Backend, Pin, Taker, direct};

use super::machine::IrqchipError;
use crate::arch::x86_64::cpu::{known_tick_hz, settle_clock, tick_hz, ticks};
use crate::arch::x86_64::local_apic::{LocalApic, NotClean};
use crate::arch::x86_64::power::GuestPower;
use crate::arch::x86_64::power_timer::PowerTimer;
use crate::arch::x86_64::protection;
use crate::cpus;
use crate::hal::HalError;
use crate::host::Host;
use crate::log;
use crate::memory::GuestRam;

/// Why a VM has no interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum GuestIrqchipError {
    /// The plan has no APICs for it.
    #[error("the plan has no APICs")]
    None,
    /// The clock's rate isn't known.
    #[error("the time-stamp counter's rate isn't known")]
    NoClock,
    /// A line can't be led to it.
    #[error(transparent)]
    Line(#[from] IrqchipError),
}

/// Why a vCPU can't have its CPU's interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSeated {
    /// There are others' still.
    #[error(transparent)]
    NotClean(#[from] NotClean),
}

/// What the virtual APICs have done in hardware.
pub struct ApicBackend {
    host: &'static Host,
    cpus: Vec<CpuId>,
    lines: Vec<LineRoute>,
    /// When its time-stamp counter was zero.
    zero: u64,
}

impl Backend for ApicBackend {
    fn kick(&self, vcpu: VcpuId) {
        // It polls before it enters its guest.
        if let Some(cpu) = self.cpus.get(usize::from(vcpu.0)).and_then(|&id| cpus::get(id))
            && cpus::current().is_none_or(|own| own.id != cpu.id)
        {
            cpu.kick(&self.host.irqchip);
        }
    }

    fn tsc(&self) -> u64 {
        ticks().wrapping_sub(self.zero)
    }

    fn set_pin(&self, pin: u8, to: Pin) {
        let irq = Irq(pin.into());
        if self.lines.iter().any(|line| line.irq == irq) {
            self.host.irqchip.mask_line(irq, to == Pin::Closed);
        }
    }

    fn send(&self, vcpu: VcpuId, vector: u8) {
        if let Some(cpu) = self.cpus.get(usize::from(vcpu.0)).and_then(|&id| cpus::get(id)) {
            LocalApic::own().send(cpu.hardware_id, vector);
        }
    }

    fn set_register(&self, register: direct::Register, value: u32) {
        LocalApic::own().set_for_guest(register, value);
    }

    fn end(&self) -> Option<u8> {
        LocalApic::own().end_in_service()
    }

    fn take_errors(&self) -> u32 {
        LocalApic::own().take_errors()
    }
}

/// The interrupt controller of a VM.
pub struct GuestIrqchip {
    apics: Arc<Apics<ApicBackend>>,
    local: axvm_addr::Span<Gpa>,
    io: axvm_addr::Span<Gpa>,
    vcpus: u16,
    /// Its clock by what is known of the rate from the beginning.
    rough: PvClock,
    clock: Once<ClockMsrs>,
    power: GuestPower,
    timer: Ports,
    taker: Taker,
    /// Lines that are masked though the guest has them open: [`GuestIrqchip::keep_closed`].
    closed: AtomicU32,
}

/// What a CPU has of a vCPU's interrupts: nothing, as all are injected.
pub struct Seat;

/// MSRs of a local APIC: its base, its deadline, and those of x2APIC mode (AMD APM 2, 16.11.1).
const MSRS: [(u32, u32); 3] = [(0x1b, 0x1b), (0x6e0, 0x6e0), (0x800, 0x8ff)];

impl GuestIrqchip {
    /// That of a plan.
    pub fn new(host: &'static Host, plan: &VmPlan, _: &GuestRam) -> Result<Self, GuestIrqchipError> {
        let own = plan.x86_64().ok_or(GuestIrqchipError::None)?;
        let cpus: Vec<CpuId> = plan.cpus.iter().map(|vcpu| vcpu.cpu).collect();
        let pins = plan.lines.iter().filter(|line| line.irq.0 < 32);
        let physical = pins.fold(0, |pins, line| pins | 1 << line.irq.0);
        let taker = match plan.mode {
            VMInterruptMode::Passthrough => Taker::Guest,
            VMInterruptMode::Emulated | VMInterruptMode::NoIrq => Taker::Host,
        };
        let config = ApicsConfig {
            vcpus: cpus.len() as u16,
            base: own.local_apic.start(),
            has_x2apic: true,
            io_id: own.io_apic.id,
            physical,
            taker,
        };
        for line in &plan.lines {
            let cpu = match taker {
                Taker::Host => cpus.get(usize::from(line.vcpu.0)).copied().unwrap_or_default(),
                // What interrupts the guest's own CPUs is the guest's, which would tell nobody of the end.
                Taker::Guest => host.hypervisor_cpu(),
            };
            if let Err(error) = host.irqchip.give_line(plan.id, cpu, line) {
                plan.lines.iter().for_each(|line| host.irqchip.unroute_line(line));
                return Err(error.into());
            }
        }
        let rough = known_tick_hz().and_then(|hz| PvClock::new(hz, 0)).ok_or(GuestIrqchipError::NoClock)?;
        let vcpus = cpus.len() as u16;
        let backend = ApicBackend { host, cpus, lines: plan.lines.clone(), zero: ticks() };
        let apics = Arc::new(Apics::new(config, backend));
        Ok(Self {
            apics,
            local: own.local_apic,
            io: own.io_apic.registers,
            vcpus,
            rough,
            clock: Once::new(),
            power: GuestPower::new(&own.power),
            timer: own.power.timer,
            taker,
            closed: AtomicU32::new(0),
        })
    }

    /// Adds its registers to the VM's devices.
    pub fn add_to(&self, devices: AxVmDevicesBuilder<Hpa>, platform: &Platform) -> AxVmDevicesBuilder<Hpa> {
        // In x2APIC mode, in which such a guest's are for good, there is no page.
        let devices = match self.taker {
            Taker::Host => devices.mmio(self.local, protection::local_page(&self.apics)),
            Taker::Guest => devices,
        };
        let devices = devices.ports(self.timer.first(), self.timer.count() as u16, Arc::new(PowerTimer));
        let devices = protection::add_io_page(devices, self.io, &self.apics, platform);
        MSRS.iter().fold(devices, |devices, &(first, last)| {
            let (first, last) = (axvm_axdevice::SysReg(first), axvm_axdevice::SysReg(last));
            devices.sysregs(first, last, Arc::new(ApicMsrs(self.apics.clone())))
        })
    }

    /// Where a vCPU's own local APIC has its page, if it is the virtual one's: [`LocalPage`](axvm_vapic::LocalPage) answers there.
    pub(in crate::arch::x86_64) fn local_page(&self) -> Option<Gpa> {
        (self.taker == Taker::Host && protection::has_own_local_page()).then_some(self.local.start())
    }

    /// The virtual APICs.
    #[inline(always)]
    pub(in crate::arch::x86_64) fn apics(&self) -> &Apics<ApicBackend> {
        &self.apics
    }

    /// The paravirtual clock. It is made when it is first asked for, which is when the clock's rate has to be known exactly.
    pub(in crate::arch::x86_64) fn clock(&self) -> &ClockMsrs {
        self.clock.call_once(|| {
            settle_clock();
            ClockMsrs::new(self.vcpus, PvClock::new(tick_hz(), 0).unwrap_or(self.rough))
        })
    }

    /// The registers of its power.
    pub(in crate::arch::x86_64) fn power(&self) -> &GuestPower {
        &self.power
    }

    /// An edge of a line has come for the vCPU whose CPU has the line. Until it takes that, more edges would be exits for nothing: a 16550 has
    /// one for each byte that its driver writes.
    pub(in crate::arch::x86_64) fn keep_closed(&self, vcpu: VcpuId, irq: Irq) {
        if self.taker == Taker::Host && self.apics.is_waiting(vcpu, irq.0) {
            self.apics.backend().host.irqchip.mask_line(irq, true);
            self.closed.fetch_or(1 << (irq.0 & 31), Ordering::SeqCst);
        }
    }

    /// What a vCPU has taken meanwhile may come again. Asked before its guest goes on, which so finds out itself what has come until now.
    #[inline(always)]
    pub(in crate::arch::x86_64) fn open_taken(&self, vcpu: VcpuId) {
        if self.keeps_any_closed() {
            self.open_lines(vcpu);
        }
    }

    /// Whether there is a line that may come again once a vCPU has taken what it brought.
    #[inline(always)]
    pub(in crate::arch::x86_64) fn keeps_any_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) != 0
    }

    fn open_lines(&self, vcpu: VcpuId) {
        let ApicBackend { host, lines, .. } = self.apics.backend();
        for line in lines.iter().filter(|line| line.vcpu == vcpu && line.irq.0 < 32) {
            let bit = 1 << line.irq.0;
            if self.closed.load(Ordering::SeqCst) & bit != 0 && !self.apics.is_waiting(vcpu, line.irq.0) {
                self.closed.fetch_and(!bit, Ordering::SeqCst);
                if self.apics.is_open(line.irq.0) {
                    host.irqchip.mask_line(line.irq, false);
                }
            }
        }
    }

    /// The hypervisor's clock when the guests' time-stamp counters were zero.
    pub(in crate::arch::x86_64) fn zero(&self) -> u64 {
        self.apics.backend().zero
    }

    /// Whether a vCPU's local APIC is on.
    #[inline(always)]
    pub(in crate::arch::x86_64) fn is_enabled(&self, vcpu: VcpuId) -> bool {
        self.apics.is_on(vcpu)
    }

    /// Whether the VM's CPUs take physical interrupts themselves.
    #[inline(always)]
    pub fn takes_interrupts(&self) -> bool {
        self.taker == Taker::Guest
    }

    /// On a vCPU's own CPU: it has had an INIT, by which its local APIC is as after a reset.
    pub(in crate::arch::x86_64) fn reset_own(&self) {
        if self.takes_interrupts() && LocalApic::own().hand_over().is_err() {
            // They are the VM's own, from its own devices.
            log::warn!("interrupts come faster than they are dropped while a vCPU is reset");
        }
    }
}

impl axvm::irqchip::Irqchip for GuestIrqchip {
    type Error = HalError;
    type Seat = Seat;

    fn enter(&self, vcpu: VcpuId) -> Result<Seat, HalError> {
        if self.takes_interrupts() {
            // Before anything is sent to it as this VM's.
            LocalApic::own().hand_over().map_err(NotSeated::from)?;
        }
        self.apics.enter(vcpu);
        Ok(Seat)
    }

    fn leave(&self, vcpu: VcpuId, _: Seat) {
        self.apics.leave(vcpu);
        // Nothing is sent to it any more but by devices, whose messages end with the VM.
        if self.takes_interrupts()
            && let Err(error) = LocalApic::own().take_back()
        {
            log::warn!("vCPU {vcpu}: {error}");
            LocalApic::own().set_up();
        }
    }

    fn set_level(&self, irq: Irq, high: bool) -> Result<(), HalError> {
        self.apics.set_line(irq.0, high).map_err(|_| HalError::Unknown)
    }

    fn inject_irq_to_vcpu(&self, _: VcpuId, irq: Irq) -> Result<(), HalError> {
        self.apics.pulse(irq.0).map_err(|_| HalError::Unknown)
    }

    fn send_msi(&self, _: Option<MsiSource>, message: MsiMessage) -> Result<(), HalError> {
        self.apics.send_msi(message.address, message.data).map_err(|_| HalError::Unknown)
    }

    fn send_ipi(&self, from: VcpuId, request: IpiRequest) {
        let _ = self.apics.send_icr(from, request.0);
    }

    fn reset(&self) {
        if let Some(clock) = self.clock.get() {
            clock.reset();
        }
        self.power.reset();
        self.apics.reset();
    }

    fn release(self) -> bool {
        // Devices hold it too, and go with the VM: what hardware has of it was taken away line by line.
        true
    }
}
