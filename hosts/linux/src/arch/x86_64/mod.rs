//! x86_64: KVM's local APICs in the kernel, an I/O APIC here, a 16550, ACPI's registers of power and time.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axvm::devices::AxVmDevicesBuilder;
use axvm::irqchip::{Irqchip, Lines};
use axvm::vcpu::{Exit, Fault, PortAccess, PowerAnswer, PowerRequest};
use axvm::vm::Start;
use axvm_acpipm::{Asked, Places, Power};
use axvm_addr::{Irq, VcpuId};
use axvm_axdevice::{Console, InterruptLine, PortDevice, Transmit, Width};
use axvm_ns16550::Ns16550;
use axvm_plan::{ConsolePlan, EntryPlan, VmPlan};
use axvm_platform::model::Platform;
use axvm_vapic::spec::PINS;
use axvm_vpci::ConfigPorts;
use axvm_x86_cpu::start::{self, Gdt};
use axvm_x86_cpu::vmcb::Segment;
use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_SPLIT_IRQCHIP, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_X86_QUIRK_FIX_HYPERCALL_INSN, KVM_X86_QUIRK_LAPIC_MMIO_HOLE,
    KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, kvm_dtable, kvm_enable_cap, kvm_mp_state, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use self::cpuid::Offered;
use self::io_apic::Pins;
use super::{Access, Switches};
use crate::error::{Error, Kernel};
use crate::irqchip::KernelIrqchip;
use crate::kvm::Needed;
use crate::memory::Place;
use crate::vfio::routes::{OwnLines, Routes};
use crate::vfio::{Bridge, VfioError};

mod cpuid;
mod io_apic;
mod msrs;

/// Pages that Intel's processors want for guests without paging: between the I/O APIC and the local ones, where a guest has nothing.
const TSS: usize = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// What KVM does otherwise than a processor, for the sake of others: MONITOR and MWAIT are there for whom they aren't shown; the call of another maker's
/// processors is written over by the right one, in the guest's memory; a local APIC has its page in x2APIC mode too.
const QUIRKS: u32 =
    KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_LAPIC_MMIO_HOLE;

/// EFER.SVME, which the state that a vCPU begins in has for AMD's way to run guests: KVM's guests have none of it.
const SVME: u64 = 1 << 12;

/// ACPI's timer (ACPI 6.5, 4.8.3.3): 24 bits at a fixed rate.
const TIMER_HZ: u128 = 3_579_545;
const TIMER_MASK: u128 = 0xff_ffff;

/// The old way to config space (PCI 3.0, 3.2.2.3.2).
const CONFIG_PORTS: (u16, u16) = (0xcf8, 8);

/// What isn't the kernel's: the I/O APIC.
pub struct IrqchipParts {
    pins: Arc<Pins<io_apic::Kernel>>,
}

impl IrqchipParts {
    /// Who starts vCPUs: the kernel, by the messages that they send each other.
    pub const fn switches(&self) -> Switches {
        Switches::Kernel
    }

    /// Sets a line.
    ///
    /// # Errors
    ///
    /// There is no such line.
    pub fn set_level(&self, _: &VmFd, irq: Irq, high: bool) -> Result<(), Error> {
        let pin = pin(irq).and_then(|pin| u8::try_from(pin).ok()).ok_or(Error::Unknown)?;
        self.pins.set_line(pin, high);
        Ok(())
    }

    /// A local APIC has ended an interrupt that counts by its level.
    pub fn ended(&self, vector: u8) {
        self.pins.ended(vector);
    }
}

/// A call that the kernel leaves to others: it leaves none.
pub fn call(_: &VcpuFd, _: u64) -> Option<Exit> {
    Some(Exit::Failed)
}

/// Nothing is asked for by a call.
pub fn complete_power(_: &VcpuFd, _: PowerAnswer) {}

/// The registers of power.
pub struct Own {
    power: Mutex<Power>,
    sci: Irq,
}

/// Address bits that a guest may have: what its processors have, which is the host's.
pub fn address_bits(kvm: &Kvm) -> u8 {
    Offered::by(kvm).map_or(36, |offered| offered.address_bits())
}

/// Why there may be no KVM.
pub const WITHOUT_KVM: &str = "load its module (modprobe kvm_amd or kvm_intel), and turn virtualization on in the firmware's settings, or in the \
     hypervisor below (nested)";

/// Its interrupt controllers are among what is needed.
pub const WITHOUT_IRQCHIP: &str = "its KVM has no APICs";

/// What KVM needs beyond what every architecture's does.
pub const NEEDED: &[Needed] = &[
    Needed { cap: Cap::Irqchip, name: "KVM_CAP_IRQCHIP" },
    Needed { cap: Cap::SplitIrqchip, name: "KVM_CAP_SPLIT_IRQCHIP" },
    Needed { cap: Cap::ExtCpuid, name: "KVM_CAP_EXT_CPUID" },
    Needed { cap: Cap::SetTssAddr, name: "KVM_CAP_SET_TSS_ADDR" },
    Needed { cap: Cap::SetIdentityMapAddr, name: "KVM_CAP_SET_IDENTITY_MAP_ADDR" },
];

/// Whether KVM has local APICs in the kernel: that is among what it needs.
pub fn has_irqchip(_: &Kvm) -> bool {
    true
}

/// A VM of KVM's.
pub fn create_vm(kvm: &Kvm, _: &VmPlan) -> Result<VmFd, Error> {
    kvm.create_vm().kernel("KVM_CREATE_VM")
}

/// That its vCPUs have interrupt controllers in the kernel, then these; and what isn't there.
pub fn make(
    kvm: &Kvm,
    vm: &Arc<VmFd>,
    plan: &VmPlan,
    routes: &Arc<Routes>,
) -> Result<(Vec<VcpuFd>, IrqchipParts), Error> {
    vm.set_tss_address(TSS).kernel("KVM_SET_TSS_ADDR")?;
    vm.set_identity_map_address(IDENTITY_MAP).kernel("KVM_SET_IDENTITY_MAP_ADDR")?;
    let split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [PINS as u64, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&split).kernel("KVM_CAP_SPLIT_IRQCHIP")?;
    let known = kvm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into()).max(0) as u32;
    let quirks = kvm_enable_cap {
        cap: KVM_CAP_DISABLE_QUIRKS2,
        args: [(QUIRKS & known).into(), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&quirks).kernel("KVM_CAP_DISABLE_QUIRKS2")?;
    msrs::bound(vm)?;
    let offered = Offered::by(kvm)?;
    let mut vcpus = Vec::new();
    for planned in &plan.cpus {
        // Its number is its local APIC's id.
        let vcpu = vm.create_vcpu(planned.hardware_id).kernel("KVM_CREATE_VCPU")?;
        cpuid::show(kvm, &offered, &vcpu, plan.cpus.len() as u16, planned.hardware_id as u32)?;
        vcpus.push(vcpu);
    }
    let io_apic = plan.x86_64().ok_or(Error::Unknown)?.io_apic;
    let devices = plan.lines.iter().filter_map(|line| pin(line.irq)).fold(0, |pins, pin| pins | 1 << pin);
    let bus = io_apic::Kernel { vm: vm.clone(), routes: routes.clone() };
    let pins = Pins::new(bus, io_apic.id, devices).map_err(VfioError::Io)?;
    if devices != 0 {
        pins.listen().map_err(VfioError::Io)?;
    }
    let lines: Arc<dyn OwnLines> = pins.clone();
    routes.lines_by(&lines);
    Ok((vcpus, IrqchipParts { pins }))
}

/// How a line is called in the table of what events raise: by its pin.
pub fn pin(irq: Irq) -> Option<u32> {
    ((irq.0 as usize) < PINS).then_some(irq.0)
}

/// The first begins where the plan says; the others wait in the kernel until the guest starts them.
pub fn begin(
    _: &Kvm,
    plan: &VmPlan,
    _: &IrqchipParts,
    vcpu: VcpuId,
    fd: &VcpuFd,
    start: Start,
) -> Result<(), Error> {
    let (VcpuId(0), Some(machine)) = (vcpu, plan.x86_64()) else { return Ok(()) };
    let gdt = Gdt { base: machine.gdt.start().0, limit: machine.gdt.size().saturating_sub(1) as u16 };
    let Start { entry, argument } = start;
    let begins = match machine.entry {
        EntryPlan::Linux64(_) => {
            start::Start::Linux64 { entry, boot_params: argument, cr3: machine.page_tables.0, gdt }
        }
        EntryPlan::Pvh => start::Start::Pvh { entry: entry as u32, start_info: argument as u32 },
        EntryPlan::Long => start::Start::Flat64 { entry, argument, cr3: machine.page_tables.0, gdt },
    };
    let start::State { save, registers } = begins.state(0);
    let mut sregs = fd.get_sregs().kernel("KVM_GET_SREGS")?;
    (sregs.cs, sregs.ds, sregs.es) = (segment(&save.cs), segment(&save.ds), segment(&save.es));
    (sregs.fs, sregs.gs, sregs.ss) = (segment(&save.fs), segment(&save.gs), segment(&save.ss));
    (sregs.tr, sregs.ldt) = (segment(&save.tr), segment(&save.ldtr));
    (sregs.gdt, sregs.idt) = (table(&save.gdtr), table(&save.idtr));
    (sregs.cr0, sregs.cr3, sregs.cr4) = (save.cr0, save.cr3, save.cr4);
    sregs.efer = save.efer & !SVME;
    fd.set_sregs(&sregs).kernel("KVM_SET_SREGS")?;
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = registers;
    let regs = kvm_regs {
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: save.rip,
        rflags: save.rflags,
    };
    fd.set_regs(&regs).kernel("KVM_SET_REGS")
}

/// A segment as KVM has it, from the VMCB's attributes (AMD64 Architecture Programmer's Manual, volume 2, 15.5.1).
fn segment(segment: &Segment) -> kvm_segment {
    let attributes = segment.attributes.0;
    let field = |shift: u32, mask: u16| (attributes >> shift & mask) as u8;
    let present = field(7, 1);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: field(0, 0xf),
        s: field(4, 1),
        dpl: field(5, 3),
        present,
        avl: field(8, 1),
        l: field(9, 1),
        db: field(10, 1),
        g: field(11, 1),
        unusable: 1 - present,
        padding: 0,
    }
}

fn table(segment: &Segment) -> kvm_dtable {
    kvm_dtable { base: segment.base, limit: segment.limit as u16, ..kvm_dtable::default() }
}

/// Writes a model-specific register, if its guest may.
pub fn write_msr(kvm: &Kvm, fd: &VcpuFd, msr: u32, value: u64) -> bool {
    msrs::write(kvm, fd, msr, value)
}

/// What it executes.
pub fn pc(fd: &VcpuFd) -> u64 {
    fd.get_regs().map_or(0, |regs| regs.rip)
}

/// Whether a vCPU executes nothing more unless another one of its VM has it go on: it waits for STARTUP, or it was halted with interrupts off, and
/// nothing has come that these don't keep out.
pub fn rests(fd: &VcpuFd) -> bool {
    const INTERRUPTS: u64 = 1 << 9;
    let Ok(kvm_mp_state { mp_state }) = fd.get_mp_state() else { return false };
    match mp_state {
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
        KVM_MP_STATE_HALTED => {
            let is_off = fd.get_regs().is_ok_and(|regs| regs.rflags & INTERRUPTS == 0);
            is_off
                && fd
                    .get_vcpu_events()
                    .is_ok_and(|events| events.nmi.pending == 0 && events.nmi.injected == 0)
        }
        _ => false,
    }
}

/// What the kernel says of the whole VM. Firmware is nothing that it knows here.
pub fn system_event(_: u32) -> Exit {
    Exit::Fault(Fault::Unanswerable)
}

/// What nobody answers reads as ones, and takes what is written.
pub fn complete_nobody(_: &VcpuFd) {}

/// An access to a port of the registers of power. `None`: it is to none of them.
pub fn own_port(own: &Own, irqchip: &KernelIrqchip, access: &PortAccess) -> Option<Access> {
    with(own, irqchip, |registers| match access.write {
        None => registers.read(access.port, access.width).map(Access::Value),
        Some(value) => registers.write(access.port, access.width, value).map(|asked| match asked {
            Asked::Nothing => Access::Value(0),
            Asked::Off => Access::Asks(PowerRequest::SystemOff),
            Asked::Reset => Access::Asks(PowerRequest::SystemReset),
        }),
    })
}

/// Does something with the registers, and brings their line to what follows from it: with their lock held, so that whoever is last has the
/// last word.
fn with<R>(own: &Own, irqchip: &KernelIrqchip, change: impl FnOnce(&mut Power) -> R) -> R {
    let mut registers = crate::lock(&own.power);
    let before = registers.line();
    let result = change(&mut registers);
    let after = registers.line();
    if before != after {
        let _ = irqchip.set_level(own.sci, after);
    }
    result
}

/// Presses a guest's power button. Whether it listens to that, as a guest does that has a driver for it.
pub fn press_power_button(own: &Own, irqchip: &KernelIrqchip) -> bool {
    with(own, irqchip, |registers| {
        registers.press();
        registers.line()
    })
}

/// ACPI's timer.
struct Timer(Instant);

impl PortDevice for Timer {
    fn name(&self) -> &str {
        "acpi-timer"
    }

    fn read(&self, _: VcpuId, offset: u16, width: Width) -> u32 {
        let ticks = self.0.elapsed().as_nanos().wrapping_mul(TIMER_HZ) / 1_000_000_000;
        ((ticks & TIMER_MASK) as u64 >> (8 * (offset & 3)) & width.mask()) as u32
    }

    fn write(&self, _: VcpuId, _: u16, _: Width, _: u32) {}
}

/// Adds what all VMs have beside the console: the I/O APIC, and ACPI's registers. Those of power are asked before the others ([`own_port`]).
pub fn add_own(
    devices: AxVmDevicesBuilder<Place>,
    plan: &VmPlan,
    parts: &IrqchipParts,
) -> Result<(AxVmDevicesBuilder<Place>, Own), Error> {
    let machine = plan.x86_64().ok_or(Error::Unknown)?;
    let devices = devices.mmio(machine.io_apic.registers, parts.pins.clone());
    let power = machine.power;
    let places = Places { event: power.event, control: power.control, s5: power.s5, reset: power.reset };
    let timer = Arc::new(Timer(Instant::now()));
    let devices = devices.ports(power.timer.first(), power.timer.count() as u16, timer);
    Ok((devices, Own { power: Mutex::new(Power::new(places)), sci: power.sci }))
}

/// Adds the way to config space by ports: what bridges show by memory it shows, too.
pub fn add_config_ports(
    devices: AxVmDevicesBuilder<Place>,
    bridges: &[Arc<Bridge>],
) -> AxVmDevicesBuilder<Place> {
    let (first, count) = CONFIG_PORTS;
    devices.ports(first, count, Arc::new(ConfigPorts::new(bridges.to_vec())))
}

/// Adds the console.
pub fn add_console(
    devices: AxVmDevicesBuilder<Place>,
    plan: ConsolePlan,
    output: Arc<dyn Transmit>,
    lines: Arc<Lines<KernelIrqchip>>,
) -> (AxVmDevicesBuilder<Place>, Option<Arc<dyn Console>>) {
    let Some(ports) = plan.at.ports() else { return (devices, None) };
    let lines: Arc<dyn InterruptLine> = lines;
    let uart = Arc::new(Ns16550::new(output, lines, plan.irq));
    let devices = devices.ports(ports.first(), ports.count() as u16, uart.clone());
    (devices, Some(uart))
}

/// Which of the platform's CPUs Linux calls so, by its local APIC's id.
pub fn is_cpu(platform: &Platform, position: usize, _: Option<&str>, apic: Option<u64>) -> bool {
    platform.cpus.get(position).is_some_and(|cpu| apic == Some(cpu.hardware_id))
}

/// The rate of the counter by which a guest sets its watchdog.
pub fn watchdog_hz() -> u64 {
    axvm_guest::x86_64::acpi::WATCHDOG_HZ
}
